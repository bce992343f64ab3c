//! A launch that was decided on before it had the project's lock, on PostgreSQL.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stratavore_core::project::Project;
use stratavore_core::quota::Quota;
use stratavore_core::runner::Runner;
use stratavore_core::{NodeId, RunnerId};
use stratavore_store::testing::TestStore;
use stratavore_store::{Store, StoreError};
use tokio::task::JoinSet;

use crate::given::{self, at, idempotency};
use crate::raw;

/// The longest that a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

async fn run(conn: &mut PgConnection, sql: String) {
    sqlx::query(AssertSqlSafe(sql)).execute(conn).await.unwrap();
}

/// One runner is asked for while another one is admitted to the last place, and its admission is not
/// yet committed.
async fn asked_meanwhile(
    db: &TestStore,
    store: &Store,
    project: &Project,
    node: NodeId,
    waits: bool,
) -> Result<Vec<Runner>, StoreError> {
    let mut other = raw::postgres(db).await;
    let mut before = other.begin().await.unwrap();
    let (id, of) = (RunnerId::from_entropy(given::entropy()), project.id);
    run(&mut before, format!("SELECT FROM projects WHERE id = '{of}' FOR NO KEY UPDATE")).await;
    run(
        &mut before,
        format!(
            "INSERT INTO runners (id, project_id, name, node_id, limits, state, epoch, generation,
                created_at, updated_at, record)
             VALUES ('{id}', '{of}', 'first', '{node}', '{{}}', 'pending', 1, 1, now(), now(), '{{}}')"
        ),
    )
    .await;
    let (store, new) = (store.clone(), given::unborn(of, node, "second"));
    let key = idempotency("second", 1);
    let mut asked = JoinSet::new();
    asked.spawn(async move { store.runners_admit(vec![new], "ada", at(1), Some(&key)).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let began = Instant::now();
    while waits && raw::number(db, waiting).await == 0 {
        assert!(
            began.elapsed() < PATIENCE && asked.try_join_next().is_none(),
            "it waits for the lock"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if waits {
        before.commit().await.unwrap();
        return asked.join_all().await.remove(0);
    }
    let answer = asked.join_all().await.remove(0);
    before.commit().await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_seen_before_the_lock_does_not_count_after_it() {
    let db = TestStore::postgres().await;
    let (store, node) = (db.store(), given::node(db.store()).await);
    let quota = Quota { runners: 1, ..Quota::default() };
    let project = given::project_with(store, "alpha", quota).await;
    match asked_meanwhile(&db, store, &project, node, true).await {
        Err(StoreError::Quota(refusal)) => {
            let holders: Vec<_> = refusal.holders.iter().map(|h| h.name.to_string()).collect();
            assert_eq!(holders, ["first"]);
        }
        other => panic!("{other:?}"),
    }
    let live = "SELECT count(*) FROM runners WHERE ended_at IS NULL";
    assert_eq!(raw::number(&db, live).await, 1);
    assert_eq!(raw::number(&db, "SELECT count(*) FROM sessions").await, 0, "nothing is left");
    assert_eq!(raw::number(&db, "SELECT count(*) FROM idempotency_records").await, 0);

    // The control: without the lock, and the look that follows it, both are admitted.
    let quota = Quota { runners: 1, ..Quota::default() };
    let project = given::project_with(store, "beta", quota).await;
    let without = db.another().await.without_admission_lock();
    asked_meanwhile(&db, &without, &project, node, false).await.unwrap();
    assert_eq!(raw::number(&db, live).await, 3, "two in a project that has room for one");
}
