//! Queues: what is to be done in projects, begun and settled.
//!
//! Whatever changes an item takes the project's lock first, and is an event of the project. An attempt and its
//! runner are written down together, so there is one exactly if there is the other.
//!
//! Invariant: of a project at most as many items run as its queue allows, and what is begun is what has the
//! highest priority and is due, whoever begins it.
//! Invariant: no attempt is begun twice, and none is settled twice.

use sqlx::QueryBuilder;
use sqlx::types::Text;
use stratavore_core::caller::By;
use stratavore_core::event::NewEvent;
use stratavore_core::idempotency::Idempotency;
use stratavore_core::name::Reference;
use stratavore_core::queue::{Item, QueueSettings};
use stratavore_core::runner::Runner;
use stratavore_core::{ItemId, ProjectId, Timestamp};

use crate::admit::{NewRunner, admit_within};
use crate::error::{CANDIDATES_MAX, doing};
use crate::hook::passing;
use crate::retry::retried;
use crate::tx::{Tx, on};
use crate::value::{DbTime, from_json, to_json};
use crate::{Store, StoreError, idempotency, project, reserve};

const NOUN: &str = "item";

const ADD: &str = "INSERT INTO queue_items
    (id, project_id, state, priority, not_before, runner_id, generation, created_at, ended_at, record)
    VALUES ($1, $2, $3, $4, $5, NULL, $6, $7, NULL, $8)";

const CHANGE: &str = "UPDATE queue_items
    SET state = $1, not_before = $2, runner_id = $3, generation = $4, ended_at = $5, record = $6
    WHERE id = $7 AND generation = $8";

const BY_ID: &str = "SELECT record FROM queue_items WHERE id = $1";

/// Ids are lower-case letters and digits, and `~` comes after all of them.
const BY_PREFIX: &str =
    "SELECT record FROM queue_items WHERE id >= $1 AND id < $1 || '~' ORDER BY id LIMIT $2";

const LIST: &str = "SELECT record FROM queue_items WHERE 1 = 1";

const RUNNING: &str =
    "SELECT record FROM queue_items WHERE runner_id IS NOT NULL ORDER BY created_at, id";

const COUNT_RUNNING: &str =
    "SELECT count(*) FROM queue_items WHERE project_id = $1 AND runner_id IS NOT NULL";

const DUE: &str = "SELECT DISTINCT project_id FROM queue_items
    WHERE state = 'queued' AND (not_before IS NULL OR not_before <= $1) ORDER BY project_id";

const FIRST: &str = "SELECT record FROM queue_items
    WHERE project_id = $1 AND state = 'queued' AND (not_before IS NULL OR not_before <= $2)
    ORDER BY priority DESC, created_at, id LIMIT 1";

const SETTINGS: &str = "SELECT record FROM queues WHERE project_id = $1";

const SET: &str = "INSERT INTO queues (project_id, record) VALUES ($1, $2)
    ON CONFLICT (project_id) DO UPDATE SET record = excluded.record";

statements! {
    ADD, CHANGE, BY_ID, BY_PREFIX, LIST, RUNNING, COUNT_RUNNING, DUE, FIRST, SETTINGS, SET,
}

/// Which items a list shows; the default is all of them, the latest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ItemFilter {
    pub project: Option<ProjectId>,
    /// Only those that have not come to their end.
    pub open_only: bool,
    /// The most to answer; `None` is all.
    pub limit: Option<u32>,
    /// Only those that come after this one in the list: the last of the page before.
    pub before: Option<(Timestamp, ItemId)>,
}

