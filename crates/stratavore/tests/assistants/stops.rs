//! A stop asks in the assistant's own words first, where it reads them, and is over within its grace.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use stratavore_testkit::model::{Hold, Place, Reply};
use stratavore_testkit::programs::Program;

use crate::scene::Scene;

/// How its agent wrote down that its program has ended.
fn end(scene: &Scene, runner: &str) -> Value {
    let file = scene.world.path(&format!("state/runners/{runner}/exit.json"));
    let record: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    record["exit"]["cause"].clone()
}

/// Stops it, and answers how long that took.
fn stop(scene: &Scene, runner: &str, grace: &str) -> Duration {
    let began = Instant::now();
    scene.world.run(["kill", runner, "--timeout", grace]).ok();
    let ended = scene.world.until_state(runner, &["exited", "failed", "lost"]);
    assert!(ended["cause"].as_str().unwrap().starts_with("stopped by "), "{ended}");
    began.elapsed()
}

/// Its word is typed, and it ends by that, long before its grace is over.
fn ends_by_itself(program: Program) -> Scene {
    let scene = Scene::new(program);
    let runner = scene.launch("one", &["--prompt", "say something"]);
    scene.until_activity(&runner, "idle");
    let took = stop(&scene, &runner, "60s");
    assert_eq!(end(&scene, &runner), serde_json::json!({"exit": 0}));
    assert!(took < Duration::from_secs(45), "{took:?}");
    scene
}

#[test]
fn an_idle_claude_ends_by_itself() {
    let scene = ends_by_itself(Program::Claude);
    let told = scene.world.run(["explain", "one"]).ok().stdout();
    assert!(told.contains("SessionEnd"), "{told}");
}

#[test]
fn an_idle_codex_ends_by_itself() {
    ends_by_itself(Program::Codex);
}

#[test]
fn an_idle_opencode_ends_by_itself() {
    ends_by_itself(Program::Opencode);
}

/// The control: one at work would take the word for a part of its work, and is ended by a signal.
#[test]
fn a_busy_claude_is_ended_within_its_grace() {
    let scene = Scene::new(Program::Claude);
    let hold = Hold::new();
    scene.model.on_prompt("take your time", [Reply::text("never").held(Place::Start, &hold)]);
    let runner = scene.launch("one", &["--prompt", "take your time"]);
    hold.until_reached();
    scene.until_activity(&runner, "working");
    let took = stop(&scene, &runner, "8s");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(end(&scene, &runner), serde_json::json!({"exit": 143}));
    assert!(!scene.model.asked().iter().any(|asked| asked.says("/exit")));
}
