//! How much a database does for a function of the store, counted and not timed: on a busy machine
//! only a count says whether something grows.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, SqlitePool};

use crate::testing::TestStore;
use crate::{Engine, Store};

/// Rows read, of tables and of indexes, by everybody who is gone.
const ROWS_READ: &str = "SELECT
        (SELECT coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)
            FROM pg_stat_user_tables)::bigint
        + (SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes)::bigint";

/// What others did is counted when they have gone.
const OTHERS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";

/// The longest that others are waited for.
const PATIENCE: Duration = Duration::from_secs(20);

impl TestStore {
    /// Runs `deed` on a store of its own, and answers what it cost besides: rows read on
    /// PostgreSQL, those of the schema's versions included, steps of its machine on SQLite. Nobody else may use the database meanwhile, and
    /// this one's own store is closed for it.
    ///
    /// # Panics
    /// If the database cannot be reached, or others do not leave it.
    pub async fn work<T, F: Future<Output = T>>(&self, deed: impl FnOnce(Store) -> F) -> (T, u64) {
        // Its connections would count, and be waited for.
        self.store().close().await;
        let Some(server) = self.server() else {
            let store = self.another().await;
            let steps = Arc::new(AtomicU64::new(0));
            if let Engine::Sqlite { write, read, .. } = &store.inner.engine {
                count_steps(write, &steps).await;
                count_steps(read, &steps).await;
            }
            let done = deed(store.clone()).await;
            store.close().await;
            return (done, steps.load(Ordering::Relaxed));
        };
        let mut counter = PgConnection::connect(&server.url()).await.expect("the server answers");
        // Before it is opened: it keeps the connections that it has made by then.
        let before = rows_read(&mut counter).await;
        let store = self.another().await;
        let done = deed(store.clone()).await;
        store.close().await;
        let after = rows_read(&mut counter).await;
        (done, after - before)
    }
}

/// Counts the steps of every connection that the pool has and could have.
async fn count_steps(pool: &SqlitePool, steps: &Arc<AtomicU64>) {
    let mut held = Vec::new();
    for _ in 0..pool.options().get_max_connections() {
        let mut connection = pool.acquire().await.expect("the file can be opened");
        let steps = Arc::clone(steps);
        let mut handle = connection.lock_handle().await.expect("nothing runs on it");
        handle.set_progress_handler(1, move || {
            steps.fetch_add(1, Ordering::Relaxed);
            true
        });
        drop(handle);
        held.push(connection);
    }
}

/// The count so far, once nobody else is connected.
async fn rows_read(counter: &mut PgConnection) -> u64 {
    let began = Instant::now();
    loop {
        let others: i64 =
            sqlx::query_scalar(OTHERS).fetch_one(&mut *counter).await.expect("the server answers");
        if others == 0 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{others} others are connected");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rows: i64 =
        sqlx::query_scalar(ROWS_READ).fetch_one(counter).await.expect("the server answers");
    rows.unsigned_abs()
}
