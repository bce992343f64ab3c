//! Rows 42 to 44 of the fault catalogue: connections under stress.

use std::time::{Duration, Instant};

use stratavore_core::project::Project;
use stratavore_store::testing::TestStore;
use stratavore_store::{PoolSettings, Settings, Store, StoreError, on_both_databases};
use tokio::task::JoinSet;

use crate::given::{self, at};
use crate::raw;

const BOUND: Duration = Duration::from_secs(20);

on_both_databases! {
    /// T-CANCEL: a request that is dropped at any moment leaves no transaction open.
    async fn dropped_requests_leave_no_transaction_behind(db: TestStore) {
        let store = db.store().clone();
        let seen = given::project(&store, "alpha").await;
        let mut requests = JoinSet::new();
        for n in 0..200_u32 {
            let (store, seen) = (store.clone(), seen.clone());
            let handle = requests.spawn(async move {
                let next = Project { generation: 2, updated_at: at(2), ..seen.clone() };
                let event = stratavore_core::event::NewEvent::new("project.edited", serde_json::json!({}));
                let _ = store.project_write(&seen, &next, event, "ada", None).await;
            });
            // From at once to after the end, by turns.
            for _ in 0..n % 12 {
                tokio::task::yield_now().await;
            }
            handle.abort();
        }
        while requests.join_next().await.is_some() {}

        // The store works, at once and for as many as the pool holds.
        let mut after = JoinSet::new();
        for n in 0..30 {
            let store = store.clone();
            after.spawn(async move { given::project(&store, &format!("p{n}")).await });
        }
        assert_eq!(after.join_all().await.len(), 30);
        if db.server().is_some() {
            none_in_transaction(&db).await;
        }
        assert_eq!(raw::number(&db, "SELECT count(*) FROM events").await,
            raw::number(&db, "SELECT CAST(sum(generation) AS BIGINT) FROM projects").await, "each change with its event");
    }

    async fn a_busy_pool_is_said_to_be_busy(db: TestStore) {
        let pool = PoolSettings {
            max_connections: 1,
            min_connections: 0,
            acquire_timeout: Duration::from_secs(2),
            ..PoolSettings::default()
        };
        let store = Store::open(Settings { pool, ..db.settings().clone() }).await.unwrap();
        let seen = given::project(&store, "alpha").await;
        let mut held = Held::hold(&db).await;
        // One writer waits for the row that is held, and has the only connection.
        let mut waiting = JoinSet::new();
        for n in 0..2 {
            let (store, seen) = (store.clone(), seen.clone());
            waiting.spawn(async move {
                let next = Project { description: format!("{n}"), generation: 2, ..seen.clone() };
                let event = stratavore_core::event::NewEvent::new("project.edited", serde_json::json!({}));
                store.project_write(&seen, &next, event, "ada", None).await
            });
        }
        let first = waiting.join_next().await.unwrap().unwrap();
        assert!(matches!(first, Err(StoreError::Busy { .. })), "{first:?}");
        assert!(first.unwrap_err().is_transient());
        held.give_back().await;
        let second = waiting.join_next().await.unwrap().unwrap();
        assert!(second.is_ok(), "it waited and had its turn: {second:?}");
    }
}

/// The control of T-CANCEL: the library's own `begin`, dropped while it waits, leaves one behind.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "this is why it is disallowed")]
async fn a_plain_begin_that_is_dropped_leaves_its_transaction_behind() {
    let db = TestStore::postgres().await;
    let options =
        sqlx::postgres::PgPoolOptions::new().max_connections(1).test_before_acquire(false);
    let pool = options.connect(&db.server().unwrap().url()).await.unwrap();
    for _ in 0..200 {
        // Polled once: it has sent BEGIN and waits for the answer.
        drop(tokio::time::timeout(Duration::ZERO, pool.begin()).await);
        if in_transaction(&db).await > 0 {
            return;
        }
    }
    panic!(
        "200 dropped begins left no transaction behind: the library may be mended, or the test not notice"
    );
}

/// A transaction of somebody else's that holds what a writer needs.
enum Held {
    Postgres(sqlx::PgConnection),
    Sqlite(sqlx::SqliteConnection),
}

