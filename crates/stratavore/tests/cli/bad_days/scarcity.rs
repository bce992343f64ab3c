//! Too many open files or processes, and not enough memory.

use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use stratavore_testkit::world::{Ran, World, rows, until};

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

/// Has the daemon start no process and no thread while a file holds the number of an error: it is the kernel's answer where
/// the limit of processes is met (EAGAIN), or there is no memory for another one (ENOMEM). The limits
/// themselves do not hold for root, and what holds for all of a host is no test's to use up.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int refused(void) {
    const char *path = getenv("SCARCITY_FILE");
    FILE *file = path ? fopen(path, "re") : 0;
    int number = 0;
    if (file && fscanf(file, "%d", &number) != 1) number = 0;
    if (file) fclose(file);
    return number;
}

#define SPAWN(name) \
    int name(pid_t *pid, const char *program, const posix_spawn_file_actions_t *actions, \
             const posix_spawnattr_t *attributes, char *const argv[], char *const environment[]) { \
        int (*real)(pid_t *, const char *, const posix_spawn_file_actions_t *, \
                    const posix_spawnattr_t *, char *const[], char *const[]) = dlsym(RTLD_NEXT, #name); \
        int number = refused(); \
        return number ? number : real(pid, program, actions, attributes, argv, environment); \
    }
SPAWN(posix_spawn)
SPAWN(posix_spawnp)
SPAWN(pidfd_spawn)
SPAWN(pidfd_spawnp)

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*work)(void *), void *with) {
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
        dlsym(RTLD_NEXT, "pthread_create");
    return refused() ? EAGAIN : real(thread, attributes, work, with);
}

pid_t fork(void) {
    pid_t (*real)(void) = dlsym(RTLD_NEXT, "fork");
    int number = refused();
    if (number == 0) return real();
    errno = number;
    return -1;
}
"#;

/// A world whose daemon can be kept from starting processes.
fn world_of_scarcity() -> World {
    let mut world = World::new();
    let (source, shim) = (world.path("shim.c"), world.path("shim.so"));
    std::fs::write(&source, SHIM).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(&source).arg("-ldl");
    Ran::of(cc).ok();
    world.project("demo");
    world.kill_daemon();
    world.set_env("LD_PRELOAD", &shim.display().to_string());
    world.set_env("SCARCITY_FILE", &world.path("errno").display().to_string());
    // The command line starts the daemon, which may be refused as well.
    scarce(&world, 0);
    world.run(["daemon", "start"]).ok();
    world
}

fn scarce(world: &World, errno: i32) {
    std::fs::write(world.path("errno"), errno.to_string()).unwrap();
}

/// Row 10: no process can be started, and there is no memory for one.
#[test]
fn a_launch_for_which_no_process_or_memory_is_left_fails_whole_and_the_next_one_works() {
    let world = world_of_scarcity();
    world.run(["projects", "edit", "demo", "--quota-runners", "1"]).ok();
    let daemon = world.daemon_pid();
    let launch = ["launch", "--project", "demo", "--", "sleep", "1000"];
    for (errno, what, remedy) in [
        (11, "Resource temporarily unavailable", "raise the limit (ulimit -u, pids.max)"),
        (12, "Cannot allocate memory", "end something, or add memory"),
    ] {
        scarce(&world, errno);
        let said = world.run(launch).fails(10).stderr();
        assert!(said.contains(what) && said.contains(remedy) && said.contains("next: "), "{said}");
        let failed = runners(&world);
        let failed = failed.iter().find(|r| r["cause"].as_str().unwrap_or_default().contains(what));
        let failed = failed.unwrap_or_else(|| panic!("it is there, and says why"));
        assert_eq!(failed["state"], "failed");
        let id = failed["id"].as_str().unwrap();
        assert!(world.left_of(id).is_empty(), "{:?}", world.left_of(id));
        until("it is on the record", || {
            let events = world.json(&["events", "--runner", id, "--kind", "runner.failed"]);
            if rows(&events).len() == 1 { Ok(()) } else { Err(events) }
        });
        assert_eq!((world.agents().len(), world.daemon_pid()), (0, daemon));
        // Its place is free again.
        scarce(&world, 0);
        world.run(launch).ok();
        world.run(["kill", "--all", "--force"]).ok();
    }
}

/// What lasts for a moment only costs a moment.
#[test]
fn a_launch_waits_for_processes_that_are_free_again_in_a_moment() {
    let world = world_of_scarcity();
    scarce(&world, 11);
    let launch = ["launch", "--project", "demo", "--name", "one", "--", "sleep", "1000"];
    let ran = std::thread::scope(|scope| {
        let launched = scope.spawn(|| world.run(launch));
        until("a start has failed", || {
            let log = std::fs::read_to_string(world.path("state/daemon.log")).unwrap_or_default();
            if log.contains("will try again") { Ok(()) } else { Err(log) }
        });
        scarce(&world, 0);
        launched.join().expect("it does not panic")
    });
    ran.ok();
    assert_eq!(world.runner("one")["state"], "running");
}
