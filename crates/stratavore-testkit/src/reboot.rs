//! A host that reboots under its runners: what a runner has is killed, and the boot id that its agent wrote
//! down is given another value.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::world::{World, signal, until};

/// Kills the daemon, then the agent and all that it runs.
///
/// # Panics
/// If something of it stays.
pub fn host_dies(world: &World, runner: &str) {
    if world.daemon_pid().is_some() {
        world.kill_daemon();
    }
    for agent in world.agents_of(runner) {
        signal(agent, Signal::KILL);
    }
    until("all of it is gone", || match world.processes_of(runner) {
        left if left.is_empty() && world.agents_of(runner).is_empty() => Ok(()),
        left => {
            left.iter().for_each(|pid| signal(*pid, Signal::KILL));
            Err(left)
        }
    });
}

/// Lets the runner's agent have lived on another boot.
///
/// # Panics
/// If it has written nothing down.
pub fn of_another_boot(world: &World, runner: &str) {
    let path = world.path(&format!("state/runners/{runner}/agent.json"));
    let record = fs::read(&path).expect("an agent writes down who it is");
    let mut record: Value = serde_json::from_slice(&record).expect("as JSON");
    record["identity"]["boot_id"] = "00000000-0000-4000-8000-000000000000".into();
    fs::write(&path, record.to_string()).expect("it can be written to");
}
