//! T-TAMPER with the real programs: what was done to the database behind the daemon's back is told,
//! by the daemon that seals and by the command line, with a daemon and without one.

use std::fs;

use serde_json::Value;
use stratavore_store::testing::{sqlite_execute, sqlite_number};
use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::rabbit::vhost;
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::{Ran, World, until};

use crate::outbox::Outlet;

const DATABASE: &str = "state/stratavore.db";
const CHECKPOINTS: &str = "state/audit/checkpoints";
const KEYS: &str = "state/audit/keys";
const VERIFIED: &str = "state/audit/verified";

fn behind(world: &World, sql: &str) {
    on_runtime(sqlite_execute(&world.path(DATABASE), sql));
}

/// A daemon's home on either database, and the way to its rows behind its back.
struct Record {
    world: World,
    /// `None`: the file in its home.
    database: Option<TestPostgres>,
}

impl Record {
    /// Does this on each database, of which it is given one of its own as often as it asks.
    fn on_both(check: impl Fn(&dyn Fn(&str) -> Record)) {
        check(&|more| Record { world: World::with_config(more), database: None });
        check(&|more| {
            let database = database();
            let settings = database.settings(&database.socket_dir);
            let world = World::with_config(&format!("{settings}\n{more}"));
            Record { world, database: Some(database) }
        });
    }

    fn behind(&self, sql: &str) {
        match &self.database {
            Some(database) => drop(database.query(sql)),
            None => behind(&self.world, sql),
        }
    }

    /// Lets events be changed or removed.
    fn without_trigger(&self, name: &str) {
        let of = if self.database.is_some() { " ON events" } else { "" };
        self.behind(&format!("DROP TRIGGER {name}{of}"));
    }

    fn number(&self, sql: &str) -> i64 {
        match &self.database {
            Some(database) => database.query(sql).trim().parse().expect("it is a number"),
            None => on_runtime(sqlite_number(&self.world.path(DATABASE), sql)),
        }
    }
}

fn change(world: &World, what: &str) {
    world.run(["projects", "edit", "demo", "--description", what]).ok();
}

fn text(world: &World, path: &str) -> String {
    world.path(path).display().to_string()
}

/// Verifies what the daemon has until that is so many records: what was done a moment ago is not
/// published yet. Answers what was said.
fn sealed(world: &World, records: u64) -> Value {
    until("so much is sealed", || {
        let verified = world.json(&["audit", "verify"]);
        if verified["records"].as_u64() >= Some(records) { Ok(verified) } else { Err(verified) }
    })
}

/// Verifies an export with what this host has kept, and no daemon.
fn verify_offline(world: &World, export: &str, kept: &str) -> Ran {
    let (checkpoints, keys) = (text(world, kept), text(world, KEYS));
    world.run([
        "audit",
        "verify",
        "--export",
        export,
        "--checkpoints",
        &checkpoints,
        "--keys",
        &keys,
    ])
}

#[test]
fn t_tamper_an_edit_behind_the_daemon_is_told_by_its_position() {
    let world = World::new();
    world.project("demo");
    for n in 0..5 {
        change(&world, &n.to_string());
    }
    sealed(&world, 6);
    world.run(["audit", "keys", "rotate"]).ok();
    change(&world, "after the change of keys");
    world.run(["daemon", "restart"]).ok();
    let verified = sealed(&world, 8);
    assert!(verified["checkpoints_of_elsewhere"].as_u64().unwrap() >= 1, "{verified}");
    assert_eq!(verified["keys_of_elsewhere"], true);
    let whole = text(&world, "whole.jsonl");
    world.run(["audit", "export", &whole]).ok();
    world.run(["daemon", "stop"]).ok();
    fs::copy(world.path(CHECKPOINTS), world.path("kept")).unwrap();
    verify_offline(&world, &whole, "kept").ok();
    // A copy of the key of codes of that day judges what was written since.
    let (mac, checked) = (text(&world, "state/audit/mac"), ["audit", "verify", "--export", &whole]);
    let checked = world.json(&[&checked[..], &["--mac", &mac]].concat());
    assert_eq!(checked["codes"], checked["records"]);

    behind(&world, "DROP TRIGGER events_immutable");
    behind(&world, "UPDATE events SET caused_by = 'nobody' WHERE position = 3");
    let refused = world.run(["audit", "verify"]).fails(1);
    assert!(refused.stderr().contains("position 3: the record is not the one that was sealed"));
    let edited = text(&world, "edited.jsonl");
    world.run(["audit", "export", &edited]).ok();
    verify_offline(&world, &edited, CHECKPOINTS).fails(1);
    // What was exported before stands still, and is known to be no longer all.
    verify_offline(&world, &whole, "kept").ok();
    verify_offline(&world, &whole, CHECKPOINTS).fails(1);
    let lines = fs::read_to_string(&whole).unwrap();
    let cut: Vec<&str> = lines.lines().collect();
    fs::write(world.path("cut.jsonl"), cut[..cut.len() - 2].join("\n") + "\n").unwrap();
    let told = verify_offline(&world, &text(&world, "cut.jsonl"), "kept").fails(1).stderr();
    assert!(told.contains("the record ends before here"), "{told}");
}

