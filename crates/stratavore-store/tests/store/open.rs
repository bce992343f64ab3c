use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use stratavore_store::testing::{SqliteHold, TestStore};
use stratavore_store::{
    Database, Host, PoolSettings, Settings, Store, StoreError, on_both_databases,
};
use tokio::task::JoinSet;

use crate::{given, raw};

async fn open(path: &Path) -> Result<Store, StoreError> {
    let database = Database::Sqlite { path: path.to_owned() };
    Store::open(Settings { database, pool: PoolSettings::default() }).await
}

fn refusal(answer: Result<Store, StoreError>) -> String {
    match answer {
        Err(error @ (StoreError::Invalid { .. } | StoreError::Corrupt { .. })) => error.to_string(),
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it was opened"),
    }
}

on_both_databases! {
    async fn what_was_written_is_there_for_the_next_daemon(db: TestStore) {
        let project = given::project(db.store(), "alpha").await;
        db.store().close().await;
        let next = db.another().await;
        assert_eq!(next.project_list(false).await.unwrap(), [project]);
    }

    async fn a_closed_store_answers_that_it_is_unavailable(db: TestStore) {
        db.store().close().await;
        for answer in [db.store().ping().await.map(drop), db.store().project_list(true).await.map(drop)] {
            assert!(matches!(answer, Err(StoreError::Unavailable { .. })), "{answer:?}");
        }
        let written = db.store().project_create(&given::unborn_project("alpha"), "ada", None).await;
        assert!(matches!(written, Err(StoreError::Unavailable { .. })), "{written:?}");
    }

    async fn a_newer_schema_is_worked_on_only_if_it_says_so(db: TestStore) {
        let known = db.store().pool_status().schema;
        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
            SELECT 9000, 'from the future', success, checksum, 0 FROM _sqlx_migrations
            WHERE version = 1";
        assert_eq!(raw::execute(&db, newer).await, Ok(1));
        let needs = async |number: i64| {
            let sql = format!("UPDATE schema_compatibility SET works_from = {number}");
            assert_eq!(raw::execute(&db, &sql).await, Ok(1));
        };
        let refused = async || match Store::open(db.settings().clone()).await {
            Err(error @ StoreError::SchemaNewer { .. }) => error.to_string(),
            other => panic!("{:?}", other.err()),
        };
        for too_new in [known + 1, 8999] {
            needs(too_new).await;
            let said = refused().await;
            let numbers = [9000, too_new, known].map(|number| format!("version {number}"));
            assert!(said.contains(&numbers[0]) && said.contains(&numbers[1]), "{said}");
            assert!(said.contains(&format!("up to {known}")), "{said}");
        }
        // The control: it may.
        needs(known).await;
        assert_eq!(db.another().await.pool_status().schema, 9000);
        // What both know has to be the same all the same.
        let other = |from: i64, to: i64| {
            format!("UPDATE _sqlx_migrations SET version = {to} WHERE version = {from}")
        };
        raw::execute(&db, &other(3, 8000)).await.unwrap();
        let said = refusal(Store::open(db.settings().clone()).await);
        assert!(said.contains("migration 3 is missing"), "{said}");
        raw::execute(&db, &other(2, 3)).await.unwrap();
        raw::execute(&db, &other(8000, 2)).await.unwrap();
        let said = refusal(Store::open(db.settings().clone()).await);
        assert!(said.contains("migration 2"), "{said}");
        // Without a mark a newer one is refused, whatever it is.
        raw::execute(&db, &other(2, 8000)).await.unwrap();
        raw::execute(&db, &other(3, 2)).await.unwrap();
        raw::execute(&db, &other(8000, 3)).await.unwrap();
        db.another().await;
        raw::execute(&db, "DROP TABLE schema_compatibility").await.unwrap();
        let said = refused().await;
        assert!(said.contains("knows version 9000"), "{said}");
    }

    async fn a_schema_that_was_made_by_other_means_is_refused(db: TestStore) {
        let zero = if db.file().is_some() { "zeroblob(48)" } else { "'\\x00'::bytea" };
        let sql = format!("UPDATE _sqlx_migrations SET checksum = {zero} WHERE version = 1");
        assert_eq!(raw::execute(&db, &sql).await, Ok(1));
        let said = refusal(Store::open(db.settings().clone()).await);
        assert!(said.contains("migration 1"), "{said}");
    }

    async fn daemons_that_start_at_once_find_one_schema(db: TestStore) {
        const MADE: &str = "SELECT count(*) FROM _sqlx_migrations";
        let made = raw::number(&db, MADE).await;
        // A second, empty database is made by removing everything that the first open made.
        db.store().close().await;
        match db.file() {
            Some(file) => std::fs::remove_file(file).unwrap(),
            None => {
                let sql = "DROP SCHEMA public CASCADE";
                raw::execute(&db, sql).await.unwrap();
                raw::execute(&db, "CREATE SCHEMA public").await.unwrap();
            }
        }
        let mut starting = JoinSet::new();
        for _ in 0..4 {
            let settings = db.settings().clone();
            starting.spawn(async move { Store::open(settings).await });
        }
        for store in starting.join_all().await {
            store.unwrap().ping().await.unwrap();
        }
        assert_eq!(raw::number(&db, MADE).await, made);
    }

    async fn the_pool_says_how_it_is(db: TestStore) {
        let store = db.store();
        let took = store.ping().await.unwrap();
        assert!(took > Duration::ZERO);
        let status = store.pool_status();
        assert_eq!(status.engine, if db.file().is_some() { "sqlite" } else { "postgres" });
        assert_eq!(status.schema, raw::number(&db, "SELECT max(version) FROM _sqlx_migrations").await);
        assert!(status.open >= 1 && status.open <= status.max, "{status:?}");
        assert_eq!(status.settings, db.settings().pool);
    }
}

