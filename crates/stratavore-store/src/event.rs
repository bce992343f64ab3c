//! Events: appended in the transaction that made them true, read once they are published.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::QueryBuilder;
use sqlx::types::Text;
use stratavore_audit::{Content, Writer};
use stratavore_core::caller::By;
use stratavore_core::event::{Decision, Entity, Event, EventFilter, NewEvent};
use stratavore_core::{EventId, ProjectId, Timestamp};

use crate::error::doing;
use crate::tx::{Tx, on};
use crate::value::{DbTime, from_json, random, to_json, without_nul};
use crate::{Store, StoreError};

pub(crate) const COLUMNS: &str = "id, position, entity, entity_id, name, project_id, seq, kind, at,
    caused_by, data, origin, decision, reason";

const INSERT: &str = "INSERT INTO events
    (id, entity, entity_id, name, project_id, seq, kind, at, caused_by, data,
        origin, decision, reason, mac)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";

const QUEUE: &str = "INSERT INTO outbox (destination, event_id, created_at)
    SELECT 'bus', id, at FROM events WHERE id = $1";

/// Both at once: to PostgreSQL each statement is a round trip, within a lock that others wait for.
const INSERT_AND_QUEUE_POSTGRES: &str = "WITH event AS (
        INSERT INTO events
            (id, entity, entity_id, name, project_id, seq, kind, at, caused_by, data,
                origin, decision, reason, mac)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
        RETURNING id, at
    )
    INSERT INTO outbox (destination, event_id, created_at) SELECT 'bus', id, at FROM event";

const LAST_POSITION: &str = "SELECT last FROM event_positions WHERE name = 'events'";

statements! { INSERT, QUEUE, INSERT_AND_QUEUE_POSTGRES, LAST_POSITION }

/// What an event is about, besides its kind and data.
pub(crate) struct About<'a> {
    pub(crate) entity: Entity,
    pub(crate) entity_id: String,
    /// What the entity is called now.
    pub(crate) name: &'a str,
    pub(crate) project: Option<ProjectId>,
    /// The entity's generation after the change.
    pub(crate) seq: i64,
    pub(crate) at: Timestamp,
    pub(crate) by: &'a Author,
}

/// Who appends events, and what gives them their codes.
pub(crate) struct Author {
    pub(crate) name: String,
    /// As JSON.
    pub(crate) origin: String,
    writer: Option<Arc<Writer>>,
}

/// The columns of an event that is appended.
pub(crate) struct NewRow {
    pub(crate) id: Text<EventId>,
    pub(crate) data: String,
    pub(crate) mac: Option<String>,
}

impl Author {
    /// Makes the row of an event, with a new id.
    pub(crate) fn row(&self, about: &About<'_>, event: &NewEvent) -> Result<NewRow, StoreError> {
        let (id, data) = (EventId::from_entropy(random()), to_json(&event.data));
        let mac = match &self.writer {
            Some(writer) => {
                let at_us = about.at.as_microsecond();
                let (id, project) = (id.to_string(), about.project.map(|id| id.to_string()));
                let content = Content {
                    id: &id,
                    entity: about.entity.as_str(),
                    entity_id: &about.entity_id,
                    name: about.name,
                    project: project.as_deref(),
                    seq: about.seq,
                    kind: event.kind,
                    at_us,
                    by: &self.name,
                    origin: Some(&self.origin),
                    decision: Some(event.decision.as_str()),
                    reason: event.reason.as_deref(),
                    data: &data,
                };
                let code = writer.code(&content.canonical(), at_us);
                Some(code.map_err(|source| StoreError::Unavailable {
                    doing: "giving an event its code",
                    source: source.into(),
                })?)
            }
            None => None,
        };
        Ok(NewRow { id: Text(id), data, mac })
    }
}

/// Appends an event and queues it for the bus.
///
/// The caller has written the entity's row in this transaction, and so holds its lock: no other
/// transaction can have the same sequence number, and none can commit a later one first.
pub(crate) async fn append(
    tx: &mut Tx,
    about: About<'_>,
    event: &NewEvent,
) -> Result<(), StoreError> {
    if let Some(reason) = &event.reason {
        without_nul("the reason of a refusal", reason)?;
    }
    let row = about.by.row(&about, event)?;
    tx.writes(&about, &row)?;
    let NewRow { id, data, mac } = row;
    let insert = tx.either(INSERT_AND_QUEUE_POSTGRES, INSERT);
    on!(tx, |conn| sqlx::query(insert)
        .bind(id)
        .bind(about.entity.as_str())
        .bind(about.entity_id)
        .bind(about.name)
        .bind(about.project.map(Text))
        .bind(about.seq)
        .bind(event.kind)
        .bind(DbTime(about.at))
        .bind(&about.by.name)
        .bind(&data)
        .bind(&about.by.origin)
        .bind(event.decision.as_str())
        .bind(event.reason.as_deref())
        .bind(&mac)
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("appending an event"))?;
    match tx {
        Tx::Postgres(..) => Ok(()),
        Tx::Sqlite(tx, _, _) => {
            let queued = sqlx::query(QUEUE).bind(id).execute(&mut **tx).await;
            queued.map(drop).map_err(doing("queueing an event"))
        }
    }
}

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct EventRow {
    id: Text<EventId>,
    position: Option<i64>,
    entity: String,
    entity_id: String,
    name: String,
    project_id: Option<Text<ProjectId>>,
    seq: i64,
    kind: String,
    at: DbTime,
    caused_by: String,
    data: String,
    origin: Option<String>,
    decision: Option<String>,
    reason: Option<String>,
}

