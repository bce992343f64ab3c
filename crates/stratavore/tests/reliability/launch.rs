//! T-LAUNCH: a launch happens once and ends somewhere, whoever dies on the way.
//!
//! Daemons and agents are made to die at named points of a launch. An observer that knows nothing
//! of Stratavore looks all the time at which processes carry the mark of the launch.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use stratavore_testkit::postgres::database;
use stratavore_testkit::trace::Process;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, is_zombie, of_process, processes, until};

use crate::printing::events;

/// Where a launch ends, at the latest this long after its daemon was back.
const BOUND: Duration = Duration::from_secs(15);
const PROMISE: &str = "a launch has one runner and at most one process, and comes to an end";
/// The variable that marks what a launch started.
const MARK: &str = "LAUNCH_TEST";

/// The processes that carried the mark, at one look after the other.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    most_at_once: BTreeSet<Process>,
    ever: BTreeSet<Process>,
}

impl Seen {
    fn look(&mut self, mark: &str) {
        let has_mark = |pid: &u32| {
            let environ = of_process(*pid, "environ");
            environ.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        };
        let now: BTreeSet<Process> = processes()
            .into_iter()
            .filter(|pid| has_mark(pid) && !is_zombie(*pid))
            .filter_map(Process::of)
            .collect();
        self.ever.extend(&now);
        if now.len() > self.most_at_once.len() {
            self.most_at_once = now;
        }
    }

    /// Whether never more than one lived at a time, and never more than `ever` in all.
    pub(crate) fn held(&self, ever: usize) -> Result<(), String> {
        match (self.most_at_once.len(), self.ever.len()) {
            (0 | 1, all) if all <= ever => Ok(()),
            _ => {
                Err(format!("of one launch came {:?}; at once {:?}", self.ever, self.most_at_once))
            }
        }
    }
}

