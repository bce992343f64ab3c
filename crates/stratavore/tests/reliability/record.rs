//! T-TAMPER with the real programs: what was done to the database behind the daemon's back is told,
//! by the daemon that seals and by the command line, with a daemon and without one.

use std::fs;

use serde_json::Value;
use stratavore_store::testing::sqlite_execute;
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::{Ran, World, until};

const DATABASE: &str = "state/stratavore.db";
const CHECKPOINTS: &str = "state/audit/checkpoints";
const KEYS: &str = "state/audit/keys";

fn behind(world: &World, sql: &str) {
    on_runtime(sqlite_execute(&world.path(DATABASE), sql));
}

fn change(world: &World, what: &str) {
    world.run(["projects", "edit", "demo", "--description", what]).ok();
}

fn text(world: &World, path: &str) -> String {
    world.path(path).display().to_string()
}

/// Verifies what the daemon has until that is so many records: what was done a moment ago is not
/// published yet. Answers what was said.
fn sealed(world: &World, records: u64) -> Value {
    until("so much is sealed", || {
        let verified = world.json(&["audit", "verify"]);
        if verified["records"].as_u64() >= Some(records) { Ok(verified) } else { Err(verified) }
    })
}

/// Verifies an export with what this host has kept, and no daemon.
fn verify_offline(world: &World, export: &str, kept: &str) -> Ran {
    let (checkpoints, keys) = (text(world, kept), text(world, KEYS));
    world.run([
        "audit",
        "verify",
        "--export",
        export,
        "--checkpoints",
        &checkpoints,
        "--keys",
        &keys,
    ])
}

#[test]
fn t_tamper_an_edit_behind_the_daemon_is_told_by_its_position() {
    let world = World::new();
    world.project("demo");
    for n in 0..5 {
        change(&world, &n.to_string());
    }
    sealed(&world, 6);
    world.run(["audit", "keys", "rotate"]).ok();
    change(&world, "after the change of keys");
    world.run(["daemon", "restart"]).ok();
    let verified = sealed(&world, 8);
    assert!(verified["checkpoints_of_elsewhere"].as_u64().unwrap() >= 1, "{verified}");
    assert_eq!(verified["keys_of_elsewhere"], true);
    let whole = text(&world, "whole.jsonl");
    world.run(["audit", "export", &whole]).ok();
    world.run(["daemon", "stop"]).ok();
    fs::copy(world.path(CHECKPOINTS), world.path("kept")).unwrap();
    verify_offline(&world, &whole, "kept").ok();
    // A copy of the key of codes of that day judges what was written since.
    let (mac, checked) = (text(&world, "state/audit/mac"), ["audit", "verify", "--export", &whole]);
    let checked = world.json(&[&checked[..], &["--mac", &mac]].concat());
    assert_eq!(checked["codes"], checked["records"]);

    behind(&world, "DROP TRIGGER events_immutable");
    behind(&world, "UPDATE events SET caused_by = 'nobody' WHERE position = 3");
    let refused = world.run(["audit", "verify"]).fails(1);
    assert!(refused.stderr().contains("position 3: the record is not the one that was sealed"));
    let edited = text(&world, "edited.jsonl");
    world.run(["audit", "export", &edited]).ok();
    verify_offline(&world, &edited, CHECKPOINTS).fails(1);
    // What was exported before stands still, and is known to be no longer all.
    verify_offline(&world, &whole, "kept").ok();
    verify_offline(&world, &whole, CHECKPOINTS).fails(1);
    let lines = fs::read_to_string(&whole).unwrap();
    let cut: Vec<&str> = lines.lines().collect();
    fs::write(world.path("cut.jsonl"), cut[..cut.len() - 2].join("\n") + "\n").unwrap();
    let told = verify_offline(&world, &text(&world, "cut.jsonl"), "kept").fails(1).stderr();
    assert!(told.contains("the record ends before here"), "{told}");
}

#[test]
fn t_tamper_a_database_that_was_restored_from_an_older_state_is_not_sealed() {
    let world = World::new();
    world.project("demo");
    let older = sealed(&world, 1)["records"].as_u64().unwrap();
    world.run(["daemon", "stop"]).ok();
    fs::copy(world.path(DATABASE), world.path("older.db")).unwrap();
    change(&world, "lost");
    sealed(&world, older + 3);
    world.run(["daemon", "stop"]).ok();
    let kept = fs::read_to_string(world.path(CHECKPOINTS)).unwrap();
    fs::copy(world.path("older.db"), world.path(DATABASE)).unwrap();

    // It goes on with everything else, and says so.
    change(&world, "other");
    let problem = until("the status tells it", || {
        let status = world.json(&["daemon", "status"]);
        let problems = status["problems"].to_string();
        if problems.contains("no longer sealed") { Ok(problems) } else { Err(status.to_string()) }
    });
    assert!(problem.contains("restored from an older state"), "{problem}");
    let told = world.run(["audit", "verify"]).fails(1).stderr();
    assert!(told.contains("a checkpoint in") && told.contains("has signed"), "{told}");
    assert_eq!(fs::read_to_string(world.path(CHECKPOINTS)).unwrap(), kept, "nothing was signed");
    // The control: without what the host has kept, nobody could tell.
    fs::remove_file(world.path(CHECKPOINTS)).unwrap();
    world.run(["audit", "verify"]).ok();
}

#[test]
fn t_tamper_a_daemon_that_dies_while_it_seals_raises_no_alarm() {
    for place in ["seal_before_commit", "seal_committed"] {
        let mut world = World::new();
        world.project("demo");
        sealed(&world, 1);
        world.run(["daemon", "stop"]).ok();
        world.set_env("STRATAVORE_FAILPOINTS", &format!("{place}=abort"));
        world.run(["daemon", "start"]).ok();
        world.run(["--no-start", "projects", "edit", "demo", "--description", "x"]);
        until("it dies there", || match world.daemon_pid() {
            Some(pid) => Err(pid),
            None => Ok(()),
        });
        world.set_env("STRATAVORE_FAILPOINTS", "");
        change(&world, "y");
        sealed(&world, 5);
        let status = world.json(&["daemon", "status"]);
        assert_eq!(status["problems"], serde_json::json!([]), "{place}");
    }
}

#[test]
fn t_tamper_a_key_that_is_lost_is_told_and_its_copy_goes_on() {
    let world = World::new();
    world.project("demo");
    sealed(&world, 1);
    world.run(["daemon", "stop"]).ok();
    let (key, copy) = (world.path("state/audit/key"), world.path("copy"));
    fs::rename(&key, &copy).unwrap();
    change(&world, "unsealed");
    until("the status tells it", || {
        let problems = world.json(&["daemon", "status"])["problems"].to_string();
        if problems.contains("the key that signs it is gone") { Ok(()) } else { Err(problems) }
    });
    let before = world.json(&["audit", "verify"])["records"].as_u64().unwrap();
    fs::rename(&copy, &key).unwrap();
    sealed(&world, before + 1);
}
