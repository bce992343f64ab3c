//! Which session a runner holds: it may go on to another one by itself, as with `/clear`.
//!
//! Invariant: of the runners that live, at most one holds a session. An assistant that goes on to one
//! which another runner holds is told of, and its runner stays written down with what it had.

use sqlx::types::Text;
use stratavore_core::event::NewEvent;
use stratavore_core::runner::Runner;
use stratavore_core::{RunnerId, SessionId, Timestamp};

use crate::error::{Unique, doing, violated};
use crate::tx::{Tx, on};
use crate::value::{DbTime, to_json};
use crate::{StoreError, event, runner, session_seen};

const RUNNER: &str = "SELECT record FROM runners WHERE id = $1";

const RUNNER_LOCKED_POSTGRES: &str = "SELECT record FROM runners WHERE id = $1 FOR NO KEY UPDATE";

const LIVE: &str = "SELECT id FROM runners WHERE session_id = $1 AND ended_at IS NULL";

const SET: &str = "UPDATE runners
    SET session_id = $1, generation = $2, updated_at = $3, record = $4
    WHERE id = $5 AND ended_at IS NULL";

/// For a runner that has ended or was started again since: what is told late is true all the same.
const HAS_HELD: &str =
    "INSERT INTO session_runners (session_id, runner_id, epoch, first_at, last_at)
    VALUES ($1, $2, $3, $4, $4) ON CONFLICT (session_id, runner_id, epoch) DO NOTHING";

const STILL_HELD_POSTGRES: &str = "UPDATE session_runners SET last_at = $3
    WHERE runner_id = $1 AND last_at < $3
        AND session_id IN (SELECT json_array_elements_text($2::json))
        AND epoch = (SELECT epoch FROM runners WHERE id = $1)";

const STILL_HELD_SQLITE: &str = "UPDATE session_runners SET last_at = $3
    WHERE runner_id = $1 AND last_at < $3 AND session_id IN (SELECT value FROM json_each($2))
        AND epoch = (SELECT epoch FROM runners WHERE id = $1)";

statements! { RUNNER, RUNNER_LOCKED_POSTGRES, LIVE, SET, HAS_HELD, STILL_HELD_POSTGRES, STILL_HELD_SQLITE }

/// What came of it that a runner's assistant has gone on to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    Already,
    Now,
    /// This one holds it, and lives.
    Another(RunnerId),
}

/// Reads a runner and keeps everybody else from changing it until the transaction ends.
pub(crate) async fn lock(tx: &mut Tx, id: RunnerId) -> Result<Runner, StoreError> {
    let sql = tx.either(RUNNER_LOCKED_POSTGRES, RUNNER);
    let record: Option<String> =
        on!(tx, |conn| sqlx::query_scalar(sql).bind(Text(id)).fetch_optional(conn).await)
            .map_err(doing("locking a runner"))?;
    let record = record
        .ok_or_else(|| StoreError::NotFound { noun: runner::NOUN, wanted: id.to_string() })?;
    runner::parse(&record)
}

/// The assistant of a locked runner goes on with a locked session. `holder` is the runner afterwards.
///
/// What was told at an earlier start than `holder`'s changes nothing but the history.
pub(crate) async fn hold(
    tx: &mut Tx,
    holder: &mut Runner,
    epoch: Option<i64>,
    session: SessionId,
    now: Timestamp,
    by: &event::Author,
) -> Result<Holds, StoreError> {
    let epoch = epoch.unwrap_or(holder.epoch);
    if holder.session == Some(session) && epoch >= holder.epoch {
        return Ok(Holds::Already);
    }
    if holder.is_terminal() || epoch < holder.epoch {
        on!(tx, |conn| sqlx::query(HAS_HELD)
            .bind(Text(session))
            .bind(Text(holder.id))
            .bind(epoch)
            .bind(DbTime(now))
            .execute(conn)
            .await
            .map(drop))
        .map_err(doing("recording who has held a session"))?;
        return Ok(Holds::Already);
    }
    if let Some(other) = live_with(tx, session).await? {
        return Ok(Holds::Another(other));
    }
    let before = holder.session;
    *holder = set_session(tx, holder, session, now, by).await?;
    if let Some(before) = before {
        session_seen::left(tx, before, holder.id, now, by).await?;
    }
    Ok(Holds::Now)
}

/// Notes that a runner is still at the sessions of which something was read.
pub(crate) async fn still_held(
    tx: &mut Tx,
    runner: RunnerId,
    sessions: impl Iterator<Item = &SessionId>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sessions: Vec<&SessionId> = sessions.collect();
    if sessions.is_empty() {
        return Ok(());
    }
    let sql = tx.either(STILL_HELD_POSTGRES, STILL_HELD_SQLITE);
    on!(tx, |conn| sqlx::query(sql)
        .bind(Text(runner))
        .bind(to_json(&sessions))
        .bind(DbTime(now))
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("recording who holds a session"))
}

/// The live runner that a session is written down with, if there is one.
pub(crate) async fn live_with(
    tx: &mut Tx,
    session: SessionId,
) -> Result<Option<RunnerId>, StoreError> {
    let found: Option<Text<RunnerId>> =
        on!(tx, |conn| sqlx::query_scalar(LIVE).bind(Text(session)).fetch_optional(conn).await)
            .map_err(doing("looking who holds a session"))?;
    Ok(found.map(|id| id.0))
}

async fn set_session(
    tx: &mut Tx,
    seen: &Runner,
    session: SessionId,
    now: Timestamp,
    by: &event::Author,
) -> Result<Runner, StoreError> {
    let next = Runner {
        session: Some(session),
        generation: seen.generation + 1,
        updated_at: now.max(seen.updated_at),
        ..seen.clone()
    };
    on!(tx, |conn| sqlx::query(SET)
        .bind(Text(session))
        .bind(next.generation)
        .bind(DbTime(next.updated_at))
        .bind(to_json(&next))
        .bind(Text(seen.id))
        .execute(conn)
        .await
        .map(drop))
    .map_err(|error| match violated(&error) {
        // A runner is being admitted to it at this moment.
        Some(Unique::RunnerSession) => {
            StoreError::Conflict { what: format!("who holds {session}") }
        }
        Some(
            Unique::ProjectName
            | Unique::RunnerName
            | Unique::RunnerSuccessor
            | Unique::BudgetName
            | Unique::Other,
        )
        | None => doing("changing the session of a runner")(error),
    })?;
    let changed = NewEvent::new(
        "runner.session_changed",
        serde_json::json!({ "session": session, "before": seen.session }),
    );
    event::append(tx, runner::about(&next, by), &changed).await?;
    Ok(next)
}
