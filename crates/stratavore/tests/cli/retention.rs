//! What is kept of runners that have ended, and for how long.

use std::fs;

use serde_json::Value;
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

const MIB: usize = 1 << 20;

/// A home in which output is kept in small files, and looked after all the time.
fn small(limit: &str) -> World {
    let mut world = World::with_config(&format!("agent:\n  output_segment_bytes: 64KiB\n{limit}"));
    world.set_env("STRATAVORE_TEST_TIMES", "alerts_every=1h,output_every=50ms");
    world.project("demo");
    world
}

/// A runner that prints so many bytes in lines of 64, and then what is said.
fn prints(world: &World, name: &str, bytes: usize, then: &str) -> String {
    let script = format!("yes {} | head -c {} ; {then}", "x".repeat(62), bytes / 64 * 63);
    world.launch("demo", name, &["sh", "-c", &script])
}

/// What is kept of a runner, from its files.
fn kept(world: &World, runner: &str) -> usize {
    world.recorded(runner).len()
}

/// Row 26 of the fault catalogue, of the host: first goes what the runners kept that ended longest ago.
#[test]
fn the_output_of_all_runners_is_held_to_the_limit_of_the_host_and_the_gap_is_told() {
    let world = small("runner:\n  output_host_max_bytes: 1MiB\n");
    let old = prints(&world, "old", MIB / 2, "");
    world.until_state(&old, &["exited"]);
    let newer = prints(&world, "newer", MIB / 4, "");
    world.until_state(&newer, &["exited"]);
    let (old_had, newer_had) = (kept(&world, &old), kept(&world, &newer));
    assert!(old_had >= MIB / 2 && newer_had >= MIB / 4, "{old_had} {newer_had}");
    let live = prints(
        &world,
        "live",
        MIB / 2,
        "read x; yes yyyyyyyy | head -c 1500000; echo over; exec sleep 1000",
    );
    let process = world.process_of(&live);
    let total = || [&old, &newer, &live].map(|runner| kept(&world, runner)).iter().sum::<usize>();
    until("it is no more than the limit", || match total() {
        total if total <= MIB && kept(&world, &live) >= MIB / 2 => Ok(()),
        total => Err((total, kept(&world, &live))),
    });
    assert!(kept(&world, &old) < old_had, "the oldest one gives");
    assert_eq!(kept(&world, &newer), newer_had, "and nobody else has to");
    let told = until("it is on the record", || {
        let events = world.json(&["events", "--kind", "node.output_removed"]);
        rows(&events).first().cloned().ok_or(events)
    });
    assert_eq!(told["data"]["limit_bytes"], MIB);
    assert_eq!(told["data"]["output"][0]["runner"], *old, "{told}");
    let logs = world.run(["logs", &old, "--raw"]).ok();
    assert!(logs.stderr().contains("of output are not kept"), "{}", logs.stderr());
    let tail = vec![b'x'; 62];
    assert!(logs.output.stdout.windows(62).any(|line| line == tail), "what is left is read");

    // It prints more than there is room for: the ended ones are gone, and it keeps its latest.
    world.run(["send", "live", "go"]).ok();
    until("it has printed all of it", || {
        let log = world.recorded(&live);
        if log.ends_with(b"over\r\n") { Ok(()) } else { Err(log.len()) }
    });
    until("it is no more than the limit", || match total() {
        total if total <= MIB => Ok(()),
        total => Err(total),
    });
    assert_eq!((kept(&world, &old), kept(&world, &newer)), (0, 0));
    assert!(kept(&world, &live) > MIB / 2, "it keeps what there is room for");
    assert!(process.is_alive() && world.runner(&live)["state"] == "running");
    for (runner, has) in [(&old, false), (&newer, false), (&live, true)] {
        let logs = world.run(["logs", runner, "--raw"]).ok();
        assert!(logs.stderr().contains("of output are not kept"), "{}", logs.stderr());
        assert_eq!(!logs.output.stdout.is_empty(), has);
    }
    let status: Value = world.json(&["daemon", "status"]);
    assert_eq!(status["output_max_bytes"], MIB, "{status}");
    until("the status tells of it", || {
        let status = world.json(&["daemon", "status"]);
        match status["output_bytes"].as_u64() {
            Some(bytes) if bytes as usize == total() => Ok(()),
            _ => Err(status["output_bytes"].clone()),
        }
    });
    // Its agent goes on from its own files, of which the oldest are gone.
    world.run(["upgrade", "live"]).ok();
    until("it is back", || match world.runner(&live) {
        shown if shown["connected"] == true && shown["epoch"] == 1 => Ok(()),
        shown => Err(shown),
    });
    assert!(process.is_alive());
}

/// The control: without a limit for the host all of it is kept.
#[test]
fn without_a_limit_of_the_host_each_runner_keeps_what_it_may() {
    let world = small("");
    let runners = ["one", "two", "three"].map(|name| prints(&world, name, MIB / 2, ""));
    for runner in &runners {
        world.until_state(runner, &["exited"]);
    }
    let status = world.json(&["daemon", "status"]);
    assert!(status["output_max_bytes"].is_null() && status["output_bytes"].is_null(), "{status}");
    let tasks: Vec<&str> = status["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|task| task["name"].as_str())
        .collect();
    assert!(!tasks.contains(&"output"), "{tasks:?}");
    let total: usize = runners.iter().map(|runner| kept(&world, runner)).sum();
    assert!(total > MIB, "{total}");
}
