//! Opening and closing the store, and how its connections are doing.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::error::doing;
use crate::server::Guard;
use crate::tx::{Alarm, on};
use crate::value::random;
use crate::{
    Database, Engine, Inner, PoolStatus, Settings, Store, StoreError, nearby, postgres, sqlite,
};

impl Store {
    /// Connects, brings the schema up to date under a lock, and makes sure that the database can be
    /// trusted: it is no standby, its schema is one that this program may work on, its file is ours, on a
    /// local disk and not damaged.
    pub async fn open(settings: Settings) -> Result<Store, StoreError> {
        let Settings { database, pool } = settings;
        let (engine, schema) = match database {
            Database::Sqlite { path } => {
                let (write, read, schema) = sqlite::open(&path, &pool).await?;
                let alarm = Alarm::default();
                (Engine::Sqlite { path, write, read, alarm }, schema)
            }
            Database::Postgres(at) => {
                let guard = Guard::open(at.witness.as_deref())?;
                let (common, vital, deadline, schema) = postgres::open(&at, &pool, &guard).await?;
                (Engine::Postgres { common, vital, deadline, guard }, schema)
            }
        };
        tracing::info!(engine = engine.name(), schema, "the store is open");
        let floor = Mutex::default();
        let nearby = nearby::Nearby::of(&engine).await;
        let voice = format!("{:032x}", u128::from_ne_bytes(random()));
        let (writer, journal) = (OnceLock::new(), OnceLock::new());
        let inner = Arc::new(Inner { engine, pool, schema, writer, journal, floor, nearby, voice });
        Ok(Store {
            inner,
            #[cfg(feature = "testing")]
            admission_lock: true,
        })
    }

    /// Asks the database for an answer, and says how long it took, waiting for a connection
    /// included.
    pub async fn ping(&self) -> Result<Duration, StoreError> {
        let begun = Instant::now();
        let mut reader = self.read().await?;
        on!(reader, |conn| sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(conn).await)
            .map_err(doing("answering a ping"))?;
        Ok(begun.elapsed())
    }

    /// True if other daemons may be on the same database.
    pub fn is_shared(&self) -> bool {
        match &self.inner.engine {
            Engine::Postgres { .. } => true,
            Engine::Sqlite { .. } => false,
        }
    }

    /// What the disk has done to the database since it was opened, if it is one that must be
    /// looked at; asks nothing of the database.
    pub fn alarm(&self) -> Option<String> {
        match &self.inner.engine {
            Engine::Postgres { .. } => None,
            Engine::Sqlite { alarm, .. } => alarm.get().cloned(),
        }
    }

    /// Reads all of the database and looks for damage, as long as `goes_on` says so; answers
    /// whether it came to the end. PostgreSQL looks after its own files.
    pub async fn check(
        &self,
        goes_on: impl FnMut() -> bool + Send + 'static,
    ) -> Result<bool, StoreError> {
        match &self.inner.engine {
            Engine::Postgres { .. } => Ok(true),
            Engine::Sqlite { path, .. } => sqlite::check(path, goes_on).await,
        }
    }

    /// Counts of the connections for common use; asks nothing of the database.
    pub fn pool_status(&self) -> PoolStatus {
        let (max, open, idle) = match &self.inner.engine {
            Engine::Postgres { common, .. } => {
                (common.options().get_max_connections(), open(common), common.num_idle())
            }
            Engine::Sqlite { write, read, .. } => (
                write.options().get_max_connections() + read.options().get_max_connections(),
                open(write) + open(read),
                write.num_idle().saturating_add(read.num_idle()),
            ),
        };
        PoolStatus {
            engine: self.inner.engine.name(),
            schema: self.inner.schema,
            max,
            open,
            idle: u32::try_from(idle).unwrap_or(u32::MAX),
            settings: self.inner.pool,
        }
    }

    /// Waits until the connections in use are given back, and closes them all. Later calls are
    /// answered with [`StoreError::Unavailable`].
    pub async fn close(&self) {
        match &self.inner.engine {
            Engine::Postgres { common, vital, .. } => {
                common.close().await;
                vital.close().await;
            }
            // The writer last: it takes the write-ahead log back into the file.
            Engine::Sqlite { write, read, .. } => {
                read.close().await;
                write.close().await;
            }
        }
    }
}

impl Engine {
    fn name(&self) -> &'static str {
        match self {
            Self::Postgres { .. } => "postgres",
            Self::Sqlite { .. } => "sqlite",
        }
    }
}

/// How many connections a pool has open. It counts those that it closes a moment too early, and may say
/// for as long that it has fewer than none, which is a very large number.
fn open<DB: sqlx::Database>(pool: &sqlx::Pool<DB>) -> u32 {
    let size = pool.size();
    if size > pool.options().get_max_connections() { 0 } else { size }
}
