//! What is told of sessions, written down: what they are called, how they came to be, what was said.

use sqlx::types::Text;
use stratavore_core::caller::By;
use stratavore_core::event::{Entity, NewEvent};
use stratavore_core::idempotency::Idempotency;
use stratavore_core::name::Name;
use stratavore_core::observation::LineageKind;
use stratavore_core::session::{FIRST_PROMPT_MAX, MODELS_MAX, MessageCounts, Session, TITLE_MAX};
use stratavore_core::usage::bounded_text;
use stratavore_core::{NodeId, ProjectId, RunnerId, SessionId, Timestamp};

use crate::error::{doing, violated};
use crate::observed::Seen;
use crate::retry::retried;
use crate::tx::{Tx, on};
use crate::value::{DbTime, count, from_json, random, to_json};
use crate::{Observed, Store, StoreError, event, hold, idempotency, message, session, transcript};

/// A session without a name gets the one that its runner's assistant gave to the conversation.
const BIND: &str = "UPDATE sessions SET external_id = $1
    WHERE id = $2 AND external_id IS NULL AND assistant = $3
        AND NOT EXISTS (SELECT 1 FROM sessions WHERE assistant = $3 AND external_id = $1)";

const FIND: &str =
    "SELECT id, project_id, assistant, generation, external_id, title, first_prompt, words,
        directory, transcript, parent_id, lineage, models,
        user_messages, assistant_messages, tool_messages,
        started_at, ended_at, updated_at, removed_at, node_id
    FROM sessions WHERE assistant = $1 AND external_id = $2";

const FIND_LOCKED_POSTGRES: &str =
    "SELECT id, project_id, assistant, generation, external_id, title, first_prompt, words,
        directory, transcript, parent_id, lineage, models,
        user_messages, assistant_messages, tool_messages,
        started_at, ended_at, updated_at, removed_at, node_id
    FROM sessions WHERE assistant = $1 AND external_id = $2 FOR NO KEY UPDATE";

const BY_ID: &str =
    "SELECT id, project_id, assistant, generation, external_id, title, first_prompt, words,
        directory, transcript, parent_id, lineage, models,
        user_messages, assistant_messages, tool_messages,
        started_at, ended_at, updated_at, removed_at, node_id
    FROM sessions WHERE id = $1";

const BY_ID_LOCKED_POSTGRES: &str =
    "SELECT id, project_id, assistant, generation, external_id, title, first_prompt, words,
        directory, transcript, parent_id, lineage, models,
        user_messages, assistant_messages, tool_messages,
        started_at, ended_at, updated_at, removed_at, node_id
    FROM sessions WHERE id = $1 FOR NO KEY UPDATE";

const ADD: &str =
    "INSERT INTO sessions (id, project_id, assistant, external_id, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (assistant, external_id) WHERE external_id IS NOT NULL DO NOTHING";

const WRITE: &str =
    "UPDATE sessions SET generation = $2, title = $3, first_prompt = $4, words = $5,
        directory = $6, transcript = $7, parent_id = $8, lineage = $9, models = $10,
        user_messages = $11, assistant_messages = $12, tool_messages = $13,
        started_at = $14, ended_at = $15, updated_at = $16, removed_at = $17, node_id = $18
    WHERE id = $1";

statements! { BIND, FIND, FIND_LOCKED_POSTGRES, BY_ID, BY_ID_LOCKED_POSTGRES, ADD, WRITE }

/// A session's row, which is locked.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub(crate) struct Found {
    id: Text<SessionId>,
    project_id: Text<ProjectId>,
    assistant: Text<Name>,
    generation: i64,
    external_id: Option<String>,
    title: Option<String>,
    first_prompt: Option<String>,
    words: String,
    directory: Option<String>,
    transcript: Option<String>,
    parent_id: Option<Text<SessionId>>,
    lineage: Option<String>,
    models: String,
    user_messages: i64,
    assistant_messages: i64,
    tool_messages: i64,
    started_at: Option<DbTime>,
    ended_at: Option<DbTime>,
    updated_at: DbTime,
    removed_at: Option<DbTime>,
    node_id: Option<Text<NodeId>>,
}

/// All that a batch says of a session.
pub(crate) struct Told<'a> {
    pub(crate) seen: &'a Seen,
    pub(crate) parent: Option<SessionId>,
    /// Messages that were not counted before.
    pub(crate) counted: MessageCounts,
    /// The runner's assistant goes on with it.
    pub(crate) is_current: bool,
}

