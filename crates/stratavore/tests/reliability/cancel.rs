//! T-CANCEL: clients that go away at any moment leave nothing half done: no transaction open, no
//! connection unusable, and a launch that had begun goes on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use stratavore_proto::client::{Client, problem};
use stratavore_proto::v1::{GetRunner, LaunchRunners, ListRunners};
use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::proxy::Proxy;
use stratavore_testkit::trial::{Dice, Trial, scale};
use stratavore_testkit::wire::{
    all_runners, client, fresh_key, new_project, new_runner, on_runtime, wait,
};
use stratavore_testkit::world::{PATIENCE, World, until};

/// How long a transaction may idle, by the database's clock. One that was left behind stays for ten
/// seconds, when the server ends it.
const SETTLED: Duration = Duration::from_secs(1);
/// A time in which this test itself was not let do anything is nobody's fault.
const STALLED: Duration = Duration::from_millis(100);

/// A daemon whose way to the database is a proxy, and its API's another one.
struct Between {
    world: World,
    database: TestPostgres,
    to_database: Proxy,
    to_daemon: Proxy,
    directory: tempfile::TempDir,
}

impl Between {
    fn new() -> Self {
        let database = database();
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join(database.socket().file_name().unwrap());
        let to_database = Proxy::unix(&socket, &database.socket());
        let world = World::with_config(&database.settings(directory.path()));
        world.project("demo");
        let to_daemon = Proxy::unix(&directory.path().join("d.sock"), &world.path("run/d.sock"));
        Self { world, database, to_database, to_daemon, directory }
    }

    /// A connection of its own to the daemon.
    async fn client(&self) -> Client {
        let socket = self.directory.path().join("d.sock");
        Client::connect(&socket).await.expect("a daemon answers")
    }

    /// The transactions that idle, of whichever connection: each by its backend and the moment since
    /// when it does, and for how long, by the database's clock.
    fn idle_in_transaction(&self) -> BTreeMap<String, Duration> {
        let idle = "SELECT pid || ' since ' || state_change,
                greatest(extract(epoch FROM clock_timestamp() - state_change), 0)
            FROM pg_stat_activity
            WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
        let idle = self.database.query(idle);
        let read = |line: &str| {
            let (which, long) = line.split_once('|')?;
            Some((which.to_owned(), Duration::from_secs_f64(long.parse().ok()?)))
        };
        idle.lines().map(|line| read(line).expect("a name and a number")).collect()
    }

    /// Waits until those that idle now do no longer; answers the longest that one has. A machine
    /// that stops this test for a while stops the daemon as well: that time is not counted.
    fn settles(&self) -> Result<Duration, String> {
        let first = self.idle_in_transaction();
        let (mut idle, mut longest, mut stalled) = (first.clone(), Duration::ZERO, Duration::ZERO);
        while !idle.is_empty() {
            let longest_now = idle.values().copied().max().unwrap_or_default();
            longest = longest.max(longest_now.saturating_sub(stalled));
            if longest > SETTLED {
                return Err(format!("idle in transaction for {longest:?}: {idle:?}"));
            }
            let looked = Instant::now();
            idle = self.idle_in_transaction();
            idle.retain(|which, _| first.contains_key(which));
            stalled += looked.elapsed().saturating_sub(STALLED);
        }
        Ok(longest)
    }
}

/// Sends a request and goes away after a while: its connection is cut, or the call is dropped.
async fn ask_and_leave(between: &Between, n: usize, after: Duration, cut: bool) {
    let client = between.client().await;
    let key = fresh_key("leave");
    let world = &between.world;
    let asked = async {
        match n % 10 {
            0 => {
                let launch = LaunchRunners { args: vec!["true".into()], ..new_runner("demo", key) };
                drop(client.runners().launch(launch).await);
            }
            1..4 => drop(client.runners().list(ListRunners::default()).await),
            4..7 => drop(
                client
                    .runners()
                    .get(GetRunner { runner: "nobody".into(), ..GetRunner::default() })
                    .await,
            ),
            _ => drop(client.projects().create(new_project(world, &key, key.clone())).await),
        }
    };
    if tokio::time::timeout(after, asked).await.is_err() && cut {
        between.to_daemon.cut_all();
    }
}

/// Clients that come and go at moments that the dice choose, while the database is slow.
fn come_and_go(between: &Between, dice: &mut Dice, rounds: usize) {
    on_runtime(async {
        for _ in 0..rounds {
            let delay = Duration::from_millis(dice.below(51) as u64 / 2);
            between.to_database.set(|wire| (wire.up.delay, wire.down.delay) = (delay, delay));
            let leaving = (0..10).map(|n| {
                let after = Duration::from_micros(dice.below(200_000) as u64);
                ask_and_leave(between, n, after, dice.below(5) == 0)
            });
            futures_util::future::join_all(leaving.collect::<Vec<_>>()).await;
        }
    });
    between.to_database.heal();
}

