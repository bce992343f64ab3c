//! T-MQDOWN and T-BLOCKED: the broker is not there, dies, is frozen, or is short of memory. It is only
//! a delay: nothing is lost, nothing is set aside, and who changes something notices nothing.

use std::time::{Duration, Instant};

use stratavore_proto::v1::LaunchRunners;
use stratavore_testkit::proxy::Flow;
use stratavore_testkit::rabbit::{Broker, vhost};
use stratavore_testkit::trial::{Trial, is_long, scale};
use stratavore_testkit::wire::{client, fresh_key, new_runner, on_runtime};
use stratavore_testkit::world::{World, of_process, until};

use crate::outbox::{Outlet, destination, projects, write};

/// What an absence may cost in the daemon's memory.
const MEMORY: u64 = 20 << 20;

/// How soon it is told that the broker blocks whoever publishes.
const PAUSED: Duration = Duration::from_secs(1);

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
/// that took since it began.
fn until_told(world: &World, health: &str, began: Instant) -> Duration {
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

/// Makes changes.
fn change(world: &World, projects: &[String], count: usize) {
    assert_eq!(write(world, projects, count), count, "each one is carried out");
}

/// So many changes a second, for so long. Answers how many.
fn change_steadily(world: &World, projects: &[String], rate: u32, long: Duration) -> usize {
    let began = Instant::now();
    let mut made = 0;
    while began.elapsed() < long {
        // The next tenth of a second's, and no sooner.
        let tenth = (rate / 10).max(1);
        change(world, projects, tenth as usize);
        made += tenth;
        let due = Duration::from_secs(1) * made / rate;
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
    made as usize
}

/// How long each of so many launches took to be answered. What they start ends at once.
fn launch(world: &World, count: usize) -> Vec<Duration> {
    on_runtime(async {
        let client = client(world).await;
        let mut took = Vec::new();
        for _ in 0..count {
            let new = new_runner("launches", fresh_key("launch"));
            let new = LaunchRunners { args: vec!["true".into()], ..new };
            let began = Instant::now();
            client.runners().launch(new).await.expect("it is carried out");
            took.push(began.elapsed());
        }
        took
    })
}

/// The smallest that so many percent do not exceed.
fn percent(took: &[Duration], percent: usize) -> Duration {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

/// How long launches took with the broker there, and with it away.
#[derive(Default)]
struct Launches {
    there: Vec<Duration>,
    away: Vec<Duration>,
}

impl Launches {
    /// Whether those without a broker take no longer: 1.2 times the 99th percentile of the others. A few
    /// launches say nothing about that one, and the machine does other things too.
    fn held(&self) -> Result<(), String> {
        let (of, limit) = if is_long() { (99, 1.2) } else { (50, 2.0) };
        let [there, away] = [&self.there, &self.away].map(|took| percent(took, of));
        match away <= there.mul_f64(limit) {
            true => Ok(()),
            false => {
                Err(format!("of {of} % of launches: {there:?}, and {away:?} without a broker"))
            }
        }
    }

    /// With the broker there and away in turns, so that both meet the same machine.
    fn take_turns(&mut self, outlet: &Outlet, world: &World) {
        for _ in 0..scale(3, 60) {
            self.there.extend(launch(world, 5));
            outlet.wire.set(|wire| wire.down.flow = Flow::Hold);
            outlet.wire.reset_all();
            until_told(world, "waiting", Instant::now());
            self.away.extend(launch(world, 5));
            outlet.wire.heal();
            outlet.wire.reset_all();
            until("all is well", || is_well(world));
        }
    }
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
    trial.measured("told that it is away", until_told(&world, "waiting", Instant::now()));
    trial.control("an event that has not arrived", outlet.drained(Duration::ZERO).is_err());
    change(&world, &names, scale(20, 500));
    broker.start_again();
    settled(&outlet, &world, &mut trial, "drained after its start");

    world.large_project("launches");
    let mut launches = Launches::default();
    launches.take_turns(&outlet, &world);
    for round in 0..scale(1, 10) {
        let before = memory(&world);
        launches.there.extend(launch(&world, scale(5, 50)));
        broker.kill();
        let long = match (is_long(), round) {
            (true, 0) => Duration::from_secs(600),
            (true, _) => Duration::from_secs(20),
            (false, _) => Duration::from_secs(1),
        };
        let made = change_steadily(&world, &names, 50, long);
        trial.counted("changes while it is away", made as u64);
        launches.away.extend(launch(&world, scale(5, 50)));
        until_told(&world, "waiting", Instant::now());
        let grown = memory(&world).saturating_sub(before);
        trial.most("bytes that the daemon has grown by", grown);
        trial.tried(if grown < MEMORY { Ok(()) } else { Err(format!("{grown} bytes more")) });
        broker.start_again();
        settled(&outlet, &world, &mut trial, "drained after a crash of it");
    }
    launches.there.iter().for_each(|took| trial.measured("a launch", *took));
    launches.away.iter().for_each(|took| trial.measured("a launch without a broker", *took));
    trial.tried(launches.held());
    let away = launches.there.iter().map(|took| *took * 3).collect();
    let slow = Launches { there: launches.there, away };
    trial.control("launches that wait for a broker", slow.held().is_err());

    for _ in 0..scale(1, 20) {
        broker.freeze();
        change(&world, &names, scale(20, 100));
        trial.measured("told that it is silent", until_told(&world, "waiting", Instant::now()));
        broker.thaw();
        settled(&outlet, &world, &mut trial, "drained after it was frozen");
    }
    t_blocked(&broker, &outlet, &world, &names);
    trial.end();
}

/// What is done to a broker, or undone.
type Deed = fn(&Broker);

/// On the same broker, since each takes ten seconds to start.
fn t_blocked(broker: &Broker, outlet: &Outlet, world: &World, names: &[String]) {
    let mut trial = Trial::new(
        "T-BLOCKED",
        "the broker is short of memory or disk: publishing pauses and says so, and goes on by itself",
    );
    for round in 0..scale(2, 50) {
        let before = memory(world);
        let (block, unblock): (Deed, Deed) = match round % 2 {
            0 => (Broker::block, Broker::unblock),
            _ => (Broker::fill_disk, Broker::empty_disk),
        };
        block(broker);
        // A broker blocks only who publishes: it begins with the first of these.
        let began = Instant::now();
        let told = std::thread::scope(|scope| {
            scope.spawn(|| change(world, names, scale(300, 3000)));
            until_told(world, "blocked", began)
        });
        trial.measured("told that it is blocked", told);
        trial.tried(match told < PAUSED {
            true => Ok(()),
            false => Err(format!("told after {told:?}")),
        });
        let missing = outlet.drained(Duration::ZERO).is_err();
        trial.control("events that a blocked broker has not taken", missing);
        let grown = memory(world).saturating_sub(before);
        trial.tried(if grown < MEMORY { Ok(()) } else { Err(format!("{grown} bytes more")) });
        unblock(broker);
        settled(outlet, world, &mut trial, "drained after it has what it needs again");
    }
    trial.end();
}

/// How many events the consumer has that it did not have before, repetitions left out.
fn received(outlet: &Outlet) -> usize {
    outlet.consumer.received().iter().filter(|one| !one.is_repeated).count()
}

/// The broker takes what it is sent, and what it confirms is lost on the way: there is no more under way
/// than the window, however many events wait.
#[test]
fn t_blocked_no_more_is_under_way_than_the_window() {
    let mut trial =
        Trial::new("T-BLOCKED", "nothing is confirmed: no more events are sent than the window");
    let window = scale(32, 256);
    let outlet = Outlet::new(vhost());
    let world = outlet.world(&[&format!("window: {window}")]);
    let names = projects(&world, "p", 8);
    for _ in 0..scale(1, 20) {
        outlet.drained(Duration::from_secs(30)).unwrap();
        until("all is well", || is_well(&world));
        let before = received(&outlet);
        outlet.wire.set(|wire| wire.down.flow = Flow::Hold);
        let edits = window * 3;
        assert_eq!(write(&world, &names, edits), edits, "each one is carried out");
        // By then it has sent what it would.
        until_told(&world, "waiting", Instant::now());
        let held = |sent: usize| match sent <= window {
            true => Ok(()),
            false => Err(format!("{sent} were sent, and none was confirmed")),
        };
        let sent = received(&outlet) - before;
        trial.most("sent and not confirmed", sent as u64);
        trial.tried(held(sent));
        outlet.wire.heal();
        outlet.wire.reset_all();
        outlet.drained(Duration::from_secs(30)).unwrap();
        // The control: with confirms they all go.
        let sent = received(&outlet) - before;
        trial.control("a broker that confirms", held(sent).is_err());
    }
    trial.end();
}