impl Store {
    /// Takes a session out of lists: its title, first prompt, messages and files are forgotten. What was
    /// used in it stays, and so does the fact that it was.
    ///
    /// While a live runner holds it the answer is [`StoreError::SessionBusy`].
    pub async fn session_remove(
        &self,
        id: SessionId,
        by: impl Into<By>,
        now: Timestamp,
        idempotency: Option<&Idempotency>,
    ) -> Result<Session, StoreError> {
        let by = &self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            if let Some(answer) = idempotency::claim(&mut tx, idempotency, now).await? {
                return Ok(answer);
            }
            let row = by_id(&mut tx, id).await?.filter(|row| row.removed_at.is_none());
            let Some(row) = row else {
                return Err(StoreError::NotFound { noun: session::NOUN, wanted: id.to_string() });
            };
            if let Some(runner) = hold::live_with(&mut tx, id).await? {
                return Err(StoreError::SessionBusy { session: id, runner });
            }
            let next = Found {
                generation: row.generation + 1,
                title: None,
                first_prompt: None,
                words: String::new(),
                transcript: None,
                removed_at: Some(DbTime(now)),
                ..row
            };
            save(&mut tx, &next).await?;
            let mut data = next.data();
            data["kept"] = forget(&mut tx, id).await?;
            let removed = NewEvent::new("session.removed", data);
            event::append(&mut tx, next.about(now, by), &removed).await?;
            let session = session::read(&mut tx, id).await?;
            idempotency::record(&mut tx, idempotency, &session).await?;
            tx.commit().await?;
            Ok(session)
        })
    }
}

impl Store {
    /// Forgets the messages and files of a session, which was kept for as long as is wanted; the
    /// session itself stays. False: there was nothing, or it was used since `before`.
    pub async fn session_expire(
        &self,
        id: SessionId,
        before: Timestamp,
        by: impl Into<stratavore_core::caller::By>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let by = &self.author(by)?;
        crate::retry::retried!({
            let mut tx = self.begin().await?;
            let row = by_id(&mut tx, id).await?.filter(|row| row.updated_at.0 < before);
            let Some(row) = row else { return Ok(false) };
            if hold::live_with(&mut tx, id).await?.is_some() {
                return Ok(false);
            }
            let kept = forget(&mut tx, id).await?;
            let next = Found { generation: row.generation + 1, transcript: None, ..row };
            save(&mut tx, &next).await?;
            let mut data = next.data();
            data["kept"] = kept;
            let expired = NewEvent::new("session.expired", data);
            event::append(&mut tx, next.about(now, by), &expired).await?;
            tx.commit().await?;
            Ok(true)
        })
    }
}

/// Forgets what was said in a session, and tells how much that was.
async fn forget(tx: &mut Tx, id: SessionId) -> Result<serde_json::Value, StoreError> {
    let messages = message::forget(tx, id).await?;
    let (files, bytes) = transcript::forget(tx, id).await?;
    Ok(serde_json::json!({ "messages": messages, "files": files, "bytes": bytes }))
}

/// Gives the session that a runner was started with the name that its assistant gave it, unless either
/// has another one already.
pub(crate) async fn bind(
    tx: &mut Tx,
    assistant: &Name,
    held: Option<SessionId>,
    external: &str,
) -> Result<(), StoreError> {
    let Some(held) = held else { return Ok(()) };
    on!(tx, |conn| sqlx::query(BIND)
        .bind(external)
        .bind(Text(held))
        .bind(assistant.as_str())
        .execute(conn)
        .await
        .map(drop))
    .map_err(|error| match violated(&error) {
        Some(_) => StoreError::Conflict { what: format!("what {held} is called") },
        None => doing("naming a session")(error),
    })
}

/// Finds the session, or makes it if it is known whose it would be, and locks it.
pub(crate) async fn find(
    tx: &mut Tx,
    batch: &Observed<'_>,
    external: &str,
    last_at: Option<Timestamp>,
) -> Result<Option<Found>, StoreError> {
    if let Some(found) = by_name(tx, batch.assistant, external).await? {
        return Ok(Some(found));
    }
    let Some(project) = batch.project else { return Ok(None) };
    on!(tx, |conn| sqlx::query(ADD)
        .bind(Text(SessionId::from_entropy(random())))
        .bind(Text(project))
        .bind(batch.assistant.as_str())
        .bind(external)
        .bind(DbTime(batch.now))
        .bind(DbTime(last_at.unwrap_or(batch.now)))
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("recording a session"))?;
    // Ours, or that of whoever was first.
    by_name(tx, batch.assistant, external).await
}

async fn by_name(
    tx: &mut Tx,
    assistant: &Name,
    external: &str,
) -> Result<Option<Found>, StoreError> {
    let sql = tx.either(FIND_LOCKED_POSTGRES, FIND);
    on!(tx, |conn| sqlx::query_as(sql)
        .bind(assistant.as_str())
        .bind(external)
        .fetch_optional(conn)
        .await)
    .map_err(doing("locking a session"))
}

async fn by_id(tx: &mut Tx, id: SessionId) -> Result<Option<Found>, StoreError> {
    let sql = tx.either(BY_ID_LOCKED_POSTGRES, BY_ID);
    on!(tx, |conn| sqlx::query_as(sql).bind(Text(id)).fetch_optional(conn).await)
        .map_err(doing("locking a session"))
}

