//! Rows 39 and 40 of the fault catalogue, on real standbys: a daemon refuses a standby, goes on with it
//! once it is promoted, and never again speaks to the primary of before, which still answers.

use stratavore_testkit::postgres::standby::{Name, until_caught_up};
use stratavore_testkit::postgres::{Durable, TestPostgres};
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, until};

use crate::pgdown::no_event_missing;

/// Ends the daemon's connections, so that it has to make new ones.
pub(crate) fn cut(database: &TestPostgres) {
    database.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name LIKE 'stratavore%'",
    );
}

fn edit(world: &World, text: &str) -> Result<(), String> {
    let ran = world.run(["projects", "edit", "demo", "--description", text]);
    if ran.output.status.success() { Ok(()) } else { Err(ran.everything()) }
}

fn until_edited(world: &World, text: &str) {
    until("the daemon goes on", || edit(world, text));
}

fn has(database: &TestPostgres, text: &str) -> bool {
    let sql = format!("SELECT count(*) FROM projects WHERE record LIKE '%\"{text}\"%'");
    database.query(&sql) != "0"
}

/// Whether the server has nothing of this, and the daemon says why. What it asks first may only meet the
/// end of the connection that it had.
fn refused(world: &World, database: &TestPostgres, text: &str, why: &str) -> Result<(), String> {
    until("it is told why, or not refused", || match edit(world, text) {
        _ if has(database, text) => Ok(Err(format!("{text} was written"))),
        Ok(()) => Ok(Err(format!("{text} was accepted"))),
        Err(said) if said.contains(why) => Ok(Ok(())),
        Err(said) => Err(said),
    })
}

/// Waits until the standby has what its primary has, and makes it a primary.
fn promote(primary: &TestPostgres, standby: &TestPostgres) {
    until_caught_up(primary, standby);
    standby.query("SELECT pg_promote()");
}

const OF_BEFORE: &str = "it is a primary of before";

#[test]
fn t_pgkill_after_a_failover_the_primary_of_before_is_not_spoken_to() {
    let mut trial = Trial::new(
        "T-PGKILL",
        "a standby is promoted: daemons go on with it, and write nothing to the primary of before",
    );
    let first = Durable::primary();
    let old = first.database();
    let name = Name::of(&old);
    let mut world = World::with_config(&old.settings(name.path()));
    world.set_env("STRATAVORE_TEST_TIMES", "server_every=200ms,alerts_every=1h");
    world.project("demo");
    let standby = first.standby();
    let new = standby.copy_of(&old);

    // A standby is refused, by a daemon that has no other connection.
    name.leads_to(&new);
    cut(&old);
    trial.tried(refused(&world, &old, "too early", "is a standby"));

    promote(&old, &new);
    until_edited(&world, "promoted");
    trial.tried(if has(&new, "promoted") { Ok(()) } else { Err("it is not there".into()) });
    until("every event is there and has its place", || no_event_missing(&new));

    // The primary of before answers as ever; nothing goes there, nor to a daemon that starts anew.
    name.leads_to(&old);
    for round in 0..scale(2, 20) {
        cut(&new);
        trial.tried(refused(&world, &old, &format!("split {round}"), OF_BEFORE));
        let problems = world.json(&["daemon", "status"]).to_string();
        let says = problems.contains(OF_BEFORE) && problems.contains("pg_rewind");
        trial.tried(if says { Ok(()) } else { Err(problems) });
    }
    world.kill_daemon();
    let started = world.run(["daemon", "start"]).everything();
    trial.tried(match world.daemon_pid().is_none() && started.contains(OF_BEFORE) {
        true => Ok(()),
        false => Err(started),
    });

    name.leads_to(&new);
    world.run(["daemon", "start"]).ok();
    until_edited(&world, "goes on");

    // The connections that there are lead to the primary of before and work: they are given up.
    let third = standby.standby();
    let newest = third.copy_of(&old);
    promote(&new, &newest);
    name.leads_to(&newest);
    until("what is written is on the server that was promoted", || {
        edit(&world, "again").map(|()| has(&newest, "again"))?.then_some(()).ok_or(String::new())
    });
    trial.tried(edit(&world, "last"));
    trial.tried(if has(&newest, "last") { Ok(()) } else { Err("it went elsewhere".into()) });
    until("every event is there and has its place", || no_event_missing(&newest));

    // The control: without the check it is written to the primary of before.
    world.kill_daemon();
    world.set_env("STRATAVORE_FAILPOINTS", "server=off");
    name.leads_to(&old);
    world.run(["daemon", "start"]).ok();
    until_edited(&world, "split brain");
    let caught = refused(&world, &old, "split brain", OF_BEFORE).is_err();
    trial.control("a daemon that does not look which server it is", caught);
    trial.end();
}
