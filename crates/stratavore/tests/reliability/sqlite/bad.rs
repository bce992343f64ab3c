//! Row 48: the database is held by another program, damaged, or grown large.

use std::fs;
use std::time::{Duration, Instant};

use stratavore_proto::client::problem;
use stratavore_proto::v1::{EditProject, ListRunners};
use stratavore_store::testing::{SqliteHold, sqlite_execute};
use stratavore_testkit::wire::{client, fresh_key, on_runtime};
use stratavore_testkit::world::{World, until};
use tonic::Code;

fn edit(key: &str) -> EditProject {
    EditProject {
        idempotency_key: key.into(),
        project: "demo".into(),
        description: Some(key.into()),
        ..EditProject::default()
    }
}

#[test]
fn a_database_that_another_program_writes_to_is_waited_for_and_then_refused_for_now() {
    let world = World::new();
    world.project("demo");
    let file = world.path("state/stratavore.db");
    on_runtime(async {
        let client = client(&world).await;
        let (mut projects, key) = (client.projects(), fresh_key("busy"));
        let held = SqliteHold::take(&file).await;
        let began = Instant::now();
        let refused = projects.edit(edit(&key)).await.expect_err("it cannot be written");
        let (took, said) = (began.elapsed(), problem(&refused));
        assert_eq!((refused.code(), said.code.as_str()), (Code::Unavailable, "store_unavailable"));
        assert!(said.message.contains("too busy"), "{said:?}");
        assert!(said.hint.contains("try again"), "{said:?}");
        // Five seconds for the other program, or two behind a writer of ours that waits for it.
        let patient = took > Duration::from_millis(1500) && took < Duration::from_secs(15);
        assert!(patient, "{took:?}");

        // Whoever only reads is not kept waiting, and a short wait ends well.
        let again = async {
            loop {
                match client.projects().edit(edit(&key)).await {
                    Ok(edited) => return edited.into_inner().generation,
                    Err(status) => assert_eq!(problem(&status).code, "store_unavailable"),
                }
                assert!(began.elapsed() < Duration::from_secs(60), "it is never written");
            }
        };
        let meanwhile = async {
            client.runners().list(ListRunners::default()).await.expect("it can be read");
            drop(held);
        };
        let (generation, ()) = tokio::join!(again, meanwhile);
        assert_eq!(generation, 2, "it was edited once");
    });
}

/// Writes over the second half of the database.
fn damage(world: &World) -> Vec<u8> {
    let file = world.path("state/stratavore.db");
    let mut bytes = fs::read(&file).unwrap();
    let from = bytes.len() / 2;
    bytes[from..].fill(0x5a);
    fs::write(&file, &bytes).unwrap();
    bytes
}

#[test]
fn a_damaged_database_is_refused_with_what_to_do_and_left_as_it_is() {
    let world = World::new();
    world.project("demo");
    let file = world.path("state/stratavore.db");
    world.run(["daemon", "stop"]).ok();
    let whole = fs::read(&file).unwrap();
    let half = || whole[..whole.len() / 2].to_vec();
    let text = || "this is no database, and long enough to be sure\n".repeat(100).into_bytes();
    for damaged in [damage(&world), half(), text()] {
        fs::write(&file, &damaged).unwrap();
        let said = world.run(["runners"]).fails(6).stderr();
        for words in ["database", "next: ", "restore it from a backup, or move it away"] {
            assert!(said.contains(words), "no {words:?} in {said}");
        }
        assert_eq!(world.daemon_pid(), None);
        assert_eq!(fs::read(&file).unwrap(), damaged, "nothing is written over it");
    }
    // The control, and both ways out: the whole one is taken, and so is none at all.
    fs::write(&file, &whole).unwrap();
    assert_eq!(world.json(&["projects"]).as_array().unwrap().len(), 1);
    world.run(["daemon", "stop"]).ok();
    fs::rename(&file, world.path("moved-away")).unwrap();
    assert_eq!(world.json(&["projects"]).as_array().unwrap().len(), 0);
}

/// A large database is not read to its end before it is used; its damage is told all the same.
#[test]
fn the_damage_of_a_large_database_is_told_while_it_is_used() {
    let world = World::new();
    world.project("demo");
    let file = world.path("state/stratavore.db");
    world.run(["daemon", "stop"]).ok();
    let filler = "INSERT INTO idempotency_records (key, request, answer, expires_at)
        WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2000)
        SELECT 'filler-' || n, randomblob(10000), NULL, 9000000000000000 FROM n";
    on_runtime(sqlite_execute(&file, filler));
    let problems = || world.json(&["status"])["daemon"]["problems"].to_string();
    let checked = |wanted: &str| {
        world.run(["daemon", "start"]).ok();
        until(wanted, || match world.json(&["daemon", "status"])["tasks"].to_string() {
            tasks if tasks.contains(wanted) => Ok(()),
            tasks => Err(tasks),
        });
    };
    checked("no damage found");
    assert!(!problems().contains("database file"), "{}", problems());
    world.run(["daemon", "stop"]).ok();

    damage(&world);
    checked("restore it from a backup");
    assert!(problems().contains("the database file"), "{}", problems());
    let status = world.json(&["status"]);
    assert_eq!(status["daemon"]["health"], "degraded", "{status}");
    // What the damage has not met is there, and what it has is refused with what to do.
    assert_eq!(world.json(&["projects"]).as_array().unwrap().len(), 1);
    let launch = ["launch", "--project", "demo", "--name", "one", "--", "sleep", "1000"];
    let said = world.run(launch).fails(6).stderr();
    assert!(said.contains("malformed") && said.contains("restore it from a backup"), "{said}");
}
