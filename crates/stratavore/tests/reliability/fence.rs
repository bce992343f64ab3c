//! T-FENCE: a daemon that was stopped for longer than its lease lasts changes nothing under it when
//! it goes on, nor a runner that another one has changed meanwhile; and of two state directories of which one
//! is a copy, one daemon serves.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::rabbit::vhost;
use stratavore_testkit::trial::{Trial, is_long, scale};
use stratavore_testkit::world::{Ran, World, signal, until, until_within};

use crate::outbox::Outlet;
use crate::printing::{Printing, events};

fn stands_still(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Two daemons of two hosts with one database. Each stops whenever it is about to publish events,
/// with the lease of that duty in its hand.
struct Pair {
    database: TestPostgres,
    worlds: [World; 2],
}

impl Pair {
    fn new(and: &str) -> Self {
        let database = database();
        let worlds = [(); 2].map(|()| {
            let mut world = World::with_config(&database.settings(&database.socket_dir));
            let points = format!("relay_before_publish=pause{and}");
            world.set_env("STRATAVORE_FAILPOINTS", &points);
            world.run(["daemon", "start"]).ok();
            world
        });
        Self { database, worlds }
    }

    /// The same, and they stop nowhere.
    fn plain() -> Self {
        let database = database();
        let worlds = [(); 2].map(|()| {
            let world = World::with_config(&database.settings(&database.socket_dir));
            world.run(["daemon", "start"]).ok();
            world
        });
        Self { database, worlds }
    }

    fn daemon(&self, which: usize) -> u32 {
        self.worlds[which].daemon_pid().expect("a daemon runs")
    }

    fn stands_still(&self, which: usize) -> bool {
        stands_still(self.daemon(which))
    }

    fn until_it_stands(&self, which: usize) {
        until("it is about to publish", || match self.stands_still(which) {
            true => Ok(()),
            false => Err(self.database.query("SELECT * FROM leases")),
        });
    }

    fn go_on(&self, which: usize) {
        signal(self.daemon(which), Signal::CONT);
    }

    /// Lets both publish what there is, however often they stop for it.
    fn settle(&self) {
        until("all is published", || {
            for which in 0..2 {
                self.go_on(which);
            }
            match self.database.query("SELECT count(*) FROM outbox").as_str() {
                "0" if !self.stands_still(0) && !self.stands_still(1) => Ok(()),
                left => Err(left.to_owned()),
            }
        });
    }

    /// Makes an event at this daemon, which stops before it can publish it; answers who asked for
    /// it, and perhaps has no answer yet.
    fn event_at(&self, which: usize, name: &str) -> std::process::Child {
        let world = &self.worlds[which];
        let mut create = world.command("stratavore");
        create.args(["new", name, "--directory"]).arg(world.work());
        create.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let asking = create.spawn().expect("it starts");
        self.until_it_stands(which);
        asking
    }

    /// As if its time had passed.
    fn expire(&self) {
        self.database.query("UPDATE leases SET expires_at = 'epoch' WHERE name = 'relay'");
    }

    /// Which of them does not hold the duty, by the database. Either may believe in an earlier term of
    /// its own: it asks again only when its time is over.
    fn stale(&self) -> usize {
        let holder = self.database.query(
            "SELECT pid FROM daemons JOIN leases ON holder = daemons.id WHERE leases.name = 'relay'",
        );
        if self.daemon(0).to_string() == holder { 1 } else { 0 }
    }

    fn published(&self) -> String {
        self.database.query("SELECT count(*) FROM events WHERE position IS NOT NULL")
    }

    /// How often this daemon was told that its term is over.
    fn refused(&self, which: usize) -> usize {
        let log = std::fs::read_to_string(self.worlds[which].path("state/daemon.log")).unwrap();
        log.matches("is held by someone else now").count()
    }
}

/// Lets the daemon go on that believes in its lease, and waits until it has tried to publish under
/// it. Answers whether nothing came of that.
fn wakes_up(pair: &Pair, which: usize) -> Result<(), String> {
    let (before, refused) = (pair.published(), pair.refused(which));
    pair.go_on(which);
    until("it has tried, and was refused or was not", || {
        let done = pair.refused(which) > refused || pair.published() != before;
        if done { Ok(()) } else { Err(pair.database.query("SELECT * FROM leases")) }
    });
    let after = pair.published();
    if after == before {
        Ok(())
    } else {
        Err(format!("{before} events were published, now {after}"))
    }
}

#[test]
fn t_fence_a_daemon_that_wakes_up_after_its_lease_changes_nothing() {
    let mut trial =
        Trial::new("T-FENCE", "a daemon is stopped beyond its lease, and changes nothing under it");
    let pair = Pair::new("");
    let mut asking = Vec::new();
    for round in 0..scale(3, 300) {
        let (first, second) = (round % 2, 1 - round % 2);
        pair.expire();
        asking.push(pair.event_at(first, &format!("first-{round}")));
        pair.expire();
        asking.push(pair.event_at(second, &format!("second-{round}")));
        trial.tried(wakes_up(&pair, pair.stale()));
        pair.settle();
    }
    // The control: its time has passed as well, but nobody has taken its place.
    pair.expire();
    asking.push(pair.event_at(0, "last"));
    signal(pair.daemon(1), Signal::STOP);
    pair.expire();
    trial.control("a term that is not over", wakes_up(&pair, 0).is_err());
    pair.settle();
    for mut asking in asking {
        assert!(asking.wait().expect("it ends").success(), "whoever asked has an answer");
    }
    let gaps = "SELECT count(*) - max(position) FROM events";
    assert_eq!(pair.database.query(gaps), "0", "each event has one place");
    trial.control("daemons that do not ask which term it is", without_the_check());
    trial.end();
}

/// The control: whether the check notices that a daemon publishes under a term that is over.
fn without_the_check() -> bool {
    let pair = Pair::new(";lease_check=off");
    pair.expire();
    let first = pair.event_at(0, "first");
    pair.expire();
    let second = pair.event_at(1, "second");
    let found = wakes_up(&pair, pair.stale());
    pair.settle();
    for mut asking in [first, second] {
        assert!(asking.wait().expect("it ends").success(), "whoever asked has an answer");
    }
    found.is_err()
}

/// A write under a lease, before which a daemon can be stopped.
struct Write {
    point: &'static str,
    duty: &'static str,
    /// What is another one once it is written.
    effect: &'static str,
}

const WRITES: [Write; 2] = [
    Write {
        point: "seal_before_commit",
        duty: "audit",
        effect: "SELECT coalesce(max(position), 0) FROM audit_seals",
    },
    Write {
        point: "rabbit_before_advance",
        duty: "relay:rabbitmq",
        effect: "SELECT position FROM destinations WHERE name = 'rabbitmq'",
    },
];

/// Stops a daemon before the write, gives its duty to another one, and lets it go on. Answers whether
/// nothing was written.
fn stopped_before(write: &Write, and: &str) -> Result<(), String> {
    let outlet = Outlet::new(vhost());
    let database = &outlet.database;
    let mut world = outlet.world(&[]);
    world.set_env("STRATAVORE_FAILPOINTS", &format!("{}=pause{and}", write.point));
    let mut start = world.command("stratavore");
    start.args(["daemon", "start"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut start = start.spawn().expect("it starts");
    until("it has the duty", || {
        let held = format!("SELECT count(*) FROM leases WHERE name = '{}'", write.duty);
        // There may be no table yet.
        match database.try_query(&held).as_deref() {
            Ok("1") => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
    // It has no broker, and no key to seal with: it takes the duty only by what is done here.
    let other = World::with_config(&database.settings(&database.socket_dir));
    other.project("p");
    let by = other.daemon_pid().expect("a daemon runs");
    let pid = until("a daemon stands before the write", || match world.daemon_pid() {
        Some(pid) if stands_still(pid) => Ok(pid),
        _ => Err(database.query("SELECT * FROM leases")),
    });
    // Neither is free before the test is over, nor does it last longer than any.
    let taken = database.query(&format!(
        "UPDATE leases SET term = term + 1, holder = (SELECT id FROM daemons WHERE pid = {by}),
             expires_at = clock_timestamp() + interval '9 seconds'
         WHERE name = '{}' RETURNING term",
        write.duty
    ));
    assert!(!taken.is_empty(), "it held the duty");
    let before = database.query(write.effect);
    signal(pid, Signal::CONT);
    let log = world.path("state/daemon.log");
    until("it has tried, and was refused or was not", || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let refused = ["is held by someone else now", "another daemon may deliver"];
        let done = refused.iter().any(|words| said.contains(words));
        if done || database.query(write.effect) != before { Ok(()) } else { Err(said) }
    });
    let after = database.query(write.effect);
    until("whoever started it has an answer", || {
        signal(pid, Signal::CONT);
        start.try_wait().expect("it can be asked").ok_or("none")
    });
    match after == before {
        true => Ok(()),
        false => Err(format!("{}: {before} became {after}", write.point)),
    }
}

#[test]
fn t_fence_a_daemon_that_was_stopped_before_a_write_does_not_write_it() {
    let mut trial = Trial::new(
        "T-FENCE",
        "a daemon is stopped before it seals, and before it writes down what was delivered: it does not \
         once the duty is another's",
    );
    for _ in 0..scale(1, 50) {
        for write in &WRITES {
            trial.tried(stopped_before(write, ""));
        }
    }
    for write in &WRITES {
        let caught = stopped_before(write, ";lease_check=off").is_err();
        trial.control(&format!("{} without the check", write.point), caught);
    }
    trial.end();
}

/// A daemon is stopped between what it has decided about a runner and the write of it, and another one is
/// asked to stop that runner; then the first one goes on. Answers whether the stop holds.
///
/// `unnoticed`: as if what the other one wrote had not been counted, which is what the write goes by.
fn stopped_before_it_writes_a_runner(unnoticed: bool) -> Result<(), String> {
    let database = database();
    let settings = database.settings(&database.socket_dir);
    let (mut world, other) = (World::with_config(&settings), World::with_config(&settings));
    world.project("demo");
    let runner = Printing::launch(&world, "one", &["--every", "20"]).runner;
    world.kill_daemon();
    world.set_env("STRATAVORE_FAILPOINTS", "runner_before_write=pause");
    world.run(["daemon", "start"]).ok();
    let pid = world.daemon_pid().expect("a daemon runs");
    let asked = |world: &World, verb| {
        let mut command = world.command("stratavore");
        command.args([verb, runner.as_str()]).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("it starts")
    };
    let mut pause = asked(&world, "pause");
    until("it is about to write", || if stands_still(pid) { Ok(()) } else { Err(pid) });

    let generation = format!("SELECT generation FROM runners WHERE id = '{runner}'");
    let seen = database.query(&generation);
    let mut kill = asked(&other, "kill");
    until("the other one has written it down", || match database.query(&generation) {
        now if now == seen => Err(seen.clone()),
        _ => Ok(()),
    });
    if unnoticed {
        database.query(&format!(
            "SET session_replication_role = replica;
             UPDATE events SET seq = seq + 1000 WHERE entity_id = '{runner}' AND seq > {seen};
             UPDATE runners SET generation = {seen} WHERE id = '{runner}'"
        ));
    }
    // Nothing ends before the first one has come to its write.
    let [agent] = world.agents_of(&runner)[..] else { panic!("it has one agent") };
    signal(agent, Signal::STOP);
    let desired = format!("SELECT record::jsonb ->> 'desired' FROM runners WHERE id = '{runner}'");
    let desired = until("the first one has written it, or has said that it does not", || {
        signal(pid, Signal::CONT);
        let answered = pause.try_wait().expect("it can be asked").is_some();
        match database.query(&desired) {
            desired if answered || desired == "paused" => Ok(desired),
            desired => Err(desired),
        }
    });
    signal(agent, Signal::CONT);
    if desired != "stopped" {
        for mut asking in [pause, kill] {
            asking.kill().and_then(|()| asking.wait()).expect("who waits for it can be killed");
        }
        return Err(format!("it was stopped, and is to be {desired}"));
    }
    until("it has ended, and who asked for that is told", || {
        signal(pid, Signal::CONT);
        kill.try_wait().expect("it can be asked").ok_or("not yet")
    });
    match world.processes_of(&runner)[..] {
        [] => Ok(()),
        ref left => Err(format!("{left:?} is left of it")),
    }
}

#[test]
fn t_fence_a_daemon_that_was_stopped_before_it_writes_a_runner_decides_anew() {
    let mut trial = Trial::new(
        "T-FENCE",
        "a daemon is stopped before it writes a runner down: what another one wrote meanwhile holds",
    );
    for _ in 0..scale(1, 100) {
        trial.tried(stopped_before_it_writes_a_runner(false));
    }
    let caught = stopped_before_it_writes_a_runner(true).is_err();
    trial.control("a change that is not counted", caught);
    trial.end();
}

/// Stopped for longer than its lease, as by a machine that sleeps: it knows by its own clock that its time
/// is over, and asks before it writes.
#[test]
fn t_fence_a_daemon_that_slept_beyond_its_lease_asks_first() {
    if !is_long() {
        return;
    }
    let mut trial =
        Trial::new("T-FENCE", "a daemon sleeps for longer than its lease: it asks first");
    let pair = Pair::plain();
    for round in 0..3 {
        let first = 1 - pair.stale();
        let second = 1 - first;
        signal(pair.daemon(first), Signal::STOP);
        pair.worlds[second].project(&format!("second-{round}"));
        let began = Instant::now();
        until_within(Duration::from_secs(60), "the other one publishes", || {
            match pair.database.query("SELECT count(*) FROM outbox").as_str() {
                "0" => Ok(()),
                left => Err(left.to_owned()),
            }
        });
        trial.measured("the other one publishes after", began.elapsed());
        assert!(pair.stale() == first, "the duty is the other one's");
        let refused = pair.refused(first);
        pair.go_on(first);
        pair.worlds[first].project(&format!("first-{round}"));
        pair.settle();
        trial.tried(match pair.refused(first) == refused {
            true => Ok(()),
            false => Err("it has tried to write under its lease".into()),
        });
    }
    let gaps = "SELECT count(*) - max(position) FROM events";
    trial.tried(match pair.database.query(gaps).as_str() {
        "0" => Ok(()),
        gaps => Err(format!("{gaps} events have no place of their own")),
    });
    trial.end();
}

/// Copies the state directory of one world to another, as a clone of the machine would.
fn copy_state(from: &World, to: &World) {
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(from.path("state")).arg(to.path(""));
    Ran::of(copy).ok();
}

/// Starts a daemon of the copy in the foreground, and answers how it ended.
fn daemon_of(world: &World) -> Ran {
    let mut command = world.command("stratavored");
    command.stdin(std::process::Stdio::null());
    Ran::of(command)
}

#[test]
fn t_fence_the_daemon_of_a_copied_state_directory_is_refused() {
    let mut trial = Trial::new("T-FENCE", "a copied state directory: its daemon is refused");
    let database = database();
    let settings = database.settings(&database.socket_dir);
    let world = World::with_config(&settings);
    world.project("demo");
    let runner = Printing::launch(&world, "one", &["--every", "20"]);
    let copy = World::with_config(&settings);
    copy_state(&world, &copy);
    for _ in 0..scale(1, 20) {
        let began = Instant::now();
        let refused = daemon_of(&copy).fails(5);
        trial.measured("refused after", began.elapsed());
        let said = refused.stderr();
        assert!(said.contains("is a copy") && said.contains("next: "), "{said}");
        trial.tried(runner.held(&world));
    }
    assert_eq!(world.runner(&runner.runner)["connected"], true, "nothing has happened to it");
    assert_eq!(events(&world, "runner.lost"), 0);

    // The control: the copy's daemon starts when nothing says that the other one lives; and that one
    // ends, as soon as it hears of it.
    let first = world.daemon_pid().expect("a daemon runs");
    signal(first, Signal::STOP);
    database.query("UPDATE leases SET expires_at = 'epoch' WHERE name LIKE 'host:%'");
    copy.run(["daemon", "start"]).ok();
    trial.control("a copy whose host is free", copy.daemon_pid().is_some());
    copy.run(["reconcile"]).ok();
    trial.tried(runner.held(&world));
    signal(first, Signal::CONT);
    until("the first one has ended", || match world.daemon_pid() {
        Some(pid) if pid == first => Err(pid),
        Some(_) | None => Ok(()),
    });
    let log = std::fs::read_to_string(world.path("state/daemon.log")).unwrap();
    assert!(log.contains("one of the two state directories is a copy"), "{log}");
    trial.tried(runner.held(&world));
    trial.end();
}

#[test]
fn t_fence_a_copy_on_the_same_host_ends_no_runner_of_the_other() {
    let mut trial = Trial::new("T-FENCE", "a copied SQLite database: no runner is taken for dead");
    let world = World::new();
    world.project("demo");
    let runner = Printing::launch(&world, "one", &["--every", "20"]);
    let mut copy = World::new();
    // So that what is copied of the database is one moment's.
    world.kill_daemon();
    copy_state(&world, &copy);
    world.run(["daemon", "start"]).ok();
    for _ in 0..scale(1, 20) {
        copy.run(["daemon", "start"]).ok();
        let looked = copy.run(["reconcile"]).ok();
        assert!(looked.stdout().contains("is a copy"), "{}", looked.everything());
        trial.tried(runner.held(&world));
        copy.kill_daemon();
    }
    // The control: without the check the processes are taken for a dead agent's.
    copy.set_env("STRATAVORE_FAILPOINTS", "copies=off");
    copy.run(["daemon", "start"]).ok();
    until("the other one's process is gone", || {
        if runner.process.is_alive() { Err(runner.process) } else { Ok(()) }
    });
    trial.control("a copy that does not know that it is one", runner.held(&world).is_err());
    trial.end();
}
