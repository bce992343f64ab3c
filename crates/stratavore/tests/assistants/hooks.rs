//! Gemini's hooks, which it takes only from a directory that is root's alone all the way up. Temporary files
//! are in none, so in the other tests its title and telemetry have to do.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
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

/// It tells by its hooks what it does and asks, all of it: its screen may cut a command.
fn tells_by_hooks(scene: &Scene) {
    let model = &scene.model;
    model.on_prompt("make the first", [Reply::shell("echo one > first.txt"), Reply::text("made")]);
    let runner = scene.launch("one", &["--prompt", "make the first, please"]);
    let ask = scene.until_asks(&runner);
    assert_eq!(ask["text"], "echo one > first.txt", "{ask}");
    let shown = scene.until_activity(&runner, "needs_permission");
    assert_eq!(shown["doing"]["source"], "events", "{shown}");
    assert_eq!(scene.made("first.txt"), None, "nobody has allowed it");
    scene.world.run(["approve", ask["id"].as_str().unwrap()]).ok();
    scene.until_activity(&runner, "idle");
    assert_eq!(scene.made("first.txt").as_deref(), Some("one\n"));
    let told = signals(scene, &runner);
    for hook in ["SessionStart", "BeforeAgent", "Notification", "AfterAgent"] {
        assert!(told.iter().any(|signal| *signal == format!("hook {hook}")), "{hook}: {told:?}");
    }
    scene.until_ledger_is_the_bill();
}

/// As it is given them. What cannot be tried counts as missing, and not as passed.
#[test]
fn gemini_tells_by_the_hooks_that_it_is_given() {
    assert!(
        rustix::process::geteuid().is_root(),
        "only root has a directory from which Gemini takes hooks: run the tests as root to try this"
    );
    tells_by_hooks(&Scene::at(Program::Gemini, World::below(Path::new(ROOTS))));
}

/// The same hooks, put by its user into settings of their own, which needs no root: what they tell is
/// understood as well.
#[test]
fn gemini_tells_by_hooks_that_its_user_has_set_up() {
    let scene = Scene::new(Program::Gemini);
    let script = scene.world.path("hook");
    let agent = World::program("stratavore-agent");
    // It finds its runner by the variable that every runner has.
    let text = format!(
        "#!/bin/sh\nexec '{}' hook --dir '{}'/\"$STRATAVORE_RUNNER_ID\"\n",
        agent.display(),
        scene.world.path("state/runners").display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let command = json!([{ "matcher": "*", "hooks": [{
        "name": "mine", "type": "command", "command": script, "timeout": 5000,
    }] }]);
    let events = ["SessionStart", "SessionEnd", "BeforeAgent", "AfterAgent", "Notification"];
    let hooks: BTreeMap<_, _> = events.iter().map(|event| (event, &command)).collect();
    let file = scene.home.home().join(".gemini/settings.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    settings["hooks"] = json!(hooks);
    settings["hooksConfig"] = json!({ "notifications": false });
    fs::write(&file, settings.to_string()).unwrap();
    tells_by_hooks(&scene);
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
