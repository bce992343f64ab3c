//! Sessions: conversations, found and listed, each with who has held it.
//!
//! Which runner carries a session is not written here: it is the live runner that names it, and a
//! unique index keeps it to one. What is told of them is written in `session_seen.rs`.

use sqlx::types::Text;
use sqlx::{QueryBuilder, Row};
use stratavore_core::name::{Name, Reference};
use stratavore_core::observation::LineageKind;
use stratavore_core::session::{Held, MessageCounts, Session};
use stratavore_core::{NodeId, ProjectId, RunnerId, SessionId, Timestamp};

use crate::error::{CANDIDATES_MAX, doing};
use crate::tx::{Reader, Tx, on};
use crate::value::{DbTime, from_json, without_nul};
use crate::{Store, StoreError};

pub(crate) const NOUN: &str = "session";

/// Those that were removed too: who has their ids still finds them.
const BY_ID: &str =
    "SELECT s.id, s.project_id, s.assistant, s.external_id, s.parent_id, s.lineage, r.id AS runner_id,
        s.title, s.first_prompt, s.directory, s.transcript, s.node_id, s.models,
        s.user_messages, s.assistant_messages, s.tool_messages,
        s.started_at, s.ended_at, s.created_at, s.updated_at
    FROM sessions AS s LEFT JOIN runners AS r ON r.session_id = s.id AND r.ended_at IS NULL
    WHERE s.id = $1";

/// What `$2` limits is ordered by the one that was used last.
const LIST: &str =
    "SELECT s.id, s.project_id, s.assistant, s.external_id, s.parent_id, s.lineage, r.id AS runner_id,
        s.title, s.first_prompt, s.directory, s.transcript, s.node_id, s.models,
        s.user_messages, s.assistant_messages, s.tool_messages,
        s.started_at, s.ended_at, s.created_at, s.updated_at
    FROM sessions AS s LEFT JOIN runners AS r ON r.session_id = s.id AND r.ended_at IS NULL
    WHERE s.removed_at IS NULL";

const CHILDREN: &str =
    "SELECT s.id, s.project_id, s.assistant, s.external_id, s.parent_id, s.lineage, r.id AS runner_id,
        s.title, s.first_prompt, s.directory, s.transcript, s.node_id, s.models,
        s.user_messages, s.assistant_messages, s.tool_messages,
        s.started_at, s.ended_at, s.created_at, s.updated_at
    FROM sessions AS s LEFT JOIN runners AS r ON r.session_id = s.id AND r.ended_at IS NULL
    WHERE s.parent_id = $1 AND s.removed_at IS NULL ORDER BY s.created_at, s.id LIMIT $2";

/// Ids are lower-case letters and digits, and `~` comes after all of them.
const BY_PREFIX: &str = "SELECT id FROM sessions
    WHERE id >= $1 AND id < $1 || '~' AND removed_at IS NULL ORDER BY id LIMIT $2";

const BY_EXTERNAL: &str = "SELECT id FROM sessions
    WHERE external_id = $1 AND removed_at IS NULL ORDER BY id LIMIT $2";

/// So are the assistants' ids of conversations, those that we know.
const BY_EXTERNAL_PREFIX_POSTGRES: &str = "SELECT id FROM sessions
    WHERE external_id COLLATE \"C\" >= $1 AND external_id COLLATE \"C\" < $1 || '~'
        AND removed_at IS NULL
    ORDER BY id LIMIT $2";

const BY_EXTERNAL_PREFIX_SQLITE: &str = "SELECT id FROM sessions
    WHERE external_id >= $1 AND external_id < $1 || '~' AND removed_at IS NULL ORDER BY id LIMIT $2";

const HELD: &str = "SELECT h.runner_id, r.name, h.epoch, h.first_at, h.last_at
    FROM session_runners AS h JOIN runners AS r ON r.id = h.runner_id
    WHERE h.session_id = $1 ORDER BY h.first_at DESC, h.epoch DESC, h.runner_id LIMIT $2";

const HELD_BY: &str =
    "SELECT EXISTS (SELECT 1 FROM session_runners WHERE session_id = $1 AND runner_id = $2)";

const INSERT: &str = "INSERT INTO sessions (id, project_id, assistant, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $4)";

