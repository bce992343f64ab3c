//! Row 39 of the fault catalogue, where something is lost: a standby is promoted that lacks the last of
//! what its primary had. Whoever reads events has read some that are gone, and others have their
//! positions now: nobody may miss one of those.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stratavore_testkit::postgres::standby::{Name, leave_behind};
use stratavore_testkit::postgres::{Durable, TestPostgres};
use stratavore_testkit::proxy::Flow;
use stratavore_testkit::rabbit::{Received, same, vhost};
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::{World, until};

use crate::outbox::{Outlet, destination, follow, projects, streams_agree, until_settled, write};
use crate::pgdown::no_event_missing;
use crate::standby::cut;

/// More edits than there are positions that the promoted server gives again.
const LOST: usize = 6;
const AGAIN: usize = LOST * 3;
/// After so long what has not come does not come any more.
const COMES_LATE: Duration = Duration::from_secs(15);

/// Two daemons of one primary, each with a name of its own that leads there, and a standby of it.
struct Failing {
    primary: Durable,
    _standby: Durable,
    outlet: Outlet,
    new: TestPostgres,
    names: [Name; 2],
    worlds: [World; 2],
    projects: Vec<String>,
}

impl Failing {
    /// The standby has everything so far, gets nothing any more, and knows that all of it was delivered.
    fn begin(failpoints: &str) -> Self {
        let primary = Durable::primary();
        let outlet = Outlet::of(primary.database(), vhost(), &["#"]);
        let names = [(); 2].map(|()| Name::of(&outlet.database));
        let worlds = [0, 1].map(|which| {
            let mut world = outlet.world_by(names[which].path(), &[]);
            // They notice by what happens to their connections.
            world.set_env("STRATAVORE_TEST_TIMES", "server_every=1h,alerts_every=1h");
            world.set_env("STRATAVORE_FAILPOINTS", failpoints);
            world
        });
        let projects = projects(&worlds[0], "p", 3);
        worlds[1].run(["daemon", "start"]).ok();
        until("the store knows that all is delivered", || delivered(&outlet.database));
        let standby = primary.standby();
        let new = standby.copy_of(&outlet.database);
        leave_behind(&outlet.database, &new);
        Self { primary, _standby: standby, outlet, new, names, worlds, projects }
    }

    fn last(of: &TestPostgres) -> usize {
        of.query("SELECT last FROM event_positions WHERE name = 'events'")
            .parse()
            .expect("a number")
    }

    /// Makes the standby a primary, where nobody need wait until the duty of publishing is free. That of
    /// delivering stays with the first daemon, as long as such a duty lasts.
    fn promote(&self) {
        self.new.query("SELECT pg_promote()");
        self.new.query("UPDATE leases SET expires_at = 'epoch' WHERE name = 'relay'");
        let last = "UPDATE leases SET expires_at = clock_timestamp() + interval '9900 milliseconds'
            WHERE name = 'relay:rabbitmq'";
        self.new.query(last);
    }

    /// Has this daemon's name lead to the new primary.
    fn moves(&self, which: usize) {
        self.names[which].leads_to(&self.new);
        cut(&self.outlet.database);
    }

    fn edit(&self, which: usize, edits: usize) {
        let mut left = edits;
        until("its edits are carried out", || {
            left -= write(&self.worlds[which], &self.projects, left);
            if left == 0 { Ok(()) } else { Err(left) }
        });
    }

    /// The ids of what the promoted server has, in order.
    fn stands(&self) -> Vec<String> {
        let printed = self.new.query("SELECT id FROM events ORDER BY position");
        printed.lines().map(str::to_owned).collect()
    }
}

/// Whether the store knows that the broker has everything.
fn delivered(database: &TestPostgres) -> Result<(), String> {
    let waiting = "SELECT (SELECT last FROM event_positions WHERE name = 'events') - position
        FROM destinations WHERE name = 'rabbitmq'";
    let (waiting, unplaced) =
        (database.query(waiting), database.query("SELECT count(*) FROM outbox"));
    if waiting == "0" && unplaced == "0" { Ok(()) } else { Err(format!("{waiting}, {unplaced}")) }
}

/// Whether a reader has all that stands, in this order, whatever it has read besides.
fn has_all(read: &[String], stands: &[String]) -> Result<(), String> {
    let known: HashSet<&String> = stands.iter().collect();
    let mut seen = HashSet::new();
    let first: Vec<&String> =
        read.iter().filter(|id| known.contains(id) && seen.insert(*id)).collect();
    match first.iter().copied().eq(stands) {
        true => Ok(()),
        false => Err(format!("{} of {} were read, or not in order", first.len(), stands.len())),
    }
}

/// The same of the consumer, whose order is that of each project.
fn consumed(received: &[Received], stands: &[String]) -> Result<(), String> {
    let known: HashSet<&String> = stands.iter().collect();
    let of_them: Vec<Received> =
        received.iter().filter(|one| known.contains(&one.id)).cloned().collect();
    same(stands, &of_them)
}

