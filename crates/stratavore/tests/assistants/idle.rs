//! Row 27 of the fault catalogue with a real assistant: one that is idle goes on, unless its launch or its
//! project says for how long it may be.

use stratavore_testkit::model::{Hold, Place, Reply};
use stratavore_testkit::programs::Program;
use stratavore_testkit::world::rows;

use crate::scene::Scene;

/// Waits until it was looked for idle runners some times more.
fn looked(scene: &Scene) {
    let looks = || {
        let status = scene.world.json(&["status"]);
        let tasks = status["daemon"]["tasks"].as_array().unwrap();
        tasks.iter().find(|task| task["name"] == "idle").unwrap()["runs"].as_u64().unwrap()
    };
    let before = looks();
    scene.until("it was looked", || match looks() {
        now if now >= before + 2 => Ok(()),
        now => Err(now),
    });
}

#[test]
fn an_idle_assistant_stays_without_a_limit_and_with_one_is_stopped_and_can_be_resumed() {
    let scene = Scene::new(Program::Claude);
    let kept = scene.launch("kept", &["--prompt", "say something"]);
    scene.until_activity(&kept, "idle");
    // The project's, of what is launched from now on. It is idle too before it takes its prompt.
    scene.world.run(["projects", "edit", "demo", "--stop-idle", "8s"]).ok();
    let brief = scene.launch("brief", &["--prompt", "the word is walnut"]);
    let ended = scene.until("it was stopped", || {
        let shown = scene.world.runner(&brief);
        if shown["ended_at"].is_null() { Err(shown) } else { Ok(shown) }
    });
    assert_eq!(
        (&ended["state"], &ended["cause"]),
        (&"exited".into(), &"stopped by its idle limit".into())
    );
    assert_eq!(ended["limits"]["idle_seconds"], 8);
    let stopping = scene.until("it is on the record", || {
        let kind = ["events", "--runner", &brief, "--kind", "runner.stopping"];
        let events = scene.world.json(&kind);
        rows(&events).first().cloned().ok_or(events)
    });
    assert_eq!(stopping["data"]["by"], "its idle limit");
    let exit = std::fs::read(scene.world.path(&format!("state/runners/{brief}/exit.json")));
    let exit: serde_json::Value = serde_json::from_slice(&exit.unwrap()).unwrap();
    assert_eq!(exit["exit"]["cause"], serde_json::json!({ "exit": 0 }), "it was asked politely");
    assert_eq!(scene.world.runner(&kept)["state"], "running", "the limit is of later ones");

    // It goes on where it was, and has what it had.
    scene.world.run(["projects", "edit", "demo", "--stop-idle", "none"]).ok();
    let again = scene.session_command(&["resume", ended["session_id"].as_str().unwrap()]);
    scene.until_activity(&again, "idle");
    scene.send(&again, "say the word", &["--wait", "2m"]);
    let goes_on = scene.until("the model is asked", || {
        let asked = scene.model.asked();
        let last = asked.iter().find(|asked| asked.says("say the word"));
        last.map(|asked| asked.conversation()).ok_or(asked.len())
    });
    assert!(goes_on.contains("walnut"), "{goes_on}");
    looked(&scene);
    assert_eq!(scene.world.runner(&kept)["state"], "running");
}

#[test]
fn whom_somebody_looks_at_is_not_stopped_for_being_idle() {
    let scene = Scene::new(Program::Claude);
    let hold = Hold::new();
    scene.model.on_prompt("take your time", [Reply::text("done now").held(Place::Start, &hold)]);
    // It is idle too before it takes its prompt.
    let options = ["--stop-idle", "8s", "--prompt", "take your time"];
    let runner = scene.launch("one", &options);
    hold.until_reached();
    let mut viewer = scene.world.terminal(&["attach", &runner], 24, 80);
    scene.until("it has a viewer", || match scene.world.runner(&runner) {
        shown if shown["usage"]["viewers"] == 1 => Ok(()),
        shown => Err(shown),
    });
    hold.release();
    scene.until_activity(&runner, "idle");
    looked(&scene);
    assert_eq!(scene.world.runner(&runner)["state"], "running");
    // The control: nobody looks any more.
    viewer.press(b"\x11");
    viewer.wait_exit();
    scene.until("it was stopped", || match scene.world.runner(&runner) {
        shown if shown["cause"] == "stopped by its idle limit" => Ok(()),
        shown => Err(shown),
    });
}
