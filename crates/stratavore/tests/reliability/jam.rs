//! Rows 38 and 42: a database that restarts while everybody asks, and one whose connections are all in
//! use. Whoever asks is told within seconds to try again, and what keeps a daemon in office goes on.

use std::cell::RefCell;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{TryRecvError, channel};
use std::time::{Duration, Instant};

use stratavore_proto::client::problem;
use stratavore_proto::v1::{ListProjects, ListRunners};
use stratavore_testkit::postgres::{Durable, TestPostgres, database};
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::wire::{client, on_runtime};
use stratavore_testkit::world::{PATIENCE, World, until};
use tonic::Status;

use crate::printing::Printing;

/// How many ask at a time: more than there are connections.
const ASKING: usize = 12;
/// The connections that a daemon may have: five as configured, and two for leases and heartbeats.
const CONNECTIONS: usize = 7;

/// Somebody else's transaction, which holds a table and says nothing more.
struct Held {
    client: Child,
}

impl Held {
    fn table(database: &TestPostgres, table: &str) -> Self {
        let mut client = Command::new("psql");
        client.arg(database.url()).args(["--no-psqlrc", "--quiet"]).stdin(Stdio::piped());
        let mut client = client.spawn().expect("psql runs");
        let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;\n");
        let stdin = client.stdin.as_mut().expect("it listens");
        stdin.write_all(lock.as_bytes()).expect("it listens");
        let held = "SELECT count(*) FROM pg_locks JOIN pg_database AS d ON d.oid = database
            WHERE datname = current_database() AND granted AND mode = 'AccessExclusiveLock'";
        until("the table is held", || match database.query(held).as_str() {
            "0" => Err("nobody holds it"),
            _ => Ok(()),
        });
        Self { client }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Its transaction ends with it.
        self.client.kill().and_then(|()| self.client.wait()).ok();
    }
}

/// Whether an answer is what was asked for, or says to try again.
fn told_to_try_again<T>(answer: &Result<T, Status>) -> Result<(), String> {
    let Err(status) = answer else { return Ok(()) };
    let said = problem(status);
    match said.code == "store_unavailable" && said.hint.contains("again") {
        true => Ok(()),
        false => Err(format!("{status:?}")),
    }
}

/// What came of many requests.
#[derive(Default)]
struct Asked {
    answers: usize,
    refusals: usize,
    /// What was wrong with a refusal.
    wrong: Option<String>,
}

/// Many ask for runners at once, each again and again, for as long as `goes_on` says.
fn ask(world: &World, goes_on: impl Fn() -> bool) -> Asked {
    let asked = RefCell::new(Asked::default());
    on_runtime(async {
        let client = client(world).await;
        let ask = async || {
            while goes_on() {
                let answer = client.runners().list(ListRunners::default()).await;
                let mut asked = asked.borrow_mut();
                asked.answers += 1;
                asked.refusals += usize::from(answer.is_err());
                asked.wrong = asked.wrong.take().or(told_to_try_again(&answer).err());
            }
        };
        futures_util::future::join_all((0..ASKING).map(|_| ask())).await;
    });
    asked.into_inner()
}

/// Waits until somebody who asks is answered. Answers how long that took.
fn answered_again(world: &World) -> Duration {
    let began = Instant::now();
    on_runtime(async {
        let client = client(world).await;
        while let Err(status) = client.projects().list(ListProjects::default()).await {
            assert!(began.elapsed() < PATIENCE, "it does not recover: {status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    began.elapsed()
}

#[test]
fn t_pgdown_a_daemon_stays_in_office_while_all_its_connections_are_in_use() {
    let mut trial = Trial::new("T-PGDOWN", "all connections in use: refused, and leases are kept");
    let database = database();
    let world = World::with_config(&database.settings(&database.socket_dir));
    world.project("demo");
    let runner = Printing::launch(&world, "one", &["--every", "20"]);
    let lease =
        || database.query("SELECT term || ' ' || expires_at FROM leases WHERE name LIKE 'host:%'");
    let mut refusals = 0;
    for _ in 0..scale(1, 20) {
        let held = Held::table(&database, "runners");
        let (before, began) = (lease(), Instant::now());
        // Until it was renewed while everybody waits.
        let asked = ask(&world, || lease() == before && began.elapsed() < PATIENCE);
        let after = lease();
        drop(held);
        refusals += asked.refusals;
        trial.tried_times(asked.answers, asked.wrong.map_or(Ok(()), Err));
        let same_term = before.split(' ').next() == after.split(' ').next();
        trial.tried(match same_term && after != before {
            true => Ok(()),
            false => Err(format!("the lease was {before} and is {after}")),
        });
        trial.measured("answered again after", answered_again(&world));
        trial.tried(runner.held(&world));
    }
    trial.control("requests that had to wait", refusals > 0);
    trial.end();
}

#[test]
fn t_pgdown_a_database_that_restarts_costs_a_moment() {
    let mut trial = Trial::new("T-PGDOWN", "restarted while everybody asks: a moment's refusals");
    let mut server = Durable::start();
    let database = server.database();
    let world = World::with_config(&database.settings(&database.socket_dir));
    world.project("demo");
    let runner = Printing::launch(&world, "one", &["--every", "20"]);
    let mut refusals = 0;
    for _ in 0..scale(2, 50) {
        let (stop, stopped) = channel::<()>();
        let asked = std::thread::scope(|scope| {
            let (world, trial) = (&world, &mut trial);
            let goes_on = move || stopped.try_recv() == Err(TryRecvError::Empty);
            let asking = scope.spawn(move || ask(world, goes_on));
            server.stop();
            server.start_again();
            // One that asks by itself; the others go on meanwhile.
            trial.measured("answered again after", answered_again(world));
            let open =
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stratavore'";
            let open: usize = database.query(open).parse().expect("a number");
            trial.tried(match open <= CONNECTIONS {
                true => Ok(()),
                false => Err(format!("{open} connections were made at once")),
            });
            drop(stop);
            asking.join().expect("it asks")
        });
        refusals += asked.refusals;
        trial.tried_times(asked.answers, asked.wrong.map_or(Ok(()), Err));
        trial.tried(runner.held(&world));
    }
    trial.control("a moment in which it was away", refusals > 0);
    trial.end();
}