impl Store {
    /// Queues an item.
    pub async fn item_add(
        &self,
        item: &Item,
        event: NewEvent,
        by: impl Into<By>,
        idempotency: Option<&Idempotency>,
    ) -> Result<Item, StoreError> {
        let by = &self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            if let Some(answer) = idempotency::claim(&mut tx, idempotency, item.created_at).await? {
                return Ok(answer);
            }
            let project = project::lock(&mut tx, item.project).await?;
            if project.archived_at.is_some() {
                return Err(StoreError::ProjectArchived(project.name));
            }
            on!(tx, |conn| sqlx::query(ADD)
                .bind(Text(item.id))
                .bind(Text(item.project))
                .bind(item.state.as_str())
                .bind(i64::from(item.wish.priority))
                .bind(item.state.not_before().map(DbTime))
                .bind(item.generation)
                .bind(DbTime(item.created_at))
                .bind(to_json(item))
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing("queueing an item"))?;
            project::happened(&mut tx, &project, &event, item.created_at, by).await?;
            idempotency::record(&mut tx, idempotency, item).await?;
            tx.commit().await?;
            Ok(item.clone())
        })
    }

    pub async fn item_get(&self, id: ItemId) -> Result<Item, StoreError> {
        let mut reader = self.read().await?;
        let record: Option<String> =
            on!(reader, |conn| sqlx::query_scalar(BY_ID).bind(Text(id)).fetch_optional(conn).await)
                .map_err(doing("reading an item"))?;
        record.map_or_else(
            || Err(StoreError::NotFound { noun: NOUN, wanted: id.to_string() }),
            |record| parse(&record),
        )
    }

    /// Finds an item by its id, or the beginning of one.
    pub async fn item_find(&self, wanted: &Reference) -> Result<Item, StoreError> {
        let not_found = || StoreError::NotFound { noun: NOUN, wanted: wanted.text.clone() };
        let prefix = wanted.id_prefix.as_deref().ok_or_else(not_found)?;
        let mut reader = self.read().await?;
        let records: Vec<String> = on!(reader, |conn| sqlx::query_scalar(BY_PREFIX)
            .bind(prefix)
            .bind(CANDIDATES_MAX as i64)
            .fetch_all(conn)
            .await)
        .map_err(doing("looking for an item"))?;
        let mut found: Vec<Item> =
            records.iter().map(|record| parse(record)).collect::<Result<_, _>>()?;
        if found.len() > 1 {
            let candidates = found.iter().map(|item| item.id.to_string()).collect();
            let wanted = wanted.text.clone();
            return Err(StoreError::Ambiguous { noun: NOUN, wanted, candidates });
        }
        found.pop().ok_or_else(not_found)
    }

    /// Items that match, the latest first.
    pub async fn item_list(&self, filter: &ItemFilter) -> Result<Vec<Item>, StoreError> {
        let mut reader = self.read().await?;
        let records: Vec<String> = on!(reader, |conn| {
            let mut query = QueryBuilder::new(LIST);
            if let Some(project) = filter.project {
                query.push(" AND project_id = ").push_bind(Text(project));
            }
            if filter.open_only {
                query.push(" AND ended_at IS NULL");
            }
            if let Some((created_at, id)) = filter.before {
                query.push(" AND (created_at, id) < (").push_bind(DbTime(created_at));
                query.push(", ").push_bind(Text(id)).push(")");
            }
            query.push(" ORDER BY created_at DESC, id DESC");
            if let Some(limit) = filter.limit {
                query.push(" LIMIT ").push_bind(i64::from(limit));
            }
            query.build_query_scalar().fetch_all(conn).await
        })
        .map_err(doing("listing items"))?;
        records.iter().map(|record| parse(record)).collect()
    }

    /// The items of all projects whose attempt is not settled.
    pub async fn items_running(&self) -> Result<Vec<Item>, StoreError> {
        let mut reader = self.read().await?;
        let records: Vec<String> =
            on!(reader, |conn| sqlx::query_scalar(RUNNING).fetch_all(conn).await)
                .map_err(doing("listing what runs of queues"))?;
        records.iter().map(|record| parse(record)).collect()
    }

    /// The projects in which something is due.
    pub async fn queues_due(&self, now: Timestamp) -> Result<Vec<ProjectId>, StoreError> {
        let mut reader = self.read().await?;
        let due: Vec<Text<ProjectId>> =
            on!(reader, |conn| sqlx::query_scalar(DUE).bind(DbTime(now)).fetch_all(conn).await)
                .map_err(doing("looking for what is due"))?;
        Ok(due.into_iter().map(|id| id.0).collect())
    }

    /// What is to be begun next in a project, as it is just now: whoever begins it finds out whether that is
    /// still so.
    pub async fn item_next(
        &self,
        project: ProjectId,
        now: Timestamp,
    ) -> Result<Option<Item>, StoreError> {
        let settings = self.queue_settings(project).await?;
        let mut reader = self.read().await?;
        let running: i64 = on!(reader, |conn| sqlx::query_scalar(COUNT_RUNNING)
            .bind(Text(project))
            .fetch_one(conn)
            .await)
        .map_err(doing("counting what runs of a queue"))?;
        if settings.paused || running >= i64::from(settings.concurrency) {
            return Ok(None);
        }
        let first: Option<String> = on!(reader, |conn| sqlx::query_scalar(FIRST)
            .bind(Text(project))
            .bind(DbTime(now))
            .fetch_optional(conn)
            .await)
        .map_err(doing("looking for what is next"))?;
        first.as_deref().map(parse).transpose()
    }

    /// Begins the next attempt of `seen`: `next` is the item with it, and `runner` its runner, which is admitted
    /// by the same transaction. `None`: the project's queue lets nothing begin now.
    ///
    /// If something else is to be begun by now, or the item has changed, the answer is
    /// [`StoreError::Conflict`].
    pub async fn item_begin(
        &self,
        seen: &Item,
        next: &Item,
        event: NewEvent,
        runner: NewRunner,
        by: impl Into<By>,
    ) -> Result<Option<Runner>, StoreError> {
        let by = &self.author(by)?;
        let now = next.updated_at;
        let runners = [runner];
        if next.state.runner() != Some(runners[0].id) || seen.project != runners[0].project {
            return Err(StoreError::invalid(seen.id.to_string(), "its runner is another one"));
        }
        retried!({
            let mut tx = self.begin().await?;
            let project = project::lock(&mut tx, seen.project).await?;
            if project.archived_at.is_some() {
                return Err(StoreError::ProjectArchived(project.name));
            }
            if self.locks() {
                let settings = settings(&mut tx, project.id).await?;
                let running: i64 = on!(tx, |conn| sqlx::query_scalar(COUNT_RUNNING)
                    .bind(Text(project.id))
                    .fetch_one(conn)
                    .await)
                .map_err(doing("counting what runs of a queue"))?;
                if settings.paused || running >= i64::from(settings.concurrency) {
                    return Ok(None);
                }
                let first: Option<String> = on!(tx, |conn| sqlx::query_scalar(FIRST)
                    .bind(Text(project.id))
                    .bind(DbTime(now))
                    .fetch_optional(conn)
                    .await)
                .map_err(doing("looking for what is next"))?;
                let first: Option<Item> = first.as_deref().map(parse).transpose()?;
                if first.as_ref().map(|item| item.id) != Some(seen.id) {
                    return Err(changed(seen));
                }
            }
            let admitted = admit_within(&mut tx, &project, &runners, by, now, true).await?;
            write(&mut tx, seen, next).await?;
            project::happened(&mut tx, &project, &event, now, by).await?;
            reserve::reserve(&mut tx, project.id, &admitted, now, true).await?;
            passing("item_begin");
            tx.commit().await?;
            Ok(admitted.into_iter().next())
        })
    }

    /// Replaces the item `seen` by `next`, with the event that says so. If it has changed since, the answer is
    /// [`StoreError::Conflict`].
    pub async fn item_write(
        &self,
        seen: &Item,
        next: &Item,
        event: NewEvent,
        by: impl Into<By>,
        idempotency: Option<&Idempotency>,
    ) -> Result<Item, StoreError> {
        let by = &self.author(by)?;
        if seen.id != next.id || next.generation != seen.generation + 1 {
            let why = "a change raises the generation by one";
            return Err(StoreError::invalid(seen.id.to_string(), why));
        }
        retried!({
            let mut tx = self.begin().await?;
            if let Some(answer) = idempotency::claim(&mut tx, idempotency, next.updated_at).await? {
                return Ok(answer);
            }
            let project = project::lock(&mut tx, seen.project).await?;
            write(&mut tx, seen, next).await?;
            project::happened(&mut tx, &project, &event, next.updated_at, by).await?;
            idempotency::record(&mut tx, idempotency, next).await?;
            passing("item_write");
            tx.commit().await?;
            Ok(next.clone())
        })
    }

    /// How a project's queue is worked off.
    pub async fn queue_settings(&self, project: ProjectId) -> Result<QueueSettings, StoreError> {
        let mut reader = self.read().await?;
        let record: Option<String> = on!(reader, |conn| sqlx::query_scalar(SETTINGS)
            .bind(Text(project))
            .fetch_optional(conn)
            .await)
        .map_err(doing("reading how a queue is worked off"))?;
        parse_settings(record.as_deref())
    }

    /// Changes how a project's queue is worked off; `change` says what is to be of what is.
    pub async fn queue_set(
        &self,
        project: ProjectId,
        change: impl Fn(QueueSettings) -> (QueueSettings, NewEvent),
        by: impl Into<By>,
        now: Timestamp,
        idempotency: Option<&Idempotency>,
    ) -> Result<QueueSettings, StoreError> {
        let by = &self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            if let Some(answer) = idempotency::claim(&mut tx, idempotency, now).await? {
                return Ok(answer);
            }
            let project = project::lock(&mut tx, project).await?;
            let (next, event) = change(settings(&mut tx, project.id).await?);
            on!(tx, |conn| sqlx::query(SET)
                .bind(Text(project.id))
                .bind(to_json(&next))
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing("changing how a queue is worked off"))?;
            project::happened(&mut tx, &project, &event, now, by).await?;
            idempotency::record(&mut tx, idempotency, &next).await?;
            tx.commit().await?;
            Ok(next)
        })
    }
}

