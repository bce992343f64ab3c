//! Destinations: how far each one is, how it is doing, and what it will not take.
//!
//! Positions are given after the commit, by one relay at a time and without a gap. So a cursor on
//! them cannot run past an event that commits late, as one on ids would.
//!
//! Invariant: whoever delivers writes under the lease of that destination, and one whose term is
//! over is refused.
//! Invariant: a destination's position never goes back.

use serde_json::json;
use sqlx::types::Text;
use stratavore_core::caller::By;
use stratavore_core::destination::{Backlog, DeadLetter, Destination, Health, Retry};
use stratavore_core::event::{Event, NewEvent};
use stratavore_core::lease::Lease;
use stratavore_core::{DeadLetterId, EventId, NodeId, Timestamp};

use crate::error::doing;
use crate::event::EventRow;
use crate::retry::retried;
use crate::tx::{Tx, on};
use crate::value::{DbTime, random, without_nul};
use crate::{Store, StoreError, lease, node};

const NOUN: &str = "destination";

/// A new one begins with what happens from now on.
const ENSURE: &str = "INSERT INTO destinations
        (name, kind, settings, position, enabled, health, problem, told_at, created_at)
    SELECT $1, $2, $3, last, 1, 'stopped', '', $4, $4
    FROM event_positions WHERE name = 'events'
    ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, settings = excluded.settings";

const LIST: &str =
    "SELECT name, kind, settings, position, enabled, health, problem, told_at, created_at,
        (SELECT last FROM event_positions WHERE name = 'events') - position AS pending,
        (SELECT at FROM events WHERE events.position = destinations.position + 1) AS oldest,
        (SELECT count(*) FROM dead_letters
            WHERE destination = destinations.name AND replayed_at IS NULL)
        + (SELECT count(*) FROM notifications
            WHERE destination = destinations.name AND state = 'dead') AS dead
    FROM destinations ORDER BY name";

const ADVANCE: &str = "UPDATE destinations SET position = $2 WHERE name = $1 AND position < $2";

const TELL: &str = "UPDATE destinations SET health = $2, problem = $3, told_at = $4 WHERE name = $1 AND enabled = 1";

