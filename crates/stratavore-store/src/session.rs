//! Sessions: identity and lineage of conversations.
//!
//! Which runner carries a session is not written here: it is the live runner that names it, and a
//! unique index keeps it to one.

use sqlx::types::Text;
use stratavore_core::name::Name;
use stratavore_core::session::Session;
use stratavore_core::{ProjectId, RunnerId, SessionId, Timestamp};

use crate::error::doing;
use crate::tx::{Tx, on};
use crate::value::DbTime;
use crate::{Store, StoreError};

pub(crate) const NOUN: &str = "session";

const BY_ID: &str =
    "SELECT s.id, s.project_id, s.assistant, s.external_id, s.parent_id, r.id AS runner_id,
        s.created_at, s.updated_at
    FROM sessions AS s LEFT JOIN runners AS r ON r.session_id = s.id AND r.ended_at IS NULL
    WHERE s.id = $1";

const LIST: &str =
    "SELECT s.id, s.project_id, s.assistant, s.external_id, s.parent_id, r.id AS runner_id,
        s.created_at, s.updated_at
    FROM sessions AS s LEFT JOIN runners AS r ON r.session_id = s.id AND r.ended_at IS NULL
    ORDER BY s.updated_at DESC, s.id DESC LIMIT $1";

const LIST_OF_PROJECT: &str = "SELECT s.id, s.project_id, s.assistant, s.external_id, s.parent_id,
        r.id AS runner_id, s.created_at, s.updated_at
    FROM sessions AS s LEFT JOIN runners AS r ON r.session_id = s.id AND r.ended_at IS NULL
    WHERE s.project_id = $2
    ORDER BY s.updated_at DESC, s.id DESC LIMIT $1";

const INSERT: &str = "INSERT INTO sessions (id, project_id, assistant, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $4)";

const TOUCH: &str = "UPDATE sessions SET updated_at = $1 WHERE id = $2 AND updated_at < $1";

statements! { BY_ID, LIST, LIST_OF_PROJECT, INSERT, TOUCH }

#[derive(Debug, sqlx::FromRow)]
struct SessionRow {
    id: Text<SessionId>,
    project_id: Text<ProjectId>,
    assistant: Text<Name>,
    external_id: Option<String>,
    parent_id: Option<Text<SessionId>>,
    runner_id: Option<Text<RunnerId>>,
    created_at: DbTime,
    updated_at: DbTime,
}

impl From<SessionRow> for Session {
    fn from(row: SessionRow) -> Self {
        Session {
            id: row.id.0,
            project: row.project_id.0,
            assistant: row.assistant.0,
            external_id: row.external_id,
            parent: row.parent_id.map(|id| id.0),
            runner: row.runner_id.map(|id| id.0),
            created_at: row.created_at.0,
            updated_at: row.updated_at.0,
        }
    }
}

impl Store {
    pub async fn session_get(&self, id: SessionId) -> Result<Session, StoreError> {
        let mut reader = self.read().await?;
        let row: Option<SessionRow> =
            on!(reader, |conn| sqlx::query_as(BY_ID).bind(Text(id)).fetch_optional(conn).await)
                .map_err(doing("reading a session"))?;
        row.map(Session::from)
            .ok_or_else(|| StoreError::NotFound { noun: NOUN, wanted: id.to_string() })
    }

    /// Sessions, the one that was used last first.
    pub async fn session_list(
        &self,
        project: Option<ProjectId>,
        limit: u32,
    ) -> Result<Vec<Session>, StoreError> {
        let mut reader = self.read().await?;
        let limit = i64::from(limit);
        let rows: Vec<SessionRow> = match project {
            Some(project) => on!(reader, |conn| sqlx::query_as(LIST_OF_PROJECT)
                .bind(limit)
                .bind(Text(project))
                .fetch_all(conn)
                .await),
            None => on!(reader, |conn| sqlx::query_as(LIST).bind(limit).fetch_all(conn).await),
        }
        .map_err(doing("listing sessions"))?;
        Ok(rows.into_iter().map(Session::from).collect())
    }
}

/// The session, read in a transaction that holds its project's lock.
pub(crate) async fn read(tx: &mut Tx, id: SessionId) -> Result<Session, StoreError> {
    let row: Option<SessionRow> =
        on!(tx, |conn| sqlx::query_as(BY_ID).bind(Text(id)).fetch_optional(conn).await)
            .map_err(doing("reading a session"))?;
    row.map(Session::from)
        .ok_or_else(|| StoreError::NotFound { noun: NOUN, wanted: id.to_string() })
}

pub(crate) async fn insert(
    tx: &mut Tx,
    id: SessionId,
    project: ProjectId,
    assistant: &Name,
    now: Timestamp,
) -> Result<(), StoreError> {
    on!(tx, |conn| sqlx::query(INSERT)
        .bind(Text(id))
        .bind(Text(project))
        .bind(assistant.as_str())
        .bind(DbTime(now))
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("recording a session"))
}

/// Notes that the session was used at `at`.
pub(crate) async fn touch(tx: &mut Tx, id: SessionId, at: Timestamp) -> Result<(), StoreError> {
    on!(tx, |conn| sqlx::query(TOUCH).bind(DbTime(at)).bind(Text(id)).execute(conn).await.map(drop))
        .map_err(doing("recording the use of a session"))
}