async fn write(tx: &mut Tx, seen: &Item, next: &Item) -> Result<(), StoreError> {
    let written = on!(tx, |conn| sqlx::query(CHANGE)
        .bind(next.state.as_str())
        .bind(next.state.not_before().map(DbTime))
        .bind(next.state.runner().map(Text))
        .bind(next.generation)
        .bind(next.state.ended_at().map(DbTime))
        .bind(to_json(next))
        .bind(Text(seen.id))
        .bind(seen.generation)
        .execute(conn)
        .await
        .map(|done| done.rows_affected()))
    .map_err(doing("changing an item"))?;
    if written == 0 { Err(changed(seen)) } else { Ok(()) }
}

fn changed(seen: &Item) -> StoreError {
    StoreError::Conflict { what: seen.id.to_string() }
}

async fn settings(tx: &mut Tx, project: ProjectId) -> Result<QueueSettings, StoreError> {
    let record: Option<String> =
        on!(tx, |conn| sqlx::query_scalar(SETTINGS).bind(Text(project)).fetch_optional(conn).await)
            .map_err(doing("reading how a queue is worked off"))?;
    parse_settings(record.as_deref())
}

fn parse_settings(record: Option<&str>) -> Result<QueueSettings, StoreError> {
    record.map_or_else(|| Ok(QueueSettings::default()), |record| from_json("a queue", record))
}

fn parse(record: &str) -> Result<Item, StoreError> {
    from_json("an item of a queue", record)
}