/// Writes what is new of it, with the event that tells of what others want to know.
pub(crate) async fn write(
    tx: &mut Tx,
    batch: &Observed<'_>,
    row: &Found,
    told: &Told<'_>,
    by: &event::Author,
) -> Result<(), StoreError> {
    let mut next = row.with(batch, told)?;
    let kind = if row.generation == 0 {
        "session.created"
    } else if (&next.title, next.parent_id, &next.lineage)
        != (&row.title, row.parent_id, &row.lineage)
    {
        "session.updated"
    } else {
        return if next == *row { Ok(()) } else { save(tx, &next).await };
    };
    next.generation += 1;
    save(tx, &next).await?;
    event::append(tx, next.about(batch.now, by), &NewEvent::new(kind, next.data())).await
}

/// The runner has gone on to another session, and so this one is over for now.
pub(crate) async fn left(
    tx: &mut Tx,
    id: SessionId,
    runner: RunnerId,
    now: Timestamp,
    by: &event::Author,
) -> Result<(), StoreError> {
    let Some(row) = by_id(tx, id).await?.filter(|row| row.generation > 0) else { return Ok(()) };
    let next = Found { generation: row.generation + 1, ..row };
    save(tx, &next).await?;
    let mut data = next.data();
    data["left_by"] = serde_json::json!(runner);
    event::append(tx, next.about(now, by), &NewEvent::new("session.updated", data)).await
}

async fn save(tx: &mut Tx, row: &Found) -> Result<(), StoreError> {
    on!(tx, |conn| sqlx::query(WRITE)
        .bind(row.id)
        .bind(row.generation)
        .bind(&row.title)
        .bind(&row.first_prompt)
        .bind(&row.words)
        .bind(&row.directory)
        .bind(&row.transcript)
        .bind(row.parent_id)
        .bind(&row.lineage)
        .bind(&row.models)
        .bind(row.user_messages)
        .bind(row.assistant_messages)
        .bind(row.tool_messages)
        .bind(row.started_at)
        .bind(row.ended_at)
        .bind(row.updated_at)
        .bind(row.removed_at)
        .bind(row.node_id)
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("recording what is known of a session"))
}

impl Found {
    pub(crate) fn id(&self) -> SessionId {
        self.id.0
    }

    pub(crate) fn project(&self) -> ProjectId {
        self.project_id.0
    }

    fn with(&self, batch: &Observed<'_>, told: &Told<'_>) -> Result<Found, StoreError> {
        let seen = told.seen;
        let mut next = self.clone();
        if told.is_current {
            next.removed_at = None;
        }
        if next.removed_at.is_none() {
            if let Some(title) = &seen.title {
                next.title = Some(bounded_text(title, TITLE_MAX));
            }
            if next.first_prompt.is_none() {
                let prompt = seen.first_prompt.as_deref();
                next.first_prompt = prompt.map(|text| bounded_text(text, FIRST_PROMPT_MAX));
            }
            if seen.transcript.is_some() {
                next.transcript = seen.transcript.clone();
            }
            let texts = [next.title.as_deref(), next.first_prompt.as_deref()];
            let texts: Vec<&str> = texts.into_iter().flatten().collect();
            next.words = texts.join("\n").to_lowercase();
        }
        // Where it began: an assistant may walk about.
        next.directory = next.directory.or_else(|| seen.directory.clone());
        if next.lineage.is_none()
            && let (Some((_, kind)), Some(parent)) = (&seen.parent, told.parent)
        {
            next.lineage = Some(LineageKind::as_str(*kind).to_owned());
            next.parent_id = Some(Text(parent));
        }
        let mut models: Vec<String> = from_json("the models of a session", &self.models)?;
        for model in &seen.models {
            if models.len() < MODELS_MAX && !models.contains(model) {
                models.push(model.clone());
            }
        }
        next.models = to_json(&models);
        next.user_messages += count(told.counted.user);
        next.assistant_messages += count(told.counted.assistant);
        next.tool_messages += count(told.counted.tool);
        let first = seen.first_at.map(DbTime);
        next.started_at = match (next.started_at, first) {
            (Some(known), Some(first)) => Some(known.min(first)),
            (known, first) => known.or(first),
        };
        let last = seen.last_at.map(DbTime);
        next.ended_at = next.ended_at.max(last);
        next.updated_at = last.map_or(next.updated_at, |last| next.updated_at.max(last));
        // It is where its files are, and whoever goes on with it elsewhere takes it there.
        let is_there = seen.transcript.is_some() || told.is_current;
        next.node_id = next.node_id.filter(|_| !is_there).or(Some(Text(batch.node)));
        Ok(next)
    }

    /// Nothing of what was said: a title is made of that, and the record can forget nothing.
    fn data(&self) -> serde_json::Value {
        serde_json::json!({
            "assistant": self.assistant.0,
            "external_id": self.external_id,
            "is_titled": self.title.is_some(),
            "directory": self.directory,
            "parent": self.parent_id.map(|id| id.0),
            "lineage": self.lineage,
        })
    }

    fn about<'a>(&'a self, now: Timestamp, by: &'a event::Author) -> event::About<'a> {
        event::About {
            entity: Entity::Session,
            entity_id: self.id.0.to_string(),
            name: self.external_id.as_deref().unwrap_or_default(),
            project: Some(self.project_id.0),
            seq: self.generation,
            at: now,
            by,
        }
    }
}
