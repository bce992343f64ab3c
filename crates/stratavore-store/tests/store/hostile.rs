//! Rows 73 and 74 of the fault catalogue: text is text, whatever it looks like.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use stratavore_core::event::{EventFilter, NewEvent};
use stratavore_core::idempotency::Idempotency;
use stratavore_core::name::Name;
use stratavore_core::project::Project;
use stratavore_core::runner::{Cause, Command, EnvValue, Exit, Input};
use stratavore_store::{NewRunner, StoreError, on_both_databases};

use crate::given::{self, at, name};
use crate::lease::{LONG, daemon};
use crate::raw;

const WELL_KNOWN: [&str; 14] = [
    "'; DROP TABLE projects; --",
    "\" OR \"\"=\"",
    "1' OR '1'='1",
    "$1 $2 :name ?1 ? @x",
    "\\'; --",
    "%_\\%",
    "/* */ UNION SELECT record FROM runners",
    "$$; SELECT 1; $$",
    "{\"a\": [1, 2]} \u{0000} nul",
    "line\r\nline\ttab\u{1b}[31mred\u{7}",
    "\u{202e}right to left\u{200b}\u{feff}",
    "𝕌𝕟𝕚𝕔𝕠𝕕𝕖 🦀 e\u{301}",
    "",
    "   ",
];

/// Texts that others found trouble with, and texts that chance makes.
fn texts() -> Vec<String> {
    let mut runner = TestRunner::new(Config::default());
    let any = proptest::string::string_regex("(?s).{0,40}").unwrap();
    let quoting =
        proptest::string::string_regex("['\"$;%_\\\\(){}\\[\\]?:\\x00-\\x1f-]{1,20}").unwrap();
    let mut texts: Vec<String> = WELL_KNOWN.iter().map(|text| (*text).to_owned()).collect();
    for _ in 0..20 {
        texts.push(any.new_tree(&mut runner).unwrap().current());
        texts.push(quoting.new_tree(&mut runner).unwrap().current());
    }
    texts
}

/// Names are the one text with rules; these are the worst that pass.
fn a_name(runner: &mut TestRunner) -> Name {
    let text = "[A-Za-z0-9][A-Za-z0-9._-]{0,62}".new_tree(runner).unwrap().current();
    text.parse().unwrap_or_else(|_| name("or-1-1.--"))
}

on_both_databases! {
    async fn every_text_of_ours_comes_back_as_it_was(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let mut chance = TestRunner::new(Config::default());
        for (n, text) in texts().into_iter().enumerate() {
            let project = Project {
                name: format!("p{n}").parse().unwrap(),
                directory: text.clone(),
                description: text.clone(),
                ..given::unborn_project("x")
            };
            store.project_create(&project, "ada", None).await.unwrap();
            let found = store.project_find(&given::reference(&project.id.to_string(), "prj")).await.unwrap();
            assert_eq!(found, project, "{text:?}");

            let env = |value: fn(String) -> EnvValue| (format!("{text}{n}"), value(text.clone()));
            let command = Command {
                assistant: a_name(&mut chance),
                argv: vec![text.clone(), text.clone()],
                given: 0,
                prompt: None,
                bare: false,
                headless: None,
                after_limit: Default::default(),
                labels: Vec::new(),
                env: BTreeMap::from([env(EnvValue::Literal), env(EnvValue::File)]),
                directory: text.clone(),
                ..given::command()
            };
            let called = a_name(&mut chance);
            let new = NewRunner {
                command,
                name: stratavore_store::NameWish::Exact(called.clone()),
                ..given::unborn(project.id, node, "x")
            };
            let runner = given::admit(store, new).await;
            assert_eq!(store.runner_get(runner.id).await.unwrap(), runner, "{text:?}");
            let by_name = given::reference(called.as_str(), "run");
            assert_eq!(store.runner_find(&by_name, Some(project.id)).await.unwrap(), runner);

            let exit = Exit { cause: Cause::ExecError(text.clone()), at: at(3) };
            let (next, _) = given::changed(&runner, Input::Exited { epoch: 1, exit }, at(4));
            let event = NewEvent::new("runner.failed", serde_json::json!({ "why": text, text.as_str(): [1.0, null] }));
            store.runner_write(&runner, &next, event.clone(), "daemon", None).await.unwrap();
            assert_eq!(store.runner_get(runner.id).await.unwrap(), next);

            let lease = store.lease_acquire("relay", daemon(), LONG).await.unwrap().unwrap();
            let published = store.outbox_publish(&lease, 10).await.unwrap();
            assert_eq!(published.last().unwrap().data, event.data, "{text:?}");
            store.lease_release(&lease).await.unwrap();
        }
        assert!(raw::number(&db, "SELECT count(*) FROM projects").await > 30, "and nothing was dropped");
    }

    async fn plain_columns_take_every_text_but_a_nul(db: TestStore) {
        let store = db.store();
        for (n, text) in texts().into_iter().enumerate() {
            let project = given::unborn_project(&format!("p{n}"));
            let created = store.project_create(&project, text.as_str(), None).await;
            let lease = store.lease_acquire(&text, daemon(), LONG).await;
            if text.contains('\0') {
                assert!(matches!(created, Err(StoreError::Invalid { .. })), "{text:?}: {created:?}");
                assert!(matches!(lease, Err(StoreError::Invalid { .. })), "{text:?}: {lease:?}");
                continue;
            }
            created.unwrap();
            let lease = lease.unwrap();
            let filter = EventFilter { entity_id: Some(text.clone()), kinds: vec![text.clone()], ..EventFilter::default() };
            assert!(store.event_list(0, &filter, 10).await.unwrap().is_empty());
            // Chance may make a text twice; its lease is free again.
            let lease = lease.expect("nobody holds it");
            let published = store.outbox_publish(&lease, 10).await.unwrap();
            assert_eq!(published[0].by, text);
            store.lease_release(&lease).await.unwrap();
        }
    }

    async fn an_idempotency_key_is_only_a_key(db: TestStore) {
        let store = db.store();
        for (n, text) in ["'", "';--", "%", "_", "$1", "\\", "\"", "a'||'b"].into_iter().enumerate() {
            let key = Idempotency::new(text.into(), [1; 32]).unwrap();
            let project = given::unborn_project(&format!("p{n}"));
            assert_eq!(store.project_create(&project, "ada", Some(&key)).await.unwrap(), project);
            assert_eq!(store.project_create(&project, "ada", Some(&key)).await.unwrap(), project);
        }
    }
}
