//! The whole way on PostgreSQL: launch, crash, adoption, stop, and a database that goes away.

use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::world::{World, start_time};

fn world(database: &TestPostgres) -> World {
    World::with_config(&format!(
        "store:\n  url: postgres\n  postgres:\n    host: {}\n    port: {}\n    user: {}\n    database: {}\n  pool:\n    max_connections: 5\n    min_connections: 1\n",
        database.socket_dir.display(),
        database.port,
        database.user,
        database.database,
    ))
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
