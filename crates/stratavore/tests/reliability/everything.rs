//! T-OUTBOX under everything: daemons, the database, the broker and the line to it fail in turns while
//! three daemons write, and a consumer that knows nothing of Stratavore has every committed event, once
//! and in order. And a daemon dies at each step of a delivery.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stratavore_proto::v1::StatusRequest;
use stratavore_testkit::postgres::{Durable, TestPostgres};
use stratavore_testkit::proxy::{Ambush, Strike, Way};
use stratavore_testkit::rabbit::{Broker, vhost};
use stratavore_testkit::trial::{Dice, Trial, is_long, scale};
use stratavore_testkit::wire::{client, on_runtime};
use stratavore_testkit::world::{World, until};

use crate::outbox::{
    Outlet, effects_are_events, follow, projects, streams_agree, the_check_notices, until_settled,
    write,
};

#[derive(Debug, Clone, Copy)]
enum Fault {
    KillDaemon,
    KillDatabase,
    FreezeDatabase,
    ResetLine,
    KillBroker,
}

/// A broker takes ten seconds to come back: only a long run kills it here. `mqdown.rs` always does.
const FAULTS: [Fault; 5] = [
    Fault::KillDaemon,
    Fault::KillDatabase,
    Fault::FreezeDatabase,
    Fault::ResetLine,
    Fault::KillBroker,
];

/// The steps of a delivery at which a daemon can be made to die.
const STEPS: [&str; 3] = ["rabbit_connected", "rabbit_confirmed", "rabbit_before_advance"];

/// All that can fail.
struct Parts {
    worlds: [World; 3],
    outlet: Outlet,
    server: Durable,
    /// None: the one that the tests share, which nobody may kill.
    broker: Option<Broker>,
}

impl Parts {
    fn new() -> Self {
        let server = Durable::start();
        let broker = is_long().then(Broker::start);
        let vhost = broker.as_ref().map_or_else(vhost, Broker::vhost);
        let outlet = Outlet::of(server.database(), vhost, &["#"]);
        let worlds = [(); 3].map(|()| outlet.world(&[]));
        Self { worlds, outlet, server, broker }
    }
}

/// Waits until a daemon has noticed that its database is away.
fn until_noticed(world: &World) {
    until("a daemon says that its database is away", || {
        on_runtime(async {
            let status = client(world).await.daemon().status(StatusRequest {}).await;
            let status = status.map_err(|status| status.to_string())?.into_inner();
            if status.problems.is_empty() { Err("all is well".to_owned()) } else { Ok(()) }
        })
    });
}

