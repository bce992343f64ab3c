//! T-CLOCK: the system's clock is set forward and back, and nothing expires for it.
//!
//! The real programs run with a wall clock of their own: a small library, loaded before the others,
//! adds to the kernel's what a file says. Their monotonic clock is the kernel's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use stratavore_testkit::hosts::Hosts;
use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::wire::{client, new_runner, on_runtime};
use stratavore_testkit::world::{Ran, World, rows, until};

use crate::printing::{Printing, events};

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *shift;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TIMESHIFT_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *memory = file < 0 ? MAP_FAILED : mmap(0, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    if (memory != MAP_FAILED) shift = memory;
    if (file >= 0) close(file);
}

int clock_gettime(clockid_t id, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, id, time);
    if (result == 0 && id == CLOCK_REALTIME && shift) time->tv_sec += *shift;
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"#;

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;
/// How long an answer is kept for its key.
const KEPT: i64 = 24 * HOUR;

/// Makes a world whose programs have a wall clock that can be set, and a project.
fn world_with_a_clock() -> World {
    let world = with_a_clock(0, "");
    world.large_project("demo");
    world
}

/// The same without a project, with more in its configuration, and with a clock that is set already.
pub(crate) fn with_a_clock(seconds: i64, more: &str) -> World {
    let mut world = World::new();
    let (source, shim) = (world.path("shim.c"), world.path("shim.so"));
    fs::write(&source, SHIM).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(&source);
    Ran::of(cc).ok();
    set_clock(&world, seconds);
    // What is started gets no environment of the daemon's; agents get the library so.
    let (agent, file) = (World::program("stratavore-agent"), world.path("shift"));
    let wrapper = world.path("agent-with-a-clock");
    let script = format!(
        "#!/bin/sh\nexport TIMESHIFT_FILE={}\nLD_PRELOAD={} exec {} \"$@\"\n",
        file.display(),
        shim.display(),
        agent.display()
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o700)).unwrap();
    let config = format!(
        "agent:\n  binary: {}\n  heartbeat: 200ms\nrunner:\n  unresponsive_after: 10s\n{more}",
        wrapper.display()
    );
    let path = world.path("stratavore.yaml");
    fs::write(&path, config).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    world.set_env("LD_PRELOAD", &shim.display().to_string());
    world.set_env("TIMESHIFT_FILE", &file.display().to_string());
    world
}

pub(crate) fn set_clock(world: &World, seconds: i64) {
    use std::io::Write;
    let path = world.path("shift");
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
    file.and_then(|mut file| file.write_all(&seconds.to_ne_bytes())).expect("it can be set");
}

/// The id and the time of creation (seconds) of the runner that a launch with this key answers.
fn launched(world: &World, key: &str) -> (String, i64) {
    on_runtime(async {
        let client = client(world).await;
        let answer = client.runners().launch(new_runner("demo", key.into())).await;
        let runner = answer.expect("it is answered").into_inner().runners.remove(0);
        (runner.id, runner.created_at_us / 1_000_000)
    })
}

/// A runner that fails, and is to start again after about a second.
fn failing(world: &World, name: &str) -> String {
    let script = "if [ -e \"$0\" ]; then exec sleep 1000; fi; : > \"$0\"; exit 1";
    let mark = world.path(&format!("{name}-failed")).display().to_string();
    let options = ["--restart", "on-failure"];
    let argv = ["sh", "-c", script, &mark];
    let arguments =
        [&["launch", "--project", "demo", "--name", name][..], &options, &["--"], &argv];
    // It may be told that it has ended; it has not.
    world.run(arguments.concat());
    let id = world.runner(name)["id"].as_str().expect("it has an id").to_owned();
    until("its next start is planned", || match world.runner(&id) {
        shown if shown["epoch"] == 2 => Ok(()),
        shown => Err(shown),
    });
    id
}