/// Waits until all of it holds, and answers what is wrong if some of it never does.
fn in_the_end<const N: usize>(
    mut look: impl FnMut() -> [Result<(), String>; N],
) -> [Result<(), String>; N] {
    let began = std::time::Instant::now();
    loop {
        let seen = look();
        if seen.iter().all(Result::is_ok) || began.elapsed() > COMES_LATE {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One failover: what is wrong with the consumer, and with each daemon's reader.
fn fail_over(failpoints: &str) -> [Result<(), String>; 3] {
    let failing = Failing::begin(failpoints);
    let old = &failing.outlet.database;
    let kept = Failing::last(old);
    let (reads, done) = ([(); 2].map(|()| Mutex::new(Vec::new())), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for (world, read) in failing.worlds.iter().zip(&reads) {
            let done = &done;
            scope.spawn(move || on_runtime(follow(std::slice::from_ref(world), read, done)));
        }
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // How far these were delivered is known to the daemon, and not to the store.
            let stays = "ALTER TABLE destinations ADD CONSTRAINT stays CHECK (position <= ";
            old.query(&format!("{stays}{kept})"));
            failing.edit(0, LOST);
            until("what will be lost is read", || {
                let have = reads.each_ref().map(|read| read.lock().unwrap().len());
                let gone = same(&failing.outlet.committed(), &failing.outlet.consumer.received());
                match gone {
                    Ok(()) if have == [kept + LOST; 2] => Ok(()),
                    gone => Err(format!("{have:?}, {gone:?}")),
                }
            });
            // The second daemon goes on with the promoted server; the first notices only when its positions
            // are given again.
            failing.promote();
            failing.moves(1);
            failing.edit(1, AGAIN);
            until("its positions are given again", || match Failing::last(&failing.new) {
                last if last == kept + AGAIN => Ok(()),
                last => Err(last),
            });
            failing.moves(0);
            failing.primary.kill();
            failing.edit(0, 3);
            let stands = failing.stands();
            in_the_end(|| {
                let has = |read: &Mutex<Vec<String>>| {
                    has_all(&read.lock().expect("no reader panics"), &stands)
                };
                let consumer = consumed(&failing.outlet.consumer.received(), &stands);
                [consumer, has(&reads[0]), has(&reads[1])]
            })
        }));
        done.store(true, Ordering::Relaxed);
        let found = found.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if found.iter().all(Result::is_ok) {
            until("every event is there and has its place", || no_event_missing(&failing.new));
            until_settled(&failing.worlds[1]).expect("it settles");
            streams_agree(&failing.worlds, &failing.new).expect("both daemons say the same");
        }
        found
    })
}

#[test]
fn t_outbox_a_failover_that_loses_the_last_events_costs_no_reader_another_one() {
    let mut trial = Trial::new(
        "T-OUTBOX",
        "a standby is promoted that lacks the last events: all that it has reaches the consumer and \
         subscribers, in order",
    );
    for _ in 0..scale(1, 20) {
        for found in fail_over("") {
            trial.tried(found);
        }
    }
    let [consumer, first, _] = fail_over("timeline_check=off");
    trial.control("a delivery that goes on from where it was before", consumer.is_err());
    trial.control("a subscriber that goes on from where it was before", first.is_err());
    trial.end();
}

/// What the old primary has published waits for the broker; the promoted server has none of it, and gives
/// its positions to others.
#[test]
fn t_outbox_what_waits_for_the_broker_is_not_sent_in_place_of_what_stands() {
    let mut trial = Trial::new(
        "T-OUTBOX",
        "a standby is promoted while events wait for the broker: those that are gone take no place",
    );
    for _ in 0..scale(1, 20) {
        let failing = Failing::begin("");
        let kept = Failing::last(&failing.outlet.database);
        failing.worlds[1].kill_daemon();
        failing.outlet.wire.set(|wire| wire.down.flow = Flow::Hold);
        failing.outlet.wire.reset_all();
        until("the broker is away", || match destination(&failing.worlds[0]) {
            seen if seen["health"] == "waiting" => Ok(()),
            seen => Err(seen),
        });
        failing.edit(0, LOST);
        until("they have their positions", || match Failing::last(&failing.outlet.database) {
            last if last == kept + LOST => Ok(()),
            last => Err(last),
        });
        failing.promote();
        failing.moves(0);
        failing.primary.kill();
        // Whoever delivers has begun anew, from where the new one is.
        until("it delivers for the promoted server", || {
            let log = failing.worlds[0].path("state/daemon.log");
            let log = std::fs::read_to_string(log).unwrap_or_default();
            match log.split_once("another server was promoted") {
                Some((_, after)) if after.contains("delivering events to RabbitMQ") => Ok(()),
                _ => Err(log),
            }
        });
        failing.outlet.wire.heal();
        until("the broker is there", || match destination(&failing.worlds[0]) {
            seen if seen["health"] == "connected" => Ok(()),
            seen => Err(seen),
        });
        failing.edit(0, LOST);
        let stands = failing.stands();
        let [held] = in_the_end(|| [consumed(&failing.outlet.consumer.received(), &stands)]);
        trial.tried(held);
        let short = consumed(&failing.outlet.consumer.received()[1..], &stands);
        trial.control("an event that is missing", short.is_err());
    }
    trial.end();
}