/// Followed by the runner.
const HELD_LAST: [&str; 1] = ["SELECT mine.session_id FROM session_runners mine
    WHERE NOT EXISTS (SELECT 1 FROM session_runners later
            WHERE later.session_id = mine.session_id
                AND later.runner_id <> mine.runner_id AND later.first_at > mine.first_at)
        AND mine.runner_id = "];

const FORK: &str = "UPDATE sessions SET parent_id = $2, lineage = 'forked' WHERE id = $1";

/// A runner that goes on with one that was removed brings it back.
const TOUCH: &str = "UPDATE sessions SET updated_at = $1, removed_at = NULL
    WHERE id = $2 AND updated_at < $1";

statements! { BY_ID, LIST, CHILDREN, BY_PREFIX, BY_EXTERNAL, BY_EXTERNAL_PREFIX_POSTGRES, BY_EXTERNAL_PREFIX_SQLITE, HELD, HELD_BY, INSERT, FORK, TOUCH }

/// The most of a session's history and children that are shown with it.
const SHOWN_MAX: i64 = 100;

/// The beginning of an assistant's id has to have as many characters to name a session.
const EXTERNAL_PREFIX_MIN: usize = 4;

/// Which sessions a list shows; the default is all of them, the one that was used last first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionFilter {
    pub project: Option<ProjectId>,
    pub assistant: Option<String>,
    /// Only those that this runner holds or has held.
    pub held_by: Option<RunnerId>,
    /// Only those that no other runner has begun to hold after this one, and what their subagents said:
    /// nobody holds that.
    pub last_held_by: Option<RunnerId>,
    /// A part of the title or the first prompt, whatever the case.
    pub text: Option<String>,
    /// Only those that a runner carries now, or only those that none does.
    pub live: Option<bool>,
    /// The most to answer; `None` is all.
    pub limit: Option<u32>,
    /// Only those that come after this one in the list: the last of the page before.
    pub before: Option<(Timestamp, SessionId)>,
}

/// A session, with where it came from and who has held it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionStory {
    pub session: Session,
    pub parent: Option<Session>,
    /// Those that came from it, the oldest first.
    pub children: Vec<Session>,
    /// The latest first.
    pub held: Vec<Held>,
}

#[derive(Debug, sqlx::FromRow)]
struct SessionRow {
    id: Text<SessionId>,
    project_id: Text<ProjectId>,
    assistant: Text<Name>,
    external_id: Option<String>,
    parent_id: Option<Text<SessionId>>,
    lineage: Option<String>,
    runner_id: Option<Text<RunnerId>>,
    title: Option<String>,
    first_prompt: Option<String>,
    directory: Option<String>,
    transcript: Option<String>,
    node_id: Option<Text<NodeId>>,
    models: String,
    user_messages: i64,
    assistant_messages: i64,
    tool_messages: i64,
    started_at: Option<DbTime>,
    ended_at: Option<DbTime>,
    created_at: DbTime,
    updated_at: DbTime,
}

#[derive(Debug, sqlx::FromRow)]
struct HeldRow {
    runner_id: Text<RunnerId>,
    name: Text<Name>,
    epoch: i64,
    first_at: DbTime,
    last_at: DbTime,
}

impl SessionRow {
    fn into_session(self) -> Result<Session, StoreError> {
        Ok(Session {
            id: self.id.0,
            project: self.project_id.0,
            assistant: self.assistant.0,
            external_id: self.external_id,
            parent: self.parent_id.map(|id| id.0),
            lineage: self.lineage.as_deref().and_then(LineageKind::parse),
            runner: self.runner_id.map(|id| id.0),
            title: self.title,
            first_prompt: self.first_prompt,
            directory: self.directory,
            transcript: self.transcript,
            node: self.node_id.map(|id| id.0),
            models: from_json("the models of a session", &self.models)?,
            messages: MessageCounts {
                user: self.user_messages.unsigned_abs(),
                assistant: self.assistant_messages.unsigned_abs(),
                tool: self.tool_messages.unsigned_abs(),
            },
            started_at: self.started_at.map(|at| at.0),
            ended_at: self.ended_at.map(|at| at.0),
            created_at: self.created_at.0,
            updated_at: self.updated_at.0,
        })
    }
}

