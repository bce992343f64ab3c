//! Going on with a conversation in a cluster: where its files are, and where they are not.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use stratavore_testkit::assistant_home::{AssistantHome, KEY};
use stratavore_testkit::hosts::Hosts;
use stratavore_testkit::model::{Reply, StandIn};
use stratavore_testkit::programs::Program;
use stratavore_testkit::world::{World, rows, until_within};

/// A real assistant on a machine that has much else to do.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// Two hosts with Claude on both. They share a disk, so what is to be on one only is put away.
pub(crate) struct Two {
    pub(crate) hosts: Hosts,
    pub(crate) model: StandIn,
    home: AssistantHome,
}

impl Two {
    fn new() -> Self {
        Self::with("")
    }

    /// The same, with more in the configuration of each.
    pub(crate) fn with(more: &str) -> Self {
        let claude = Program::Claude.path();
        let settings = format!("assistants:\n  claude:\n    program: {}\n{more}", claude.display());
        let hosts = Hosts::joined_with_settings(&["labels: []", "labels: []"], &settings);
        let model = StandIn::start();
        let (home, work) = (hosts.worlds[0].path("assistant"), hosts.worlds[0].work());
        let home = AssistantHome::at(Program::Claude, &model.url(), &home, &work);
        fs::write(hosts.worlds[0].path("key"), KEY).unwrap();
        hosts.worlds[0].project("p");
        Self { hosts, model, home }
    }

    pub(crate) fn here(&self) -> &World {
        &self.hosts.worlds[0]
    }

    pub(crate) fn there(&self) -> &World {
        &self.hosts.worlds[1]
    }

    /// Has a conversation over there, which ends. Answers its session.
    pub(crate) fn held_there(&self) -> String {
        let key = self.here().path("key").display().to_string();
        let mut environment = self.home.environment();
        environment.insert("ANTHROPIC_API_KEY".into(), format!("file:{key}"));
        let node = self.hosts.id(1);
        let mut words: Vec<String> =
            ["launch", "--project", "p", "--assistant", "claude"].map(Into::into).into();
        words.extend(["--node".into(), node, "--prompt".into(), "the word is walnut".into()]);
        words.extend(environment.iter().map(|(key, value)| format!("--env={key}={value}")));
        words.extend(["--format".into(), "json".into()]);
        let launched = self.here().run(words).ok().json();
        let runner = rows(&launched)[0]["id"].as_str().unwrap().to_owned();
        let session = self.until_idle(&runner);
        self.end(&runner);
        session
    }

    /// Waits until it has said something, and answers its session.
    fn until_idle(&self, runner: &str) -> String {
        until_within(PATIENCE, "it is idle, and its session known", || {
            let shown = self.here().runner(runner);
            let session = shown["session_id"].as_str().unwrap_or_default().to_owned();
            let known =
                self.here().run(["sessions", "show", &session, "--format", "json"]).stdout();
            let known: Value = serde_json::from_str(&known).unwrap_or_default();
            let said = known["messages"]["assistant"].as_i64().unwrap_or_default();
            let is_told = said > 0 && known["transcript"].is_string();
            if shown["activity"] == "idle" && is_told { Ok(session) } else { Err((shown, known)) }
        })
    }

    fn end(&self, runner: &str) {
        self.here().run(["kill", runner, "--force"]).ok();
        self.here().until_state(runner, &["exited", "failed", "lost"]);
    }

    /// Goes on with it by the near daemon. Answers the runner, its node, and what was said besides.
    fn resumed(&self, session: &str, options: &[&str]) -> (String, String, String) {
        let words = [&["sessions", "resume", session, "--format", "json"], options].concat();
        let resumed = self.here().run(words).ok();
        let runner = rows(&resumed.json())[0].clone();
        let text = |name: &str| runner[name].as_str().unwrap().to_owned();
        (text("id"), text("node_id"), resumed.stderr())
    }

    /// The model is asked with what was said before.
    pub(crate) fn knows_the_word(&self, runner: &str, prompt: &str) {
        self.until_idle(runner);
        self.here().run(["send", runner, prompt, "--wait", "1m"]).ok();
        let said = until_within(PATIENCE, "the model is asked it", || {
            let asked = self.model.asked();
            asked
                .iter()
                .find(|asked| asked.says(prompt))
                .map(|asked| asked.conversation())
                .ok_or(())
        });
        assert!(said.contains("walnut"), "{said}");
    }

    /// The file of the conversation.
    pub(crate) fn transcript(&self) -> PathBuf {
        let projects = self.home.home().join(".claude/projects");
        let directories = fs::read_dir(projects).unwrap().map(|entry| entry.unwrap().path());
        let files = directories.flat_map(|dir| fs::read_dir(dir).unwrap());
        let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|ending| ending == "jsonl"));
        assert_eq!(files.len(), 1, "{files:?}");
        files.remove(0)
    }
}

#[test]
fn a_session_is_resumed_on_the_host_that_has_its_files() {
    let two = Two::new();
    two.model.on_prompt("the word is walnut", [Reply::text("I shall keep it")]);
    let session = two.held_there();
    let (runner, node, _) = two.resumed(&session, &[]);
    assert_eq!(node, two.hosts.id(1), "asked here, it runs there");
    assert_eq!((two.here().agents().len(), two.there().agents().len()), (0, 1));
    two.knows_the_word(&runner, "say the word");
    two.end(&runner);

    // The control: nothing else sends it there.
    let launched = two.hosts.launch("new", &[], &["sleep", "600"]).ok();
    assert_eq!(rows(&launched.json())[0]["node_id"], two.hosts.id(0).as_str());
}

#[test]
fn a_session_of_a_host_that_is_gone_is_refused_or_resumed_from_a_copy() {
    let two = Two::new();
    two.model.on_prompt("the word is walnut", [Reply::text("I shall keep it")]);
    let session = two.held_there();
    let path = two.transcript();
    let said = fs::read(&path).unwrap();
    let out = two.there().path("export").display().to_string();
    two.there().run(["sessions", "export", &session, &out]).ok();
    // It is there, and not here.
    let away = path.with_extension("away");
    fs::rename(&path, &away).unwrap();
    let here = two.hosts.id(0);
    let refused = two.here().run(["sessions", "resume", &session, "--node", &here]).fails(3);
    assert!(refused.stderr().contains("this host has no copy of them"), "{}", refused.stderr());

    two.there().kill_daemon();
    let refused = until_within(PATIENCE, "that host is known to be gone", || {
        let refused = two.here().run(["sessions", "resume", &session]);
        assert_ne!(refused.code(), 0, "{}", refused.everything());
        if refused.code() == 3 { Ok(refused.stderr()) } else { Err(refused.everything()) }
    });
    assert!(refused.contains("where no daemon runs"), "{refused}");
    assert!(refused.contains("sessions import"), "{refused}");
    let live = two.here().json(&["runners"]);
    assert_eq!(rows(&live).len(), 0, "nothing was begun in its place: {live}");

    two.here().run(["sessions", "import", &out]).ok();
    let (runner, node, told) = two.resumed(&session, &[]);
    assert_eq!(node, here, "from the copy that is here");
    assert!(told.contains("is the copy that was taken in here"), "{told}");
    assert!(fs::read(&path).unwrap().starts_with(&said), "it is as it was there");
    two.knows_the_word(&runner, "say the word");
    two.end(&runner);

    // From now on this is the host that has its files.
    two.there().run(["daemon", "start"]).ok();
    let (runner, node, _) = two.resumed(&session, &[]);
    assert_eq!(node, here);
    two.knows_the_word(&runner, "and once more");
}
