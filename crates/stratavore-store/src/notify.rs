//! Destinations that people define, and the messages to them.
//!
//! Invariant: a message and its destination's position are written together, under the lease of that
//! destination: of each event there is one message at most, and none is passed by that should have had
//! one.

use sqlx::types::Text;
use stratavore_core::caller::By;
use stratavore_core::destination::Backlog;
use stratavore_core::event::NewEvent;
use stratavore_core::lease::Lease;
use stratavore_core::notify::{Attempt, Notification, State};
use stratavore_core::{NodeId, NotificationId, Timestamp};

use crate::error::doing;
use crate::retry::retried;
use crate::tx::{Tx, on};
use crate::value::{DbTime, from_json, to_json, without_nul};
use crate::{Store, StoreError, lease, node};

const NOUN: &str = "destination";

/// A new one is told of what happens from now on.
const DEFINE: &str = "INSERT INTO destinations
        (name, kind, settings, position, enabled, health, problem, told_at, created_at)
    SELECT $1, $2, $3, last, 1, 'stopped', '', $4, $4
    FROM event_positions WHERE name = 'events'
    ON CONFLICT (name) DO NOTHING";

const SETTINGS: &str = "SELECT settings FROM destinations WHERE name = $1";

/// How many events it has not got, and how much was given up.
const LEFT: &str = "SELECT (SELECT last FROM event_positions WHERE name = 'events') - position,
        (SELECT count(*) FROM dead_letters
            WHERE destination = destinations.name AND replayed_at IS NULL)
        + (SELECT count(*) FROM notifications
            WHERE destination = destinations.name AND state = 'dead')
    FROM destinations WHERE name = $1";

const FORGET_MESSAGES: &str = "DELETE FROM notifications WHERE destination = $1";
const FORGET_LETTERS: &str = "DELETE FROM dead_letters WHERE destination = $1";
const FORGET: &str = "DELETE FROM destinations WHERE name = $1";

const SWITCH: &str =
    "UPDATE destinations SET enabled = $2, problem = $3, health = 'stopped', told_at = $4
    WHERE name = $1 AND enabled <> $2";

const PASS: &str = "UPDATE destinations SET position = $3
    WHERE name = $1 AND created_at = $2 AND position < $3 AND enabled = 1";

const ADD: &str = "INSERT INTO notifications
        (id, destination, message, state, created_at, due_at, attempts, history, settled_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";

const WAITING: &str =
    "SELECT id, destination, message, state, created_at, due_at, attempts, history
    FROM notifications WHERE destination = $1 AND state = 'waiting' ORDER BY due_at, id LIMIT $2";

const PAGE: &str = "SELECT id, destination, message, state, created_at, due_at, attempts, history
    FROM notifications WHERE destination = $1 ORDER BY created_at DESC, id DESC LIMIT $2";

const SINCE: &str = "SELECT count(*) FROM notifications WHERE destination = $1 AND created_at > $2";

const TRIED: &str = "UPDATE notifications
    SET state = $2, due_at = $3, attempts = $4, history = $5, settled_at = $6 WHERE id = $1";

const AGAIN: &str =
    "UPDATE notifications SET state = 'waiting', due_at = $2, attempts = 0, settled_at = NULL
    WHERE destination = $1 AND state = 'dead' AND ($3 = '' OR id = $3)";

const PURGE: &str = "DELETE FROM notifications WHERE settled_at IS NOT NULL AND (settled_at < $1
    OR (SELECT count(*) FROM notifications AS newer WHERE newer.destination = notifications.destination
        AND newer.created_at > notifications.created_at) >= $2)";

statements! {
    DEFINE, SETTINGS, LEFT, FORGET_MESSAGES, FORGET_LETTERS, FORGET, SWITCH, PASS, ADD, WAITING, PAGE, SINCE, TRIED,
    AGAIN, PURGE,
}

#[derive(Debug, sqlx::FromRow)]
struct NotificationRow {
    id: Text<NotificationId>,
    destination: String,
    message: String,
    state: String,
    created_at: DbTime,
    due_at: DbTime,
    attempts: i64,
    history: String,
}

impl NotificationRow {
    fn read(self) -> Result<Notification, StoreError> {
        let what = format!("message {}", self.id.0);
        let state = State::parse(&self.state).ok_or_else(|| StoreError::Corrupt {
            what: what.clone(),
            why: format!("its state is an unknown one, `{}`", self.state.escape_debug()),
        })?;
        Ok(Notification {
            id: self.id.0,
            destination: self.destination,
            message: from_json(&what, &self.message)?,
            state,
            created_at: self.created_at.0,
            due_at: self.due_at.0,
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
            history: from_json::<Vec<Attempt>>(&what, &self.history)?,
        })
    }
}

