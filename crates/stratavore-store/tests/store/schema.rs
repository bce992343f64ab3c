//! Both schemas are one schema.

use std::collections::BTreeSet;

use stratavore_store::testing::TestStore;

use crate::raw;

/// `table.column type null`, with the types by what they hold.
async fn columns(db: &TestStore) -> BTreeSet<String> {
    let sql = if db.file().is_some() {
        "SELECT t.name || '.' || c.name || ' ' || c.type || CASE WHEN c.\"notnull\" = 1 OR c.pk > 0 THEN '' ELSE ' null' END
         FROM sqlite_schema AS t JOIN pragma_table_info(t.name) AS c
         WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.name NOT LIKE '\\_%' ESCAPE '\\'"
    } else {
        "SELECT table_name || '.' || column_name || ' ' || data_type
            || CASE WHEN is_nullable = 'YES' THEN ' null' ELSE '' END
         FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name NOT LIKE '\\_%'"
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
         FROM pg_indexes WHERE schemaname = 'public' AND indexname NOT IN
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
