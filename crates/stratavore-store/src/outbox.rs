//! The events that still have to reach a destination. For now there is one: `bus`.
//!
//! An event is pending while its row exists, so one whose transaction commits late is simply found
//! later; no cursor can run past it.
//!
//! What was published is deleted, and on PostgreSQL it lies where it was until it is tidied up,
//! which a single old transaction of anybody's keeps from happening. Whoever looks for the first
//! pending event would pass by all of it, more each time. So a look begins above the ids that are
//! known to be over ([`Floor`]).
//!
//! Invariant: nothing is pending at or below the floor, nor ever will be.

use std::sync::PoisonError;

use sqlx::types::Text;
use stratavore_core::Timestamp;
use stratavore_core::event::Event;
use stratavore_core::lease::Lease;

use crate::error::doing;
use crate::event::EventRow;
use crate::hook::is_left_out;
use crate::retry::retried;
use crate::tx::{Reader, on};
use crate::value::DbTime;
use crate::{Store, StoreError, lease};

/// All that follows here, in one statement; see the migration.
const PUBLISH_POSTGRES: &str =
    "SELECT id, position, entity, entity_id, name, project_id, seq, kind, at, caused_by, data,
        origin, decision, reason, pg_current_xact_id()::text::bigint AS published_by
    FROM publish_events($1, $2, $3, $4, $5)";

/// What `publish_events` says of a lease whose term is over.
const STALE: &str = "SV001";

/// Outbox ids grow with the time of the insert. For one entity they grow with the sequence number,
/// because the change that makes number n holds the entity's row until it commits.
const PUBLISH: &str = "UPDATE events
    SET position = pending.number + (SELECT last FROM event_positions WHERE name = 'events')
    FROM (
        SELECT event_id, row_number() OVER (ORDER BY id) AS number
        FROM (SELECT id, event_id FROM outbox
            WHERE destination = 'bus' AND id > $2 ORDER BY id LIMIT $1) AS first
    ) AS pending
    WHERE events.id = pending.event_id
    RETURNING events.id, position, entity, entity_id, name, project_id, seq, kind, at, caused_by, data,
        origin, decision, reason";

const ADVANCE: &str = "UPDATE event_positions SET last = $1 WHERE name = 'events'";

/// By what was published and not by outbox id: a row with a smaller id may have appeared since.
const SETTLE: &str = "DELETE FROM outbox WHERE destination = 'bus'
    AND event_id IN (SELECT id FROM events WHERE position BETWEEN $1 AND $2)";

/// The first row answers it, however many there are.
const EMPTY_SQLITE: &str = "SELECT NOT EXISTS (SELECT 1 FROM outbox WHERE destination = 'bus')";

/// The first pending one, the last id that was given out, and below which number all transactions
/// are over. The end of a snapshot says nothing of those under way: their numbers may be above it.
const LOOK_POSTGRES: &str =
    "SELECT (SELECT id FROM outbox WHERE destination = 'bus' AND id > $1 ORDER BY id LIMIT 1),
    coalesce(pg_sequence_last_value('outbox_id_seq'), 0),
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint";

const DEPTH: &str = "SELECT count(*), min(created_at) FROM outbox";

statements! { PUBLISH_POSTGRES, PUBLISH, ADVANCE, SETTLE, EMPTY_SQLITE, LOOK_POSTGRES, DEPTH }

/// An event that was published, and the number of the transaction that did.
#[derive(sqlx::FromRow)]
struct PublishedRow {
    #[sqlx(flatten)]
    event: EventRow,
    published_by: i64,
}

/// How far the relay is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxDepth {
    pub pending: u64,
    pub oldest: Option<Timestamp>,
}

/// What is known of the ids in the outbox by looking at it again and again.
///
/// Whoever puts a row into the outbox has written its event before, and so has a number as a
/// transaction, before it is given an id. So when an id is known to have been given out, all
/// transactions that have this one or a smaller one have numbers, and smaller ones than a publishing
/// that begins after that. Once all numbers below that one are over, whatever they wrote can be seen,
/// and what cannot will never be there.
#[derive(Debug, Default)]
pub(crate) struct Floor {
    id: i64,
    /// The timeline of the server that this is known of.
    timeline: i64,
    /// An id that had been given out at the last look.
    given: Option<i64>,
    /// The same of an earlier look, and the number of a publishing that began after it.
    waits: Option<(i64, i64)>,
    /// No transaction is under way that has this id or a smaller one.
    over: i64,
}

impl Floor {
    /// One that was promoted may not know what was published, and has it pending.
    fn of(&mut self, timeline: i64) -> &mut Self {
        if timeline != self.timeline {
            *self = Self { timeline, ..Self::default() };
        }
        self
    }

    /// Takes in what a look above the floor has found: the first that is pending, the last id that
    /// was given out, and the number below which all transactions are over.
    fn look(&mut self, first: Option<i64>, given: i64, from: i64) {
        if given < self.id {
            // Another database, as from a backup.
            *self = Self { timeline: self.timeline, ..Self::default() };
        }
        if let Some((id, number)) = self.waits
            && from >= number
        {
            (self.over, self.waits) = (id, None);
        }
        let over = first.map_or(self.over, |first| self.over.min(first - 1));
        self.id = self.id.max(over);
        self.given = Some(given);
    }

    /// A transaction of this number has published, which began after `given` was seen.
    fn published(&mut self, given: Option<i64>, number: i64) {
        if self.waits.is_none() {
            self.waits = given.map(|given| (given, number));
        }
    }
}

impl Store {
    pub(crate) fn floor(&self) -> i64 {
        self.with_floor(self.timeline(), |floor| floor.id)
    }

