//! No statement is invalid, and none names what the schema does not have.

use std::collections::BTreeSet;
use std::path::Path;

use stratavore_core::event::EventFilter;
use stratavore_core::liveness::Liveness;
use stratavore_core::runner::Runner;
use stratavore_store::testing::statements;
use stratavore_store::{RunnerFilter, on_both_databases};

use crate::{given, raw};

/// The words that a statement begins with.
const VERBS: [&str; 5] = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH "];

/// Those whose statements are run at each opening, or help tests, and are on no list.
const WITHOUT_LIST: [&str; 4] = ["open.rs", "postgres.rs", "sqlite.rs", "testing.rs"];

/// `module NAME` of each constant in the sources that holds a statement. rustfmt leaves one way to
/// write a declaration.
fn declared() -> BTreeSet<String> {
    let mut declared = BTreeSet::new();
    for (module, text) in listing() {
        for declaration in text.split("const ").skip(1) {
            let Some((name, value)) = declaration.split_once(": &str =") else { continue };
            let value = value.trim_start().trim_start_matches('"');
            if !name.contains(char::is_whitespace) && VERBS.iter().any(|v| value.starts_with(v)) {
                declared.insert(format!("{module} {name}"));
            }
        }
    }
    declared
}

/// The modules that have to list their statements, with their text.
fn listing() -> Vec<(String, String)> {
    let paths = std::fs::read_dir(sources()).unwrap().map(|entry| entry.unwrap().path());
    let listing = paths
        .filter(|path| path.is_file() && !WITHOUT_LIST.iter().any(|file| path.ends_with(file)));
    let read = |path: std::path::PathBuf| {
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (module, std::fs::read_to_string(path).unwrap())
    };
    listing.map(read).collect()
}

fn sources() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

#[test]
fn every_statement_is_listed() {
    let listed: BTreeSet<String> =
        statements().iter().map(|(module, name, _)| format!("{module} {name}")).collect();
    let declared = declared();
    assert!(declared.len() > 50, "{declared:?}");
    assert_eq!(listed, declared);
    for (module, text) in listing() {
        let inline = ["query(\"", "query_as(\"", "query_scalar(\""];
        assert!(inline.iter().all(|made| !text.contains(made)), "{module} has one inline");
    }
}

fn given_beat(runner: &Runner) -> Liveness {
    Liveness {
        runner: runner.id,
        epoch: runner.epoch,
        at: given::at(0),
        cpu_ms: 1,
        memory: 2,
        processes: 3,
        output_bytes: 4,
        output_at: None,
        viewers: 5,
    }
}

on_both_databases! {
    async fn the_database_takes_every_statement(db: TestStore) {
        let others = if db.file().is_some() { "_POSTGRES" } else { "_SQLITE" };
        let mut refused = Vec::new();
        for (module, name, sql) in statements() {
            if name.ends_with(others) {
                continue;
            }
            if let Err(why) = raw::prepare(&db, sql).await {
                refused.push(format!("{module} {name}: {why}"));
            }
        }
        assert!(refused.is_empty(), "{refused:#?}");
        // The control: what is wrong is noticed, though it is never run.
        for wrong in ["SELECT colour FROM runners", "UPDATE runner SET state = $1", "SELEC 1"] {
            assert!(raw::prepare(&db, wrong).await.is_err(), "{wrong}");
        }
    }

    /// What is put together is run, with all that can be in it.
    async fn the_database_takes_every_filter(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let runner = given::runner(store, &project, node, "one").await;
        let whole = RunnerFilter {
            project: Some(project.id),
            node: Some(node),
            live_only: true,
            states: vec!["pending".into(), "running".into()],
            before: Some((given::at(1000), runner.id)),
            limit: Some(10),
        };
        for filter in [RunnerFilter::default(), whole] {
            assert_eq!(store.runner_list(&filter).await.unwrap().len(), 1, "{filter:?}");
        }
        let whole = EventFilter {
            project: Some(project.id),
            entity_id: Some(runner.id.to_string()),
            kinds: vec!["runner.".into(), "project.created".into()],
        };
        for filter in [EventFilter::default(), whole] {
            store.event_list(0, &filter, 10).await.unwrap();
            store.event_latest(&filter, 10).await.unwrap();
        }
        // A first one, and a later one.
        for second in [1, 2] {
            let beat = Liveness { at: given::at(second), ..given_beat(&runner) };
            store.liveness_record(&[beat]).await.unwrap();
            let listed = store.runner_list(&RunnerFilter::default()).await.unwrap();
            assert_eq!(listed[0].1, Some(beat));
        }
    }
}
