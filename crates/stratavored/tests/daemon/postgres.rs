//! The whole way on PostgreSQL: launch, crash, adoption, stop, and a database that goes away.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::proxy::{Flow, Proxy};
use stratavore_testkit::world::{PATIENCE, World, signal, start_time, until};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::starts::health;
use crate::{Daemon, until_ready};

fn world(database: &TestPostgres) -> World {
    world_by(database, &database.socket_dir)
}

/// The same, with the server's socket in this directory.
fn world_by(database: &TestPostgres, socket_dir: &Path) -> World {
    World::with_config(&format!(
        "store:\n  url: postgres\n  postgres:\n    host: {}\n    port: {}\n    user: {}\n    database: {}\n  pool:\n    max_connections: 5\n    min_connections: 1\n",
        socket_dir.display(),
        database.port,
        database.user,
        database.database,
    ))
}

/// The store is away: that is told once, however many runners have to be looked after meanwhile.
#[test]
fn an_outage_of_the_database_is_told_once_and_not_for_each_runner() {
    let database = database();
    // A way to the server of this test's own, which it can close.
    let way = tempfile::tempdir().expect("a temporary directory");
    let name = format!(".s.PGSQL.{}", database.port);
    let (link, socket) = (way.path().join(&name), database.socket_dir.join(&name));
    let open = || std::os::unix::fs::symlink(&socket, &link).expect("the way can be opened");
    open();
    let mut world = world_by(&database, way.path());
    world.set_env("STRATAVORE_DAEMON__LOG_LEVEL", "debug");
    world.project("demo");
    let runners: Vec<String> =
        (0..4).map(|n| world.launch("demo", &format!("r{n}"), &["sleep", "1000"])).collect();
    std::fs::remove_file(&link).expect("the way can be closed");
    database.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    for agent in world.agents() {
        signal(agent, Signal::KILL);
    }
    let log = || std::fs::read_to_string(world.path("state/daemon.log")).expect("it has a log");
    until("each runner was looked after in vain several times", || {
        let log = log();
        let tried = |runner: &String| {
            let of_it =
                |line: &&str| line.contains("could not look after") && line.contains(&**runner);
            log.lines().filter(of_it).count() >= 3
        };
        if runners.iter().all(tried) { Ok(()) } else { Err(log) }
    });
    let warned = log().lines().filter(|line| line.contains("WARN")).count();
    assert_eq!(log().matches("the store cannot be used").count(), 1, "{}", log());
    assert!(warned <= 2, "{warned} warnings of one outage:\n{}", log());

    open();
    for runner in &runners {
        world.until_state(runner, &["lost"]);
    }
    until("its end is told", || match log().matches("the store can be used again").count() {
        1 => Ok(()),
        several => Err(several),
    });
}

/// A database that is frozen, as on a host that swaps, does not keep a daemon beyond its grace.
#[test]
fn a_frozen_database_does_not_keep_the_daemon() {
    let database = database();
    let mut world = world(&database);
    world.set_env("STRATAVORE_DAEMON__SHUTDOWN_GRACE", "4s");
    let daemon = Daemon::start(&world, |_| {});
    until_ready(&world);
    world.project("demo");
    let backends = database.query(
        "SELECT pid FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    let backends: Vec<u32> = backends.lines().filter_map(|pid| pid.trim().parse().ok()).collect();
    assert!(!backends.is_empty());
    let frozen = Frozen(backends);
    frozen.0.iter().for_each(|pid| signal(*pid, Signal::STOP));
    let began = Instant::now();
    signal(daemon.pid(), Signal::TERM);
    let (code, said) = daemon.ended();
    let took = began.elapsed();
    drop(frozen);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("without a goodbye"), "it had something to wait for: {said}");
    assert!(took < Duration::from_secs(10), "{took:?} of a grace of 4 s: {said}");
}

/// Others may ask another daemon while the store does not answer.
#[tokio::test]
async fn health_is_not_ready_while_the_database_is_away() {
    let database = database();
    let way = tempfile::tempdir().expect("a temporary directory");
    let name = format!(".s.PGSQL.{}", database.port);
    let proxy = Proxy::unix(&way.path().join(&name), &database.socket_dir.join(&name));
    let world = world_by(&database, way.path());
    let _daemon = Daemon::start(&world, |_| {});
    until_ready(&world);
    assert_eq!(health(&world).await, ServingStatus::Serving);
    // It takes everything and says nothing.
    proxy.set(|wire| wire.down.flow = Flow::Hold);
    becomes(&world, ServingStatus::NotServing).await;
    proxy.heal();
    becomes(&world, ServingStatus::Serving).await;
}

async fn becomes(world: &World, wished: ServingStatus) {
    let began = Instant::now();
    while health(world).await != wished {
        assert!(began.elapsed() < PATIENCE, "it does not become {wished:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lets them go on, however the test ends.
struct Frozen(Vec<u32>);

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| signal(*pid, Signal::CONT));
    }
}

#[test]
fn a_runner_outlives_its_daemon_on_postgresql_too() {
    let database = database();
    let world = world(&database);
    world.project("demo");
    let runner = world.launch("demo", "sleeper", &["sleep", "1000"]);
    let shown = world.runner(&runner);
    let pid = u32::try_from(shown["pid"].as_u64().expect("it has a pid")).expect("a pid");
    let began = start_time(pid);
    assert!(began.is_some(), "{shown}");

    world.kill_daemon();
    world.run(["daemon", "status"]).fails(6);
    world.run(["daemon", "start"]).ok();
    let status = world.json(&["daemon", "status"]);
    assert_eq!(status["store"]["engine"], "postgres", "{status}");
    assert_eq!(status["store"]["connections_max"], 5, "{status}");
    let found = world.until_state(&runner, &["running"]);
    assert_eq!(found["pid"], shown["pid"], "the same process");
    assert_eq!(start_time(pid), began, "the same process");

    world.run(["kill", &runner]).ok();
    assert!(world.processes_of(&runner).is_empty());
    let rows = database.query("SELECT count(*) FROM runners");
    assert_eq!(rows.trim(), "1");
    let gaps = database.query(
        "SELECT count(*) FROM (SELECT position, row_number() OVER (ORDER BY position) AS n FROM events) AS e
         WHERE position <> n",
    );
    assert_eq!(gaps.trim(), "0", "positions have no gap");
}