#[test]
fn t_tamper_a_database_that_was_restored_from_an_older_state_is_not_sealed() {
    let world = World::new();
    world.project("demo");
    let older = sealed(&world, 1)["records"].as_u64().unwrap();
    world.run(["daemon", "stop"]).ok();
    fs::copy(world.path(DATABASE), world.path("older.db")).unwrap();
    change(&world, "lost");
    sealed(&world, older + 3);
    world.run(["daemon", "stop"]).ok();
    let kept = fs::read_to_string(world.path(CHECKPOINTS)).unwrap();
    fs::copy(world.path("older.db"), world.path(DATABASE)).unwrap();

    // It goes on with everything else, and says so.
    change(&world, "other");
    let problem = until("the status tells it", || {
        let status = world.json(&["daemon", "status"]);
        let problems = status["problems"].to_string();
        if problems.contains("no longer sealed") { Ok(problems) } else { Err(status.to_string()) }
    });
    assert!(problem.contains("restored from an older state"), "{problem}");
    let told = world.run(["audit", "verify"]).fails(1).stderr();
    assert!(told.contains("a checkpoint in") && told.contains("has signed"), "{told}");
    assert_eq!(fs::read_to_string(world.path(CHECKPOINTS)).unwrap(), kept, "nothing was signed");
    // The control: without what the host has kept, nobody could tell.
    fs::remove_file(world.path(CHECKPOINTS)).unwrap();
    world.run(["audit", "verify"]).ok();
}

