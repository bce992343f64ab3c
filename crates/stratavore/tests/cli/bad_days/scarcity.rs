//! Too many open files, and not enough memory.

use std::os::unix::net::UnixStream;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use stratavore_testkit::world::{World, until};

use super::runners;

/// How many files the daemon has open.
fn open_files(pid: u32) -> u64 {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it is our process");
    entries.count() as u64
}

/// Gives the daemon room for so many files more.
fn leave_room(pid: u32, files: u64) {
    let limit = open_files(pid) + files;
    let process = Pid::from_raw(pid as i32);
    let limits = Rlimit { current: Some(limit), maximum: Some(limit) };
    prlimit(process, Resource::Nofile, limits).expect("a limit may be lowered");
}

/// Row 33: the accept loop waits for better times and never ends.
#[test]
fn too_many_open_files_end_when_they_are_closed() {
    let world = World::new();
    world.project("demo");
    world.launch("demo", "one", &["cat"]);
    let daemon = world.daemon_pid().unwrap();
    leave_room(daemon, 6);
    let connect = || UnixStream::connect(world.path("run/d.sock")).expect("somebody listens");
    let crowd: Vec<UnixStream> = (0..40).map(|_| connect()).collect();
    until("the daemon has no file left", || {
        let log = std::fs::read_to_string(world.path("state/daemon.log")).unwrap();
        if log.contains("could not accept a connection") { Ok(()) } else { Err(log) }
    });
    // The way to the runner is another one.
    world.run(["--no-start", "send", "one", "hello"]).ok();
    drop(crowd);
    assert_eq!(runners(&world).len(), 1);
    assert_eq!(world.daemon_pid(), Some(daemon), "it is the same daemon");
    world.launch("demo", "two", &["sleep", "1000"]);
}

#[test]
fn a_launch_for_which_no_file_is_left_fails_whole_and_the_next_one_works() {
    let world = World::new();
    world.project("demo");
    let daemon = world.daemon_pid().unwrap();
    leave_room(daemon, 3);
    let ran = world.run(["launch", "--project", "demo", "--name", "one", "--", "sleep", "1000"]);
    let said = ran.stderr();
    match ran.code() {
        // It fitted after all: what else the daemon had open was closed meanwhile.
        0 => {}
        10 => assert!(said.contains("Too many open files") && said.contains("next: "), "{said}"),
        1 | 6 => assert!(said.contains("error: ") && said.contains("next: "), "{said}"),
        code => panic!("{code}: {said}"),
    }
    let process = Pid::from_raw(daemon as i32);
    let limits = Rlimit { current: Some(1024), maximum: Some(1024) };
    if prlimit(process, Resource::Nofile, limits).is_err() {
        // Only root may raise it again.
        world.kill_daemon();
    }
    until("each runner runs or has ended", || {
        let settled = |r: &serde_json::Value| r["state"] == "running" || !r["ended_at"].is_null();
        let listed = runners(&world);
        if listed.iter().all(settled) { Ok(()) } else { Err(listed) }
    });
    let lives = runners(&world).iter().filter(|r| r["state"] == "running").count();
    assert_eq!(world.agents().len(), lives, "no agent without a runner");
    world.launch("demo", "two", &["sleep", "1000"]);
}

/// A runner that takes more memory than it may is ended, and the cause says so.
#[test]
fn a_runner_without_memory_left_says_that_this_is_why_it_ended() {
    let world = World::new();
    world.project("demo");
    let eat = "x=x; while :; do x=$x$x; done";
    let runner = world.launch_with("demo", "eater", &["--memory", "32MiB"], &["sh", "-c", eat]);
    let daemon = world.daemon_pid();
    let shown = world.runner(&runner);
    if !shown["limits_not_enforced"].is_null() {
        world.run(["kill", "eater", "--force"]).ok();
        return;
    }
    let shown = world.until_state(&runner, &["failed"]);
    assert_eq!(shown["cause"], "oom", "{shown}");
    until("nothing of it is left", || match world.left_of(&runner) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
    assert_eq!(world.daemon_pid(), daemon, "the daemon goes on");
}
