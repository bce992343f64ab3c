//! The events that still have to reach a destination. For now there is one: `bus`.
//!
//! An event is pending while its row exists, so one whose transaction commits late is simply found
//! later; no cursor can run past it.

use stratavore_core::Timestamp;
use stratavore_core::event::Event;
use stratavore_core::lease::Lease;

use crate::error::doing;
use crate::event::EventRow;
use crate::retry::retried;
use crate::tx::on;
use crate::value::DbTime;
use crate::{Store, StoreError, lease};

/// Outbox ids grow with the time of the insert. For one entity they grow with the sequence number,
/// because the change that makes number n holds the entity's row until it commits.
const PUBLISH: &str = "UPDATE events
    SET position = pending.number + (SELECT last FROM event_positions WHERE name = 'events')
    FROM (
        SELECT event_id, row_number() OVER (ORDER BY id) AS number
        FROM (SELECT id, event_id FROM outbox WHERE destination = 'bus' ORDER BY id LIMIT $1) AS first
    ) AS pending
    WHERE events.id = pending.event_id
    RETURNING events.id, position, entity, entity_id, name, project_id, seq, kind, at, caused_by, data,
        origin, decision, reason";

const ADVANCE: &str = "UPDATE event_positions SET last = $1 WHERE name = 'events'";

/// By what was published and not by outbox id: a row with a smaller id may have appeared since.
const SETTLE: &str = "DELETE FROM outbox WHERE destination = 'bus'
    AND event_id IN (SELECT id FROM events WHERE position BETWEEN $1 AND $2)";

/// The first row answers it, however many there are.
const EMPTY: &str = "SELECT NOT EXISTS (SELECT 1 FROM outbox WHERE destination = 'bus')";

const DEPTH: &str = "SELECT count(*), min(created_at) FROM outbox";

statements! { PUBLISH, ADVANCE, SETTLE, EMPTY, DEPTH }

/// How far the relay is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxDepth {
    pub pending: u64,
    pub oldest: Option<Timestamp>,
}

impl Store {
    /// Gives up to `limit` pending events their positions, takes them out of the outbox, and
    /// answers them in order.
    ///
    /// Only under the relay's lease: the lease's row stays locked until the commit, so two relays
    /// never give out the same position, and one whose term is over is refused with
    /// [`StoreError::StaleLease`].
    pub async fn outbox_publish(
        &self,
        lease: &Lease,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            lease::check(&mut tx, lease).await?;
            let rows: Vec<EventRow> = on!(tx, |conn| sqlx::query_as(PUBLISH)
                .bind(i64::from(limit))
                .fetch_all(conn)
                .await)
            .map_err(doing("publishing events"))?;
            let mut events =
                rows.into_iter().map(EventRow::into_event).collect::<Result<Vec<_>, _>>()?;
            events.sort_by_key(|event| event.position);
            let (Some(first), Some(last)) = (events.first(), events.last()) else {
                return Ok(events);
            };
            let (first, last) = (first.position, last.position);
            on!(tx, |conn| sqlx::query(ADVANCE).bind(last).execute(conn).await.map(drop))
                .map_err(doing("publishing events"))?;
            on!(tx, |conn| sqlx::query(SETTLE)
                .bind(first)
                .bind(last)
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing("emptying the outbox"))?;
            tx.commit().await?;
            Ok(events)
        })
    }

    /// True if no event waits to be published; unlike [`Store::outbox_depth`] it counts nothing.
    pub async fn outbox_is_empty(&self) -> Result<bool, StoreError> {
        let mut reader = self.read().await?;
        on!(reader, |conn| sqlx::query_scalar(EMPTY).fetch_one(conn).await)
            .map_err(doing("looking into the outbox"))
    }

    pub async fn outbox_depth(&self) -> Result<OutboxDepth, StoreError> {
        let mut reader = self.read().await?;
        let (pending, oldest): (i64, Option<DbTime>) =
            on!(reader, |conn| sqlx::query_as(DEPTH).fetch_one(conn).await)
                .map_err(doing("counting the outbox"))?;
        Ok(OutboxDepth { pending: pending.unsigned_abs(), oldest: oldest.map(|at| at.0) })
    }
}
