//! Events: appended in the transaction that made them true, read once they are published.

use sqlx::QueryBuilder;
use sqlx::types::Text;
use stratavore_core::event::{Entity, Event, EventFilter, NewEvent};
use stratavore_core::{EventId, ProjectId, Timestamp};

use crate::error::doing;
use crate::tx::{Tx, on};
use crate::value::{DbTime, from_json, random, to_json, without_nul};
use crate::{Store, StoreError};

pub(crate) const COLUMNS: &str =
    "id, position, entity, entity_id, name, project_id, seq, kind, at, caused_by, data";

const INSERT: &str = "INSERT INTO events
    (id, entity, entity_id, name, project_id, seq, kind, at, caused_by, data)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

const QUEUE: &str = "INSERT INTO outbox (destination, event_id, created_at)
    SELECT 'bus', id, at FROM events WHERE id = $1";

/// Both at once: to PostgreSQL each statement is a round trip, within a lock that others wait for.
const INSERT_AND_QUEUE_POSTGRES: &str = "WITH event AS (
        INSERT INTO events
            (id, entity, entity_id, name, project_id, seq, kind, at, caused_by, data)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
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
    pub(crate) by: &'a str,
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
    without_nul("the name of who asked", about.by)?;
    let id = Text(EventId::from_entropy(random()));
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
        .bind(about.by)
        .bind(to_json(&event.data))
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("appending an event"))?;
    match tx {
        Tx::Postgres(..) => Ok(()),
        Tx::Sqlite(tx, _) => {
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
}

impl EventRow {
    pub(crate) fn into_event(self) -> Result<Event, StoreError> {
        let entity = Entity::parse(&self.entity).ok_or_else(|| StoreError::Corrupt {
            what: format!("event {}", self.id.0),
            why: format!("it is about an unknown kind of thing, `{}`", self.entity.escape_debug()),
        })?;
        Ok(Event {
            id: self.id.0,
            position: self.position,
            entity,
            entity_id: self.entity_id,
            name: self.name,
            project: self.project_id.map(|id| id.0),
            seq: self.seq,
            kind: self.kind,
            at: self.at.0,
            by: self.caused_by,
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
    /// Published events with a position greater than `after`, in order, at most `limit`.
    ///
    /// A reader that goes on from the last position that it was given misses none and sees none
    /// twice: positions are given in commit order, without gaps.
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
