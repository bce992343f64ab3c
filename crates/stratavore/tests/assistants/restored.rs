//! A conversation is resumed as it was run before, and what is different by then is said.

use std::fs;
use std::path::{Path, PathBuf};

use stratavore_store::testing::{sqlite_number, sqlite_texts};
use stratavore_testkit::model::Reply;
use stratavore_testkit::programs::Program;
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::rows;

use crate::resume::{killed_in_a_turn, told_with, until_rests};
use crate::scene::{Scene, refusal};

fn transcript(scene: &Scene, session: &str) -> PathBuf {
    let file = scene.world.path("state/stratavore.db");
    let sql = format!("SELECT transcript FROM sessions WHERE id = '{session}'");
    scene
        .until("its transcript is known", || {
            on_runtime(sqlite_texts(&file, &sql))
                .pop()
                .filter(|path| Path::new(path).is_file())
                .ok_or(())
        })
        .into()
}

/// Waits until the vault has all of the file.
fn until_kept(scene: &Scene, transcript: &Path) -> Vec<u8> {
    let file = scene.world.path("state/stratavore.db");
    let sql = format!(
        "SELECT coalesce(sum(size), 0) FROM transcripts WHERE path = '{}' AND replaced_at IS NULL",
        transcript.display()
    );
    scene.until("the vault has all of it", || {
        let bytes = fs::read(transcript).unwrap();
        let kept = on_runtime(sqlite_number(&file, &sql));
        if bytes.len() as i64 == kept { Ok(bytes) } else { Err((bytes.len(), kept)) }
    })
}