/// [`LIST`] with the conditions of `$filter`; `$found` looks for a text in another.
macro_rules! list_query {
    ($filter:expr, $found:expr) => {{
        let mut query = QueryBuilder::new(LIST);
        if let Some(project) = $filter.project {
            query.push(" AND s.project_id = ").push_bind(Text(project));
        }
        if let Some(assistant) = &$filter.assistant {
            query.push(" AND s.assistant = ").push_bind(assistant.clone());
        }
        if let Some(runner) = $filter.held_by {
            query
                .push(" AND s.id IN (SELECT session_id FROM session_runners WHERE runner_id = ")
                .push_bind(Text(runner))
                .push(")");
        }
        if let Some(runner) = $filter.last_held_by {
            query.push(" AND (s.id IN (").push(HELD_LAST[0]).push_bind(Text(runner)).push(")");
            query.push(" OR s.lineage = 'subagent' AND s.parent_id IN (");
            query.push(HELD_LAST[0]).push_bind(Text(runner)).push("))");
        }
        if let Some(text) = &$filter.text {
            query.push(concat!(" AND ", $found, "(s.words, "));
            query.push_bind(text.to_lowercase()).push(") > 0");
        }
        if let Some(live) = $filter.live {
            // From the runners' side: few of them live.
            query.push(if live { " AND s.id IN (" } else { " AND s.id NOT IN (" }).push(
                "SELECT session_id FROM runners WHERE ended_at IS NULL AND session_id IS NOT NULL)",
            );
        }
        if let Some((updated_at, id)) = $filter.before {
            query.push(" AND (s.updated_at, s.id) < (").push_bind(DbTime(updated_at));
            query.push(", ").push_bind(Text(id)).push(")");
        }
        query.push(" ORDER BY s.updated_at DESC, s.id DESC");
        if let Some(limit) = $filter.limit {
            query.push(" LIMIT ").push_bind(i64::from(limit));
        }
        query
    }};
}

impl Store {
    pub async fn session_get(&self, id: SessionId) -> Result<Session, StoreError> {
        let mut reader = self.read().await?;
        get(&mut reader, id).await?.ok_or_else(|| not_found(&id.to_string()))
    }

    /// Finds a session by our id of it, the beginning of that, the assistant's id, or the beginning of
    /// that: all that it could be, and one of them only.
    pub async fn session_find(&self, text: &str) -> Result<Session, StoreError> {
        without_nul("the name of a session", text)?;
        let wanted = Reference::parse(text, SessionId::PREFIX);
        if let Some(id) = wanted.id_prefix.as_deref().and_then(|prefix| prefix.parse().ok()) {
            return self.session_get(id).await;
        }
        let mut reader = self.read().await?;
        let mut found = ids(&mut reader, BY_EXTERNAL, text).await?;
        if found.is_empty() {
            if let Some(prefix) = &wanted.id_prefix {
                found = ids(&mut reader, BY_PREFIX, prefix).await?;
            }
            if text.chars().count() >= EXTERNAL_PREFIX_MIN {
                let sql = reader.either(BY_EXTERNAL_PREFIX_POSTGRES, BY_EXTERNAL_PREFIX_SQLITE);
                found.extend(ids(&mut reader, sql, text).await?);
            }
            found.sort_unstable();
            found.dedup();
        }
        match found[..] {
            [] => Err(not_found(text)),
            [id] => get(&mut reader, id).await?.ok_or_else(|| not_found(text)),
            _ => {
                let candidates = found.iter().take(CANDIDATES_MAX).map(ToString::to_string);
                let candidates = candidates.collect();
                Err(StoreError::Ambiguous { noun: NOUN, wanted: text.into(), candidates })
            }
        }
    }

    /// Sessions that match, the one that was used last first.
    pub async fn session_list(&self, filter: &SessionFilter) -> Result<Vec<Session>, StoreError> {
        let texts = filter.assistant.iter().chain(&filter.text);
        texts.into_iter().try_for_each(|text| without_nul("a filter of sessions", text))?;
        let mut reader = self.read().await?;
        let what = doing("listing sessions");
        let rows: Vec<SessionRow> = match &mut reader {
            Reader::Postgres(conn, deadline) => {
                let mut query = list_query!(filter, "strpos");
                deadline.keep(query.build_query_as().fetch_all(&mut **conn)).await
            }
            Reader::Sqlite(conn) => {
                let mut query = list_query!(filter, "instr");
                query.build_query_as().fetch_all(&mut **conn).await
            }
        }
        .map_err(what)?;
        rows.into_iter().map(SessionRow::into_session).collect()
    }

