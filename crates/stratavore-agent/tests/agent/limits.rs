//! Limits that the kernel enforces, and what is told when they are met.
//!
//! These need a host on which cgroups can be made; elsewhere they show that this is told.

use stratavore_core::runner::Cause;
use stratavore_proto::v1::agent_report::What;

use crate::daemon::{Line, World};

/// What the agent said of limits that it cannot have.
fn not_enforced(line: &Line) -> Option<String> {
    line.reports.iter().find_map(|report| match &report.what {
        Some(What::LimitsNotEnforced(why)) => Some(why.clone()),
        _ => None,
    })
}

#[tokio::test]
async fn too_much_memory_is_told_as_such() {
    // tail keeps what has no line break.
    let mut world = World::shell("tail /dev/zero").with(|spec| {
        spec.limits.memory = Some(32 << 20);
        spec.limits.wall_seconds = Some(15);
    });
    let mut line = world.launch().await;
    let cause = line.exited().await;
    match not_enforced(&line) {
        None => assert_eq!(cause, Cause::Oom),
        Some(why) => assert!(why.contains("memory"), "{why}"),
    }
}

#[tokio::test]
async fn a_fork_bomb_meets_its_limit_and_leaves_nothing() {
    let script = "bomb() { sleep 1000 & bomb & bomb; }; bomb 2>/dev/null & exec sleep 1000";
    let mut world = World::shell(script).with(|spec| spec.limits.pids = Some(64));
    let mut line = world.launch().await;
    line.heartbeat_with("the bomb", |beat| beat.processes > 20).await;
    if not_enforced(&line).is_none() {
        let beat = line.heartbeat().await;
        assert!(beat.processes <= 64, "{beat:?}");
    }
    line.kill().await;
    line.exited().await;
    let cgroups = world.dir.agent().unwrap().unwrap().cgroups;
    assert!(!stratavore_agent::kill::is_populated(world.spec.runner, &cgroups));
}

#[tokio::test]
async fn a_failure_after_the_limit_of_processes_is_told_as_such() {
    let script = "n=0; while [ $n -lt 40 ]; do sleep 1000 & n=$((n+1)); done; exit 1";
    let mut world = World::shell(script).with(|spec| spec.limits.pids = Some(16));
    let mut line = world.launch().await;
    let cause = line.exited().await;
    match not_enforced(&line) {
        None => assert_eq!(cause, Cause::PidsLimit),
        Some(why) => assert!(why.contains("pids"), "{why}"),
    }
}

#[tokio::test]
async fn a_share_of_a_core_is_all_that_is_used() {
    let mut world =
        World::shell("while :; do :; done").with(|spec| spec.limits.cpu_millis = Some(100));
    let mut line = world.launch().await;
    let began = line.heartbeat().await.cpu_ms;
    let mut beats = 0;
    let mut used = 0;
    while beats < 10 {
        used = line.heartbeat().await.cpu_ms - began;
        beats += 1;
    }
    // Ten heartbeats of 200 ms; without the limit it would be about 2,000.
    if not_enforced(&line).is_none() {
        assert!(used < 1000, "{used} ms");
    }
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn a_success_is_a_success_whatever_was_met() {
    let script = "n=0; while [ $n -lt 40 ]; do sleep 1000 & n=$((n+1)); done 2>/dev/null; exit 0";
    // A shell that cannot fork ends by itself, so the forking is done in one below.
    let script = format!("( {script} ); exit 0");
    let mut world = World::shell(&script).with(|spec| spec.limits.pids = Some(16));
    let mut line = world.launch().await;
    assert_eq!(line.exited().await, Cause::Exit(0));
}
