//! A retried request finds the answer of the first one.
//!
//! The record is written in the transaction of the change, so there is one exactly if the change
//! happened. A second use of the key at the same time waits for the first on the record's row:
//! then it finds the answer, or, if the first failed, takes its place.
//!
//! Invariant: for each key at most one change commits within its time.

use serde::Serialize;
use serde::de::DeserializeOwned;
use stratavore_core::Timestamp;
use stratavore_core::idempotency::{IDEMPOTENCY_TTL, Idempotency};

use crate::error::doing;
use crate::tx::{Tx, on};
use crate::value::{DbTime, from_json, to_json};
use crate::{Store, StoreError};

/// An expired record counts as absent, and its row is taken over.
const CLAIM: &str = "INSERT INTO idempotency_records (key, request, answer, expires_at)
    VALUES ($1, $2, NULL, $3)
    ON CONFLICT (key) DO UPDATE
        SET request = excluded.request, answer = NULL, expires_at = excluded.expires_at
        WHERE idempotency_records.expires_at <= $4
    RETURNING key";

const ANSWER: &str = "SELECT request, answer FROM idempotency_records WHERE key = $1";

const KNOWN: &str =
    "SELECT request, answer FROM idempotency_records WHERE key = $1 AND expires_at > $2";

const RECORD: &str = "UPDATE idempotency_records SET answer = $1 WHERE key = $2";

const PURGE: &str = "DELETE FROM idempotency_records WHERE expires_at <= $1";

statements! { CLAIM, ANSWER, KNOWN, RECORD, PURGE }

/// Claims the key for this transaction, or gives the answer that it already has.
///
/// The first thing that a transaction does: everybody takes the key before any other lock.
pub(crate) async fn claim<T: DeserializeOwned>(
    tx: &mut Tx,
    idempotency: Option<&Idempotency>,
    now: Timestamp,
) -> Result<Option<T>, StoreError> {
    let Some(idempotency) = idempotency else { return Ok(None) };
    let expires = expiry(now);
    let claimed: Option<String> = on!(tx, |conn| sqlx::query_scalar(CLAIM)
        .bind(idempotency.key())
        .bind(idempotency.request().as_slice())
        .bind(DbTime(expires))
        .bind(DbTime(now))
        .fetch_optional(conn)
        .await)
    .map_err(doing("claiming an idempotency key"))?;
    if claimed.is_some() {
        return Ok(None);
    }
    let found =
        on!(tx, |conn| sqlx::query_as(ANSWER).bind(idempotency.key()).fetch_one(conn).await)
            .map_err(doing("reading an earlier answer"))?;
    earlier_answer(idempotency, found).map(Some)
}

/// When a record that is made `now` counts as absent.
pub(crate) fn expiry(now: Timestamp) -> Timestamp {
    now.checked_add(IDEMPOTENCY_TTL).unwrap_or(Timestamp::MAX)
}

/// The answer of a record, if it is one to this request.
fn earlier_answer<T: DeserializeOwned>(
    idempotency: &Idempotency,
    (request, answer): (Vec<u8>, Option<String>),
) -> Result<T, StoreError> {
    if request != idempotency.request() {
        return Err(StoreError::IdempotencyReuse { key: idempotency.key().into() });
    }
    let answer = answer.ok_or_else(|| StoreError::Corrupt {
        what: format!("the answer for the idempotency key {}", idempotency.key()),
        why: "it is missing".into(),
    })?;
    from_json("an earlier answer", &answer)
}

/// Keeps the answer for whoever comes with the same key. The last thing before the commit.
pub(crate) async fn record<T: Serialize>(
    tx: &mut Tx,
    idempotency: Option<&Idempotency>,
    answer: &T,
) -> Result<(), StoreError> {
    let Some(idempotency) = idempotency else { return Ok(()) };
    on!(tx, |conn| sqlx::query(RECORD)
        .bind(to_json(answer))
        .bind(idempotency.key())
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("recording an answer"))
}

impl Store {
    /// The answer that the key already has at `now`, if any: for a use case that would otherwise
    /// decide on a world that its first run has changed.
    pub async fn idempotency_answer<T: DeserializeOwned>(
        &self,
        idempotency: &Idempotency,
        now: Timestamp,
    ) -> Result<Option<T>, StoreError> {
        let mut reader = self.read().await?;
        let found: Option<(Vec<u8>, Option<String>)> = on!(reader, |conn| sqlx::query_as(KNOWN)
            .bind(idempotency.key())
            .bind(DbTime(now))
            .fetch_optional(conn)
            .await)
        .map_err(doing("looking for an earlier answer"))?;
        found.map(|found| earlier_answer(idempotency, found)).transpose()
    }

    /// Keeps the answer of a use case that found nothing to change, or gives the one that is
    /// there.
    pub async fn idempotency_keep<T: Serialize + DeserializeOwned>(
        &self,
        idempotency: &Idempotency,
        answer: T,
        now: Timestamp,
    ) -> Result<T, StoreError> {
        let mut tx = self.begin().await?;
        if let Some(earlier) = claim(&mut tx, Some(idempotency), now).await? {
            return Ok(earlier);
        }
        record(&mut tx, Some(idempotency), &answer).await?;
        tx.commit().await?;
        Ok(answer)
    }

    /// Removes the records that have expired by `now`, and says how many they were.
    pub async fn idempotency_purge(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let purged = on!(tx, |conn| sqlx::query(PURGE)
            .bind(DbTime(now))
            .execute(conn)
            .await
            .map(|done| done.rows_affected()))
        .map_err(doing("purging idempotency records"))?;
        tx.commit().await?;
        Ok(purged)
    }
}
