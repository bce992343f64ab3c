//! No statement is invalid, and none names what the schema does not have.

use std::collections::BTreeSet;
use std::path::Path;

use stratavore_core::event::EventFilter;
use stratavore_store::testing::statements;
use stratavore_store::{RunnerFilter, on_both_databases};

use crate::{given, raw};

/// The words that a statement begins with.
const VERBS: [&str; 5] = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH "];

/// `module NAME` of each constant in the sources that holds a statement. rustfmt leaves one way to
/// write a declaration.
fn declared() -> BTreeSet<String> {
    let mut declared = BTreeSet::new();
    for entry in std::fs::read_dir(sources()).unwrap() {
        let path = entry.unwrap().path();
        let text = if path.is_file() { std::fs::read_to_string(&path).unwrap() } else { continue };
        for declaration in text.split("const ").skip(1) {
            let Some((name, value)) = declaration.split_once(": &str =") else { continue };
            let value = value.trim_start().trim_start_matches('"');
            if !name.contains(char::is_whitespace) && VERBS.iter().any(|v| value.starts_with(v)) {
                let module = path.file_stem().unwrap().to_str().unwrap();
                declared.insert(format!("{module} {name}"));
            }
        }
    }
    declared
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
    // Those of opening the store, and of helping tests, stand where they are used; no other does.
    for entry in std::fs::read_dir(sources()).unwrap() {
        let path = entry.unwrap().path();
        let may = ["open.rs", "postgres.rs", "sqlite.rs", "testing.rs"];
        if path.is_file() && !may.iter().any(|file| path.ends_with(file)) {
            let text = std::fs::read_to_string(&path).unwrap();
            let inline = ["query(\"", "query_as(\"", "query_scalar(\""];
            assert!(inline.iter().all(|made| !text.contains(made)), "{}", path.display());
        }
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
    }
}
