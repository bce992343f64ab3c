//! Files of a runner that were damaged: by a disk, by a person, or by the runner itself.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use stratavore_testkit::trace::Process;
use stratavore_testkit::world::{World, signal, until};

use super::runners;

const DAMAGE: [&[u8]; 4] = [b"", b"{", b"\x00\xff\xfe garbage \x1b[2J", br#"{"epoch": "one"}"#];

fn file(world: &World, runner: &str, name: &str) -> PathBuf {
    world.path(&format!("state/runners/{runner}/{name}"))
}

/// Ends the agent as by accident, and waits until it is gone.
fn kill_agent(world: &World, runner: &str) {
    let agents = world.agents_of(runner);
    let agent = Process::of(agents[0]).expect("it lives");
    signal(agent.pid, Signal::KILL);
    until("the agent is gone", || if agent.is_alive() { Err(agent) } else { Ok(()) });
}

#[test]
fn damaged_files_of_a_runner_that_lives_change_nothing_for_it() {
    let world = World::new();
    world.project("demo");
    let names = ["agent.json", "exit.json", "spec.json", "spool"];
    let ids: Vec<String> =
        names.iter().map(|name| world.launch("demo", &name.replace('.', "-"), &["cat"])).collect();
    for (id, name) in ids.iter().zip(names) {
        fs::write(file(&world, id, name), DAMAGE[2]).unwrap();
    }
    // What lies beside them is nobody's runner.
    let beside = world.path("state/runners");
    fs::create_dir(beside.join("run_00000000000000000000")).unwrap();
    fs::create_dir(beside.join("not-a-runner")).unwrap();
    fs::write(beside.join("run_00000000000000000001"), "").unwrap();

    world.kill_daemon();
    world.run(["reconcile"]).ok();
    until("all agents are back", || {
        let listed = runners(&world);
        let well = listed.iter().all(|r| r["state"] == "running" && r["connected"] == true);
        if listed.len() == names.len() && well { Ok(()) } else { Err(listed) }
    });
    for id in &ids {
        world.run(["send", id, "hello"]).ok();
        world.run(["kill", id, "--force"]).ok();
        until("nothing of it is left", || match world.left_of(id) {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        });
    }
    assert_eq!(world.json(&["status"])["daemon"]["health"], "ready");
}

#[test]
fn a_runner_whose_agent_died_is_cleared_up_whatever_its_files_say() {
    let world = World::new();
    world.project("demo");
    for (number, damage) in DAMAGE.into_iter().enumerate() {
        let runner = world.launch("demo", &format!("r{number}"), &["sleep", "1000"]);
        for name in ["agent.json", "exit.json", "spec.json"] {
            fs::write(file(&world, &runner, name), damage).unwrap();
        }
        kill_agent(&world, &runner);
        let shown = world.until_state(&runner, &["lost"]);
        assert_eq!(shown["cause"], "agent_died", "{shown}");
        until("nothing of it runs", || match world.processes_of(&runner) {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        });
    }
    let daemon = world.daemon_pid();
    world.launch("demo", "next", &["sleep", "1000"]);
    assert_eq!(world.daemon_pid(), daemon);
}

/// The record lies where the runner can write. It names cgroups that are to be killed, and a
/// process that is to be the agent.
#[test]
fn a_record_that_points_at_others_harms_nobody() {
    let world = World::new();
    world.project("demo");
    let innocent = world.launch("demo", "innocent", &["sleep", "1000"]);
    let process = world.process_of(&innocent);
    let runner = world.launch("demo", "liar", &["sleep", "1000"]);
    let path = file(&world, &runner, "agent.json");
    let theirs: serde_json::Value =
        serde_json::from_slice(&fs::read(file(&world, &innocent, "agent.json")).unwrap()).unwrap();
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["cgroups"] = theirs["cgroups"].clone();
    let groups = record["cgroups"].as_array_mut().unwrap();
    groups.extend(["/sys/fs/cgroup", "/proc", "/"].map(Into::into));
    record["identity"] = theirs["identity"].clone();
    record["process"] = theirs["process"].clone();
    fs::write(&path, record.to_string()).unwrap();

    kill_agent(&world, &runner);
    world.until_state(&runner, &["lost"]);
    world.run(["reconcile"]).ok();
    assert!(process.is_alive(), "nobody else was killed");
    assert_eq!(world.runner(&innocent)["state"], "running");
    assert_eq!(world.agents_of(&innocent).len(), 1);
}

#[test]
fn a_runner_whose_directory_is_gone_is_lost_and_says_so() {
    let world = World::new();
    world.project("demo");
    let runner = world.launch("demo", "one", &["sleep", "1000"]);
    let process = world.process_of(&runner);
    world.kill_daemon();
    kill_agent(&world, &runner);
    fs::remove_dir_all(world.path(&format!("state/runners/{runner}"))).unwrap();
    let shown = world.until_state(&runner, &["lost"]);
    assert_eq!(shown["cause"], "state_missing", "{shown}");
    // The agent's death took it along.
    until("its process is gone", || if process.is_alive() { Err(process) } else { Ok(()) });
    super::told(world.run(["screen", "one"]), 4, &["has ended", "state_missing"]);
    world.run(["logs", "one"]).ok();
}