/// Does `act` while the observer looks, and answers what it saw besides.
pub(crate) fn observed<T>(mark: &str, act: impl FnOnce() -> T) -> (T, Seen) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let observer = scope.spawn(|| {
            let mut seen = Seen::default();
            while !done.load(Ordering::Relaxed) {
                seen.look(mark);
                std::thread::sleep(Duration::from_millis(2));
            }
            seen.look(mark);
            seen
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        done.store(true, Ordering::Relaxed);
        let seen = observer.join().expect("the observer does not fail");
        match result {
            Ok(result) => (result, seen),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

pub(crate) fn mark(world: &World) -> String {
    format!("{MARK}={}", world.path("").display())
}

fn launch(world: &World, options: &[&str], argv: &[&str]) -> stratavore_testkit::world::Ran {
    let mark = mark(world);
    let mut arguments = vec!["launch", "--project", "demo", "--name", "one", "--env", &mark];
    arguments.extend(options);
    arguments.push("--");
    arguments.extend(argv);
    world.run(arguments)
}

/// A world whose launches are given up after a while.
pub(crate) fn impatient(launch_timeout: &str) -> World {
    impatient_on("", launch_timeout)
}

/// The same on the database that these settings name.
pub(crate) fn impatient_on(store: &str, launch_timeout: &str) -> World {
    let world = World::with_config(&format!(
        "{store}runner:\n  launch_timeout: {launch_timeout}\n  grace: 1s\n"
    ));
    world.project("demo");
    // What came before the launch is told already.
    until("all events are relayed", || match world.json(&["daemon", "status"]) {
        status if status["outbox_pending"] == 0 => Ok(()),
        status => Err(status),
    });
    world
}

/// Replaces the daemon by one that dies, or whose agents die, at `point`.
fn doom(world: &World, point: &str) -> u32 {
    world.kill_daemon();
    let mut command = world.command("stratavore");
    command.args(["daemon", "start"]).env("STRATAVORE_FAILPOINTS", format!("{point}=abort"));
    let started = command.output().expect("stratavore runs");
    assert!(started.status.success(), "{started:?}");
    world.daemon_pid().expect("it runs until it comes to that point")
}

/// All runners that were ever admitted.
fn runners(world: &World) -> Vec<Value> {
    world.json(&["runners", "--all"]).as_array().expect("a list").clone()
}

pub(crate) fn until_nothing_is_left(world: &World, runner: &str) {
    until("nothing is left of it", || match (world.left_of(runner), world.agents()) {
        (left, agents) if left.is_empty() && agents.is_empty() => Ok(()),
        left => Err(left),
    });
}

/// The daemon dies at `point` of a launch; the command asks the next one, with the same key.
fn a_daemon_dies_at(point: &str, store: &str, trial: &mut Trial) {
    let world = impatient_on(store, "20s");
    let doomed = doom(&world, point);
    let ((runner, took), seen) = observed(&mark(&world), || {
        let began = Instant::now();
        launch(&world, &[], &["sleep", "1000"]).ok();
        let took = began.elapsed();
        assert_ne!(world.daemon_pid(), Some(doomed), "{point}: it was reached");
        let known = runners(&world);
        assert_eq!(known.len(), 1, "{point}: one runner for one launch: {known:?}");
        assert_eq!(known[0]["state"], "running", "{point}: {known:?}");
        assert_eq!(known[0]["epoch"], 1, "{point}");
        let runner = known[0]["id"].as_str().expect("it has an id").to_owned();
        assert_eq!(known[0]["pid"], world.process_of(&runner).pid, "{point}");
        (runner, took)
    });
    // Only after the observer's last look, or a short life may pass between two of them.
    world.run(["kill", "one", "--force"]).ok();
    until_nothing_is_left(&world, &runner);
    seen.held(1).unwrap_or_else(|found| panic!("{point}: {found}"));
    assert_eq!(seen.ever.len(), 1, "{point}: it ran, and was seen");
    assert!(took < BOUND, "{point}: {took:?}");
    trial.measured("running after a daemon was killed on the way", took);
    trial.tried(Ok(()));
}

fn daemons_die_at(points: &[&str]) {
    let mut trial = Trial::new("T-LAUNCH", PROMISE);
    for _ in 0..scale(1, 50) {
        for point in points {
            a_daemon_dies_at(point, "", &mut trial);
        }
    }
    trial.end();
}

/// The same on PostgreSQL: at some of the points, or at all of them in turn.
#[test]
fn t_launch_a_daemon_of_postgresql_that_dies_on_the_way() {
    let mut trial = Trial::new("T-LAUNCH", &format!("PostgreSQL: {PROMISE}"));
    let mut dice = trial.dice();
    let points = [
        "L0",
        "L2",
        "L5",
        "L6",
        "relay_before_publish",
        "L8",
        "L9",
        "relay_before_bus",
        "L10",
        "L12",
    ];
    let first = dice.below(points.len());
    for point in points.iter().cycle().skip(first).take(scale(2, 50 * points.len())) {
        let database = database();
        a_daemon_dies_at(point, &database.settings(&database.socket_dir), &mut trial);
    }
    trial.end();
}

#[test]
fn t_launch_a_daemon_that_dies_before_the_commit() {
    daemons_die_at(&["L0", "L2"]);
}

#[test]
fn t_launch_a_daemon_that_dies_before_its_agent_has_begun() {
    daemons_die_at(&["L5", "L6", "relay_before_publish"]);
}

#[test]
fn t_launch_a_daemon_that_dies_while_its_agent_registers() {
    daemons_die_at(&["L8", "L9", "relay_before_bus"]);
}

#[test]
fn t_launch_a_daemon_that_dies_as_it_lets_the_assistant_go() {
    daemons_die_at(&["L10", "L12"]);
}

/// An agent that always dies before it is known: the launch is given up in time, and the place of
/// the runner is free again.
#[test]
fn t_launch_agents_that_die_before_they_are_known_do_not_run_anything() {
    for point in ["after_lock", "before_hello"] {
        let world = impatient("1s");
        world.run(["projects", "edit", "demo", "--quota-runners", "1"]).ok();
        doom(&world, point);
        let ((runner, took), seen) = observed(&mark(&world), || {
            let began = Instant::now();
            let refused = launch(&world, &[], &["sleep", "1000"]).fails(10);
            assert!(refused.stderr().contains("spawn_error"), "{}", refused.everything());
            let known = runners(&world);
            assert_eq!(known.len(), 1, "{point}: {known:?}");
            let cause = known[0]["cause"].as_str().unwrap_or_default();
            for words in ["ended before it was known", "SIGKILL", "tried "] {
                assert!(cause.contains(words), "{point}: {cause}");
            }
            (known[0]["id"].as_str().expect("it has an id").to_owned(), began.elapsed())
        });
        assert!(took < BOUND, "{point}: {took:?}");
        seen.held(0).unwrap_or_else(|found| panic!("{point}: {found}"));
        until_nothing_is_left(&world, &runner);
        // The next daemon's agents live.
        world.kill_daemon();
        world.run(["launch", "--project", "demo", "--", "sleep", "1000"]).ok();
    }
}

/// The first agent dies before it is known, and so does its daemon; the next daemon starts another.
#[test]
fn t_launch_an_agent_and_its_daemon_die_and_the_next_ones_carry_on() {
    for point in ["after_lock", "before_hello"] {
        let world = impatient("20s");
        doom(&world, point);
        let (runner, seen) = observed(&mark(&world), || {
            std::thread::scope(|scope| {
                let launched = scope.spawn(|| launch(&world, &[], &["sleep", "1000"]));
                let agent_ran = || {
                    let mut dirs = fs::read_dir(world.path("state/runners")).ok()?;
                    fs::metadata(dirs.next()?.ok()?.path().join("lock")).ok()
                };
                until("an agent has begun", || agent_ran().ok_or("no lock yet"));
                world.kill_daemon();
                launched.join().expect("it does not panic").ok();
            });
            let known = runners(&world);
            assert_eq!(known.len(), 1, "{point}: {known:?}");
            let runner = known[0]["id"].as_str().expect("it has an id").to_owned();
            world.process_of(&runner);
            world.run(["kill", "one", "--force"]).ok();
            runner
        });
        seen.held(1).unwrap_or_else(|found| panic!("{point}: {found}"));
        until_nothing_is_left(&world, &runner);
    }
}

/// The agent dies with the assistant already started: it is not adopted by anybody, so it is ended.
#[test]
fn t_launch_an_agent_that_dies_with_its_assistant_started_leaves_nothing() {
    for point in ["child_started_before_persist", "child_started_before_report"] {
        let world = impatient("20s");
        doom(&world, point);
        let (runner, seen) = observed(&mark(&world), || {
            // It would outlive the hang-up of its terminal.
            let refused = launch(&world, &[], &["nohup", "sleep", "1000"]).fails(10);
            assert!(refused.stderr().contains("agent_died"), "{point}: {}", refused.everything());
            let known = runners(&world);
            assert_eq!(known.len(), 1, "{point}: {known:?}");
            assert_eq!(known[0]["state"], "lost", "{point}: {known:?}");
            known[0]["id"].as_str().expect("it has an id").to_owned()
        });
        seen.held(1).unwrap_or_else(|found| panic!("{point}: {found}"));
        until_nothing_is_left(&world, &runner);
    }
}

/// The agent dies as its assistant ends: with the end written down it is told, without it is lost.
#[test]
fn t_launch_an_agent_that_dies_at_the_end_tells_what_it_has_written_down() {
    for (point, state, cause) in
        [("exit_before_record", "lost", "agent_died"), ("exit_before_report", "failed", "exit 7")]
    {
        let world = impatient("20s");
        doom(&world, point);
        let (runner, seen) = observed(&mark(&world), || {
            launch(&world, &[], &["sh", "-c", "read line; exit 7"]).ok();
            world.run(["send", "one", "go"]).ok();
            let shown = world.until_state("one", &["exited", "failed", "lost"]);
            assert_eq!(
                (&shown["state"], &shown["cause"]),
                (&state.into(), &cause.into()),
                "{point}"
            );
            shown["id"].as_str().expect("it has an id").to_owned()
        });
        seen.held(1).unwrap_or_else(|found| panic!("{point}: {found}"));
        until_nothing_is_left(&world, &runner);
    }
}

/// The control: the check notices two processes at once, and one that came after the other.
#[test]
fn t_launch_the_observer_notices_a_second_process() {
    let world = impatient("20s");
    let mark = mark(&world);
    let arguments = ["launch", "--project", "demo", "--env", &mark, "--count", "2", "--"];
    let ((), seen) = observed(&mark, || {
        world.run(arguments.iter().chain(&["sleep", "1000"])).ok();
        until("both run", || {
            let mut seen = Seen::default();
            seen.look(&mark);
            if seen.ever.len() == 2 { Ok(()) } else { Err(seen) }
        });
    });
    let mut trial = Trial::new("T-LAUNCH", "the observer of processes");
    trial.control(
        "two processes at once",
        seen.held(2).is_err_and(|found| found.contains("at once")),
    );
    let one_after_the_other =
        Seen { most_at_once: seen.ever.iter().take(1).copied().collect(), ever: seen.ever };
    one_after_the_other.held(2).expect("one at a time");
    trial.control("one process after the other", one_after_the_other.held(1).is_err());
    trial.end();
}

#[test]
fn what_cannot_be_started_says_what_was_missing_and_leaves_nothing() {
    let world = impatient("20s");
    let script = world.work().join("script");
    fs::write(&script, "#!/nowhere/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let script = script.display().to_string();
    let (said, seen) = observed(&mark(&world), || launch(&world, &[], &[&script]).fails(10));
    let said = said.stderr();
    assert!(said.contains("exec_error") && said.contains("script"), "{said}");
    seen.held(0).unwrap();
    let shown = world.runner("one");
    let cause = shown["cause"].as_str().unwrap_or_default();
    assert_eq!(shown["state"], "failed", "{shown}");
    assert!(cause.contains("/nowhere/interpreter, which does not exist"), "{shown}");
    until_nothing_is_left(&world, shown["id"].as_str().unwrap());

    // It dies before it can tell anybody: its last words are the cause.
    let dying = world.work().join("dying");
    fs::write(&dying, "#!/bin/sh\necho 'no \x1b[31msuch library' >&2\nexit 127\n").unwrap();
    fs::set_permissions(&dying, fs::Permissions::from_mode(0o755)).unwrap();
    let yaml = format!("agent:\n  binary: {}\nrunner:\n  launch_timeout: 2s\n", dying.display());
    let deaf = World::with_config(&yaml);
    deaf.project("demo");
    launch(&deaf, &[], &["sleep", "1000"]).fails(10);
    let shown = deaf.runner("one");
    let cause = shown["cause"].as_str().unwrap_or_default();
    assert_eq!(shown["state"], "failed", "{shown}");
    for words in ["spawn_error", "exit status: 127", "such library", "(tried "] {
        assert!(cause.contains(words), "no {words:?} in {shown}");
    }
    until_nothing_is_left(&deaf, shown["id"].as_str().unwrap());

    // Row 8: the agent's program goes away, is none, may not be executed, or is another machine's.
    let program = |name: &str, mode: u32, change: fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(World::program("stratavore-agent")).unwrap();
        change(&mut bytes);
        let path = world.work().join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let locked = program("locked", 0o644, |_| {});
    // The number of a machine that there is none of, at its place in an ELF header.
    let foreign = program("foreign", 0o755, |bytes| bytes[18..20].fill(0xfe));
    for (binary, words) in [
        ("/nowhere/agent", "No such file"),
        (&*script, "No such file"),
        (&*locked, "ermission denied"),
        (&*foreign, "xec format error"),
    ] {
        let world = World::with_config(&format!("agent:\n  binary: {binary}\n"));
        world.project("demo");
        let said = launch(&world, &[], &["sleep", "1000"]);
        let all = said.everything();
        assert_ne!(said.code(), 0, "{all}");
        let shown = world.runner("one");
        let cause = shown["cause"].as_str().unwrap_or_default();
        assert_eq!(shown["state"], "failed", "{shown}");
        assert!(cause.starts_with("spawn_error") && cause.contains(words), "{shown}");
        until_nothing_is_left(&world, shown["id"].as_str().unwrap());
        // It is on the record, and its place in the quota is free.
        until("its end is told", || match events(&world, "runner.failed") {
            1 => Ok(()),
            other => Err(other),
        });
        world.run(["projects", "edit", "demo", "--quota-runners", "1"]).ok();
        let next = world.run(["launch", "--project", "demo", "--", "sleep", "1000"]).everything();
        assert!(next.contains("spawn_error") && !next.contains("quota"), "{next}");
    }
}

/// An agent's program that is just being written cannot be executed; a moment later it can.
#[test]
fn an_agent_that_cannot_be_started_for_a_moment_is_started_later() {
    let program = tempfile::tempdir().unwrap();
    let binary = program.path().join("stratavore-agent");
    fs::copy(World::program("stratavore-agent"), &binary).unwrap();
    let world = World::with_config(&format!("agent:\n  binary: {}\n", binary.display()));
    world.project("demo");
    let writer = fs::OpenOptions::new().append(true).open(&binary).unwrap();
    let ran = std::thread::scope(|scope| {
        let launched = scope.spawn(|| launch(&world, &[], &["sleep", "1000"]));
        until("a start has failed", || {
            let log = fs::read_to_string(world.path("state/daemon.log")).unwrap_or_default();
            if log.contains("will try again") { Ok(()) } else { Err(log) }
        });
        drop(writer);
        launched.join().expect("it does not panic")
    });
    ran.ok();
    assert_eq!(world.runner("one")["state"], "running");
    world.run(["kill", "one", "--force"]).ok();

    // The control: one that stays busy ends the launch, and says what to do.
    let busy = program.path().join("busy");
    fs::copy(&binary, &busy).unwrap();
    let _writer = fs::OpenOptions::new().append(true).open(&busy).unwrap();
    fs::rename(&busy, &binary).unwrap();
    let said = world.run(["launch", "--project", "demo", "--name", "two", "--", "sleep", "1000"]);
    let shown = world.runner("two");
    let cause = shown["cause"].as_str().unwrap_or_default();
    assert!(said.code() != 0 && cause.contains("let whoever writes that file finish"), "{shown}");
    until_nothing_is_left(&world, shown["id"].as_str().unwrap());
}