    fn with_floor<T>(&self, timeline: i64, of: impl FnOnce(&mut Floor) -> T) -> T {
        let mut floor = self.inner.floor.lock().unwrap_or_else(PoisonError::into_inner);
        of(floor.of(timeline))
    }

    /// Gives up to `limit` pending events their positions, takes them out of the outbox, and
    /// answers them in order.
    ///
    /// Only under the relay's lease: the lease's row stays locked until the commit, so two relays
    /// never give out the same position, and one whose term is over is refused with
    /// [`StoreError::StaleLease`].
    ///
    /// If the connection breaks meanwhile the outcome is unknown: what is published is in the log.
    pub async fn outbox_publish(
        &self,
        lease: &Lease,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let mut events = match is_left_out("lease_check") {
            false if self.is_shared() => self.publish_at_once(lease, limit).await?,
            _ => self.publish_by_steps(lease, limit).await?,
        };
        events.sort_by_key(|event| event.position);
        Ok(events)
    }

    async fn publish_at_once(&self, lease: &Lease, limit: u32) -> Result<Vec<Event>, StoreError> {
        retried!({
            let timeline = self.timeline();
            let given = self.with_floor(timeline, |floor| floor.given);
            let mut reader = self.read().await?;
            if !self.is_of_this_server(lease) {
                return Err(StoreError::StaleLease { name: lease.name.clone() });
            }
            let published = on!(reader, |conn| sqlx::query_as(PUBLISH_POSTGRES)
                .bind(&lease.name)
                .bind(Text(lease.holder))
                .bind(lease.term)
                .bind(i64::from(limit))
                .bind(self.floor())
                .fetch_all(conn)
                .await);
            let rows: Vec<PublishedRow> =
                published.map_err(|error| match error.as_database_error() {
                    Some(said) if said.code().as_deref() == Some(STALE) => {
                        StoreError::StaleLease { name: lease.name.clone() }
                    }
                    Some(_) | None => doing("publishing events")(error),
                })?;
            if let Some(row) = rows.first().filter(|_| self.timeline() == timeline) {
                self.with_floor(timeline, |floor| floor.published(given, row.published_by));
            }
            rows.into_iter().map(|row| row.event.into_event()).collect()
        })
    }

    async fn publish_by_steps(&self, lease: &Lease, limit: u32) -> Result<Vec<Event>, StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            lease::check(self, &mut tx, lease).await?;
            let rows: Vec<EventRow> = on!(tx, |conn| sqlx::query_as(PUBLISH)
                .bind(i64::from(limit))
                .bind(self.floor())
                .fetch_all(conn)
                .await)
            .map_err(doing("publishing events"))?;
            let events =
                rows.into_iter().map(EventRow::into_event).collect::<Result<Vec<_>, _>>()?;
            let positions = || events.iter().map(|event| event.position);
            let (Some(first), Some(last)) = (positions().min(), positions().max()) else {
                return Ok(events);
            };
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
    /// Whoever publishes a lot asks it now and then: it learns where to look.
    pub async fn outbox_is_empty(&self) -> Result<bool, StoreError> {
        let what = "looking into the outbox";
        match self.read().await? {
            Reader::Sqlite(mut conn) => {
                let empty = sqlx::query_scalar(EMPTY_SQLITE).fetch_one(&mut *conn).await;
                empty.map_err(doing(what))
            }
            Reader::Postgres(mut conn, deadline) => {
                let look = sqlx::query_as(LOOK_POSTGRES).bind(self.floor());
                let (first, given, from): (Option<i64>, i64, i64) =
                    deadline.keep(look.fetch_one(&mut *conn)).await.map_err(doing(what))?;
                self.with_floor(self.timeline(), |floor| floor.look(first, given, from));
                Ok(first.is_none())
            }
        }
    }

    pub async fn outbox_depth(&self) -> Result<OutboxDepth, StoreError> {
        let mut reader = self.read().await?;
        let (pending, oldest): (i64, Option<DbTime>) =
            on!(reader, |conn| sqlx::query_as(DEPTH).fetch_one(conn).await)
                .map_err(doing("counting the outbox"))?;
        Ok(OutboxDepth { pending: pending.unsigned_abs(), oldest: oldest.map(|at| at.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_rises_only_over_what_no_transaction_can_bring_any_more() {
        let mut floor = Floor::default();
        // Up to 10 was given out; transaction 104 is under way and may have any of these, although the
        // last one that is over is 99.
        floor.look(Some(3), 10, 100);
        floor.published(Some(10), 105);
        floor.look(None, 10, 100);
        floor.look(None, 12, 104);
        assert_eq!(floor.id, 0, "it may still bring one");
        // It has ended, and so have all that began before that publishing.
        floor.look(None, 15, 105);
        assert_eq!(floor.id, 10);
        // Without another publishing nothing is known of those after.
        floor.look(None, 20, 200);
        floor.look(None, 20, 300);
        assert_eq!(floor.id, 10);
        // Behind one that is pending it does not rise.
        floor.published(Some(20), 301);
        floor.look(Some(12), 20, 301);
        assert_eq!(floor.id, 11);
        floor.look(None, 20, 400);
        assert_eq!(floor.id, 20);
        // Another database.
        floor.look(Some(1), 5, 50);
        assert_eq!(floor.id, 0);
        // Another server, whatever its ids are.
        floor.look(None, 30, 60);
        floor.published(Some(30), 61);
        floor.look(None, 40, 70);
        assert!(floor.id > 0);
        assert_eq!(floor.of(2).id, 0);
    }
}