const BURY: &str = "INSERT INTO dead_letters
        (id, destination, event_id, position, reason, attempts, died_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (destination, event_id) DO UPDATE SET reason = excluded.reason,
        attempts = excluded.attempts, died_at = excluded.died_at, retry_at = NULL, replayed_at = NULL";

const REPLAYED: &str = "UPDATE dead_letters SET replayed_at = $2 WHERE id = $1";

const RETRY: &str = "UPDATE dead_letters SET retry_at = $2 WHERE id = $1 AND replayed_at IS NULL";

const RETRY_ALL: &str = "UPDATE dead_letters SET retry_at = $2
    WHERE ($1 = '' OR destination = $1) AND replayed_at IS NULL";

const IS_THERE: &str = "SELECT name FROM destinations WHERE name = $1";

const DEAD: &str = "SELECT dead_letters.id AS letter, destination, event_id,
        dead_letters.position AS place, dead_letters.reason AS why, attempts, died_at, retry_at, replayed_at,
        events.id, events.position, entity, entity_id, events.name, project_id, seq, events.kind,
        at, caused_by, data, origin, decision, events.reason
    FROM dead_letters JOIN events ON events.id = event_id
    WHERE dead_letters.position > $1 AND ($2 = '' OR destination = $2) AND replayed_at IS NULL
    ORDER BY dead_letters.position, destination LIMIT $3";

const WANTED: &str = "SELECT dead_letters.id AS letter, destination, event_id,
        dead_letters.position AS place, dead_letters.reason AS why, attempts, died_at, retry_at, replayed_at,
        events.id, events.position, entity, entity_id, events.name, project_id, seq, events.kind,
        at, caused_by, data, origin, decision, events.reason
    FROM dead_letters JOIN events ON events.id = event_id
    WHERE destination = $1 AND retry_at IS NOT NULL AND replayed_at IS NULL
    ORDER BY dead_letters.position LIMIT $2";

const DEAD_POSITIONS: &str =
    "SELECT position FROM dead_letters WHERE destination = $1 AND position > $2 ORDER BY position";

statements! {
    ENSURE, LIST, ADVANCE, TELL, BURY, REPLAYED, RETRY, RETRY_ALL, IS_THERE, DEAD, WANTED,
    DEAD_POSITIONS,
}

#[derive(Debug, sqlx::FromRow)]
struct DestinationRow {
    name: String,
    kind: String,
    settings: String,
    position: i64,
    enabled: i64,
    health: String,
    problem: String,
    told_at: DbTime,
    created_at: DbTime,
    pending: i64,
    oldest: Option<DbTime>,
    dead: i64,
}

impl DestinationRow {
    fn read(self) -> Result<(Destination, Backlog), StoreError> {
        let health = Health::parse(&self.health).ok_or_else(|| StoreError::Corrupt {
            what: format!("destination {}", self.name.escape_debug()),
            why: format!("its health is an unknown one, `{}`", self.health.escape_debug()),
        })?;
        let backlog = Backlog {
            pending: self.pending.unsigned_abs(),
            oldest: self.oldest.map(|at| at.0),
            dead: self.dead.unsigned_abs(),
        };
        let destination = Destination {
            name: self.name,
            kind: self.kind,
            settings: self.settings,
            position: self.position,
            enabled: self.enabled != 0,
            health,
            problem: self.problem,
            told_at: self.told_at.0,
            created_at: self.created_at.0,
        };
        Ok((destination, backlog))
    }
}

#[derive(Debug, sqlx::FromRow)]
struct DeadRow {
    letter: Text<DeadLetterId>,
    destination: String,
    event_id: Text<EventId>,
    place: i64,
    why: String,
    attempts: i64,
    died_at: DbTime,
    retry_at: Option<DbTime>,
    replayed_at: Option<DbTime>,
    #[sqlx(flatten)]
    event: EventRow,
}

impl DeadRow {
    fn read(self) -> Result<(DeadLetter, Event), StoreError> {
        let letter = DeadLetter {
            id: self.letter.0,
            destination: self.destination,
            event: self.event_id.0,
            position: self.place,
            reason: self.why,
            attempts: self.attempts,
            died_at: self.died_at.0,
            retry_at: self.retry_at.map(|at| at.0),
            replayed_at: self.replayed_at.map(|at| at.0),
        };
        Ok((letter, self.event.into_event()?))
    }
}

impl Store {
    /// Makes the destination if it is not there, and gives it these settings.
    pub async fn destination_ensure(
        &self,
        name: &str,
        kind: &str,
        settings: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for text in [name, kind, settings] {
            without_nul("a destination", text)?;
        }
        retried!({
            let mut tx = self.begin().await?;
            on!(tx, |conn| sqlx::query(ENSURE)
                .bind(name)
                .bind(kind)
                .bind(settings)
                .bind(DbTime(now))
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing("making a destination"))?;
            tx.commit().await
        })
    }

    /// All destinations by name, with what each of them still has to get.
    pub async fn destination_list(&self) -> Result<Vec<(Destination, Backlog)>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<DestinationRow> =
            on!(reader, |conn| sqlx::query_as(LIST).fetch_all(conn).await)
                .map_err(doing("listing destinations"))?;
        rows.into_iter().map(DestinationRow::read).collect()
    }

    /// Writes down that all events up to `position` were delivered. One that is behind what is there
    /// changes nothing.
    pub async fn destination_advance(
        &self,
        lease: &Lease,
        name: &str,
        position: i64,
    ) -> Result<(), StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            lease::check(self, &mut tx, lease).await?;
            on!(tx, |conn| sqlx::query(ADVANCE)
                .bind(name)
                .bind(position)
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing("advancing a destination"))?;
            tx.commit().await
        })
    }

    /// Writes down how a destination is, for whoever asks any daemon.
    pub async fn destination_tell(
        &self,
        lease: &Lease,
        name: &str,
        health: Health,
        problem: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            lease::check(self, &mut tx, lease).await?;
            on!(tx, |conn| sqlx::query(TELL)
                .bind(name)
                .bind(health.as_str())
                .bind(problem.replace('\0', " "))
                .bind(DbTime(now))
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing("telling how a destination is"))?;
            tx.commit().await
        })
    }

    /// Sets an event aside. One that is aside already gets the new reason.
    pub async fn dead_letter_bury(
        &self,
        lease: &Lease,
        destination: &str,
        event: &Event,
        reason: &str,
        attempts: i64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            lease::check(self, &mut tx, lease).await?;
            on!(tx, |conn| sqlx::query(BURY)
                .bind(Text(DeadLetterId::from_entropy(random())))
                .bind(destination)
                .bind(Text(event.id))
                .bind(event.position)
                .bind(reason.replace('\0', " "))
                .bind(attempts)
                .bind(DbTime(now))
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing("setting an event aside"))?;
            tx.commit().await
        })
    }

    /// Writes down that a dead letter was delivered after all.
    pub async fn dead_letter_replayed(
        &self,
        lease: &Lease,
        id: DeadLetterId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            lease::check(self, &mut tx, lease).await?;
            set_time(&mut tx, REPLAYED, &id.to_string(), now).await?;
            tx.commit().await
        })
    }

    /// Asks that dead letters be tried again, with who asks on the record. It is no news if it was asked
    /// before. Answers how many.
    pub async fn dead_letter_retry(
        &self,
        which: &Retry,
        here: NodeId,
        by: &By,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        if let Retry::All(destination) = which {
            without_nul("the name of a destination", destination)?;
        }
        let by = self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            let held = node::hold(&mut tx, here).await?;
            let (asked, mut data) = match which {
                Retry::One(id) => {
                    let wanted = id.to_string();
                    let asked = set_time(&mut tx, RETRY, &wanted, now).await?;
                    if asked == 0 {
                        return Err(StoreError::NotFound { noun: "dead letter", wanted });
                    }
                    (asked, json!({ "dead_letter": id }))
                }
                Retry::All(destination) => {
                    if !destination.is_empty() && !is_there(&mut tx, destination).await? {
                        let wanted = destination.clone();
                        return Err(StoreError::NotFound { noun: NOUN, wanted });
                    }
                    let asked = set_time(&mut tx, RETRY_ALL, destination, now).await?;
                    (asked, json!({ "destination": destination }))
                }
            };
            data["count"] = json!(asked);
            node::append(&mut tx, &held, &NewEvent::new("request.retry", data), &by, now).await?;
            tx.commit().await?;
            Ok(asked)
        })
    }

    /// Dead letters that were not delivered since, by position, from the first one after `after`: of
    /// one destination, or with an empty name of all.
    pub async fn dead_letter_list(
        &self,
        destination: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(DeadLetter, Event)>, StoreError> {
        without_nul("the name of a destination", destination)?;
        let mut reader = self.read().await?;
        let rows: Vec<DeadRow> = on!(reader, |conn| sqlx::query_as(DEAD)
            .bind(after)
            .bind(destination)
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)
        .map_err(doing("listing dead letters"))?;
        rows.into_iter().map(DeadRow::read).collect()
    }

    /// Dead letters that somebody wants tried again.
    pub async fn dead_letter_wanted(
        &self,
        destination: &str,
        limit: u32,
    ) -> Result<Vec<(DeadLetter, Event)>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<DeadRow> = on!(reader, |conn| sqlx::query_as(WANTED)
            .bind(destination)
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)
        .map_err(doing("listing dead letters"))?;
        rows.into_iter().map(DeadRow::read).collect()
    }

    /// The positions after `after` that were given up, whether replayed or not.
    pub async fn dead_letter_positions(
        &self,
        destination: &str,
        after: i64,
    ) -> Result<Vec<i64>, StoreError> {
        let mut reader = self.read().await?;
        on!(reader, |conn| sqlx::query_scalar(DEAD_POSITIONS)
            .bind(destination)
            .bind(after)
            .fetch_all(conn)
            .await)
        .map_err(doing("listing dead letters"))
    }
}

async fn is_there(tx: &mut Tx, name: &str) -> Result<bool, StoreError> {
    let found: Option<String> =
        on!(tx, |conn| sqlx::query_scalar(IS_THERE).bind(name).fetch_optional(conn).await)
            .map_err(doing("looking for a destination"))?;
    Ok(found.is_some())
}

/// How many rows it was.
async fn set_time(
    tx: &mut Tx,
    sql: &'static str,
    of: &str,
    now: Timestamp,
) -> Result<u64, StoreError> {
    on!(tx, |conn| sqlx::query(sql)
        .bind(of)
        .bind(DbTime(now))
        .execute(conn)
        .await
        .map(|done| done.rows_affected()))
    .map_err(doing("marking a dead letter"))
}
