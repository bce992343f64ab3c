//! T-AGENTKILL: a killed agent is noticed, and nothing of what it ran stays behind. One that is only
//! stopped is not taken for dead.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, signal, until};

use crate::printing::{Printing, events};

/// Launches what resists its end, kills its agent, and answers how long it took until it was told, with
/// nothing left by then.
fn killed(world: &World, name: &str) -> Result<Duration, String> {
    let stubborn = "trap '' HUP TERM; setsid sleep 1000 & sleep 1001";
    let runner = world.launch("demo", name, &["sh", "-c", stubborn]);
    until("all of it runs", || match world.processes_of(&runner) {
        processes if processes.len() == 3 => Ok(()),
        processes => Err(processes),
    });
    let [agent] = world.agents_of(&runner)[..] else { panic!("it has one agent") };
    let began = Instant::now();
    signal(agent, Signal::KILL);
    let shown = world.until_state(&runner, &["exited", "failed", "lost"]);
    assert_eq!((&shown["state"], &shown["cause"]), (&"lost".into(), &"agent_died".into()));
    let left = world.processes_of(&runner);
    if !left.is_empty() {
        return Err(format!("told while {left:?} are left"));
    }
    let took = began.elapsed();
    until("nothing is left of it", || match world.left_of(&runner) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
    Ok(took)
}

#[test]
fn t_agentkill_a_killed_agent_takes_all_that_it_ran_with_it() {
    let world = World::new();
    world.project("demo");
    let mut trial = Trial::new("T-AGENTKILL", "a killed agent is lost, and its processes are gone");
    let told = "lost and cleared after";
    let rounds = scale(5, 500);
    for round in 0..rounds {
        let held = killed(&world, &format!("runner-{round}"));
        if let Ok(took) = held {
            trial.measured(told, took);
        }
        trial.tried(held.map(drop));
    }
    let longest = trial.longest(told);
    if longest > Duration::from_secs(2) {
        trial.tried_times(0, Err(format!("one took {longest:?}")));
    }
    // Row 17: exactly one event for each.
    let lost = events(&world, "runner.lost");
    trial.tried(if lost == rounds { Ok(()) } else { Err(format!("{lost} events of {rounds}")) });
    // The control: a daemon that clears nothing.
    let mut broken = World::new();
    broken.set_env("STRATAVORE_FAILPOINTS", "clearing=off");
    broken.project("demo");
    trial.control("a daemon that does not clear what is left", killed(&broken, "one").is_err());
    trial.end();
}

/// The same while nothing resists: the hang-up of the terminal ends the program, and what is left
/// is an empty cgroup.
#[test]
fn t_agentkill_a_killed_agent_of_a_meek_program_leaves_no_cgroup() {
    let world = World::new();
    world.project("demo");
    let runner = world.launch("demo", "one", &["sleep", "1000"]);
    world.kill_daemon();
    let [agent] = world.agents_of(&runner)[..] else { panic!("it has one agent") };
    signal(agent, Signal::KILL);
    until("the terminal's hang-up has ended it", || match world.processes_of(&runner) {
        processes if processes.is_empty() => Ok(()),
        processes => Err(processes),
    });
    world.run(["daemon", "start"]).ok();
    let shown = world.until_state(&runner, &["exited", "failed", "lost"]);
    assert_eq!((&shown["state"], &shown["cause"]), (&"lost".into(), &"agent_died".into()));
    until("nothing is left of it", || match world.left_of(&runner) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

#[test]
fn t_agentkill_a_stopped_agent_is_unresponsive_and_never_dead() {
    let config = "agent:\n  heartbeat: 200ms\nrunner:\n  unresponsive_after: 1s\n";
    let world = World::with_config(config);
    world.project("demo");
    let printing = Printing::launch(&world, "one", &["--every", "20"]);
    let [agent] = world.agents_of(&printing.runner)[..] else { panic!("it has one agent") };
    let mut trial = Trial::new("T-AGENTKILL", "a stopped agent is unresponsive and never dead");
    let told = "SIGSTOP: unresponsive after";
    for round in 0..scale(2, 20) {
        let restart = round % 2 == 1;
        let began = Instant::now();
        signal(agent, Signal::STOP);
        if restart {
            world.kill_daemon();
            world.run(["daemon", "start"]).ok();
        }
        let shown = world.until_state(&printing.runner, &["unresponsive", "failed", "lost"]);
        assert_eq!(shown["state"], "unresponsive", "{shown}");
        trial.measured(told, began.elapsed());
        assert!(printing.process.is_alive());

        signal(agent, Signal::CONT);
        let shown = world.until_state(&printing.runner, &["running", "failed", "lost"]);
        assert_eq!((&shown["state"], &shown["epoch"]), (&"running".into(), &1.into()), "{shown}");
        until("it has lost nothing", || printing.held(&world));
        trial.tried(Ok(()));
    }
    assert!(trial.longest(told) < Duration::from_secs(4), "{trial:?}");
    // A wish to stop is not lost on it either: it is killed from outside.
    signal(agent, Signal::STOP);
    world.run(["kill", "one", "--force"]).ok();
    assert!(!printing.process.is_alive());
    until("nothing is left of it", || match world.left_of(&printing.runner) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
    let told = ["runner.unresponsive", "runner.responsive"].map(|kind| events(&world, kind));
    assert_eq!(told, [scale(2, 20); 2]);
    trial.control("a daemon that does not go by the lock", a_stopped_one_is_taken_for_dead(config));
    trial.end();
}

/// The control: whether the check of a stopped agent notices a daemon that takes every lock for free.
fn a_stopped_one_is_taken_for_dead(config: &str) -> bool {
    let mut world = World::with_config(config);
    world.project("demo");
    let printing = Printing::launch(&world, "one", &["--every", "20"]);
    let [agent] = world.agents_of(&printing.runner)[..] else { panic!("it has one agent") };
    signal(agent, Signal::STOP);
    world.kill_daemon();
    world.set_env("STRATAVORE_FAILPOINTS", "lock=off");
    world.run(["daemon", "start"]).ok();
    let states = ["unresponsive", "exited", "failed", "lost"];
    let shown = world.until_state(&printing.runner, &states);
    shown["state"] != "unresponsive" && printing.held(&world).is_err()
}
