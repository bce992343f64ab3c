//! What an assistant is given by us, and what not: nothing at all when it runs bare, and never a change
//! to its user's own configuration.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use stratavore_testkit::programs::Program;
use stratavore_testkit::world::of_process;

use crate::scene::Scene;

/// The words and the variables of a process.
fn given(pid: u32) -> (Vec<String>, Vec<String>) {
    let list = |file| {
        let bytes = of_process(pid, file);
        let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        words.map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>()
    };
    (list("cmdline"), list("environ"))
}

fn pid(scene: &Scene, runner: &str) -> u32 {
    let shown = scene.world.until_state(runner, &["running"]);
    u32::try_from(shown["pid"].as_u64().expect("it runs")).unwrap()
}

/// What tells that we had our hands in it.
fn is_ours(word: &str) -> bool {
    ["stratavore-agent", "hook", "/state/runners/", "OTLP", "otlp", "OTEL_", "opencode-plugin"]
        .iter()
        .any(|mark| word.contains(mark))
}

/// Answers the command that it has, and by which name its conversation is known.
fn bare_is_given_nothing(program: Program) -> (Vec<String>, Option<String>) {
    let scene = Scene::new(program);
    let bare = scene.launch("bare", &["--bare"]);
    let observed = scene.launch("observed", &[]);
    let (words, variables) = given(pid(&scene, &bare));
    let (others, their_variables) = given(pid(&scene, &observed));
    let ours = |all: &[String]| all.iter().filter(|word| is_ours(word)).count();
    assert_eq!(ours(&words), 0, "{words:?}");
    assert_eq!(ours(&variables), 0, "{variables:?}");
    // The control: of one that is observed the same look finds something.
    assert!(ours(&others) + ours(&their_variables) > 0, "{others:?} {their_variables:?}");
    let explained = scene.world.json(&["explain", "bare"]);
    assert_eq!(explained["observed"], false, "{explained}");
    let shown = scene.world.runner(&bare);
    assert_eq!(shown["activity"], "unknown");
    let session = scene.external_session(shown["session_id"].as_str().unwrap());
    (words, session)
}

#[test]
fn a_bare_claude_is_given_nothing() {
    let (words, session) = bare_is_given_nothing(Program::Claude);
    // Its conversation has a name, so that it can be gone on with.
    let shown: Vec<&str> = words.iter().map(String::as_str).collect();
    let program = Program::Claude.path().display().to_string();
    assert!(matches!(&shown[..], [own, "--session-id", _] if *own == program), "{words:?}");
    assert_eq!(session.as_ref(), words.last(), "it is known by that name");
}

#[test]
fn a_bare_codex_is_given_nothing() {
    let (words, _) = bare_is_given_nothing(Program::Codex);
    // Its daemon would go on when it is stopped.
    assert_eq!(words[1..], ["--no-daemon", "-a", "on-request", "-s", "workspace-write"]);
}

#[test]
fn a_bare_opencode_is_given_nothing() {
    assert_eq!(bare_is_given_nothing(Program::Opencode).0.len(), 1);
}

#[test]
fn a_bare_gemini_is_given_nothing() {
    let (words, _) = bare_is_given_nothing(Program::Gemini);
    assert!(!words.iter().any(|word| word == "--session-id"), "{words:?}");
}

/// All files below, but those of conversations and what is for a moment.
fn files(home: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![home.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let of_conversations = [
                "tmp",
                "projects",
                "sessions",
                "file-history",
                "history",
                "shell-snapshots",
                "log",
                "logs",
            ]
            .iter()
            .any(|name| path.ends_with(name));
            if kind.is_dir() && !of_conversations {
                left.push(path);
            } else if kind.is_file() {
                let bytes = fs::read(&path).unwrap_or_default();
                found.insert(path.strip_prefix(home).unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

/// How a file that the user has written is left.
#[derive(Clone, Copy)]
enum Left {
    /// Byte for byte.
    AsItWas,
    /// With what the program has found out of itself behind it, as whether a screen reader is there.
    Longer,
}

/// An observed turn leaves what the user has written as it was, and nothing of ours in the home.
fn leaves_the_home_alone(scene: &Scene, written: &[(&str, Left)]) {
    let before = files(scene.home.home());
    let runner = scene.launch("one", &["--prompt", "say something"]);
    scene.until_activity(&runner, "idle");
    scene.world.run(["stop", &runner]).ok();
    let after = files(scene.home.home());
    for (name, left) in written {
        let name = Path::new(name);
        let text =
            |files: &BTreeMap<PathBuf, Vec<u8>>| String::from_utf8_lossy(&files[name]).into_owned();
        let (before, after) = (text(&before), text(&after));
        match left {
            Left::AsItWas => assert_eq!(after, before, "{name:?}"),
            Left::Longer => assert!(after.starts_with(&before), "{name:?}: {after}"),
        }
    }
    let mark = scene.world.path("state/runners").display().to_string();
    for (path, bytes) in &after {
        let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!has(&mark) && !has("stratavore-agent"), "{path:?} has something of ours");
    }
}

/// And what they say is done: the user's own hook runs beside ours, and the status line is the user's.
#[test]
fn claude_s_home_is_left_alone() {
    const SETTINGS: &str = ".claude/settings.json";
    let scene = Scene::new(Program::Claude);
    let (hooked, shown) = (scene.world.path("hooked"), scene.world.path("shown"));
    let touch = |file: &Path| json!({ "type": "command", "command": format!("touch '{}'", file.display()) });
    let settings = json!({
        "hooks": { "Stop": [{ "hooks": [touch(&hooked)] }] },
        "statusLine": touch(&shown),
    });
    let file = scene.home.home().join(SETTINGS);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, serde_json::to_string_pretty(&settings).unwrap()).unwrap();
    leaves_the_home_alone(&scene, &[(SETTINGS, Left::AsItWas)]);
    assert!(hooked.exists(), "the user's own hook has run");
    assert!(shown.exists(), "the user's own status line was asked");
}

#[test]
fn codex_s_home_is_left_alone() {
    let written = [(".codex/config.toml", Left::Longer)];
    leaves_the_home_alone(&Scene::new(Program::Codex), &written);
}

#[test]
fn opencode_s_home_is_left_alone() {
    let written = [(".config/opencode/package-lock.json", Left::AsItWas)];
    leaves_the_home_alone(&Scene::new(Program::Opencode), &written);
}

#[test]
fn gemini_s_home_is_left_alone() {
    let written = [(".gemini/settings.json", Left::AsItWas)];
    leaves_the_home_alone(&Scene::new(Program::Gemini), &written);
}
