//! T-TRIM: what is older than it is kept goes into files and is removed from the database, wherever
//! that is cut off, and the record stands as a whole.

use std::fs;

use serde_json::Value;
use stratavore_store::testing::sqlite_number;
use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::{World, until};

use crate::timeshift::{set_clock, with_a_clock};

const HUNDRED_DAYS: i64 = 100 * 24 * 3600;
const SEGMENTS: &str = "state/audit/segments";

/// A home with a record that is old by now, and how many records that is.
fn old_record(server: Option<&TestPostgres>) -> (World, u64) {
    let store = server.map_or_else(String::new, |server| server.settings(&server.socket_dir));
    let world = with_a_clock(-HUNDRED_DAYS, &format!("events:\n  keep: 1d\n{store}"));
    world.project("demo");
    let mut records = 0;
    for n in 0..scale(9, 60) {
        world.run(["projects", "edit", "demo", "--description", &n.to_string()]).ok();
        if n % 3 == 2 {
            // It is signed for whoever verifies it.
            records = world.json(&["audit", "verify"])["records"].as_u64().unwrap();
        }
    }
    world.run(["daemon", "stop"]).ok();
    set_clock(&world, 0);
    (world, records)
}

fn lowest(world: &World, server: Option<&TestPostgres>) -> i64 {
    let sql = "SELECT min(position) FROM events";
    match server {
        Some(server) => server.query(sql).parse().unwrap(),
        None => on_runtime(sqlite_number(&world.path("state/stratavore.db"), sql)),
    }
}

/// Waits until what is old is no longer in the database; answers its last position.
fn trimmed(world: &World, server: Option<&TestPostgres>) -> i64 {
    let told = until("what is old is moved", || {
        let ran = world.run(["events", "list", "--after", "0"]);
        if ran.code() == 3 { Ok(ran.stderr()) } else { Err(ran.everything()) }
    });
    assert!(told.contains("are in files by now") && told.contains("next: go on after"), "{told}");
    let events = world.json(&["events", "--kind", "node.record_trimmed"]);
    let last = events.as_array().and_then(|events| events.last()).expect("it is on the record");
    let upto = last["data"]["upto"].as_i64().expect("it says how far");
    until("it is removed", || match lowest(world, server) {
        lowest if lowest == upto + 1 => Ok(()),
        lowest => Err(lowest),
    });
    upto
}

/// Verifies files and database as one; answers what was said.
fn whole(world: &World, records: u64) -> Result<Value, String> {
    let ran = world.run(["audit", "verify", "--format", "json"]);
    if ran.code() != 0 {
        return Err(ran.everything());
    }
    let verified = ran.json();
    match verified["trimmed"] == 0 && verified["records"].as_u64() > Some(records) {
        true => Ok(verified),
        false => Err(verified.to_string()),
    }
}

fn t_trim(server: Option<&TestPostgres>, place: &str, trial: &mut Trial) {
    let (mut world, records) = old_record(server);
    if !place.is_empty() {
        world.set_env("STRATAVORE_FAILPOINTS", &format!("{place}=abort"));
        world.run(["daemon", "start"]);
        until("it dies there", || match world.daemon_pid() {
            Some(pid) => Err(pid),
            None => Ok(()),
        });
        world.set_env("STRATAVORE_FAILPOINTS", "");
    }
    world.run(["daemon", "start"]).ok();
    let upto = trimmed(&world, server);
    trial.tried(whole(&world, records).map(drop));
    let problems = world.json(&["daemon", "status"])["problems"].clone();
    trial.tried(match problems == serde_json::json!([]) {
        true => Ok(()),
        false => Err(problems.to_string()),
    });
    // It goes on: from where the files end, and for a daemon that starts on what is left.
    let after = upto.to_string();
    world.run(["events", "list", "--after", &after]).ok();
    world.run(["daemon", "restart"]).ok();
    world.run(["projects", "edit", "demo", "--description", "after"]).ok();
    trial.tried(whole(&world, records).map(drop));
    if !place.is_empty() {
        return;
    }

    let (here, away) = (world.path(SEGMENTS), world.path("away"));
    let file = fs::read_dir(&here).unwrap().next().unwrap().unwrap().file_name();
    fs::rename(&here, &away).unwrap();
    let rest = world.json(&["audit", "verify"]);
    assert_eq!(rest["trimmed"].as_i64(), Some(upto), "{rest}");
    let segments = away.display().to_string();
    let elsewhere = world.json(&["audit", "verify", "--segments", &segments]);
    assert_eq!(elsewhere["trimmed"], 0, "{elsewhere}");
    // Files alone are a record too, without a daemon.
    let only = away.join(&file).display().to_string();
    world.run(["audit", "verify", "--export", &only]).ok();
    let text = fs::read_to_string(away.join(&file)).unwrap();
    fs::write(away.join(&file), text.replacen("project.edited", "project.deleted", 1)).unwrap();
    let told = world.run(["audit", "verify", "--segments", &segments]);
    let noticed = told.code() == 1 && told.stderr().contains("not the one that was sealed");
    trial.control("a file that was changed", noticed);
    fs::remove_file(away.join(&file)).unwrap();
    let subscribed = world.run(["events", "subscribe", "--after", "0"]).fails(3).stderr();
    assert!(subscribed.contains(&format!("has position {}", upto + 1)), "{subscribed}");
}

const PLACES: [&str; 4] = ["", "trim_before_commit", "trim_committed", "trim_removed_some"];

#[test]
fn t_trim_what_is_old_goes_into_files_on_sqlite() {
    let mut trial = Trial::new("T-TRIM", "what is old is moved out of SQLite, and nothing is lost");
    for place in PLACES {
        t_trim(None, place, &mut trial);
    }
    trial.end();
}

#[test]
fn t_trim_what_is_old_goes_into_files_on_postgresql() {
    let promise = "what is old is moved out of PostgreSQL, and nothing is lost";
    let mut trial = Trial::new("T-TRIM", promise);
    for place in PLACES {
        let server = database();
        t_trim(Some(&server), place, &mut trial);
    }
    trial.end();
}