#[test]
fn t_clock_a_clock_that_is_set_makes_nothing_expire() {
    let mut trial = Trial::new("T-CLOCK", "the clock is set forward and back, and nothing expires");
    let world = world_with_a_clock();
    let printing = Printing::launch(&world, "printing", &["--every", "20"]);
    let limited = world.launch_with("demo", "limited", &["--wall", "30m"], &["sleep", "1000"]);
    let mut seen = Vec::new();
    for round in 0..scale(1, 25) {
        for (step, shift) in [HOUR, -HOUR, YEAR, -YEAR].into_iter().enumerate() {
            let name = format!("failing-{round}-{step}");
            // While it waits for its next start.
            let failing = failing(&world, &name);
            let (first, at) = launched(&world, &format!("{name}-kept"));
            set_clock(&world, shift);
            // The same daemon still knows its answers.
            let (again, _) = launched(&world, &format!("{name}-kept"));
            trial.tried(match again == first {
                true => Ok(()),
                false => Err(format!("{shift} s: a repeated launch was a second one")),
            });
            seen.push(launched(&world, &name).1 - at);
            // The next daemon begins with that clock.
            world.kill_daemon();
            world.run(["daemon", "start"]).ok();
            let shown = world.until_state(&failing, &["running", "failed", "lost"]);
            trial.tried(match (&shown["state"], &shown["epoch"]) {
                (state, epoch) if state == "running" && epoch == 2 => Ok(()),
                _ => Err(format!("{shift} s: a restart that was planned: {shown}")),
            });
            until("events are relayed", || match world.json(&["daemon", "status"]) {
                status if status["outbox_pending"] == 0 => Ok(()),
                status => Err(status),
            });
            for runner in [&printing.runner, &limited] {
                let shown = world.until_state(runner, &["running", "exited", "failed", "lost"]);
                trial.tried(match shown["state"] == "running" && shown["epoch"] == 1 {
                    true => Ok(()),
                    false => Err(format!("{shift} s: {shown}")),
                });
            }
            set_clock(&world, 0);
            world.kill_daemon();
            world.run(["daemon", "start"]).ok();
        }
    }
    until("its log has all that it printed", || printing.held(&world));
    assert_eq!(world.process_of(&printing.runner), printing.process);
    assert_eq!(events(&world, "runner.unresponsive"), 0);
    // The control: by the wall clock of the same daemon the time of the first answer was over.
    trial.control("an expiry by the wall clock", seen.iter().any(|passed| *passed > KEPT));
    trial.end();
}

/// Who has which duty, and since which term.
fn duties(database: &TestPostgres) -> String {
    database.query("SELECT name, holder, term FROM leases ORDER BY name")
}

/// How the nodes are, by what a daemon says.
fn nodes(world: &World) -> Vec<String> {
    let listed = world.json(&["nodes", "list"]);
    rows(&listed).iter().map(|node| format!("{} {}", node["id"], node["state"])).collect()
}

/// Two daemons of one PostgreSQL, whose clocks do not agree. Both hold duties, judge nodes and runners, and
/// let others in.
#[test]
fn t_clock_a_host_whose_clock_is_off_takes_nobody_for_gone() {
    let mut trial = Trial::new(
        "T-CLOCK",
        "two daemons of one PostgreSQL, and the clock of one is set: no duty changes hands, nobody is \
         taken for gone, a join token is good",
    );
    let database = database();
    let settings = database.settings(&database.socket_dir);
    let listens = format!("{settings}node:\n  listen: 127.0.0.1:0\n");
    let worlds = vec![with_a_clock(0, &listens), with_a_clock(0, &settings)];
    worlds[0].large_project("demo");
    worlds[1].run(["daemon", "start"]).ok();
    worlds[0].run(["ca", "init"]).ok();
    let hosts = Hosts { database, worlds };
    let [off, right] = &hosts.worlds[..] else { unreachable!("there are two") };
    let runners = [(off, "one"), (right, "two")]
        .map(|(world, name)| (world, Printing::launch(world, name, &["--every", "20"])));
    until("all is published", || match hosts.database.query("SELECT count(*) FROM outbox") {
        none if none == "0" => Ok(()),
        some => Err(some),
    });
    let (mut held, seen) = (duties(&hosts.database), nodes(right));
    assert!(held.contains("relay") && seen.len() == 2, "{held} {seen:?}");
    let mut over = Vec::new();
    for round in 0..scale(1, 25) {
        for shift in [HOUR, -HOUR, YEAR, -YEAR] {
            set_clock(off, shift);
            let (_, at) = launched(off, &format!("{round}-{shift}"));
            let expires = "SELECT max(extract(epoch FROM expires_at))::bigint FROM leases";
            over.push(at > hosts.database.query(expires).parse::<i64>().unwrap());
            for world in [off, right] {
                let text = format!("{round} {shift}");
                world.run(["projects", "edit", "demo", "--description", &text]).ok();
                world.run(["reconcile"]).ok();
            }
            until("all is published", || {
                match hosts.database.query("SELECT count(*) FROM outbox") {
                    none if none == "0" => Ok(()),
                    some => Err(some),
                }
            });
            let now = (duties(&hosts.database), nodes(right), nodes(off));
            // Some are taken up only now. None of those that are held goes to another term or holder.
            let stays = held.lines().all(|duty| now.0.lines().any(|now| now == duty));
            trial.tried(match stays && now.1 == seen && now.2 == seen {
                true => Ok(()),
                false => Err(format!("{shift} s: {held} {seen:?} became {now:?}")),
            });
            held = now.0;
            for (_, runner) in &runners {
                for by in [off, right] {
                    let shown = by.runner(&runner.runner);
                    trial.tried(match shown["state"] == "running" && shown["epoch"] == 1 {
                        true => Ok(()),
                        false => Err(format!("{shift} s: {shown}")),
                    });
                }
            }
        }
    }
    for (world, runner) in &runners {
        until("its log has all that it printed", || runner.held(world));
    }
    for kind in ["runner.unresponsive", "runner.unreachable", "runner.lost"] {
        trial.tried(match events(right, kind) {
            0 => Ok(()),
            some => Err(format!("{some} {kind}")),
        });
    }
    // Made by a host that is a year late, and shown to it when it is a year early.
    let token = hosts.token();
    set_clock(off, YEAR);
    let late = World::with_config(&hosts.database.settings(&hosts.database.socket_dir));
    let joined = hosts.join(&late, &token);
    trial.tried(match joined.code() {
        0 => Ok(()),
        _ => Err(joined.everything()),
    });
    trial.control("a duty whose time is judged by the host's clock", over.contains(&true));
    trial.end();
}

