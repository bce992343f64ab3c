//! Both schemas are one schema, and those of other versions are what they were.

use std::collections::BTreeSet;
use std::path::Path;

use stratavore_core::event::EventFilter;
use stratavore_store::testing::TestStore;
use stratavore_store::testing::schema::{Next, make_next, migrations, newest};
use stratavore_store::{RunnerFilter, Store, StoreError, on_both_databases};

use crate::lease::{LONG, daemon};
use crate::{given, raw};

/// `table.column type null`, with the types by what they hold. What begins with an underscore is one
/// database's own, here and below.
async fn columns(db: &TestStore) -> BTreeSet<String> {
    let sql = if db.file().is_some() {
        "SELECT t.name || '.' || c.name || ' ' || c.type || CASE WHEN c.\"notnull\" = 1 OR c.pk > 0 THEN '' ELSE ' null' END
         FROM sqlite_schema AS t JOIN pragma_table_info(t.name) AS c
         WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.name NOT LIKE '\\_%' ESCAPE '\\'
            AND c.name NOT LIKE '\\_%' ESCAPE '\\'"
    } else {
        "SELECT table_name || '.' || column_name || ' ' || data_type
            || CASE WHEN is_nullable = 'YES' THEN ' null' ELSE '' END
         FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name NOT LIKE '\\_%' AND column_name NOT LIKE '\\_%'"
    };
    let same = [
        (" timestamp with time zone", " INTEGER"),
        (" bigint", " INTEGER"),
        (" text", " TEXT"),
        (" bytea", " BLOB"),
    ];
    let found = raw::texts(db, sql).await.into_iter();
    found
        .map(|column| same.iter().fold(column, |text, (from, to)| text.replace(from, to)))
        .collect()
}

/// `table name unique` of every index that we named.
async fn indexes(db: &TestStore) -> BTreeSet<String> {
    let sql = if db.file().is_some() {
        "SELECT tbl_name || ' ' || name || CASE WHEN sql LIKE 'CREATE UNIQUE%' THEN ' unique' ELSE '' END
         FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
    } else {
        "SELECT tablename || ' ' || indexname || CASE WHEN indexdef LIKE 'CREATE UNIQUE%' THEN ' unique' ELSE '' END
         FROM pg_indexes WHERE schemaname = 'public' AND indexname NOT LIKE '\\_%' AND indexname NOT IN
            (SELECT conname FROM pg_constraint)"
    };
    raw::texts(db, sql).await.into_iter().collect()
}

async fn triggers(db: &TestStore) -> BTreeSet<String> {
    let sql = if db.file().is_some() {
        "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
    } else {
        // SQLite has no TRUNCATE to be refused.
        "SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal AND tgname NOT LIKE '%\\_whole'"
    };
    raw::texts(db, sql).await.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_columns_indexes_and_triggers_agree() {
    let (sqlite, postgres) = (TestStore::sqlite().await, TestStore::postgres().await);
    let (ours, theirs) = (columns(&sqlite).await, columns(&postgres).await);
    assert!(ours.len() > 60, "{ours:?}");
    let differ: Vec<_> = ours.symmetric_difference(&theirs).collect();
    assert!(differ.is_empty(), "only one of the databases has {differ:?}");
    assert_eq!(indexes(&sqlite).await, indexes(&postgres).await);
    assert_eq!(triggers(&sqlite).await, triggers(&postgres).await);
}

/// A migration that was applied somewhere never changes.
#[test]
fn the_kept_migrations_are_those_of_the_program() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas/kept");
    let mut seen = 0;
    for (engine, number, text) in migrations() {
        let mut files = std::fs::read_dir(kept.join(engine)).unwrap().map(|file| file.unwrap());
        let of_it = files
            .find(|file| file.file_name().to_string_lossy().starts_with(&format!("{number:04}_")));
        if let Some(file) = of_it {
            assert_eq!(std::fs::read_to_string(file.path()).unwrap(), text, "{:?}", file.path());
            seen += 1;
        }
    }
    let files = ["sqlite", "postgres"].map(|of| std::fs::read_dir(kept.join(of)).unwrap().count());
    assert_eq!(seen, files.iter().sum::<usize>(), "each is one of the program's");
    assert!(files.iter().all(|count| *count >= 5), "{files:?}");
}

/// Whether a migration takes away what programs use, by its words.
fn takes_away(text: &str) -> bool {
    let text = text.to_uppercase();
    let words = ["DROP TABLE", "DROP COLUMN", "RENAME ", "SET NOT NULL", " TYPE "];
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("--"));
    lines.into_iter().any(|line| words.iter().any(|word| line.contains(word)))
}

#[test]
fn a_migration_that_takes_something_away_says_which_programs_may_go_on() {
    let says = |text: &str| text.contains("UPDATE schema_compatibility");
    for (engine, number, text) in migrations() {
        assert!(!takes_away(text) || says(text), "{engine} {number}: it has to raise works_from");
    }
    // The control: one that only adds, and one that does not.
    let next = |name: &str| {
        let file = format!("tests/schemas/next/{name}.sql");
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
    };
    assert!(!takes_away(&next("expand.postgres")) && !takes_away(&next("expand.sqlite")));
    assert!(takes_away(&next("contract.postgres")) && takes_away(&next("contract.sqlite")));
}

/// What a daemon does to runners and events.
async fn works(store: &Store, called: &str) {
    let node = given::node(store).await;
    let project = given::project(store, called).await;
    let runner = given::runner(store, &project, node, "one").await;
    given::end(store, &runner).await;
    let lease = store.lease_acquire("relay", daemon(), LONG).await.unwrap().unwrap();
    assert_eq!(store.outbox_publish(&lease, 100).await.unwrap().len(), 3);
    store.lease_release(&lease).await.unwrap();
    let filter = RunnerFilter { project: Some(project.id), ..RunnerFilter::default() };
    assert_eq!(store.runner_list(&filter).await.unwrap().len(), 1);
    let filter = EventFilter { project: Some(project.id), ..EventFilter::default() };
    assert_eq!(store.event_list(0, &filter, 100).await.unwrap().len(), 3);
}

on_both_databases! {
    async fn a_program_of_today_works_on_a_schema_to_come_that_only_adds(db: TestStore) {
        works(db.store(), "before").await;
        let number = make_next(db.settings(), Next::Expand).await;
        assert_eq!(number, newest() + 1);
        // One that was at work when it came, with its statements prepared, and one that starts.
        works(db.store(), "meanwhile").await;
        let next = db.another().await;
        assert_eq!(next.pool_status().schema, number);
        works(&next, "after").await;
        let coloured = "SELECT count(*) FROM runner_colours WHERE colour = 'none'";
        assert_eq!(raw::number(&db, coloured).await, 2);
    }

    async fn a_schema_to_come_that_takes_something_away_is_refused(db: TestStore) {
        let number = make_next(db.settings(), Next::Contract).await;
        match Store::open(db.settings().clone()).await {
            Err(StoreError::SchemaNewer { found, known, needed }) => {
                assert_eq!((found, known, needed), (number, newest(), number));
            }
            other => panic!("{:?}", other.err()),
        }
    }
}
