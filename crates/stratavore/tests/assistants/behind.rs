//! What an assistant has told while no daemon was there is read in one go, in pieces, and comes to the same as
//! if it had been heard as it was told.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use stratavore_core::Timestamp;
use stratavore_testkit::world::{World, until};

/// A Gemini that shows the title of one that is ready, and does nothing.
const READY: &str = "◇  Ready (work)";
const WORKING: &str = "✦  Working… (work)";

fn world() -> World {
    let world = World::new();
    let program = world.path("gemini");
    let script = format!("#!/bin/sh\nprintf '\\033]0;{READY}\\007'\nexec sleep 1000\n");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let config = world.path("stratavore.yaml");
    let before = fs::read_to_string(&config).unwrap_or_default();
    let own = format!("assistants:\n  gemini:\n    program: {}\n", program.display());
    fs::write(&config, before + &own).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    world.project("demo");
    world
}

#[expect(clippy::disallowed_methods, reason = "the agent's clock is the system's")]
fn now() -> Timestamp {
    Timestamp::try_from(std::time::SystemTime::now()).unwrap()
}

/// The file that its signals are in, once the first of them is there.
fn signals(world: &World, runner: &str) -> PathBuf {
    let directory = world.path(&format!("state/runners/{runner}/signals"));
    until("its first title is written down", || {
        let file = fs::read_dir(&directory).into_iter().flatten().flatten().next();
        let file = file.map(|entry| entry.path()).ok_or_else(|| "no file".to_owned())?;
        let text = fs::read_to_string(&file).unwrap_or_default();
        match text.lines().next().and_then(|line| serde_json::from_str::<Value>(line).ok()) {
            Some(line) if line["title"] == READY => Ok(file),
            _ => Err(text),
        }
    })
}

/// What it looks like before it has begun with what it was launched to do is no end of a turn; that it looks so
/// afterwards is.
#[test]
fn that_a_first_turn_is_over_is_seen_however_late_it_is_read() {
    let world = world();
    let launch = ["launch", "--project", "demo", "--assistant", "gemini", "--name", "one"];
    world.run([&launch[..], &["--prompt", "say something"]].concat()).ok();
    let runner = world.runner("one")["id"].as_str().unwrap().to_owned();
    let file = signals(&world, &runner);
    assert_eq!(world.runner("one")["activity"], "unknown", "it has not begun");
    world.kill_daemon();

    // More than a piece stands between both.
    let told = |kind: &str, name: &str, value: Value| json!({ "at": now(), "epoch": 1, "kind": kind, name: value });
    let [working, ready] = [WORKING, READY].map(|title| told("title", "title", title.into()));
    let filler = told("telemetry", "record", json!({ "body": "-".repeat(4096) }));
    let mut log = OpenOptions::new().append(true).open(file).unwrap();
    writeln!(log, "{working}").unwrap();
    for _ in 0..400 {
        writeln!(log, "{filler}").unwrap();
    }
    writeln!(log, "{ready}").unwrap();
    world.run(["daemon", "start"]).ok();
    until("it is idle", || match world.runner("one") {
        shown if shown["activity"] == "idle" => Ok(()),
        shown => Err(shown["doing"].clone()),
    });
    world.run(["kill", "one", "--force"]).ok();
}