#[test]
fn t_cancel_clients_that_go_away_leave_nothing_half_done() {
    let mut trial = Trial::new("T-CANCEL", "no transaction idles, no connection is left unusable");
    let between = Between::new();
    let mut dice = trial.dice();
    for _ in 0..scale(5, 50) {
        come_and_go(&between, &mut dice, scale(5, 10));
        let settled = between.settles();
        if let Ok(took) = settled {
            trial.measured("a transaction idled for", took);
        }
        trial.tried_times(scale(50, 100), settled.map(drop));
        // As many as there are connections, at once, so that each is used.
        on_runtime(async {
            let client = between.client().await;
            let creating = (0..10).map(async |_| {
                let name = fresh_key("after");
                let asked = new_project(&between.world, &name, name.clone());
                let began = Instant::now();
                loop {
                    match client.projects().create(asked.clone()).await {
                        Ok(_) => return Ok(()),
                        // Nobody holds a connection for long, but a busy machine is slow.
                        Err(status) if began.elapsed() < PATIENCE => {
                            assert_eq!(problem(&status).code, "store_unavailable", "{status:?}");
                        }
                        Err(status) => return Err(format!("{status:?}")),
                    }
                }
            });
            for done in futures_util::future::join_all(creating).await {
                trial.tried(done);
            }
        });
    }
    let log = std::fs::read_to_string(between.world.path("state/daemon.log")).unwrap();
    trial.tried(match log.contains("25P02") || log.contains("current transaction is aborted") {
        false => Ok(()),
        true => Err("a statement met a transaction that had failed".into()),
    });
    on_runtime(async {
        let client = client(&between.world).await;
        for runner in all_runners(&client).await {
            let runner = wait(&client, &runner.id, &[]).await;
            trial.tried(match runner.state.as_str() {
                "exited" => Ok(()),
                _ => Err(format!("a launch was left half done: {runner:?}")),
            });
        }
    });

    // The control: a connection that has begun, and says nothing more.
    let mut client = std::process::Command::new("psql");
    client.arg(between.database.url()).args(["--no-psqlrc", "--quiet"]);
    let mut client = client.stdin(std::process::Stdio::piped()).spawn().expect("psql runs");
    let said = client.stdin.as_mut().map(|stdin| std::io::Write::write_all(stdin, b"BEGIN;\n"));
    said.expect("it listens").expect("it listens");
    // It may not have begun yet, or another one idles for a moment.
    let noticed = until("it is noticed", || between.settles().err().ok_or("nothing idles"));
    trial.control("a transaction that idles", !noticed.is_empty());
    drop(client.stdin.take());
    client.wait().expect("it ends");
    trial.end();
}

/// Row 7: the client's connection breaks at any moment of a launch; it goes on, and is found by its
/// key.
#[test]
fn t_cancel_a_launch_whose_client_breaks_off_goes_on() {
    let mut trial = Trial::new("T-CANCEL", "a launch goes on when its client's connection breaks");
    let between = Between::new();
    let mut dice = trial.dice();
    let (mut begun, mut broken) = (0, 0);
    for _ in 0..scale(20, 1000) {
        let delay = Duration::from_millis(dice.below(11) as u64);
        between.to_database.set(|wire| wire.up.delay = delay);
        let key = fresh_key("broken");
        let after = Duration::from_micros(dice.below(100_000) as u64);
        on_runtime(async {
            let doomed = between.client().await;
            let request = new_runner("demo", key.clone());
            let launch = LaunchRunners { args: vec!["true".into()], ..request };
            let asked = async {
                let mut runners = doomed.runners();
                let answer = runners.launch(launch.clone());
                tokio::pin!(answer);
                tokio::select! {
                    answer = &mut answer => answer.is_err(),
                    () = tokio::time::sleep(after) => {
                        between.to_daemon.cut_all();
                        answer.await.is_err()
                    }
                }
            };
            broken += usize::from(asked.await);
            let kept = format!("SELECT count(*) FROM idempotency_records WHERE key = '{key}'");
            begun += usize::from(between.database.query(&kept) == "1");
            // Whether it had begun or not: asked again, it is one runner that ends well.
            let client = client(&between.world).await;
            let again =
                client.runners().launch(launch).await.unwrap().into_inner().runners.remove(0);
            let ended = wait(&client, &again.id, &[]).await;
            trial.tried(match ended.state.as_str() {
                "exited" => Ok(()),
                _ => Err(format!("{ended:?}")),
            });
        });
    }
    between.to_database.heal();
    let runners = on_runtime(async { all_runners(&client(&between.world).await).await });
    let wanted = scale(20, 1000);
    trial.tried(match runners.len() == wanted {
        true => Ok(()),
        false => Err(format!("{} runners of {wanted} launches", runners.len())),
    });
    trial.counted("broken off", broken as u64);
    trial.counted("had begun", begun as u64);
    trial.control("connections that break at all", broken > 0);
    trial.end();
}