impl EventRow {
    pub(crate) fn into_event(self) -> Result<Event, StoreError> {
        Ok(Event {
            id: self.id.0,
            position: self.position,
            entity: self.entity,
            entity_id: self.entity_id,
            name: self.name,
            project: self.project_id.map(|id| id.0),
            seq: self.seq,
            kind: self.kind,
            at: self.at.0,
            by: self.caused_by,
            origin: self
                .origin
                .map(|text| from_json("the origin of an event", &text))
                .transpose()?,
            decision: match self.decision {
                Some(text) => Decision::parse(&text).ok_or_else(|| StoreError::Corrupt {
                    what: format!("event {}", self.id.0),
                    why: format!("`{}` is no decision", text.escape_debug()),
                })?,
                None => Decision::default(),
            },
            reason: self.reason,
            data: from_json("the data of an event", &self.data)?,
        })
    }
}

/// Adds the conditions of `$filter`. A kind that ends in a dot is a range of kinds: no pattern is
/// ever made of what somebody typed.
macro_rules! push_filter {
    ($query:expr, $filter:expr) => {
        if let Some(project) = $filter.project {
            $query.push(" AND project_id = ").push_bind(Text(project));
        }
        if let Some(entity_id) = &$filter.entity_id {
            $query.push(" AND entity_id = ").push_bind(entity_id.clone());
        }
        if !$filter.kinds.is_empty() {
            $query.push(" AND (");
            for (i, kind) in $filter.kinds.iter().enumerate() {
                $query.push(if i == 0 { "" } else { " OR " });
                match kind.strip_suffix('.') {
                    Some(family) => {
                        $query.push("(kind >= ").push_bind(format!("{family}."));
                        // The character after the dot.
                        $query.push(" AND kind < ").push_bind(format!("{family}/")).push(")");
                    }
                    None => {
                        $query.push("kind = ").push_bind(kind.clone());
                    }
                }
            }
            $query.push(")");
        }
    };
}

impl Store {
    /// Gives each event that is appended from now on a code, which only the daemon can make. Said
    /// once, by the daemon; without it events have none.
    pub fn write_codes(&self, writer: Arc<Writer>) {
        self.inner.writer.set(writer).ok();
    }

    pub(crate) fn author(&self, by: impl Into<By>) -> Result<Author, StoreError> {
        let By { name, origin } = by.into();
        without_nul("the name of who asked", &name)?;
        let writer = self.inner.writer.get().cloned();
        Ok(Author { name, origin: to_json(&origin), writer })
    }

    /// Published events with a position greater than `after`, in order, at most `limit`.
    ///
    /// A reader that goes on from the last position that it was given misses none and sees none
    /// twice: positions are given in commit order, without gaps. One that would miss some because
    /// they are in files by now is refused with [`StoreError::Trimmed`].
    pub async fn event_list(
        &self,
        after: i64,
        filter: &EventFilter,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        check(filter)?;
        let mut reader = self.read().await?;
        let rows: Vec<EventRow> = on!(reader, |conn| {
            let mut query =
                QueryBuilder::new(format!("SELECT {COLUMNS} FROM events WHERE position > "));
            query.push_bind(after);
            push_filter!(query, filter);
            query.push(" ORDER BY position LIMIT ").push_bind(i64::from(limit));
            query.build_query_as().fetch_all(conn).await
        })
        .map_err(doing("listing events"))?;
        drop(reader);
        // After the look: what was removed before it is known to be by now.
        if rows.first().and_then(|row| row.position) != Some(after + 1) {
            let upto = self.trimmed_upto().await?;
            if upto > after.max(0) {
                return Err(StoreError::Trimmed { after, upto });
            }
        }
        rows.into_iter().map(EventRow::into_event).collect()
    }

    /// The last `limit` published events, in order.
    pub async fn event_latest(
        &self,
        filter: &EventFilter,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        check(filter)?;
        let mut reader = self.read().await?;
        let rows: Vec<EventRow> = on!(reader, |conn| {
            let mut query = QueryBuilder::new(format!(
                "SELECT {COLUMNS} FROM events WHERE position IS NOT NULL"
            ));
            push_filter!(query, filter);
            query.push(" ORDER BY position DESC LIMIT ").push_bind(i64::from(limit));
            query.build_query_as().fetch_all(conn).await
        })
        .map_err(doing("listing events"))?;
        rows.into_iter().rev().map(EventRow::into_event).collect()
    }

    /// The positions and codes of events, as far as they are in the database.
    pub async fn event_codes(
        &self,
        ids: &[EventId],
    ) -> Result<HashMap<EventId, (Option<i64>, Option<String>)>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<(Text<EventId>, Option<i64>, Option<String>)> = on!(reader, |conn| {
            let mut query = QueryBuilder::new("SELECT id, position, mac FROM events WHERE id IN (");
            let mut list = query.separated(", ");
            for id in ids {
                list.push_bind(Text(*id));
            }
            query.push(")");
            query.build_query_as().fetch_all(conn).await
        })
        .map_err(doing("looking for events"))?;
        Ok(rows.into_iter().map(|(id, position, mac)| (id.0, (position, mac))).collect())
    }

    /// The position of the event that was published last, or 0.
    pub async fn event_last_position(&self) -> Result<i64, StoreError> {
        let mut reader = self.read().await?;
        on!(reader, |conn| sqlx::query_scalar(LAST_POSITION).fetch_one(conn).await)
            .map_err(doing("reading the last position"))
    }
}

fn check(filter: &EventFilter) -> Result<(), StoreError> {
    let texts = filter.entity_id.iter().chain(&filter.kinds);
    texts.into_iter().try_for_each(|text| without_nul("an event filter", text))
}
