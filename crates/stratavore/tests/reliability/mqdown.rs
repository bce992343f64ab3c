//! T-MQDOWN and T-BLOCKED: the broker is not there, dies, is frozen, or is short of memory. It is only
//! a delay: nothing is lost, nothing is set aside, and who changes something notices nothing.

use std::time::{Duration, Instant};

use stratavore_testkit::rabbit::Broker;
use stratavore_testkit::trial::{Trial, is_long, scale};
use stratavore_testkit::world::{World, of_process, until};

use crate::outbox::{Outlet, destination, projects, write};

/// What an absence may cost in the daemon's memory.
const MEMORY: u64 = 20 << 20;

/// Resident memory of the daemon, in bytes.
fn memory(world: &World) -> u64 {
    let status = of_process(world.daemon_pid().expect("a daemon runs"), "status");
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") << 10
}

fn is_well(world: &World) -> Result<(), serde_json::Value> {
    let seen = destination(world);
    let well = seen["health"] == "connected" && seen["pending"] == 0 && seen["problem"].is_null();
    if well { Ok(()) } else { Err(seen) }
}

/// Waits until the daemon says that the broker is so, in `outbox` and in `status`; answers how long
/// that took.
fn until_told(world: &World, health: &str) -> Duration {
    let began = Instant::now();
    until(&format!("the broker is said to be {health}"), || {
        let seen = destination(world);
        if seen["health"] == health { Ok(()) } else { Err(seen) }
    });
    let took = began.elapsed();
    let status = world.json(&["status"])["daemon"].clone();
    let said = status["problems"].to_string();
    assert!(
        status["health"] == "degraded" && said.contains(&format!("rabbitmq is {health}")),
        "{status}"
    );
    took
}

/// Makes changes, and keeps how long each takes.
fn change(world: &World, projects: &[String], count: usize, trial: &mut Trial, what: &str) {
    let began = Instant::now();
    assert_eq!(write(world, projects, count), count, "each one is carried out");
    trial.measured(what, began.elapsed() / count as u32);
}

/// After the end of an absence: all is delivered, nothing was set aside.
fn settled(outlet: &Outlet, world: &World, trial: &mut Trial, what: &str) {
    let began = Instant::now();
    let drained = outlet.drained(Duration::from_secs(60));
    trial.measured(what, began.elapsed());
    trial.tried(drained.map(drop));
    until("all is well", || is_well(world));
    let dead = destination(world)["dead"].clone();
    trial.tried(if dead == 0 { Ok(()) } else { Err(format!("{dead} were set aside")) });
}

#[test]
fn t_mqdown_a_broker_that_is_away_is_only_a_delay() {
    let mut trial = Trial::new(
        "T-MQDOWN",
        "the broker is away, dies or is frozen: changes go on, and all is delivered in order after it",
    );
    let mut broker = Broker::start();
    let outlet = Outlet::new(broker.vhost());
    let world = outlet.world(&[]);

    // It is not there when the daemon starts.
    broker.kill();
    let names = projects(&world, "p", 4);
    trial.measured("told that it is away", until_told(&world, "waiting"));
    trial.control("an event that has not arrived", outlet.drained(Duration::ZERO).is_err());
    change(&world, &names, scale(20, 500), &mut trial, "a change while it is away");
    broker.start_again();
    settled(&outlet, &world, &mut trial, "drained after its start");

    for _ in 0..scale(1, 20) {
        change(&world, &names, scale(20, 500), &mut trial, "a change while it is there");
        let before = memory(&world);
        broker.kill();
        let long = Duration::from_secs(if is_long() { 60 } else { 1 });
        let began = Instant::now();
        while began.elapsed() < long {
            change(&world, &names, scale(40, 500), &mut trial, "a change while it is away");
        }
        until_told(&world, "waiting");
        let grown = memory(&world).saturating_sub(before);
        trial.tried(if grown < MEMORY { Ok(()) } else { Err(format!("{grown} bytes more")) });
        broker.start_again();
        settled(&outlet, &world, &mut trial, "drained after a crash of it");
    }

    for _ in 0..scale(1, 20) {
        broker.freeze();
        change(&world, &names, scale(20, 100), &mut trial, "a change while it is frozen");
        trial.measured("told that it is silent", until_told(&world, "waiting"));
        broker.thaw();
        settled(&outlet, &world, &mut trial, "drained after it was frozen");
    }
    t_blocked(&broker, &outlet, &world, &names);
    trial.end();
}

/// On the same broker, since each takes ten seconds to start.
fn t_blocked(broker: &Broker, outlet: &Outlet, world: &World, names: &[String]) {
    let mut trial = Trial::new(
        "T-BLOCKED",
        "the broker is short of memory: publishing pauses and says so, and goes on by itself",
    );
    for _ in 0..scale(2, 50) {
        let before = memory(world);
        broker.block();
        // A broker blocks only who publishes.
        change(world, names, scale(300, 3000), &mut trial, "a change while it is blocked");
        trial.measured("told that it is blocked", until_told(world, "blocked"));
        let missing = outlet.drained(Duration::ZERO).is_err();
        trial.control("events that a blocked broker has not taken", missing);
        let grown = memory(world).saturating_sub(before);
        trial.tried(if grown < MEMORY { Ok(()) } else { Err(format!("{grown} bytes more")) });
        broker.unblock();
        settled(outlet, world, &mut trial, "drained after it has memory again");
    }
    trial.end();
}
