//! What is kept of runners that have ended, and for how long.

use std::fs;

use stratavore_testkit::world::{World, rows, until};

#[test]
fn only_what_is_known_to_have_ended_long_ago_is_removed_and_that_is_recorded() {
    let world = World::with_config("runner:\n  keep_ended: 1s\n");
    world.project("demo");
    let old = world.launch("demo", "old", &["echo", "hello"]);
    let live = world.launch("demo", "live", &["sleep", "1000"]);
    world.until_state(&old, &["exited"]);
    let directory = |id: &str| world.path(&format!("state/runners/{id}"));
    // A directory that the store does not know, as after a database was restored.
    let reversed: String = old.trim_start_matches("run_").chars().rev().collect();
    let unknown = directory(&format!("run_{reversed}"));
    fs::create_dir(&unknown).unwrap();
    until("all of it is old", || {
        let age =
            |path: &std::path::Path| fs::metadata(path).unwrap().modified().unwrap().elapsed();
        let young = |path: &std::path::PathBuf| age(path).unwrap().as_millis() < 1100;
        match [directory(&old), unknown.clone()].iter().any(young) {
            true => Err("too young"),
            false => Ok(()),
        }
    });
    assert!(directory(&old).exists(), "it is looked for when a daemon starts, then each hour");

    world.kill_daemon();
    world.run(["daemon", "start"]).ok();
    until("the old one is gone", || {
        if directory(&old).exists() { Err("it is there") } else { Ok(()) }
    });
    assert!(unknown.exists(), "what the store does not know is left alone");
    assert!(directory(&live).join("output").exists());
    assert_eq!(world.runner(&live)["state"], "running");
    assert_eq!(world.runner(&old)["state"], "exited", "its row stays");
    let told = until("it is told", || {
        let events = world.json(&["events", "--kind", "node.runners_removed"]);
        rows(&events).first().cloned().ok_or(events)
    });
    assert!(told.to_string().contains(&old) && !told.to_string().contains(&live), "{told}");
    let said = world.run(["logs", &old]).fails(3).stderr();
    assert!(said.contains("no longer kept") && said.contains("runner.keep_ended"), "{said}");
}
