//! T-OUTBOX: daemons that deliver events are killed, the line to the broker is reset under them, and
//! a consumer that knows nothing of Stratavore has every committed event, once and in order.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stratavore_proto::client::Client;
use stratavore_proto::v1::SubscribeEvents;
use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::proxy::{Ambush, Proxy, Strike, Way};
use stratavore_testkit::rabbit::{Consumer, Received, Vhost, same, vhost};
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::wire::{client, fresh_key, new_project, on_runtime};
use stratavore_testkit::world::{World, until};

/// A database and a broker, with a bad wire before the broker and a consumer behind it.
pub(crate) struct Outlet {
    pub(crate) database: TestPostgres,
    pub(crate) wire: Proxy,
    pub(crate) consumer: Consumer,
    pub(crate) vhost: Vhost,
    pub(crate) password: PathBuf,
    _directory: tempfile::TempDir,
}

impl Outlet {
    /// The consumer gets every event.
    pub(crate) fn new(vhost: Vhost) -> Self {
        Self::bound(vhost, &["#"])
    }

    /// The consumer gets what these keys match.
    pub(crate) fn bound(vhost: Vhost, keys: &[&str]) -> Self {
        Self::of(database(), vhost, keys)
    }

    /// The same with the events of this database.
    pub(crate) fn of(database: TestPostgres, vhost: Vhost, keys: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let password = directory.path().join("password");
        std::fs::write(&password, format!("{}\n", vhost.password)).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&password, mode).unwrap();
        let consumer = Consumer::start(&vhost, vhost.address(), "test", keys, directory.path());
        let wire = Proxy::tcp(vhost.address());
        Self { database, wire, consumer, vhost, password, _directory: directory }
    }

    /// A daemon's home, with further settings of the broker.
    pub(crate) fn world(&self, more: &[&str]) -> World {
        self.world_by(&self.database.socket_dir, more)
    }

    /// The same with another way to the database.
    pub(crate) fn world_by(&self, way: &Path, more: &[&str]) -> World {
        let store = self.database.settings(way);
        let mut bus = self.vhost.settings(self.wire.address(), &self.password);
        for line in more {
            bus.push_str(&format!("    {line}\n"));
        }
        World::with_config(&format!("{store}{bus}"))
    }

    /// The ids of what was committed, whether it has a position or not.
    pub(crate) fn committed(&self) -> Vec<String> {
        let printed = self.database.query("SELECT id FROM events");
        printed.lines().map(str::to_owned).collect()
    }

    /// Waits until the consumer has all that was committed; answers what it received.
    #[track_caller]
    pub(crate) fn drained(&self, within: Duration) -> Result<Vec<Received>, String> {
        let began = Instant::now();
        loop {
            let received = self.consumer.received();
            match same(&self.committed(), &received) {
                Ok(()) => return Ok(received),
                Err(missing) if began.elapsed() > within => return Err(missing),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

/// Edits the projects one after the other, again and again: each edit is an event. A daemon that is gone
/// is started again. Answers how many edits were acknowledged.
pub(crate) fn write(world: &World, projects: &[String], edits: usize) -> usize {
    let mut acknowledged = 0;
    on_runtime(async {
        let mut known = None;
        for edit in 0..edits {
            let client = match known.take() {
                Some(client) => client,
                None => again(world).await,
            };
            let request = stratavore_proto::v1::EditProject {
                idempotency_key: fresh_key("edit"),
                project: projects[edit % projects.len()].clone(),
                description: Some(format!("edit {edit}")),
                ..stratavore_proto::v1::EditProject::default()
            };
            // What was not acknowledged may have been carried out all the same: the database says.
            if client.projects().edit(request).await.is_ok() {
                acknowledged += 1;
                known = Some(client);
            }
        }
    });
    acknowledged
}

/// A connection to a daemon that was killed, perhaps, and perhaps just now.
async fn again(world: &World) -> Client {
    let began = Instant::now();
    loop {
        world.run(["daemon", "start"]);
        match Client::connect(&world.path("run/d.sock")).await {
            Ok(client) => return client,
            Err(error) => assert!(began.elapsed().as_secs() < 20, "{error}"),
        }
    }
}

/// Makes so many projects, whose names begin so.
pub(crate) fn projects(world: &World, named: &str, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|n| format!("{named}-{n}")).collect();
    world.run(["daemon", "start"]).ok();
    on_runtime(async {
        let client = client(world).await;
        for name in &names {
            let new = new_project(world, name, fresh_key("project"));
            client.projects().create(new).await.unwrap();
        }
    });
    names
}

/// What a command line that asks for the destination is told.
pub(crate) fn destination(world: &World) -> serde_json::Value {
    let all = world.json(&["outbox"]);
    stratavore_testkit::world::rows(&all).first().cloned().unwrap_or_default()
}

#[test]
fn t_outbox_no_event_is_lost_or_out_of_order_whoever_dies() {
    let mut trial = Trial::new(
        "T-OUTBOX",
        "relays are killed and connections reset: each event reaches the consumer, in order",
    );
    let mut dice = trial.dice();
    let outlet = Outlet::new(vhost());
    let worlds = [outlet.world(&[]), outlet.world(&[])];
    let hot = projects(&worlds[0], "hot", 8);
    let cold = projects(&worlds[1], "cold", scale(12, 2000));
    let (rounds, edits) = (scale(2, 200), scale(40, 500));
    for round in 0..rounds {
        std::thread::scope(|scope| {
            for (world, projects) in [(&worlds[0], &hot), (&worlds[1], &cold)] {
                scope.spawn(move || write(world, projects, edits));
            }
            // While they write.
            for _ in 0..scale(1, 3) {
                let before = outlet.wire.struck();
                outlet.wire.lay(Ambush {
                    after: Vec::new(),
                    way: if dice.below(2) == 0 { Way::Down } else { Way::Up },
                    bytes: 1 + dice.below(4000),
                    then: Strike::Reset,
                });
                let began = Instant::now();
                while outlet.wire.struck() == before && began.elapsed().as_secs() < 2 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            // The one that delivers, or the other one.
            worlds[(round + dice.below(2)) % 2].kill_daemon();
        });
    }
    outlet.wire.lift();
    for world in &worlds {
        world.run(["daemon", "start"]).ok();
    }
    let began = Instant::now();
    let drained = outlet.drained(Duration::from_secs(30));
    trial.measured("all delivered after the last fault", began.elapsed());
    let count = outlet.committed().len();
    trial.counted("events", count as u64);
    trial.counted("resets", outlet.wire.struck());
    trial.tried_times(count, drained.as_ref().map(drop).map_err(Clone::clone));
    let received = drained.unwrap_or_else(|_| outlet.consumer.received());
    let repeated = received.iter().filter(|one| one.is_repeated).count();
    trial.counted("repeated", repeated as u64);
    trial.tried(effects_are_events(&outlet));
    trial.tried(until_settled(&worlds[0]));
    trial.tried(streams_agree(&worlds, &outlet.database));

    the_check_notices(&mut trial, &outlet.committed(), received);
    trial.end();
}

/// Row 24: each event took effect once, however often it came.
pub(crate) fn effects_are_events(outlet: &Outlet) -> Result<(), String> {
    let (effects, events) = (outlet.consumer.effects(), outlet.committed().len() as u64);
    if effects == events { Ok(()) } else { Err(format!("{effects} effects of {events} events")) }
}

/// The controls: what is missing, what is too much, and what is out of order.
pub(crate) fn the_check_notices(trial: &mut Trial, committed: &[String], received: Vec<Received>) {
    let first: Vec<Received> = received.into_iter().filter(|one| !one.is_repeated).collect();
    trial.control("a lost event", same(committed, &first[1..]).is_err());
    trial.control("an event of nobody", same(&committed[1..], &first).is_err());
    let mut swapped = first.clone();
    let subject = |one: &Received| one.envelope()["subject"].clone();
    let of = subject(&first[0]);
    let two: Vec<usize> = (0..first.len()).filter(|i| subject(&first[*i]) == of).collect();
    swapped.swap(two[0], two[1]);
    trial.control(
        "two events of one project in the wrong order",
        same(committed, &swapped).is_err(),
    );
}

/// Whether each daemon's own stream has the events of all, in the order of the database and without a
/// gap, also for a reader that comes back to the next daemon in the middle.
pub(crate) fn streams_agree(worlds: &[World], database: &TestPostgres) -> Result<(), String> {
    let all = database.query("SELECT id FROM events ORDER BY position");
    let all: Vec<&str> = all.lines().collect();
    let half = all.len() / 2;
    for one in 0..worlds.len() {
        let other = (one + 1) % worlds.len();
        let mut read = stream(&worlds[one], 0, half);
        let last = read.last().map_or(0, |(position, _)| *position);
        read.extend(stream(&worlds[other], last, all.len() - half));
        let same = read
            .iter()
            .zip(&all)
            .enumerate()
            .all(|(i, ((position, id), wanted))| *position == i as i64 + 1 && id == wanted);
        if !same || read.len() != all.len() {
            return Err(format!("{} events of {} were streamed", read.len(), all.len()));
        }
    }
    Ok(())
}

/// The first `count` events after a position, as a subscriber gets them.
fn stream(world: &World, after: i64, count: usize) -> Vec<(i64, String)> {
    on_runtime(async {
        let request = SubscribeEvents { after: Some(after), ..SubscribeEvents::default() };
        let subscribed = client(world).await.events().subscribe(request).await.unwrap();
        let (mut events, mut read) = (subscribed.into_inner(), Vec::new());
        while read.len() < count {
            let event = events.message().await.unwrap().unwrap();
            read.push((event.position, event.id));
        }
        read
    })
}

/// Reads events until it is done and keeps their ids, over as many connections as that takes: each is to
/// the next daemon.
pub(crate) async fn follow(worlds: &[World], read: &Mutex<Vec<String>>, done: &AtomicBool) {
    let (mut after, mut timeline) = (0, 0);
    for world in worlds.iter().cycle() {
        if done.load(Ordering::Relaxed) {
            return;
        }
        let request = SubscribeEvents { filter: None, after: Some(after), timeline };
        let subscribed = match Client::connect(&world.path("run/d.sock")).await {
            Ok(client) => client.events().subscribe(request).await.ok(),
            Err(_) => None,
        };
        let Some(events) = subscribed else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let mut events = events.into_inner();
        while !done.load(Ordering::Relaxed) {
            let next = events.message();
            match tokio::time::timeout(Duration::from_millis(100), next).await {
                Ok(Ok(Some(event))) => {
                    (after, timeline) = (event.position, event.timeline);
                    read.lock().expect("no reader panics").push(event.id);
                }
                Ok(_) => break,
                Err(_) => {}
            }
        }
    }
}

/// Whether the destination says that it has everything.
pub(crate) fn until_settled(world: &World) -> Result<(), String> {
    until("nothing waits any more", || {
        let seen = destination(world);
        let settled = seen["pending"] == 0 && seen["dead"] == 0 && seen["health"] == "connected";
        if settled { Ok(()) } else { Err(seen) }
    });
    Ok(())
}
