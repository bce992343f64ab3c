//! Gemini's hooks, which it takes only from a directory that is root's alone all the way up. Temporary files
//! are in none, so in the other tests its title and telemetry have to do.

use std::path::Path;

use stratavore_testkit::model::Reply;
use stratavore_testkit::programs::Program;
use stratavore_testkit::world::World;

use crate::scene::Scene;

/// Root's alone on every host.
const ROOTS: &str = "/var/lib";

/// The signals of a runner, as they are explained.
fn signals(scene: &Scene, runner: &str) -> Vec<String> {
    let explained = scene.world.json(&["explain", runner]);
    let signals = explained["signals"].as_array().unwrap();
    signals.iter().map(|told| told["signal"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn gemini_tells_by_hooks_what_it_does_and_asks() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tried: only root can give Gemini hooks");
        return;
    }
    let scene = Scene::at(Program::Gemini, World::below(Path::new(ROOTS)));
    let model = &scene.model;
    model.on_prompt("make the first", [Reply::shell("echo one > first.txt"), Reply::text("made")]);
    let runner = scene.launch("one", &["--prompt", "make the first, please"]);
    let ask = scene.until_asks(&runner);
    // All of the command, which its screen may cut.
    assert_eq!(ask["text"], "echo one > first.txt", "{ask}");
    let shown = scene.until_activity(&runner, "needs_permission");
    assert_eq!(shown["doing"]["source"], "events", "{shown}");
    assert_eq!(scene.made("first.txt"), None, "nobody has allowed it");
    scene.world.run(["approve", ask["id"].as_str().unwrap()]).ok();
    scene.until_activity(&runner, "idle");
    assert_eq!(scene.made("first.txt").as_deref(), Some("one\n"));
    let told = signals(&scene, &runner);
    for hook in ["SessionStart", "BeforeAgent", "Notification", "AfterAgent"] {
        assert!(told.iter().any(|signal| *signal == format!("hook {hook}")), "{hook}: {told:?}");
    }
    scene.until_ledger_is_the_bill();
}

/// The control: where others may write it is given none.
#[test]
fn gemini_is_given_no_hooks_where_others_may_write() {
    let scene = Scene::new(Program::Gemini);
    let runner = scene.launch("one", &["--prompt", "say something"]);
    scene.until_activity(&runner, "idle");
    let told = signals(&scene, &runner);
    assert!(!told.iter().any(|signal| signal.starts_with("hook")), "{told:?}");
}