    /// A session, with where it came from and who has held it.
    pub async fn session_show(&self, id: SessionId) -> Result<SessionStory, StoreError> {
        let mut reader = self.read().await?;
        let session = get(&mut reader, id).await?.ok_or_else(|| not_found(&id.to_string()))?;
        let parent = match session.parent {
            Some(parent) => get(&mut reader, parent).await?,
            None => None,
        };
        let children: Vec<SessionRow> = on!(reader, |conn| sqlx::query_as(CHILDREN)
            .bind(Text(id))
            .bind(SHOWN_MAX)
            .fetch_all(conn)
            .await)
        .map_err(doing("listing what came from a session"))?;
        let children = children.into_iter().map(SessionRow::into_session).collect::<Result<_, _>>();
        let held: Vec<HeldRow> = on!(reader, |conn| sqlx::query_as(HELD)
            .bind(Text(id))
            .bind(SHOWN_MAX)
            .fetch_all(conn)
            .await)
        .map_err(doing("listing who has held a session"))?;
        let held = held.into_iter().map(|row| Held {
            runner: row.runner_id.0,
            name: row.name.0,
            epoch: row.epoch,
            first_at: row.first_at.0,
            last_at: row.last_at.0,
        });
        Ok(SessionStory { session, parent, children: children?, held: held.collect() })
    }

    /// Whether a runner holds a session, or has held it.
    pub async fn session_is_held_by(
        &self,
        id: SessionId,
        runner: RunnerId,
    ) -> Result<bool, StoreError> {
        let mut reader = self.read().await?;
        on!(reader, |conn| sqlx::query(HELD_BY)
            .bind(Text(id))
            .bind(Text(runner))
            .fetch_one(conn)
            .await
            .and_then(|row| row.try_get(0)))
        .map_err(doing("looking who has held a session"))
    }
}

fn not_found(wanted: &str) -> StoreError {
    StoreError::NotFound { noun: NOUN, wanted: wanted.into() }
}

async fn get(reader: &mut Reader, id: SessionId) -> Result<Option<Session>, StoreError> {
    let row: Option<SessionRow> =
        on!(reader, |conn| sqlx::query_as(BY_ID).bind(Text(id)).fetch_optional(conn).await)
            .map_err(doing("reading a session"))?;
    row.map(SessionRow::into_session).transpose()
}

async fn ids(
    reader: &mut Reader,
    sql: &'static str,
    text: &str,
) -> Result<Vec<SessionId>, StoreError> {
    let found: Vec<Text<SessionId>> = on!(reader, |conn| sqlx::query_scalar(sql)
        .bind(text)
        .bind(CANDIDATES_MAX as i64 + 1)
        .fetch_all(conn)
        .await)
    .map_err(doing("looking for a session"))?;
    Ok(found.into_iter().map(|id| id.0).collect())
}

/// The session, read in a transaction that holds its project's lock.
pub(crate) async fn read(tx: &mut Tx, id: SessionId) -> Result<Session, StoreError> {
    let row: Option<SessionRow> =
        on!(tx, |conn| sqlx::query_as(BY_ID).bind(Text(id)).fetch_optional(conn).await)
            .map_err(doing("reading a session"))?;
    row.ok_or_else(|| not_found(&id.to_string()))?.into_session()
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

/// Notes that a new session begins as another one was.
pub(crate) async fn fork(tx: &mut Tx, id: SessionId, parent: SessionId) -> Result<(), StoreError> {
    on!(tx, |conn| sqlx::query(FORK)
        .bind(Text(id))
        .bind(Text(parent))
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("recording the fork of a session"))
}

/// Notes that the session was used at `at`.
pub(crate) async fn touch(tx: &mut Tx, id: SessionId, at: Timestamp) -> Result<(), StoreError> {
    on!(tx, |conn| sqlx::query(TOUCH).bind(DbTime(at)).bind(Text(id)).execute(conn).await.map(drop))
        .map_err(doing("recording the use of a session"))
}