/// Has the next look of a daemon find that the time for verifying has come.
fn verified_long_ago(world: &World) {
    fs::write(world.path(VERIFIED), r#"{"at":"2001-02-03T04:05:06Z"}"#).unwrap();
}

/// What the daily verification has put on the record, the latest first.
fn verifications(world: &World) -> Vec<Value> {
    let kind = ["audit", "list", "--kind", "node.record_verified"];
    world.json(&kind).as_array().unwrap().clone()
}

#[test]
fn t_tamper_an_edit_is_found_by_the_daily_verification_without_anybody_asking() {
    Record::on_both(|new| edited_and_verified_daily(new("")));
}

fn edited_and_verified_daily(mut record: Record) {
    record.world.set_env("STRATAVORE_TEST_TIMES", "alerts_every=100ms");
    let world = &record.world;
    world.project("demo");
    for n in 0..5 {
        change(world, &n.to_string());
    }
    sealed(world, 6);
    let first = until("it is looked whether it is time", || fs::read(world.path(VERIFIED)));
    let first: Value = serde_json::from_slice(&first).unwrap();
    world.run(["daemon", "stop"]).ok();
    assert_eq!(first["records"], Value::Null, "it has not been the time yet");
    // The control: a record that nobody has changed stands.
    verified_long_ago(world);
    world.run(["daemon", "start"]).ok();
    let stood = until("it was verified", || verifications(world).pop().ok_or(()));
    assert_eq!(
        (&stood["data"]["stands"], &stood["by"]),
        (&true.into(), &"daemon".into()),
        "{stood}"
    );
    assert!(stood["data"]["records"].as_u64() >= Some(6), "{stood}");
    world.run(["daemon", "stop"]).ok();

    record.without_trigger("events_immutable");
    record.behind("UPDATE events SET caused_by = 'nobody' WHERE position = 3");
    // Not before the time has come: a daemon that seals looks at no content again.
    world.run(["daemon", "start"]).ok();
    change(world, "after");
    assert_eq!(world.json(&["daemon", "status"])["problems"], serde_json::json!([]));
    world.run(["daemon", "stop"]).ok();
    verified_long_ago(world);
    world.run(["daemon", "start"]).ok();
    let told = until("the status tells it", || {
        let problems = world.json(&["daemon", "status"])["problems"].to_string();
        if problems.contains("the record did not stand") { Ok(problems) } else { Err(problems) }
    });
    assert!(told.contains("position 3: the record is not the one that was sealed"), "{told}");
    let fell = until("it is on the record", || {
        let all = verifications(world);
        all.iter().find(|one| one["data"]["stands"] == false).cloned().ok_or(all)
    });
    assert_eq!(fell["data"]["position"], 3, "{fell}");
    until("it is told as an alert", || {
        let alerts = world.json(&["audit", "list", "--kind", "system.alert"]);
        let of_it =
            |one: &&Value| one["data"]["problem"] == "record" && one["data"]["state"] == "raised";
        alerts.as_array().unwrap().iter().find(of_it).cloned().ok_or(alerts.clone())
    });
    // It is told after a restart too, until it was found to be well again.
    world.run(["daemon", "restart"]).ok();
    until("the status still tells it", || {
        let problems = world.json(&["daemon", "status"])["problems"].to_string();
        if problems.contains("the record did not stand") { Ok(()) } else { Err(problems) }
    });
}

/// A change that is answered, and of which every trace is taken out of the database before it was sealed.
/// Answers what the daemon that starts then has to say.
fn removed_unsealed(record: &Record) -> Value {
    let world = &record.world;
    world.project("demo");
    sealed(world, 1);
    let unsealed = "(position IS NULL OR position > (SELECT max(position) FROM audit_seals))";
    until("one dies between the answer and the seal", || {
        change(world, "that nobody is to know of");
        world.kill_daemon();
        let left =
            format!("SELECT count(*) FROM events WHERE kind = 'project.edited' AND {unsealed}");
        let left = record.number(&left);
        if left == 1 { Ok(()) } else { Err(left) }
    });
    record.without_trigger("events_kept");
    record.behind(&format!(
        "DELETE FROM outbox WHERE event_id IN (SELECT id FROM events WHERE {unsealed})"
    ));
    record.behind(&format!("DELETE FROM events WHERE {unsealed}"));
    record.behind("UPDATE event_positions SET last = (SELECT max(position) FROM audit_seals) WHERE name = 'events'");
    world.run(["daemon", "start"]).ok();
    change(world, "later");
    until("it was looked", || {
        let status = world.json(&["daemon", "status"]);
        let looked = status["tasks"].as_array().is_some_and(|tasks| {
            tasks.iter().any(|task| task["name"] == "journal" && task["runs"].as_u64() > Some(0))
        });
        if looked { Ok(status) } else { Err(status) }
    })
}

#[test]
fn t_tamper_what_is_deleted_before_it_is_sealed_is_noticed_in_strict_mode() {
    Record::on_both(|new| {
        let strict = new("events:\n  strict: on\n");
        let problems = removed_unsealed(&strict)["problems"].to_string();
        assert!(problems.contains("the record is not what this host has written"), "{problems}");
        assert!(problems.contains("is gone"), "{problems}");
        // The record itself shows nothing: what was never sealed is not missed by its seals.
        until("the rest is sealed", || {
            let ran = strict.world.run(["audit", "verify"]);
            if ran.code() == 0 { Ok(()) } else { Err(ran.everything()) }
        });
        // The control: without strict mode nobody can tell.
        let status = removed_unsealed(&new("events:\n  strict: off\n"));
        assert_eq!(status["problems"], serde_json::json!([]));
    });
}

/// What the `audit` task of the daemon has run so often.
fn looks(world: &World) -> u64 {
    let status = world.json(&["daemon", "status"]);
    let tasks = status["tasks"].as_array().unwrap().iter();
    let mut audit = tasks.filter(|task| task["name"] == "audit");
    audit.next().unwrap()["runs"].as_u64().unwrap()
}

#[test]
fn t_tamper_a_checkpoint_that_the_broker_was_given_tells_that_the_end_was_cut() {
    let outlet = Outlet::bound(vhost(), &["system.checkpoint.*"]);
    let mut world = outlet.world(&[]);
    world.set_env("STRATAVORE_TEST_TIMES", "alerts_every=1h,checkpoint_every=1s");
    let world = world;
    world.project("demo");
    sealed(&world, 1);
    let early = text(&world, "early.jsonl");
    world.run(["audit", "export", &early]).ok();
    fs::copy(world.path(CHECKPOINTS), world.path("kept-early")).unwrap();
    let last = || -> u64 {
        outlet
            .database
            .query("SELECT last FROM event_positions WHERE name = 'events'")
            .parse()
            .unwrap()
    };
    let before = last();
    change(&world, "what is to be cut off");
    let notes = until("the broker has a checkpoint of it", || {
        let received = outlet.consumer.received();
        let of = received.iter().map(|one| one.envelope()["data"].clone());
        let of: Vec<Value> = of.collect();
        match of.iter().any(|data| data["size"].as_u64() > Some(before)) {
            true => Ok(of),
            false => Err(of),
        }
    });
    let lines = notes.iter().map(|data| serde_json::json!({ "checkpoint": data["note"] }));
    let lines: String = lines.map(|line| format!("{line}\n")).collect();
    fs::write(world.path("kept-by-broker"), lines).unwrap();
    let whole = text(&world, "whole.jsonl");
    world.run(["audit", "export", &whole]).ok();
    verify_offline(&world, &whole, "kept-by-broker").ok();
    let told = verify_offline(&world, &early, "kept-by-broker").fails(1).stderr();
    assert!(told.contains("the record ends before here"), "{told}");
    // The control: by what was kept before nobody can tell.
    verify_offline(&world, &early, "kept-early").ok();

    // That a checkpoint was told is no reason to tell of another one.
    let at_rest = until("all of it is signed, and told", || {
        let sql = "SELECT (SELECT max(size) FROM audit_checkpoints) = last
            AND (SELECT kind FROM events WHERE position = last) = 'system.checkpoint'
            FROM event_positions WHERE name = 'events'";
        match outlet.database.query(sql).as_str() {
            "t" => Ok(last()),
            other => Err(other.to_owned()),
        }
    });
    let looked = looks(&world);
    until("it was looked some more times", || match looks(&world) {
        now if now >= looked + 4 => Ok(()),
        now => Err(now),
    });
    assert_eq!(last(), at_rest, "nothing has happened");
}

#[test]
fn a_journal_that_cannot_be_written_stops_changes_and_no_reading() {
    Record::on_both(|new| journal_that_cannot_be_written(&new("events:\n  strict: on\n")));
}

fn journal_that_cannot_be_written(record: &Record) {
    let world = &record.world;
    world.project("demo");
    let journal = world.path("state/audit/journal");
    until("all of it was found sealed", || {
        let text = fs::read_to_string(&journal).unwrap();
        if text.is_empty() { Ok(()) } else { Err(text) }
    });
    fs::remove_file(&journal).unwrap();
    fs::create_dir(&journal).unwrap();
    world.run(["projects", "edit", "demo", "--description", "unknown"]).fails(6);
    world.run(["projects", "edit", "demo", "--description", "refused"]).fails(6);
    let shown = world.json(&["projects", "show", "demo"]);
    assert_ne!(shown["description"], "refused", "{shown}");
    fs::remove_dir(&journal).unwrap();
    until("it goes on", || {
        let ran = world.run(["projects", "edit", "demo", "--description", "again"]);
        if ran.code() == 0 { Ok(()) } else { Err(ran.everything()) }
    });
}

#[test]
fn t_tamper_a_daemon_that_dies_while_it_seals_raises_no_alarm() {
    for place in ["seal_before_commit", "seal_committed"] {
        let mut world = World::new();
        world.project("demo");
        sealed(&world, 1);
        world.run(["daemon", "stop"]).ok();
        world.set_env("STRATAVORE_FAILPOINTS", &format!("{place}=abort"));
        world.run(["daemon", "start"]).ok();
        world.run(["--no-start", "projects", "edit", "demo", "--description", "x"]);
        until("it dies there", || match world.daemon_pid() {
            Some(pid) => Err(pid),
            None => Ok(()),
        });
        world.set_env("STRATAVORE_FAILPOINTS", "");
        change(&world, "y");
        sealed(&world, 5);
        let status = world.json(&["daemon", "status"]);
        assert_eq!(status["problems"], serde_json::json!([]), "{place}");
    }
}

#[test]
fn t_tamper_a_key_that_is_lost_is_told_and_its_copy_goes_on() {
    let world = World::new();
    world.project("demo");
    sealed(&world, 1);
    world.run(["daemon", "stop"]).ok();
    let (key, copy) = (world.path("state/audit/key"), world.path("copy"));
    fs::rename(&key, &copy).unwrap();
    change(&world, "unsealed");
    until("the status tells it", || {
        let problems = world.json(&["daemon", "status"])["problems"].to_string();
        if problems.contains("the key that signs it is gone") { Ok(()) } else { Err(problems) }
    });
    let before = world.json(&["audit", "verify"])["records"].as_u64().unwrap();
    fs::rename(&copy, &key).unwrap();
    sealed(&world, before + 1);
}