/// One fault, while all write.
fn strike(
    fault: Fault,
    dice: &mut Dice,
    worlds: &[World; 3],
    outlet: &Outlet,
    server: &mut Durable,
    broker: Option<&mut Broker>,
) {
    let world = &worlds[dice.below(3)];
    match (fault, broker) {
        (Fault::KillDaemon, _) => {
            until("a daemon runs", || world.daemon_pid().ok_or("none"));
            world.kill_daemon();
        }
        (Fault::KillDatabase, _) => {
            server.kill();
            server.start_again();
        }
        (Fault::FreezeDatabase, _) => {
            server.freeze();
            until_noticed(world);
            server.thaw();
        }
        (Fault::KillBroker, Some(broker)) => {
            broker.kill();
            broker.start_again();
        }
        (Fault::ResetLine | Fault::KillBroker, _) => {
            let before = outlet.wire.struck();
            let way = if dice.below(2) == 0 { Way::Down } else { Way::Up };
            let (bytes, then) = (1 + dice.below(4000), Strike::Reset);
            outlet.wire.lay(Ambush { after: Vec::new(), way, bytes, then });
            let began = Instant::now();
            while outlet.wire.struck() == before && began.elapsed().as_secs() < 2 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

#[test]
fn t_outbox_no_event_is_lost_whatever_fails() {
    let mut trial = Trial::new(
        "T-OUTBOX",
        "three daemons, their database, the broker and the line to it fail in turns: each event \
         reaches the consumer, in order",
    );
    let mut dice = trial.dice();
    let mut parts = Parts::new();
    let names = ["red", "green", "blue"];
    let all: Vec<Vec<String>> =
        (0..3).map(|n| projects(&parts.worlds[n], names[n], scale(3, 100))).collect();
    let edits = scale(40, 200);
    let (read, done) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let Parts { worlds, outlet, server, broker } = &mut parts;
    let (worlds, outlet) = (&*worlds, &*outlet);
    let drained = std::thread::scope(|scope| {
        scope.spawn(|| on_runtime(follow(worlds, &read, &done)));
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..scale(4, 100) {
                // Each of them once, and then by chance.
                let fault = FAULTS.get(round).copied().unwrap_or(FAULTS[dice.below(FAULTS.len())]);
                std::thread::scope(|scope| {
                    for (world, projects) in worlds.iter().zip(&all) {
                        scope.spawn(move || write(world, projects, edits));
                    }
                    strike(fault, &mut dice, worlds, outlet, server, broker.as_mut());
                });
                trial.counted(&format!("{fault:?}"), 1);
            }
            outlet.wire.lift();
            for world in worlds {
                world.run(["daemon", "start"]).ok();
            }
            let began = Instant::now();
            let drained = outlet.drained(Duration::from_secs(60));
            trial.measured("all delivered after the last fault", began.elapsed());
            until_read(&read, outlet.committed().len());
            drained
        }));
        done.store(true, Ordering::Relaxed);
        judged.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let read = read.into_inner().expect("no reader panics");
    trial.tried(followed(&read, &outlet.database));
    trial.control("a subscriber that misses one", followed(&read[1..], &outlet.database).is_err());
    let count = outlet.committed().len();
    trial.counted("events", count as u64);
    trial.tried_times(count, drained.as_ref().map(drop).map_err(Clone::clone));
    let received = drained.unwrap_or_else(|_| outlet.consumer.received());
    let repeated = received.iter().filter(|one| one.is_repeated).count();
    trial.counted("repeated", repeated as u64);
    trial.tried(effects_are_events(outlet));
    trial.tried(until_settled(&worlds[0]));
    trial.tried(streams_agree(worlds, &outlet.database));
    the_check_notices(&mut trial, &outlet.committed(), received);
    trial.end();
}

/// Waits until a subscriber has read so many events. Whether they are the right ones is judged then.
fn until_read(read: &Mutex<Vec<String>>, count: usize) {
    until("a subscriber has read on", || match read.lock().expect("no reader panics").len() {
        some if some >= count => Ok(()),
        some => Err(format!("{some} of {count}")),
    });
}

/// Whether a subscriber has read every event once and in order, from whichever daemon.
fn followed(read: &[String], database: &TestPostgres) -> Result<(), String> {
    let all = database.query("SELECT id FROM events ORDER BY position");
    match all.lines().eq(read.iter().map(String::as_str)) {
        true => Ok(()),
        false => Err(format!("{} of {} events, or not in order", read.len(), all.lines().count())),
    }
}

/// What a daemon has passed, by its hooks.
fn passed(hooks: &std::path::Path, step: &str) -> bool {
    std::fs::read_to_string(hooks).unwrap_or_default().lines().any(|line| line == step)
}

#[test]
fn t_outbox_a_daemon_that_dies_at_any_step_of_a_delivery_loses_nothing() {
    let mut trial = Trial::new(
        "T-OUTBOX",
        "a daemon dies at each step of a delivery: each event reaches the consumer, in order",
    );
    let outlet = Outlet::new(vhost());
    let mut world = outlet.world(&[]);
    let names = projects(&world, "p", 3);
    let hooks = world.path("hooks");
    world.set_env("STRATAVORE_TEST_HOOKS", hooks.to_str().expect("it is text"));
    for round in 0..scale(1, 50) {
        for step in STEPS {
            world.kill_daemon();
            std::fs::remove_file(&hooks).ok();
            // The place of the one that was killed need not be waited for.
            let free = "UPDATE leases SET expires_at = 'epoch'";
            outlet.database.query(free);
            world.set_env("STRATAVORE_FAILPOINTS", &format!("{step}=abort"));
            // It may be dead before it is asked.
            world.run(["daemon", "start"]);
            write(&world, &names, 2 + round % 3);
            until("it has come to that step", || {
                if passed(&hooks, step) { Ok(()) } else { Err(step) }
            });
            until("it has died of it", || world.daemon_pid().map_or(Ok(()), Err));
            outlet.database.query(free);
            world.set_env("STRATAVORE_FAILPOINTS", "");
            world.run(["daemon", "start"]).ok();
            let began = Instant::now();
            let drained = outlet.drained(Duration::from_secs(30));
            trial.measured("all delivered after it", began.elapsed());
            trial.tried(drained.map(drop).map_err(|found| format!("{step}: {found}")));
        }
    }
    let received = outlet.consumer.received();
    let repeated = received.iter().filter(|one| one.is_repeated).count();
    trial.counted("repeated", repeated as u64);
    trial.tried(effects_are_events(&outlet));
    trial.control("a consumer that minds no repetition", repeated > 0);
    the_check_notices(&mut trial, &outlet.committed(), received);
    trial.end();
}