impl Held {
    async fn hold(db: &TestStore) -> Held {
        match db.file() {
            Some(_) => {
                let mut conn = raw::sqlite(db).await;
                sqlx::query("BEGIN IMMEDIATE").execute(&mut conn).await.unwrap();
                Held::Sqlite(conn)
            }
            None => {
                let mut conn = raw::postgres(db).await;
                for sql in ["BEGIN", "SELECT id FROM projects FOR UPDATE"] {
                    sqlx::query(sql).execute(&mut conn).await.unwrap();
                }
                Held::Postgres(conn)
            }
        }
    }

    async fn give_back(&mut self) {
        match self {
            Held::Postgres(conn) => sqlx::query("ROLLBACK").execute(conn).await.map(drop),
            Held::Sqlite(conn) => sqlx::query("ROLLBACK").execute(conn).await.map(drop),
        }
        .unwrap();
    }
}

async fn in_transaction(db: &TestStore) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    raw::number(db, sql).await
}

async fn none_in_transaction(db: &TestStore) {
    let deadline = Instant::now() + BOUND;
    loop {
        let idle = in_transaction(db).await;
        if idle == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{idle} connections are still idle in a transaction");
        tokio::task::yield_now().await;
    }
}

/// Row 38: connections that broke, as when the server restarts, are replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_are_replaced() {
    let db = TestStore::postgres().await;
    let store = db.store().clone();
    let project = given::project(&store, "alpha").await;
    for round in 0..5 {
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        raw::execute(&db, kill).await.unwrap();
        let deadline = Instant::now() + BOUND;
        loop {
            match store.project_list(false).await {
                Ok(found) => {
                    break assert_eq!(found, std::slice::from_ref(&project), "round {round}");
                }
                Err(StoreError::Unavailable { .. }) => {}
                Err(other) => panic!("round {round}: {other:?}"),
            }
            assert!(Instant::now() < deadline, "still unavailable");
        }
    }
}

/// Row 44: two batches that lock the same rows in opposite order both go through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_with_somebody_else_is_tried_again() {
    let db = TestStore::postgres().await;
    let store = db.store().clone();
    let node = given::node(&store).await;
    let project = given::project(&store, "alpha").await;
    let mut pair = [
        given::runner(&store, &project, node, "a").await,
        given::runner(&store, &project, node, "b").await,
    ];
    pair.sort_by_key(|runner| runner.id);
    let [first, second] = pair;

    // They hold the second and will want the first; the store goes the other way.
    let mut theirs = raw::postgres(&db).await;
    sqlx::query("SET deadlock_timeout = '10s'").execute(&mut theirs).await.unwrap();
    sqlx::query("BEGIN").execute(&mut theirs).await.unwrap();
    let lock = "SELECT 1 FROM runners WHERE id = $1 FOR UPDATE";
    sqlx::query(lock).bind(second.id.to_string()).execute(&mut theirs).await.unwrap();

    let mut ours = JoinSet::new();
    let (one, two) = (first.clone(), second.clone());
    ours.spawn(async move {
        let ((next_one, event_one), (next_two, event_two)) =
            (given::ended(&one), given::ended(&two));
        let writes = [
            stratavore_store::RunnerWrite { seen: &one, next: &next_one, event: event_one },
            stratavore_store::RunnerWrite { seen: &two, next: &next_two, event: event_two },
        ];
        store.runners_write(&writes, "daemon").await
    });
    waiting_for_a_lock(&db).await;
    // The server waits ten seconds before it looks at their wait, and one at ours: ours fails.
    sqlx::query(lock).bind(first.id.to_string()).execute(&mut theirs).await.unwrap();
    sqlx::query("COMMIT").execute(&mut theirs).await.unwrap();

    ours.join_next().await.unwrap().unwrap().unwrap();
    let stats = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let deadline = Instant::now() + BOUND;
    while raw::number(&db, stats).await == 0 {
        assert!(Instant::now() < deadline, "there was no deadlock to speak of");
        tokio::task::yield_now().await;
    }
}

async fn waiting_for_a_lock(db: &TestStore) {
    let sql = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let deadline = Instant::now() + BOUND;
    while raw::number(db, sql).await == 0 {
        assert!(Instant::now() < deadline, "nobody waits for a lock");
        tokio::task::yield_now().await;
    }
}
