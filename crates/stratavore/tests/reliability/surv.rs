//! T-SURV: whatever happens to daemons, runners go on, and no byte of theirs is lost.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use stratavore_testkit::trial::{Dice, Trial, scale};
use stratavore_testkit::world::{World, signal, until};

use crate::printing::{Printing, events, nothing_missing};
use stratavore_testkit::wire::{client, on_runtime};

/// How soon after its start a daemon has all its runners back.
const READOPTED: Duration = Duration::from_secs(2);

/// When each runner was seen to be running, with its agent connected, after `began`.
async fn readopted(world: &World, runners: &[Printing], began: Instant) -> Vec<Duration> {
    let client = client(world).await;
    let mut back: Vec<Option<Duration>> = vec![None; runners.len()];
    while back.contains(&None) {
        let known = stratavore_testkit::wire::all_runners(&client).await;
        for (of, back) in runners.iter().zip(&mut back) {
            let shown = known.iter().find(|known| known.id == of.runner).expect("it is listed");
            if back.is_none() && shown.state == "running" && shown.connected {
                assert_eq!(shown.pid, of.process.pid, "{shown:?}");
                *back = Some(began.elapsed());
            }
            let seen = (&shown.state, shown.connected);
            assert!(began.elapsed() < READOPTED * 5, "after {:?}: {seen:?}", began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    back.into_iter().flatten().collect()
}

/// Ends the daemon, at a moment that the dice choose: while all is quiet, or while it starts.
fn end_daemon(world: &World, dice: &mut Dice, runners: &[Printing], how: Signal) {
    if dice.below(3) == 0 {
        let mut starting = world.command("stratavore");
        signal(world.daemon_pid().expect("a daemon runs"), how);
        until("it is gone", || world.daemon_pid().map_or(Ok(()), Err));
        let mut starting = starting.args(["daemon", "start"]).spawn().expect("stratavore runs");
        until("the next one begins", || world.daemon_pid().ok_or("no daemon"));
        signal(world.daemon_pid().unwrap_or_default(), Signal::KILL);
        starting.wait().expect("it is our child");
    } else {
        // The assistants' lines are the clock.
        let chosen = &runners[dice.below(runners.len())];
        let enough = chosen.printed() + dice.below(40);
        until("the moment has come", || match chosen.printed() {
            printed if printed >= enough => Ok(()),
            printed => Err(format!("{printed} of {enough} lines")),
        });
    }
    if let Some(pid) = world.daemon_pid() {
        signal(pid, how);
        until("the daemon is gone", || world.daemon_pid().map_or(Ok(()), Err));
    }
}

fn t_surv(how: Signal, rounds: usize) {
    let mut trial = Trial::new("T-SURV", "a daemon's end costs no runner, no restart and no byte");
    let world = World::new();
    world.project("demo");
    let count = scale(5, 20);
    let names: Vec<String> = (1..=count).map(|n| format!("runner-{n}")).collect();
    let runners: Vec<Printing> =
        names.iter().map(|name| Printing::launch(&world, name, &["--every", "20"])).collect();
    let mut dice = trial.dice();
    let end = if how == Signal::KILL { "kill -9" } else { "SIGTERM" };
    let back = format!("{end}: runner back after the next start");
    for _ in 0..rounds {
        end_daemon(&world, &mut dice, &runners, how);
        let began = Instant::now();
        world.run(["daemon", "start"]).ok();
        for took in on_runtime(readopted(&world, &runners, began)) {
            trial.measured(&back, took);
        }
        for runner in &runners {
            until("its log has all that it printed", || runner.held(&world));
            assert_eq!(world.process_of(&runner.runner), runner.process);
            trial.tried(Ok(()));
        }
    }
    let longest = trial.longest(&back);
    if longest > READOPTED {
        trial.tried_times(0, Err(format!("a runner was back after {longest:?} only")));
    }

    world.run(["kill", "--all", "--force"]).ok();
    for runner in &runners {
        assert!(!runner.process.is_alive());
        let printed = runner.printed();
        assert!(printed > 1, "it has printed at all");
        nothing_missing(&world.recorded(&runner.runner), printed).unwrap();
    }
    trial.end();
}

#[test]
fn t_surv_a_killed_daemon_costs_no_runner_and_no_byte() {
    t_surv(Signal::KILL, scale(5, 500));
}

#[test]
fn t_surv_a_daemon_that_is_asked_to_end_takes_no_runner_with_it() {
    t_surv(Signal::TERM, scale(3, 250));
}

#[test]
fn an_end_while_no_daemon_runs_is_taken_in_once_and_with_its_true_time() {
    let world = World::new();
    world.project("demo");
    let options = ["--every", "10", "--lines", "60", "--exit", "7"];
    let runner = Printing::launch(&world, "one", &options);
    world.kill_daemon();
    assert!(runner.process.is_alive(), "it ends later");
    let (mut last_seen, mut first_missed) = (jiff_now(), jiff_now());
    until("it has ended", || {
        let now = jiff_now();
        if runner.process.is_alive() {
            last_seen = now;
            return Err("it lives");
        }
        first_missed = now;
        Ok(())
    });
    // Its agent waits for a daemon for a while; then nobody is left who could tell.
    until("its agent is gone", || match world.agents_of(&runner.runner) {
        agents if agents.is_empty() => Ok(()),
        agents => Err(agents),
    });
    let began = jiff_now();
    assert!(began > first_missed);
    for _ in 0..2 {
        world.run(["daemon", "start"]).ok();
        let shown = world.until_state(&runner.runner, &["failed"]);
        assert_eq!(shown["cause"], "exit 7");
        let ended_at: jiff::Timestamp = shown["ended_at"].as_str().unwrap().parse().unwrap();
        // The kernel's end comes a little before the agent's clock is read.
        assert!(
            last_seen <= ended_at && ended_at < began,
            "{ended_at} is not from {last_seen} to {first_missed}, but up to {began}"
        );
        // It is listed a moment after it is true.
        until("its end is told, and once", || match events(&world, "runner.failed") {
            1 => Ok(()),
            other => Err(other),
        });
        world.kill_daemon();
    }
    nothing_missing(&world.recorded(&runner.runner), 61).unwrap();
    nothing_missing(&world.recorded(&runner.runner), 62).expect_err("it printed 60 lines");
}

#[expect(clippy::disallowed_methods, reason = "the truth is told by the system's clock")]
fn jiff_now() -> jiff::Timestamp {
    std::time::SystemTime::now().try_into().expect("the clock is set")
}
