//! Windows of subscriptions: what is told of them, and going on once one that was used up has begun anew.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use stratavore_core::Timestamp;
use stratavore_testkit::model::{Asked, Purpose, Reply};
use stratavore_testkit::programs::Program;
use stratavore_testkit::world::rows;

use crate::scene::Scene;

#[expect(clippy::disallowed_methods, reason = "the daemon's clock is the system's")]
fn now() -> Timestamp {
    Timestamp::try_from(std::time::SystemTime::now()).unwrap()
}

fn windows(scene: &Scene) -> Vec<Value> {
    rows(&scene.world.json(&["usage", "windows"])).to_vec()
}

fn are_known(program: Program, names: [&str; 2]) {
    let mut scene = Scene::new(program);
    scene.home.subscribe();
    let resets = now().as_second() + 3600;
    scene.model.tells_windows([42, 17], [resets, resets + 86_400]);
    let runner = scene.launch("one", &["--prompt", "say something"]);
    let told = scene.until("both windows are known", || {
        let told = windows(&scene);
        if told.len() == 2 { Ok(told) } else { Err(told) }
    });
    for (name, used, at, minutes) in
        [(names[0], 42.0, resets, 300), (names[1], 17.0, resets + 86_400, 10_080)]
    {
        let window = told.iter().find(|window| window["window"] == name);
        let window = window.unwrap_or_else(|| panic!("{name} is known: {told:?}"));
        assert_eq!(window["used_percent"], used, "{window}");
        let reset: Timestamp = window["resets_at"].as_str().unwrap().parse().unwrap();
        // Codex is told in how many seconds, and counts from its own clock.
        assert!((reset.as_second() - at).abs() <= 2, "{window}");
        assert_eq!(
            (&window["minutes"], &window["runner_id"]),
            (&minutes.into(), &runner.as_str().into())
        );
        assert_eq!(window["over"], false);
    }
    let shown = scene.world.run(["usage"]).ok();
    let line = format!("{} {}: 42 % used, begins anew in ", program.name(), names[0]);
    assert!(shown.stderr().contains(&line), "{}", shown.everything());
    // What is told later holds.
    scene.model.tells_windows([43, 17], [resets, resets + 86_400]);
    scene.until_activity(&runner, "idle");
    scene.send(&runner, "and once more", &["--wait", "1m"]);
    scene.until("the first one has grown", || {
        let told = windows(&scene);
        let grown = |window: &Value| window["window"] == names[0] && window["used_percent"] == 43.0;
        if told.iter().any(grown) { Ok(()) } else { Err(told) }
    });
}

#[test]
fn claude_s_windows_are_known() {
    are_known(Program::Claude, ["five_hour", "seven_day"]);
}

#[test]
fn codex_windows_are_known() {
    are_known(Program::Codex, ["primary", "secondary"]);
}

fn goes_on_after_a_limit(program: Program) {
    let scene = Scene::new(program);
    // Long enough for it to give up, and for a daemon to die and another one to start.
    let reset = (now() + Duration::from_secs(20)).as_second();
    scene.model.answers(move |asked| {
        let limited = now().as_second() < reset && (asked.says("walnut") || asked.says("almond"));
        limited.then(|| Reply::limited_until(reset))
    });
    let options = ["--prompt", "the walnut", "--after-limit", "continue"];
    let goes_on = scene.launch("goes-on", &options);
    // The control: one that waits for its person.
    let waits = scene.launch("waits", &["--prompt", "the almond"]);
    for runner in [&goes_on, &waits] {
        let shown = scene.until_activity(runner, "rate_limited");
        assert!(shown["activity_resets_at"].is_string() || shown["doing"].is_object(), "{shown}");
    }
    // Whoever dies meanwhile changes nothing.
    scene.world.kill_daemon();
    scene.world.run(["daemon", "start"]).ok();
    let told = || {
        let is_told = |asked: &&Arc<Asked>| {
            let is_turn = asked.purpose == Purpose::Main && asked.rounds == 0;
            is_turn && asked.says("limit that stopped you is over")
        };
        scene.model.asked().iter().filter(is_told).count()
    };
    scene.until("it was told to go on", || if told() > 0 { Ok(()) } else { Err(told()) });
    scene.until_activity(&goes_on, "idle");
    assert!(now().as_second() >= reset);
    assert_eq!(told(), 1, "once, and to one of them");
    assert_eq!(scene.world.runner(&waits)["activity"], "rate_limited");
}

#[test]
fn claude_goes_on_by_itself_after_a_limit_if_that_was_asked_for() {
    goes_on_after_a_limit(Program::Claude);
}

#[test]
fn codex_goes_on_by_itself_after_a_limit_if_that_was_asked_for() {
    goes_on_after_a_limit(Program::Codex);
}
