//! How long a PostgreSQL server is waited for.
//!
//! The server ends a statement that takes too long. One that is frozen, or gone without a word, ends
//! nothing: we do, a little later, and its connection is not trusted again before it has answered.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{Connection, PgConnection};

/// How much longer than the server's own limit we wait for its word.
const MARGIN: Duration = Duration::from_secs(1);

/// The bound of every statement. Clones know of each other's disappointments.
#[derive(Debug, Clone)]
pub(crate) struct Deadline {
    limit: Duration,
    missed: Arc<AtomicBool>,
}

impl Deadline {
    pub(crate) fn of(statement_timeout: Duration) -> Self {
        let limit = statement_timeout.saturating_add(MARGIN);
        Self { limit, missed: Arc::default() }
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Waits for an answer until then.
    ///
    /// What is given up may still happen. Its transaction is rolled back when it is dropped, or was
    /// being committed, and then nobody can know.
    pub(crate) async fn keep<T>(
        &self,
        answer: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        tokio::time::timeout(self.limit, answer).await.unwrap_or_else(|late| {
            self.missed.store(true, Ordering::Relaxed);
            Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, late)))
        })
    }

    /// Asks a connection that comes back to its pool whether it still works, if any ever did not:
    /// the pool itself would wait for its answer without end, and be one connection short.
    pub(crate) async fn check(&self, conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
        if self.missed.load(Ordering::Relaxed) {
            self.keep(conn.ping()).await?;
        }
        Ok(true)
    }
}
