//! T-PGDOWN: while PostgreSQL is frozen or down no runner is harmed, whoever asks is told at once
//! that the database is away and what to do, and afterwards all goes on by itself.

use std::time::{Duration, Instant};

use stratavore_proto::client::{Client, problem};
use stratavore_proto::v1::{ListRunners, StatusRequest};
use stratavore_testkit::postgres::{Durable, TestPostgres};
use stratavore_testkit::trial::{Trial, is_long, scale};
use stratavore_testkit::wire::{client, fresh_key, new_runner, on_runtime};
use stratavore_testkit::world::{World, signal, until};
use tonic::{Code, Status};

use crate::printing::Printing;

/// The longest that a refusal may take: a second for a connection, one for a statement and one more
/// for the server's word on it, which does not come; and a machine that does other things too.
const ANSWERED: Duration = Duration::from_secs(6);

/// Whether the database has one event for each generation of each thing, and their positions have
/// no gap.
pub(crate) fn no_event_missing(database: &TestPostgres) -> Result<(), String> {
    no_event_missing_by(|sql| database.try_query(sql))
}

/// The same of a database that is asked so.
pub(crate) fn no_event_missing_by(
    ask: impl Fn(&str) -> Result<String, String>,
) -> Result<(), String> {
    let short = "SELECT '' || count(*) FROM
            (SELECT id, generation FROM runners UNION ALL SELECT id, generation FROM projects) AS of
        WHERE generation <> (SELECT count(*) FROM events WHERE entity_id = of.id)";
    let gaps = "SELECT '' || (count(*) - coalesce(max(position), 0)) FROM events
        WHERE position IS NOT NULL";
    match [short, gaps].map(ask) {
        [Ok(short), Ok(gaps)] if short == "0" && gaps == "0" => Ok(()),
        found => Err(format!("things with another number of events, gaps: {found:?}")),
    }
}

/// Whether a refusal says that the database is away, and what to do about it.
fn says_so<T>(answer: Result<T, Status>, took: Duration) -> Result<(), String> {
    let Err(status) = answer else { return Err("it was carried out".into()) };
    let said = problem(&status);
    let rightly = status.code() == Code::Unavailable
        && said.code == "store_unavailable"
        && said.hint.contains("again")
        && took < ANSWERED;
    if rightly { Ok(()) } else { Err(format!("after {took:?}: {:?}, {said:?}", status.code())) }
}

/// What a client is told while the database is away.
async fn ask_in_vain(client: &Client, trial: &mut Trial) {
    for _ in 0..2 {
        let began = Instant::now();
        let listed = client.runners().list(ListRunners::default()).await;
        trial.measured("a list refused after", began.elapsed());
        trial.tried(says_so(listed, began.elapsed()));

        let began = Instant::now();
        let launched = client.runners().launch(new_runner("demo", fresh_key("down"))).await;
        trial.measured("a launch refused after", began.elapsed());
        trial.tried(says_so(launched, began.elapsed()));

        let began = Instant::now();
        let status =
            client.daemon().status(StatusRequest {}).await.expect("the daemon says how it is");
        let problems = status.into_inner().problems;
        trial.tried(match began.elapsed() < ANSWERED && !problems.is_empty() {
            true => Ok(()),
            false => Err(format!("after {:?}: {problems:?}", began.elapsed())),
        });
    }
}

/// A person attaches, sees it print, and lets go.
pub(crate) fn attach(world: &World, of: &Printing) {
    let next = format!("line {}", of.printed() + 2);
    let mut terminal = world.terminal(&["attach", &of.runner], 24, 80);
    terminal.until_text(&next);
    terminal.press(b"\x11");
    assert!(terminal.wait_exit().success());
}

/// The runners that are running, with their agents connected, by what the daemon says.
pub(crate) async fn running(client: &Client) -> Result<usize, Status> {
    let listed = client.runners().list(ListRunners::default()).await?.into_inner().runners;
    Ok(listed.iter().filter(|runner| runner.state == "running" && runner.connected).count())
}

fn t_pgdown(how: &str, rounds: usize, down: fn(&Durable), up: fn(&mut Durable), long: Duration) {
    let mut trial = Trial::new("T-PGDOWN", &format!("{how}: no runner fails, no event is lost"));
    let mut server = Durable::start();
    let database = server.database();
    let world = World::with_config(&database.settings(&database.socket_dir));
    world.large_project("demo");
    let names: Vec<String> = (1..=scale(3, 50)).map(|n| format!("runner-{n}")).collect();
    let runners: Vec<Printing> =
        names.iter().map(|name| Printing::launch(&world, name, &["--every", "20"])).collect();
    for round in 0..rounds {
        let ending = ["--every", "20", "--lines", "60", "--exit", "7"];
        let ending = Printing::launch(&world, &format!("ending-{round}"), &ending);
        down(&server);
        let began = Instant::now();
        on_runtime(async { ask_in_vain(&client(&world).await, &mut trial).await });
        attach(&world, &runners[0]);
        until("a runner has ended while nobody could write it down", || {
            if ending.process.is_alive() { Err("it lives") } else { Ok(()) }
        });
        // The runners' lines are the clock.
        let line = runners[0].printed();
        let left = long.saturating_sub(began.elapsed());
        while runners[0].printed() < line + left.as_millis() as usize / 20 {
            std::thread::sleep(Duration::from_millis(10));
        }

        up(&mut server);
        let began = Instant::now();
        on_runtime(async {
            let client = client(&world).await;
            while running(&client).await.ok() != Some(runners.len()) {
                assert!(began.elapsed() < Duration::from_secs(60), "{:?}", running(&client).await);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        trial.measured("all as before after", began.elapsed());
        let shown = world.until_state(&ending.runner, &["exited", "failed", "lost"]);
        trial.tried(match shown["cause"] == "exit 7" {
            true => Ok(()),
            false => Err(format!("the end that nobody saw: {shown}")),
        });
        for runner in &runners {
            trial.tried(runner.held(&world));
        }
        until("every event is there and has its place", || no_event_missing(&database));
        trial.tried(Ok(()));
    }
    let said = world.json(&["events", "list", "--limit", "1000"]);
    let failed: Vec<_> = stratavore_testkit::world::rows(&said)
        .iter()
        .filter(|event| event["kind"] == "runner.failed" || event["kind"] == "runner.lost")
        .collect();
    assert_eq!(failed.len(), rounds, "only those that ended by themselves: {failed:?}");

    // Without the triggers, which would not have it.
    database.query(
        "SET session_replication_role = replica; DELETE FROM events WHERE kind = 'runner.failed'",
    );
    trial.control("an event that is gone", no_event_missing(&database).is_err());
    let [agent] = world.agents_of(&runners[0].runner)[..] else { panic!("it has one agent") };
    signal(agent, rustix::process::Signal::KILL);
    until("its process has gone with it", || {
        if runners[0].process.is_alive() { Err(agent) } else { Ok(()) }
    });
    trial.control("a runner that the outage cost", runners[0].held(&world).is_err());
    trial.end();
}

#[test]
fn t_pgdown_a_frozen_database_harms_no_runner() {
    let long = Duration::from_secs(if is_long() { 120 } else { 5 });
    t_pgdown("frozen", scale(1, 20), Durable::freeze, |server| server.thaw(), long);
}

#[test]
fn t_pgdown_a_stopped_database_harms_no_runner() {
    let long = Duration::from_secs(if is_long() { 600 } else { 3 });
    t_pgdown("stopped", scale(1, 20), Durable::stop, Durable::start_again, long);
}