#[test]
fn the_defaults_are_those_that_were_agreed_on() {
    let pool = PoolSettings::default();
    assert_eq!((pool.max_connections, pool.min_connections), (25, 5));
    assert_eq!(
        (pool.max_lifetime, pool.idle_timeout),
        (Duration::from_secs(3600), Duration::from_secs(1800))
    );
}

#[tokio::test]
async fn the_file_is_its_owners_only() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("s.db");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let store = open(&path).await.unwrap();
    given::project(&store, "alpha").await;
    for suffix in ["", "-wal", "-shm"] {
        let file = home.path().join(format!("s.db{suffix}"));
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    store.close().await;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    open(&path).await.unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn what_is_no_database_of_ours_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let at = |file: &str| home.path().join(file);

    std::fs::write(at("text"), "this is no database, and long enough to be sure".repeat(100))
        .unwrap();
    let said = refusal(open(&at("text")).await);
    assert!(said.contains("not a database"), "{said}");

    std::os::unix::fs::symlink(at("elsewhere"), at("link")).unwrap();
    let said = refusal(open(&at("link")).await);
    assert!(said.contains("link"), "{said}");
    assert!(!at("elsewhere").exists(), "nothing was made through the link");

    let said = refusal(open(home.path()).await);
    assert!(said.contains("cannot be opened"), "{said}");
    let said = refusal(open(&at("missing/s.db")).await);
    assert!(said.contains("missing"), "{said}");
}

/// Row 48: a damaged file is noticed at the start.
#[tokio::test]
async fn a_damaged_file_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("s.db");
    let store = open(&path).await.unwrap();
    let node = given::node(&store).await;
    let project = given::project(&store, "alpha").await;
    for n in 0..15 {
        given::runner(&store, &project, node, &format!("r{n}")).await;
    }
    store.close().await;
    drop(open(&path).await.unwrap());

    // All but the first page, where SQLite would notice at once, and the pages of the schema.
    let mut bytes = std::fs::read(&path).unwrap();
    let from = bytes.len() / 2;
    bytes[from..].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    let said = refusal(open(&path).await);
    assert!(said.contains("database file"), "{said}");
}

/// Row 48: no start takes longer for a large file. It is checked while it is used.
#[tokio::test]
async fn a_large_file_is_opened_without_being_read_to_its_end() {
    let db = TestStore::sqlite().await;
    let filler = "INSERT INTO idempotency_records (key, request, answer, expires_at)
        WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2000)
        SELECT 'filler-' || n, randomblob(10000), NULL, 0 FROM n";
    raw::execute(&db, filler).await.unwrap();
    assert!(db.store().check(|| true).await.unwrap(), "it is whole, and was read");
    assert!(!db.store().check(|| false).await.unwrap(), "whoever wants it to end is heard");
    db.store().close().await;

    let path = db.file().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let from = bytes.len() / 2;
    bytes[from..].fill(0x5a);
    std::fs::write(path, bytes).unwrap();
    let store = db.another().await;
    given::project(&store, "alpha").await;
    let said = store.check(|| true).await.unwrap_err().to_string();
    assert!(said.contains("the database file") && said.contains("from a backup"), "{said}");
    assert_eq!(store.alarm(), None, "the disk has done what it was told");
}

/// What a daemon leaves that was killed: its log, which is taken back before anything is asked.
#[tokio::test]
async fn what_a_killed_daemon_left_is_brought_in_order() {
    let db = TestStore::sqlite().await;
    let project = given::project(db.store(), "alpha").await;
    let home = tempfile::tempdir().unwrap();
    for suffix in ["", "-wal"] {
        let name = format!("stratavore.db{suffix}");
        std::fs::copy(db.file().unwrap().with_file_name(&name), home.path().join(&name)).unwrap();
    }
    let (file, log) = (home.path().join("stratavore.db"), home.path().join("stratavore.db-wal"));
    assert!(std::fs::metadata(&log).unwrap().len() > 0);
    let alone = std::fs::metadata(&file).unwrap().len();
    let store = open(&file).await.unwrap();
    assert!(std::fs::metadata(&file).unwrap().len() > alone, "the log is in the file");
    assert_eq!(std::fs::metadata(&log).map_or(0, |log| log.len()), 0);
    assert_eq!(store.project_list(false).await.unwrap(), [project]);
}

/// SQLite waits for nobody while it turns a file to its write-ahead log.
#[tokio::test]
async fn a_new_file_that_another_process_has_open_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stratavore.db");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let held = SqliteHold::take(&path).await;
    let mut opening = std::pin::pin!(open(&path));
    let meanwhile = tokio::time::timeout(Duration::from_millis(300), &mut opening).await;
    assert!(meanwhile.is_err(), "{:?}", meanwhile.map(|opened| opened.err()));
    drop(held);
    opening.await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_to_be_unavailable() {
    let db = TestStore::postgres().await;
    let mut settings = db.settings().clone();
    let home = tempfile::tempdir().unwrap();
    if let Database::Postgres(at) = &mut settings.database {
        at.host = Host::Socket(home.path().to_owned());
    }
    let answer = Store::open(settings).await;
    assert!(matches!(answer, Err(StoreError::Unavailable { .. })), "{:?}", answer.err());
}
