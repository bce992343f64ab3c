//! T-PGKILL: PostgreSQL is killed under load. What was acknowledged is there afterwards, and what
//! was not is resolved by its key: it happened once or not at all, never twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use stratavore_proto::client::{Client, problem};
use stratavore_testkit::postgres::{Durable, TestPostgres};
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::wire::{client, fresh_key, new_project, new_runner, on_runtime};
use stratavore_testkit::world::{World, until};

use crate::pgdown::no_event_missing;

const WRITERS: usize = 8;

/// What was asked for with a key, and the id that was answered, if any.
type Asked = BTreeMap<String, Option<String>>;

/// Writes until the database is away, or `enough` were acknowledged. Each other request makes a
/// project, the others launch a runner that ends at once.
async fn write(client: &Client, world: &World, enough: usize) -> Asked {
    let mut asked = Asked::new();
    for n in 0..enough {
        let key = fresh_key("pgkill");
        match ask(client, world, &key, n).await {
            Ok(id) => drop(asked.insert(key, Some(id))),
            Err(code) => {
                assert_eq!(code, "store_unavailable");
                asked.insert(key, None);
                break;
            }
        }
    }
    asked
}

async fn ask(client: &Client, world: &World, key: &str, n: usize) -> Result<String, String> {
    let answer = if n.is_multiple_of(4) {
        let runner = stratavore_proto::v1::LaunchRunners {
            args: vec!["true".into()],
            ..new_runner("demo", key.into())
        };
        let launched = client.runners().launch(runner).await;
        launched.map(|list| list.into_inner().runners.remove(0).id)
    } else {
        let project = new_project(world, &format!("p-{key}"), key.into());
        client.projects().create(project).await.map(|project| project.into_inner().id)
    };
    answer.map_err(|status| problem(&status).code)
}

/// Which of the acknowledged things the database does not have.
fn lost(database: &TestPostgres, asked: &Asked) -> Result<(), String> {
    let known = "SELECT id FROM projects UNION ALL SELECT id FROM runners";
    let known = database.query(known);
    let known: std::collections::BTreeSet<&str> = known.lines().collect();
    let acknowledged = asked.values().flatten();
    match acknowledged.filter(|id| !known.contains(id.as_str())).collect::<Vec<_>>() {
        lost if lost.is_empty() => Ok(()),
        lost => Err(format!("acknowledged and lost: {lost:?}")),
    }
}

/// Asks for everything again, with the keys that it had, and answers how many things there are for
/// them and whether each acknowledged one is answered alike.
async fn resolve(client: &Client, world: &World, asked: &Asked) -> Result<(), String> {
    for (n, (key, before)) in asked.iter().enumerate() {
        // The kind of request is told by what was answered, or is found by trying.
        let kinds = match before {
            Some(id) if id.starts_with("run") => vec![0],
            Some(_) => vec![1],
            None => vec![0, 1],
        };
        let mut answers = Vec::new();
        for kind in kinds {
            answers.push(ask(client, world, key, kind).await);
        }
        let fits = match before {
            Some(id) => answers == [Ok(id.clone())],
            // One kind is carried out or answered, the other is refused as another use of the key.
            None => answers.iter().filter(|answer| answer.is_ok()).count() == 1,
        };
        if !fits {
            return Err(format!("{n}: {key} was answered {before:?}, then {answers:?}"));
        }
    }
    Ok(())
}

#[test]
fn t_pgkill_what_was_acknowledged_survives_the_database() {
    let mut trial = Trial::new("T-PGKILL", "acknowledged is durable, ambiguous is resolved by key");
    let mut dice = trial.dice();
    let mut server = Durable::start();
    let database = server.database();
    let world = World::with_config(&database.settings(&database.socket_dir));
    world.large_project("demo");
    let (mut acknowledged, mut ambiguous) = (0, 0);
    let mut all = Asked::new();
    for _ in 0..scale(3, 100) {
        let before = database.query("SELECT count(*) FROM events");
        let before: usize = before.parse().expect("a number");
        let enough = before + 10 + dice.below(60);
        let asked = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                on_runtime(async {
                    let client = client(&world).await;
                    let writers = (0..WRITERS).map(|_| write(&client, &world, 10_000));
                    join_all(writers).await.into_iter().flatten().collect::<Asked>()
                })
            });
            until("so much has been written", || {
                let events = database.query("SELECT count(*) FROM events");
                if events.parse::<usize>().is_ok_and(|n| n >= enough) {
                    Ok(())
                } else {
                    Err(events)
                }
            });
            server.kill();
            writing.join().expect("the writers do not fail")
        });
        let began = Instant::now();
        server.start_again();
        trial.measured("the server answers again after its start", began.elapsed());
        let began = Instant::now();
        on_runtime(async {
            let client = client(&world).await;
            while let Err(why) = ask(&client, &world, &fresh_key("again"), 1).await {
                assert!(began.elapsed() < Duration::from_secs(30), "{why}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        trial.measured("writes again after the server", began.elapsed());
        trial.tried(lost(&database, &asked));
        trial.tried(on_runtime(async { resolve(&client(&world).await, &world, &asked).await }));
        acknowledged += asked.values().flatten().count() as u64;
        ambiguous += asked.values().filter(|answer| answer.is_none()).count() as u64;
        all.extend(asked);
    }
    until("every event is there and has its place", || no_event_missing(&database));
    trial.tried(lost(&database, &all));
    trial.counted("acknowledged", acknowledged);
    trial.counted("ambiguous", ambiguous);

    let never = Asked::from([("never".into(), Some("prj_never".into()))]);
    trial.control("an acknowledged project that is not there", lost(&database, &never).is_err());
    let (key, answer) = all.iter().find(|(_, answer)| answer.is_some()).expect("some were");
    let other = Asked::from([(format!("{key}-other"), answer.clone())]);
    let noticed = on_runtime(async { resolve(&client(&world).await, &world, &other).await });
    trial.control("an answer that a retry does not get again", noticed.is_err());
    trial.end();
}
