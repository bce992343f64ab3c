//! The launch that almost every launch is, of one new runner, in two round trips to PostgreSQL:
//! others of the project wait for one statement and not for five.
//!
//! It is decided on what is read without the lock. The statement that writes takes the lock first,
//! and is refused as a whole if the project is another by then or has a runner that was not seen.
//! Then, and whenever it could not be admitted as it was seen, it is decided under the lock.

use sqlx::types::Text;
use sqlx::{SqlSafeStr, SqlStr};
use stratavore_core::Timestamp;
use stratavore_core::event::Entity;
use stratavore_core::idempotency::Idempotency;
use stratavore_core::runner::Runner;

use crate::admit::{NewRunner, accepted, inserting, placed, refused};
use crate::event::Author;
use crate::hook::passing;
use crate::tx::Reader;
use crate::value::{DbTime, to_json};
use crate::{Engine, Store, StoreError, idempotency, project, runner};

/// The key is taken before any other lock, as everywhere. If it has been, nothing follows.
///
/// `hold_project` looks after it holds the lock, with a snapshot of its own: see the migration.
///
/// Where a budget has come since the look, nothing happens: the launch has to reserve.
const ADMIT_POSTGRES: &str = "WITH unbudgeted AS MATERIALIZED (
        SELECT WHERE NOT EXISTS (SELECT FROM budgets WHERE removed_at IS NULL AND runner_id IS NULL
            AND (project_id IS NULL OR project_id = $2))
    ), keyed AS (
        INSERT INTO idempotency_records (key, request, answer, expires_at)
        SELECT $20, $21, $22, $23 FROM unbudgeted WHERE $20::text IS NOT NULL
        ON CONFLICT (key) DO UPDATE
            SET request = excluded.request, answer = excluded.answer, expires_at = excluded.expires_at
            WHERE idempotency_records.expires_at <= $12
        RETURNING key
    ), held AS MATERIALIZED (
        SELECT hold_project($2, $24, $25) AS is_free FROM unbudgeted
        WHERE $20::text IS NULL OR EXISTS (SELECT FROM keyed)
    ), session AS (
        INSERT INTO sessions (id, project_id, assistant, created_at, updated_at)
        SELECT $9, $2, $14, $11, $11 FROM held WHERE is_free
    ), runner AS (
        INSERT INTO runners (id, project_id, name, node_id, limits, state, epoch, generation,
            session_id, successor_of, created_at, updated_at, ended_at, record)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, NULL, $13 FROM held WHERE is_free
    ), event AS (
        INSERT INTO events
            (id, entity, entity_id, name, project_id, seq, kind, at, caused_by, data,
                origin, decision, mac)
        SELECT $15, $16, $1, $3, $2, $8, $17, $12, $18, $19, $26, $27, $28 FROM held WHERE is_free
        RETURNING id, at
    )
    INSERT INTO outbox (destination, event_id, created_at) SELECT 'bus', id, at FROM event";

statements! { ADMIT_POSTGRES }

impl Store {
    /// Admits one runner, or answers `None`: it has to be decided under the lock.
    pub(crate) async fn admit_alone(
        &self,
        wanted: &NewRunner,
        by: &Author,
        now: Timestamp,
        key: Option<&Idempotency>,
    ) -> Result<Option<Runner>, StoreError> {
        let carries_on = wanted.continues || wanted.successor_of.is_some();
        // Where the node is full is seen under the node's lock.
        if carries_on || wanted.bounded || matches!(self.inner.engine, Engine::Sqlite { .. }) {
            return Ok(None);
        }
        let Reader::Postgres(mut conn, deadline) = self.read().await? else { return Ok(None) };
        let seen = project::with_holders(&mut conn, &deadline, wanted.project).await?;
        let Some((project, holders)) = seen else { return Ok(None) };
        let Ok(runner) = placed(wanted, &project, &holders, now) else { return Ok(None) };
        if project.archived_at.is_some() {
            return Ok(None);
        }
        let accepted = accepted(&runner);
        let (about, mut kept) = (runner::about(&runner, by), self.kept());
        let row = by.row(&about, &accepted)?;
        kept.write(&about, &row)?;
        let seen: Vec<String> = holders.iter().map(|holder| holder.runner.to_string()).collect();
        passing("L3");
        let written = inserting!(self.admit_sql(), &runner)
            .bind(runner.command.assistant.as_str())
            .bind(row.id)
            .bind(Entity::Runner.as_str())
            .bind(accepted.kind)
            .bind(&by.name)
            .bind(row.data)
            .bind(key.map(Idempotency::key))
            .bind(key.map(|key| key.request().to_vec()))
            .bind(key.map(|_| to_json(&[&runner])))
            .bind(DbTime(idempotency::expiry(now)))
            .bind(project.generation)
            .bind(seen)
            .bind(&by.origin)
            .bind(accepted.decision.as_str())
            .bind(row.mac)
            .execute(&mut *conn);
        match deadline.keep(written).await.map_err(|error| refused(&runner, error)) {
            // The key has an answer already, or there is a budget.
            Ok(done) if done.rows_affected() == 0 => Ok(None),
            Ok(_) => {
                kept.keep().await?;
                passing("L4");
                Ok(Some(runner))
            }
            Err(error) if error.is_collision() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn admit_sql(&self) -> SqlStr {
        #[cfg(feature = "testing")]
        if !self.admission_lock {
            let held = "hold_project($2, $24, $25)";
            let free = "$24::bigint IS NOT NULL AND $25::text[] IS NOT NULL";
            return sqlx::AssertSqlSafe(ADMIT_POSTGRES.replace(held, free)).into_sql_str();
        }
        ADMIT_POSTGRES.into_sql_str()
    }
}
