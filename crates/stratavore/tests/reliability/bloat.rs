//! T-BLOAT with the real programs (row 45): while somebody's transaction stays open the daemon goes on,
//! and its status says whose it is and what to do.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, rows, until};

/// Somebody who has looked once and stays.
struct Snapshot {
    client: Child,
    pid: String,
}

impl Snapshot {
    fn hold(database: &TestPostgres) -> Self {
        let mut client = Command::new("psql");
        client.arg(database.url()).args(["--no-psqlrc", "--quiet"]);
        client.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut client = client.env("PGAPPNAME", "report\u{1b}[31m").spawn().expect("psql runs");
        let begin = "SET idle_in_transaction_session_timeout = 0;
            BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM events;\n";
        let stdin = client.stdin.as_mut().expect("it listens");
        stdin.write_all(begin.as_bytes()).expect("it listens");
        let held = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
            AND state = 'idle in transaction' AND application_name LIKE 'report%'";
        let pid = until("the snapshot is held", || match database.query(held) {
            pid if pid.is_empty() => Err("nobody holds one"),
            pid => Ok(pid),
        });
        Self { client, pid }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // Its transaction ends with it.
        self.client.kill().and_then(|()| self.client.wait()).ok();
    }
}

fn problems(world: &World) -> String {
    world.json(&["daemon", "status"])["problems"].to_string()
}

#[test]
fn t_bloat_a_transaction_that_stays_open_is_told_and_events_go_on() {
    let mut trial =
        Trial::new("T-BLOAT", "an old transaction is told by its session, and events go on");
    let database = database();
    let settings = database.settings(&database.socket_dir);
    let settings = settings.replacen("store:\n", "store:\n  transaction_alarm: 2s\n", 1);
    let world = World::with_config(&settings);
    world.project("demo");
    assert!(!problems(&world).contains("transaction"), "{}", problems(&world));
    let snapshot = Snapshot::hold(&database);
    let told = until("the status tells of it", || match problems(&world) {
        told if told.contains(&format!("process {}", snapshot.pid)) => Ok(told),
        told => Err(told),
    });
    assert!(told.contains("report") && !told.contains("\\u001b"), "{told}");
    assert!(told.contains("pg_terminate_backend"), "{told}");
    for n in 0..scale(5, 200) {
        world.run(["projects", "edit", "demo", "--description", &n.to_string()]).ok();
        let wanted = n as i64 + 2;
        until("it is published", || {
            let events = world.json(&["events", "--project", "demo"]);
            let last = rows(&events).last().and_then(|event| event["seq"].as_i64());
            if last == Some(wanted) { Ok(()) } else { Err(events) }
        });
        trial.tried(Ok(()));
    }
    drop(snapshot);
    until("it is no longer told", || match problems(&world) {
        told if told.contains("transaction") => Err(told),
        _ => Ok(()),
    });
    trial.control("a session that stays in its transaction", told.contains("is open for"));
    trial.end();
}