/// What the runner's process was given: `environ` or `cmdline`.
fn given(scene: &Scene, runner: &str, what: &str) -> Vec<String> {
    let shown = scene.world.runner(runner);
    let bytes = fs::read(format!("/proc/{}/{what}", shown["pid"])).unwrap_or_default();
    assert!(!bytes.is_empty(), "it runs: {shown}");
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Where the runner's process is.
fn works_in(scene: &Scene, runner: &str) -> PathBuf {
    let shown = scene.world.runner(runner);
    fs::read_link(format!("/proc/{}/cwd", shown["pid"])).unwrap()
}

fn is_resumed_as_it_was(program: Program, flag: [&str; 2]) {
    let scene = Scene::new(program);
    scene.model.on_prompt("the word is walnut", [Reply::text("I shall keep it")]);
    let secret = scene.world.path("token");
    fs::write(&secret, "a secret").unwrap();
    let below = scene.world.work().join("below");
    fs::create_dir(&below).unwrap();
    let token = format!("MY_TOKEN=file:{}", secret.display());
    let options = ["--prompt", "the word is walnut", "--directory", "below"];
    let variables = ["--env", "MY_MARK=kept", "--env", &token, "--"];
    let first = scene.launch("one", &[&options[..], &variables, &flag].concat());
    until_rests(&scene, &first);
    let session = scene.world.runner(&first)["session_id"].as_str().unwrap().to_owned();
    let variables = given(&scene, &first, "environ");
    assert!(variables.contains(&"MY_TOKEN=a secret".into()), "{variables:?}");
    // Opencode keeps a database, of which nothing is removed.
    let path = (program != Program::Opencode).then(|| transcript(&scene, &session));
    scene.kill_assistant(&first);

    // What was there then is gone, as after a month.
    let kept = path.map(|path| {
        let bytes = until_kept(&scene, &path);
        fs::remove_file(&path).unwrap();
        (path, bytes)
    });
    fs::remove_file(&secret).unwrap();
    let resumed = scene.world.run(["sessions", "resume", &session, "--format", "json"]).ok();
    let second = rows(&resumed.json())[0]["id"].as_str().unwrap().to_owned();
    let told = resumed.stderr();
    assert_eq!(told.contains("was gone and is back from the vault"), kept.is_some(), "{told}");
    assert!(told.contains("it runs without MY_TOKEN: the file"), "{told}");
    assert!(!told.contains("a secret"), "{told}");
    if let Some((path, bytes)) = kept {
        let back = fs::read(&path).unwrap();
        assert!(back.starts_with(&bytes), "{} of {} bytes", back.len(), bytes.len());
    }

    let variables = given(&scene, &second, "environ");
    let is_set = |name: &str| variables.iter().any(|variable| variable.starts_with(name));
    assert!(variables.contains(&"MY_MARK=kept".into()) && !is_set("MY_TOKEN="), "{variables:?}");
    let line = given(&scene, &second, "cmdline");
    assert!(line.windows(2).any(|pair| pair == flag), "{line:?}");
    assert_eq!(works_in(&scene, &second), below.canonicalize().unwrap());

    // It has the conversation, and none of it is counted twice.
    scene.until_activity(&second, "idle");
    scene.send(&second, "say the word", &["--wait", "2m"]);
    let asked = scene.until("the model was asked it", || {
        scene
            .model
            .asked()
            .into_iter()
            .find(|asked| asked.prompt.contains("say the word"))
            .ok_or(())
    });
    assert!(format!("{:?}", asked.said).contains("walnut"), "{:?}", asked.said);
    scene.until_activity(&second, "idle");
    scene.until_ledger_is_the_bill();
    scene.kill_assistant(&second);
    its_directory_is_gone(&scene, &session, &below);
}

/// Who finds its conversations from anywhere is resumed in the project's directory, and that is said. For all
/// others there is none to go on with.
fn its_directory_is_gone(scene: &Scene, session: &str, directory: &Path) {
    fs::remove_dir_all(directory).unwrap();
    let resumed = scene.world.run(["sessions", "resume", session, "--format", "json"]);
    if scene.program != Program::Codex {
        let told = refusal(&resumed);
        let why = told["message"].as_str().unwrap();
        assert!(why.contains(directory.to_str().unwrap()), "{told}");
        return;
    }
    let third = rows(&resumed.json())[0]["id"].as_str().unwrap().to_owned();
    let told = resumed.stderr();
    let gone = format!("its directory {} is gone: it is resumed in", directory.display());
    assert!(told.contains(&gone), "{told}");
    assert_eq!(works_in(scene, &third), scene.world.work().canonicalize().unwrap());
    let told = told_with(scene, &third, "and say it once more");
    assert!(told.contains("walnut"), "{told}");
}

#[test]
fn claude_is_resumed_as_it_was_run_before() {
    is_resumed_as_it_was(Program::Claude, ["--append-system-prompt", "Say aye."]);
}

#[test]
fn codex_is_resumed_as_it_was_run_before() {
    is_resumed_as_it_was(Program::Codex, ["-c", "hide_agent_reasoning=true"]);
}

#[test]
fn opencode_is_resumed_as_it_was_run_before() {
    is_resumed_as_it_was(Program::Opencode, ["--log-level", "ERROR"]);
}

#[test]
fn gemini_is_resumed_as_it_was_run_before() {
    is_resumed_as_it_was(Program::Gemini, ["--approval-mode", "auto_edit"]);
}

/// A turn that was cut off has a beginning in the file and no end. Read anew that is no news of the one that
/// has resumed it: nothing would be typed into it any more.
fn may_be_asked_after_a_cut_turn(program: Program) {
    let scene = Scene::new(program);
    let first = killed_in_a_turn(&scene);
    let session = scene.world.runner(&first)["session_id"].as_str().unwrap().to_owned();
    let path = transcript(&scene, &session);
    until_kept(&scene, &path);
    fs::remove_file(&path).unwrap();
    let second = scene.session_command(&["resume", &session]);
    let told = told_with(&scene, &second, "go on");
    assert!(told.contains("almond"), "{told}");
}

#[test]
fn claude_may_be_asked_after_a_cut_turn() {
    may_be_asked_after_a_cut_turn(Program::Claude);
}

#[test]
fn codex_may_be_asked_after_a_cut_turn() {
    may_be_asked_after_a_cut_turn(Program::Codex);
}

#[test]
fn gemini_may_be_asked_after_a_cut_turn() {
    may_be_asked_after_a_cut_turn(Program::Gemini);
}
