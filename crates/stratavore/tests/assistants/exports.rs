//! Conversations of an assistant that keeps them in no files of lines: what was said without us is taken
//! in, and what it prints of each is given back as it was.

use std::fs::{self, File};

use serde_json::Value;
use stratavore_testkit::assistant_home::AssistantHome;
use stratavore_testkit::model::{Reply, StandIn};
use stratavore_testkit::programs::Program;
use stratavore_testkit::world::{World, rows};

use crate::scene::Scene;

/// A world whose user has used opencode.
fn used() -> Scene {
    let program = Program::Opencode;
    let model = StandIn::start();
    let mut world = World::with_config(&format!(
        "assistants:\n  opencode:\n    program: {}\n    env_pass: [OPENCODE_DISABLE_MODELS_FETCH]\n",
        program.path().display()
    ));
    let home = world.path("assistant");
    let home = AssistantHome::at(program, &model.url(), &home, &world.work());
    world.set_env("HOME", &home.home().display().to_string());
    world.set_env("OPENCODE_DISABLE_MODELS_FETCH", "1");
    world.project("demo");
    Scene { program, model, home, world }
}

impl Scene {
    /// A run of it that nobody watches.
    pub(crate) fn outside(&self, prompt: &str, more: &[&str]) {
        let ran = self.home.headless(prompt).args(more).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }

    /// What it prints of a conversation, by hand.
    fn printed(&self, id: &str) -> String {
        let path = self.world.path("printed.json");
        let mut command = self.home.command();
        command.args(["export", id]).stdout(File::create(&path).unwrap());
        assert!(command.status().unwrap().success());
        fs::read_to_string(path).unwrap()
    }

    /// The documents of an export, by their names.
    pub(crate) fn given_back(&self, session: &str, to: &str) -> Vec<(String, String)> {
        let out = self.world.path(to);
        self.world.run(["sessions", "export", session, &out.display().to_string()]).ok();
        let Ok(entries) = fs::read_dir(out.join("transcripts")) else { return Vec::new() };
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut all: Vec<(String, String)> = paths
            .map(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect();
        all.sort();
        all
    }
}

#[test]
fn what_opencode_was_told_without_us_is_found_and_given_back() {
    let scene = used();
    // More than it would print into a pipe.
    let long = "a kernel that is not small ".repeat(6000);
    scene.model.on_prompt("the word is walnut", [Reply::text(&long)]);
    scene.outside("the word is walnut", &[]);

    let import = ["import", "--assistant", "opencode"];
    let dry = scene.world.run(["import", "--assistant", "opencode", "--dry-run"]).ok().stdout();
    assert!(dry.contains("demo opencode"), "{dry}");
    assert!(
        scene.world.json(&["search", "walnut", "--by", "words"]).as_array().unwrap().is_empty()
    );
    let taken = scene.world.run(import).ok().stdout();
    assert!(taken.contains("demo opencode ses_"), "{taken}");
    scene.until_ledger_is_the_bill();

    let found = scene.world.json(&["search", "walnut", "--by", "words"]);
    let [hit] = &rows(&found)[..] else { panic!("{found}") };
    assert_eq!((&hit["assistant"], &hit["role"]), (&"opencode".into(), &"user".into()));
    let (id, session) = (hit["external_id"].as_str().unwrap(), hit["session"].as_str().unwrap());
    let printed = scene.printed(id);
    assert!(printed.len() > 128 << 10 && serde_json::from_str::<Value>(&printed).is_ok());
    let [(name, document)] = &scene.given_back(session, "first")[..] else {
        panic!("one document")
    };
    assert!(name.ends_with(&format!("{id}.json")), "{name}");
    assert_eq!(*document, printed);

    // Nothing is taken in twice, and what was added is a version.
    let again = scene.world.run(import).ok().stdout();
    assert!(again.contains(" 0 B"), "{again}");
    scene.model.on_prompt("and almond", [Reply::text("both")]);
    scene.outside("and almond", &["--continue"]);
    scene.world.run(import).ok();
    scene.until_ledger_is_the_bill();
    let both = scene.given_back(session, "second");
    assert_eq!(both.len(), 2, "{:?}", both.iter().map(|(name, _)| name).collect::<Vec<_>>());
    assert_eq!(both[0].1, printed);
    assert_eq!(both[1].1, scene.printed(id));
}

#[test]
fn what_a_runner_of_opencode_was_told_is_kept_when_it_has_ended() {
    let scene = Scene::new(Program::Opencode);
    scene.model.on_prompt("the word is hazel", [Reply::text("I shall keep it")]);
    let runner = scene.launch("one", &["--prompt", "the word is hazel"]);
    scene.until_activity(&runner, "idle");
    scene.until_ledger_is_the_bill();
    scene.kill_assistant(&runner);
    let session = scene.world.runner(&runner)["session_id"].as_str().unwrap().to_owned();
    let mut tries = 0;
    let kept = scene.until("its conversation is kept", || {
        tries += 1;
        let given = scene.given_back(&session, &format!("try-{tries}"));
        if given.is_empty() { Err(()) } else { Ok(given) }
    });
    assert!(kept.iter().any(|(_, text)| text.contains("the word is hazel")), "{kept:?}");
    // What it says was counted already.
    scene.until_ledger_is_the_bill();
}
