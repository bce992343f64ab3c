//! T-AGENTKILL: a killed agent is noticed, and nothing of what it ran stays behind. One that is only
//! stopped is not taken for dead.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, signal, until};

use crate::printing::{Printing, events};

#[test]
fn a_killed_agent_is_noticed_and_takes_all_that_it_ran_with_it() {
    let world = World::new();
    world.project("demo");
    let mut trial = Trial::new("T-AGENTKILL", "a killed agent is lost, and its processes are gone");
    let told = "lost and cleared after";
    let stubborn = "trap '' HUP TERM; setsid sleep 1000 & sleep 1001";
    for round in 0..scale(5, 500) {
        let runner = world.launch("demo", &format!("runner-{round}"), &["sh", "-c", stubborn]);
        until("all of it runs", || match world.processes_of(&runner) {
            processes if processes.len() == 3 => Ok(()),
            processes => Err(processes),
        });
        let [agent] = world.agents_of(&runner)[..] else { panic!("it has one agent") };
        let began = Instant::now();
        signal(agent, Signal::KILL);
        let shown = world.until_state(&runner, &["exited", "failed", "lost"]);
        assert_eq!((&shown["state"], &shown["cause"]), (&"lost".into(), &"agent_died".into()));
        assert_eq!(world.processes_of(&runner), Vec::<u32>::new(), "cleared before it is told");
        trial.measured(told, began.elapsed());
        until("nothing is left of it", || match world.left_of(&runner) {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        });
        trial.tried(Ok(()));
    }
    let longest = trial.longest(told);
    if longest > Duration::from_secs(4) {
        trial.tried_times(0, Err(format!("one took {longest:?}")));
    }
    trial.end();
}

/// The same while nothing resists: the hang-up of the terminal ends the program, and what is left
/// is an empty cgroup.
#[test]
fn a_killed_agent_of_a_meek_program_leaves_no_cgroup() {
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
fn a_stopped_agent_is_unresponsive_and_never_dead() {
    let config = "agent:\n  heartbeat: 200ms\nrunner:\n  unresponsive_after: 1s\n";
    let world = World::with_config(config);
    world.project("demo");
    let printing = Printing::launch(&world, "one", &["--every", "20"]);
    let [agent] = world.agents_of(&printing.runner)[..] else { panic!("it has one agent") };
    let mut trial = Trial::new("T-AGENTKILL", "a stopped agent is unresponsive and never dead");
    let told = "SIGSTOP: unresponsive after";
    for restart in [false, true] {
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
    assert_eq!(told, [2, 2]);
    trial.end();
}