/// Calls the hook of Claude Code with each file that comes to be in a directory.
struct Telling {
    world: World,
    runner: String,
    told: usize,
}

impl Telling {
    fn start() -> Self {
        let mut world = with_a_clock(0, "");
        let (program, files) = (world.path("assistant"), world.path("told"));
        fs::create_dir(&files).unwrap();
        let script = format!(
            "#!/bin/sh\nwhile :; do for file in '{}'/*.json; do [ -e \"$file\" ] || continue\n\
             '{}' hook --dir '{}'/\"$STRATAVORE_RUNNER_ID\" < \"$file\"; rm \"$file\"\n\
             done; sleep 0.02; done\n",
            files.display(),
            World::program("stratavore-agent").display(),
            world.path("state/runners").display(),
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let path = world.path("stratavore.yaml");
        let mut config = fs::read_to_string(&path).unwrap();
        config += &format!("assistants:\n  claude:\n    program: {}\n", program.display());
        fs::write(&path, config).unwrap();
        let home = world.path("home");
        fs::create_dir(&home).unwrap();
        world.set_env("HOME", &home.display().to_string());
        world.project("demo");
        let launch = ["launch", "--project", "demo", "--assistant", "claude", "--name", "one"];
        world.run(launch).ok();
        Self { world, runner: "one".into(), told: 0 }
    }

    fn tell(&mut self, event: &str) {
        self.told += 1;
        let hook = format!(r#"{{"hook_event_name":"{event}","session_id":"theirs","prompt":"x"}}"#);
        let file = self.world.path(&format!("told/{}", self.told));
        fs::write(&file, hook).unwrap();
        fs::rename(&file, file.with_extension("json")).unwrap();
    }

    fn does(&self, activity: &str) -> Result<(), String> {
        let shown = self.world.runner(&self.runner);
        if shown["activity"] == activity { Ok(()) } else { Err(shown.to_string()) }
    }
}

#[test]
fn t_clock_what_an_assistant_does_is_known_after_the_clock_was_set_back() {
    let mut trial = Trial::new(
        "T-CLOCK",
        "the clock is set forward and back, and what an assistant tells is of now",
    );
    let mut telling = Telling::start();
    for round in 0..scale(1, 20) {
        for clock in [-HOUR, YEAR, 0] {
            telling.tell("UserPromptSubmit");
            until("it is said to work", || telling.does("working"));
            if (round, clock) == (0, -HOUR) {
                trial.control("a turn whose end was not told", telling.does("idle").is_err());
            }
            set_clock(&telling.world, clock);
            telling.tell("Stop");
            until("it is said to be idle", || telling.does("idle"));
            trial.tried(Ok(()));
        }
    }
    trial.end();
}
