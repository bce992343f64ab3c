//! Transactions and connections of either database.
//!
//! Invariant: every write goes through [`Store::begin`], but for the one that is a transaction by
//! itself (`alone.rs`). On SQLite there is one connection that
//! writes, so writers queue in the process and never meet a lock.

use std::sync::{Arc, OnceLock};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres, Sqlite, SqliteConnection, Transaction};

use crate::deadline::Deadline;
use crate::error::doing;
use crate::event::{About, NewRow};
use crate::journal::Kept;
use crate::server::Guard;
use crate::{Engine, Store, StoreError, sqlite};

/// An open transaction; dropping it rolls it back.
pub(crate) enum Tx {
    Postgres(Transaction<'static, Postgres>, Deadline, Kept),
    Sqlite(Transaction<'static, Sqlite>, Alarm, Kept),
}

/// What the disk has done to the database since it was opened; told until it is opened again.
pub(crate) type Alarm = Arc<OnceLock<String>>;

/// A connection to read with, outside of any transaction: each statement sees what is committed
/// when it begins.
pub(crate) enum Reader {
    Postgres(PoolConnection<Postgres>, Deadline),
    Sqlite(PoolConnection<Sqlite>),
}

/// The connection inside either, for one statement.
pub(crate) enum Conn<'c> {
    Postgres(&'c mut PgConnection, Deadline),
    Sqlite(&'c mut SqliteConnection),
}

/// Runs one statement body against whichever database is behind `$target`.
macro_rules! on {
    ($target:expr, |$conn:ident| $body:expr) => {
        match $target.conn() {
            $crate::tx::Conn::Postgres($conn, deadline) => deadline.keep(async { $body }).await,
            $crate::tx::Conn::Sqlite($conn) => async { $body }.await,
        }
    };
}
pub(crate) use on;

/// Which connections a transaction may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Common,
    /// Leases and heartbeats, so that a burst of other requests cannot cost a daemon its leases.
    Vital,
}

impl Tx {
    pub(crate) fn conn(&mut self) -> Conn<'_> {
        match self {
            Self::Postgres(tx, deadline, _) => Conn::Postgres(tx, deadline.clone()),
            Self::Sqlite(tx, ..) => Conn::Sqlite(tx),
        }
    }

    /// The text that fits the database, where one text cannot fit both.
    pub(crate) fn either(&self, postgres: &'static str, sqlite: &'static str) -> &'static str {
        match self {
            Self::Postgres(..) => postgres,
            Self::Sqlite(..) => sqlite,
        }
    }

    /// Makes the transaction's changes last.
    ///
    /// If the connection breaks meanwhile, or the disk fails, the outcome is unknown, and the
    /// answer is [`StoreError::Unavailable`].
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        let (committed, kept) = match self {
            Self::Postgres(tx, deadline, kept) => (deadline.keep(tx.commit()).await, kept),
            Self::Sqlite(tx, alarm, kept) => {
                (tx.commit().await.inspect_err(|error| sqlite::sound(&alarm, error)), kept)
            }
        };
        committed.map_err(doing("committing"))?;
        kept.keep().await
    }

    /// An event is about to be written in it.
    pub(crate) fn writes(&mut self, about: &About<'_>, row: &NewRow) -> Result<(), StoreError> {
        match self {
            Self::Postgres(_, _, kept) | Self::Sqlite(_, _, kept) => kept.write(about, row),
        }
    }
}

impl Reader {
    pub(crate) fn conn(&mut self) -> Conn<'_> {
        match self {
            Self::Postgres(conn, deadline) => Conn::Postgres(conn, deadline.clone()),
            Self::Sqlite(conn) => Conn::Sqlite(conn),
        }
    }

    /// The text that fits the database, where one text cannot fit both.
    pub(crate) fn either(&self, postgres: &'static str, sqlite: &'static str) -> &'static str {
        match self {
            Self::Postgres(..) => postgres,
            Self::Sqlite(_) => sqlite,
        }
    }
}

impl Store {
    pub(crate) async fn begin(&self) -> Result<Tx, StoreError> {
        self.begin_in(Lane::Common).await
    }

    /// A dropped `begin` leaves its connection inside a transaction that nobody ends (sqlx#4393).
    /// The spawned one always finishes; if nobody is left to take it, it rolls back.
    #[expect(clippy::disallowed_methods, reason = "the one place that may: see above")]
    pub(crate) async fn begin_in(&self, lane: Lane) -> Result<Tx, StoreError> {
        let (what, kept) = ("beginning a transaction", self.kept());
        let begun = match &self.inner.engine {
            Engine::Postgres { common, vital, deadline, guard } => {
                let pool = match lane {
                    Lane::Common => common.clone(),
                    Lane::Vital => vital.clone(),
                };
                let (its, limit) = (deadline.clone(), self.inner.pool.acquire_timeout);
                let guard = guard.clone();
                let begun = tokio::spawn(async move {
                    let begun = pool.begin().await.map(|tx| Tx::Postgres(tx, its, kept));
                    begun.map_err(|error| no_connection(&pool, &guard, what, error))
                });
                // Only the wait for it is given up.
                match tokio::time::timeout(limit.saturating_add(deadline.limit()), begun).await {
                    Ok(begun) => begun,
                    Err(late) => {
                        return Err(StoreError::Unavailable { doing: what, source: late.into() });
                    }
                }
            }
            Engine::Sqlite { write, alarm, .. } => {
                let (pool, alarm) = (write.clone(), alarm.clone());
                tokio::spawn(async move {
                    let begun = sqlite::begin(&pool).await;
                    begun.map(|tx| Tx::Sqlite(tx, alarm, kept)).map_err(doing(what))
                })
                .await
            }
        };
        // The task is ended early only with the runtime itself.
        begun.unwrap_or_else(|gone| {
            Err(StoreError::Unavailable { doing: what, source: gone.into() })
        })
    }

    pub(crate) async fn read(&self) -> Result<Reader, StoreError> {
        let what = "taking a connection";
        match &self.inner.engine {
            Engine::Postgres { common, deadline, guard, .. } => {
                let taken = common.acquire().await;
                let taken = taken.map(|conn| Reader::Postgres(conn, deadline.clone()));
                taken.map_err(|error| no_connection(common, guard, what, error))
            }
            Engine::Sqlite { read, .. } => {
                read.acquire().await.map(Reader::Sqlite).map_err(doing(what))
            }
        }
    }
}

/// A wait for a connection ends with the same error whether all are in use or none can be made: it
/// is the server that is gone if there was room for one more.
pub(crate) fn no_connection(
    pool: &PgPool,
    guard: &Guard,
    what: &'static str,
    error: sqlx::Error,
) -> StoreError {
    if matches!(error, sqlx::Error::PoolTimedOut)
        && let Some(why) = guard.refusal()
    {
        return StoreError::WrongServer { why };
    }
    if matches!(error, sqlx::Error::PoolTimedOut)
        && pool.size() < pool.options().get_max_connections()
    {
        return StoreError::Unavailable { doing: what, source: error.into() };
    }
    doing(what)(error)
}