impl Store {
    /// Defines a destination. One of this name that is the same is left as it is, so a request that is
    /// repeated does no harm. False: there was one.
    pub async fn destination_define(
        &self,
        name: &str,
        kind: &str,
        settings: &str,
        here: NodeId,
        by: &By,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        for text in [name, kind, settings] {
            without_nul("a destination", text)?;
        }
        let by = self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            let held = node::hold(&mut tx, here).await?;
            let made = on!(tx, |conn| sqlx::query(DEFINE)
                .bind(name)
                .bind(kind)
                .bind(settings)
                .bind(DbTime(at))
                .execute(conn)
                .await
                .map(|done| done.rows_affected()))
            .map_err(doing("defining a destination"))?;
            if made == 0 {
                let there: Option<String> = on!(tx, |conn| sqlx::query_scalar(SETTINGS)
                    .bind(name)
                    .fetch_optional(conn)
                    .await)
                .map_err(doing("reading a destination"))?;
                return match there.as_deref() == Some(settings) {
                    true => Ok(false),
                    false => Err(StoreError::Conflict { what: format!("the destination {name}") }),
                };
            }
            let data = serde_json::json!({ "destination": name, "kind": kind });
            let event = NewEvent::new("node.destination_added", data);
            node::append(&mut tx, &held, &event, &by, at).await?;
            tx.commit().await?;
            Ok(true)
        })
    }

    /// Forgets a destination with all that was sent to it and set aside for it; where somebody has the
    /// duty of delivering to it, under that. Answers what it has not got.
    pub async fn destination_forget(
        &self,
        name: &str,
        duty: Option<&Lease>,
        here: NodeId,
        by: &By,
        at: Timestamp,
    ) -> Result<Backlog, StoreError> {
        without_nul("the name of a destination", name)?;
        let by = self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            if let Some(duty) = duty {
                lease::check(self, &mut tx, duty).await?;
            }
            let held = node::hold(&mut tx, here).await?;
            let left: Option<(i64, i64)> =
                on!(tx, |conn| sqlx::query_as(LEFT).bind(name).fetch_optional(conn).await)
                    .map_err(doing("counting what a destination has not got"))?;
            let Some((pending, dead)) = left else {
                return Err(StoreError::NotFound { noun: NOUN, wanted: name.into() });
            };
            for sql in [FORGET_MESSAGES, FORGET_LETTERS, FORGET] {
                named(&mut tx, sql, name).await?;
            }
            let data = serde_json::json!({ "destination": name, "pending": pending, "dead": dead });
            let event = NewEvent::new("node.destination_removed", data);
            node::append(&mut tx, &held, &event, &by, at).await?;
            tx.commit().await?;
            let (pending, dead) = (pending.unsigned_abs(), dead.unsigned_abs());
            Ok(Backlog { pending, oldest: None, dead })
        })
    }

    /// Turns a destination on or off, and says why. False: it is so already, or there is none.
    pub async fn destination_switch(
        &self,
        name: &str,
        enabled: bool,
        why: &str,
        here: NodeId,
        by: &By,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        without_nul("the name of a destination", name)?;
        let (by, why) = (self.author(by)?, why.replace('\0', " "));
        retried!({
            let mut tx = self.begin().await?;
            let held = node::hold(&mut tx, here).await?;
            let switched = on!(tx, |conn| sqlx::query(SWITCH)
                .bind(name)
                .bind(i64::from(enabled))
                .bind(&why)
                .bind(DbTime(at))
                .execute(conn)
                .await
                .map(|done| done.rows_affected()))
            .map_err(doing("switching a destination"))?;
            if switched == 0 {
                return Ok(false);
            }
            let data = serde_json::json!({ "destination": name, "why": why });
            let kind =
                if enabled { "node.destination_enabled" } else { "node.destination_disabled" };
            node::append(&mut tx, &held, &NewEvent::new(kind, data), &by, at).await?;
            tx.commit().await?;
            Ok(true)
        })
    }

    /// Writes messages down, and that all events up to `position` are in them or are not wanted. False,
    /// and nothing written: the destination that was made at `made_at` is gone, off, or further.
    pub async fn notification_add(
        &self,
        lease: &Lease,
        name: &str,
        made_at: Timestamp,
        position: i64,
        messages: &[Notification],
    ) -> Result<bool, StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            lease::check(self, &mut tx, lease).await?;
            let passed = on!(tx, |conn| sqlx::query(PASS)
                .bind(name)
                .bind(DbTime(made_at))
                .bind(position)
                .execute(conn)
                .await
                .map(|done| done.rows_affected()))
            .map_err(doing("advancing a destination"))?;
            if passed == 0 {
                return Ok(false);
            }
            for message in messages {
                add(&mut tx, message).await?;
            }
            tx.commit().await?;
            Ok(true)
        })
    }

    /// Writes down a message that was sent besides, as a test.
    pub async fn notification_note(&self, message: &Notification) -> Result<(), StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            add(&mut tx, message).await?;
            tx.commit().await
        })
    }

    /// Messages that are to be sent, those that are due first.
    pub async fn notification_waiting(
        &self,
        name: &str,
        limit: u32,
    ) -> Result<Vec<Notification>, StoreError> {
        self.notifications(WAITING, name, limit).await
    }

    /// The latest messages, newest first.
    pub async fn notification_list(
        &self,
        name: &str,
        limit: u32,
    ) -> Result<Vec<Notification>, StoreError> {
        without_nul("the name of a destination", name)?;
        self.notifications(PAGE, name, limit).await
    }

    async fn notifications(
        &self,
        sql: &'static str,
        name: &str,
        limit: u32,
    ) -> Result<Vec<Notification>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<NotificationRow> = on!(reader, |conn| sqlx::query_as(sql)
            .bind(name)
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)
        .map_err(doing("listing messages"))?;
        rows.into_iter().map(NotificationRow::read).collect()
    }

    /// How many messages a destination was given after `since`.
    pub async fn notification_count(
        &self,
        name: &str,
        since: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut reader = self.read().await?;
        let count: i64 = on!(reader, |conn| sqlx::query_scalar(SINCE)
            .bind(name)
            .bind(DbTime(since))
            .fetch_one(conn)
            .await)
        .map_err(doing("counting messages"))?;
        Ok(count.unsigned_abs())
    }

    /// Writes down how an attempt went: the message as it stands after it.
    pub async fn notification_tried(
        &self,
        lease: &Lease,
        message: &Notification,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let settled_at = match message.state {
            State::Waiting => None,
            State::Delivered | State::Dead => Some(DbTime(at)),
        };
        retried!({
            let mut tx = self.begin().await?;
            lease::check(self, &mut tx, lease).await?;
            on!(tx, |conn| sqlx::query(TRIED)
                .bind(Text(message.id))
                .bind(message.state.as_str())
                .bind(DbTime(message.due_at))
                .bind(i64::from(message.attempts))
                .bind(to_json(&message.history))
                .bind(settled_at)
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing("writing an attempt down"))?;
            tx.commit().await
        })
    }

    /// Has messages that were given up sent again, with who asks on the record: one, or with `None` all.
    /// Answers how many.
    pub async fn notification_again(
        &self,
        name: &str,
        id: Option<NotificationId>,
        here: NodeId,
        by: &By,
        at: Timestamp,
    ) -> Result<u64, StoreError> {
        without_nul("the name of a destination", name)?;
        let by = self.author(by)?;
        let which = id.map_or_else(String::new, |id| id.to_string());
        retried!({
            let mut tx = self.begin().await?;
            let held = node::hold(&mut tx, here).await?;
            let asked = on!(tx, |conn| sqlx::query(AGAIN)
                .bind(name)
                .bind(DbTime(at))
                .bind(&which)
                .execute(conn)
                .await
                .map(|done| done.rows_affected()))
            .map_err(doing("sending messages again"))?;
            if asked == 0 && id.is_some() {
                let (noun, wanted) = ("message that was given up", which.clone());
                return Err(StoreError::NotFound { noun, wanted });
            }
            let data = serde_json::json!({ "destination": name, "message": id, "count": asked });
            let event = NewEvent::new("request.notify_retry", data);
            node::append(&mut tx, &held, &event, &by, at).await?;
            tx.commit().await?;
            Ok(asked)
        })
    }

    /// Forgets messages that were settled before `before`, and of each destination those that are older
    /// than the newest `kept`.
    pub async fn notification_purge(
        &self,
        before: Timestamp,
        kept: u32,
    ) -> Result<u64, StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            let purged = on!(tx, |conn| sqlx::query(PURGE)
                .bind(DbTime(before))
                .bind(i64::from(kept))
                .execute(conn)
                .await
                .map(|done| done.rows_affected()))
            .map_err(doing("forgetting messages"))?;
            tx.commit().await?;
            Ok(purged)
        })
    }
}

async fn add(tx: &mut Tx, message: &Notification) -> Result<(), StoreError> {
    let settled_at = match message.state {
        State::Waiting => None,
        State::Delivered | State::Dead => Some(DbTime(message.due_at)),
    };
    on!(tx, |conn| sqlx::query(ADD)
        .bind(Text(message.id))
        .bind(&message.destination)
        .bind(to_json(&message.message))
        .bind(message.state.as_str())
        .bind(DbTime(message.created_at))
        .bind(DbTime(message.due_at))
        .bind(i64::from(message.attempts))
        .bind(to_json(&message.history))
        .bind(settled_at)
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("writing a message down"))
}

async fn named(tx: &mut Tx, sql: &'static str, name: &str) -> Result<u64, StoreError> {
    on!(tx, |conn| sqlx::query(sql).bind(name).execute(conn).await.map(|done| done.rows_affected()))
        .map_err(doing("forgetting a destination"))
}
