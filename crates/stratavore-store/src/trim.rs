//! Trims: what of the record is in files by now, and no longer here.
//!
//! A trim is written down first, with its event and under the sealer's lease. What it names is
//! removed afterwards, some at a time, however often that is interrupted.
//!
//! Invariant: nothing of the record is removed that no trim names.
//! Invariant: a trim begins where the one before has ended, and ends at a checkpoint.

use sqlx::types::Text;
use stratavore_core::caller::By;
use stratavore_core::event::NewEvent;
use stratavore_core::lease::Lease;
use stratavore_core::{NodeId, Timestamp};

use crate::audit::{CheckpointRow, place};
use crate::error::doing;
use crate::retry::retried;
use crate::tx::{Tx, on};
use crate::value::DbTime;
use crate::{AuditCheckpoint, Store, StoreError, lease, node};

const LAST: &str =
    "SELECT upto, begins, note, file, node_id, at FROM record_trims ORDER BY upto DESC LIMIT 1";

const UPTO: &str = "SELECT upto FROM record_trims ORDER BY upto DESC LIMIT 1";

/// The last of the next checkpoints that is old enough, and that has nothing after it that somebody
/// still waits for.
const DUE: &str = "SELECT size, note, frontier, at FROM (
        SELECT size, note, frontier, at FROM audit_checkpoints WHERE size > $1 ORDER BY size LIMIT $3
    ) AS next
    WHERE at < $2
        AND size <= coalesce((SELECT min(position) FROM destinations WHERE enabled = 1), size)
        AND size < coalesce((SELECT min(position) FROM dead_letters WHERE replayed_at IS NULL), size + 1)
    ORDER BY size DESC LIMIT 1";

const INSERT: &str = "INSERT INTO record_trims (upto, begins, note, file, node_id, at)
    SELECT CAST($1 AS bigint), CAST($2 AS bigint), $3, $4, $5, $6
    WHERE coalesce((SELECT max(upto) FROM record_trims), 0) = CAST($2 AS bigint) - 1";

const KEEP_SEQS: &str = "INSERT INTO trimmed_nodes (node_id, seq)
    SELECT entity_id, max(seq) FROM events
    WHERE position BETWEEN $1 AND $2 AND entity = 'node' GROUP BY entity_id
    ON CONFLICT (node_id) DO UPDATE SET seq = excluded.seq";

const REMOVE_POSTGRES: &str = "SELECT record_remove($1)";

const LOWEST_SQLITE: &str = "SELECT min(position) FROM events WHERE position <= $1";

const REMOVE_DEAD_SQLITE: &str =
    "DELETE FROM dead_letters WHERE position <= $1 AND replayed_at IS NOT NULL";

const REMOVE_EVENTS_SQLITE: &str = "DELETE FROM events WHERE position <= $1";

const REMOVE_SEALS_SQLITE: &str = "DELETE FROM audit_seals WHERE position <= $1 AND position < $2";

const REMOVE_CHECKPOINTS_SQLITE: &str =
    "DELETE FROM audit_checkpoints WHERE size <= $1 AND size < $2";

statements! {
    LAST, UPTO, DUE, INSERT, KEEP_SEQS, REMOVE_POSTGRES, LOWEST_SQLITE, REMOVE_DEAD_SQLITE,
    REMOVE_EVENTS_SQLITE, REMOVE_SEALS_SQLITE, REMOVE_CHECKPOINTS_SQLITE,
}

/// A part of the record that was moved into a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordTrim {
    /// Its first and its last position.
    pub begins: u64,
    pub upto: u64,
    /// Where the record goes on, signed by the log's key.
    pub note: String,
    /// The name of the file, on the host that has it.
    pub file: String,
    pub node: NodeId,
    pub at: Timestamp,
}

#[derive(sqlx::FromRow)]
struct TrimRow {
    upto: i64,
    begins: i64,
    note: String,
    file: String,
    node_id: Text<NodeId>,
    at: DbTime,
}

impl From<TrimRow> for RecordTrim {
    fn from(row: TrimRow) -> Self {
        Self {
            begins: row.begins.unsigned_abs(),
            upto: row.upto.unsigned_abs(),
            note: row.note,
            file: row.file,
            node: row.node_id.0,
            at: row.at.0,
        }
    }
}

impl Store {
    /// What was moved last, if anything was.
    pub async fn trim_last(&self) -> Result<Option<RecordTrim>, StoreError> {
        let mut reader = self.read().await?;
        let row: Option<TrimRow> =
            on!(reader, |conn| sqlx::query_as(LAST).fetch_optional(conn).await)
                .map_err(doing("looking for what was moved"))?;
        Ok(row.map(Into::into))
    }

    /// The last position that is no longer here, or 0.
    pub async fn trimmed_upto(&self) -> Result<i64, StoreError> {
        let mut reader = self.read().await?;
        let upto: Option<i64> =
            on!(reader, |conn| sqlx::query_scalar(UPTO).fetch_optional(conn).await)
                .map_err(doing("looking for what was moved"))?;
        Ok(upto.unwrap_or(0))
    }

    /// Of the next so many checkpoints the last one before `cutoff`, up to which every destination
    /// has everything and no dead letter waits.
    pub async fn trim_due(
        &self,
        cutoff: Timestamp,
        checkpoints: u32,
    ) -> Result<Option<AuditCheckpoint>, StoreError> {
        let trimmed = self.trimmed_upto().await?;
        let mut reader = self.read().await?;
        let row: Option<CheckpointRow> = on!(reader, |conn| sqlx::query_as(DUE)
            .bind(trimmed)
            .bind(DbTime(cutoff))
            .bind(i64::from(checkpoints))
            .fetch_optional(conn)
            .await)
        .map_err(doing("looking for what is to be moved"))?;
        Ok(row.map(Into::into))
    }

    /// Writes down that a part of the record is in a file, with the event that says so.
    ///
    /// Only under the sealer's lease, and only if the part follows the one before.
    pub async fn trim_add(
        &self,
        lease: &Lease,
        trim: &RecordTrim,
        event: &NewEvent,
        by: impl Into<By>,
    ) -> Result<(), StoreError> {
        let by = &self.author(by)?;
        let what = "writing down what was moved";
        retried!({
            let mut tx = self.begin().await?;
            lease::check(self, &mut tx, lease).await?;
            let held = node::hold(&mut tx, trim.node).await?;
            let added = on!(tx, |conn| sqlx::query(INSERT)
                .bind(place(trim.upto))
                .bind(place(trim.begins))
                .bind(&trim.note)
                .bind(&trim.file)
                .bind(Text(trim.node))
                .bind(DbTime(trim.at))
                .execute(conn)
                .await
                .map(|done| done.rows_affected()))
            .map_err(doing(what))?;
            if added == 0 {
                return Err(StoreError::Conflict { what: "what was moved of the record".into() });
            }
            on!(tx, |conn| sqlx::query(KEEP_SEQS)
                .bind(place(trim.begins))
                .bind(place(trim.upto))
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing(what))?;
            node::append(&mut tx, &held, event, by, trim.at).await?;
            tx.commit().await
        })
    }

    /// Removes what was moved, at most so many events; answers how many they were. None: there is
    /// nothing left to remove.
    pub async fn trim_remove(&self, batch: u32) -> Result<u64, StoreError> {
        let what = "removing what was moved";
        retried!({
            let mut tx = self.begin().await?;
            let removed = match &mut tx {
                Tx::Postgres(tx, deadline, _) => {
                    let removed = sqlx::query_scalar(REMOVE_POSTGRES).bind(i64::from(batch));
                    let removed: i64 =
                        deadline.keep(removed.fetch_one(&mut **tx)).await.map_err(doing(what))?;
                    removed.unsigned_abs()
                }
                Tx::Sqlite(tx, _, _) => {
                    let trimmed: Option<i64> = sqlx::query_scalar(UPTO)
                        .fetch_optional(&mut **tx)
                        .await
                        .map_err(doing(what))?;
                    let trimmed = trimmed.unwrap_or(0);
                    let lowest: Option<i64> = sqlx::query_scalar(LOWEST_SQLITE)
                        .bind(trimmed)
                        .fetch_one(&mut **tx)
                        .await
                        .map_err(doing(what))?;
                    let Some(lowest) = lowest else { return Ok(0) };
                    let upto = trimmed.min(lowest + i64::from(batch) - 1);
                    sqlx::query(REMOVE_DEAD_SQLITE)
                        .bind(upto)
                        .execute(&mut **tx)
                        .await
                        .map_err(doing(what))?;
                    let removed = sqlx::query(REMOVE_EVENTS_SQLITE).bind(upto);
                    let removed = removed.execute(&mut **tx).await.map_err(doing(what))?;
                    for sql in [REMOVE_SEALS_SQLITE, REMOVE_CHECKPOINTS_SQLITE] {
                        let removed = sqlx::query(sql).bind(upto).bind(trimmed);
                        removed.execute(&mut **tx).await.map_err(doing(what))?;
                    }
                    removed.rows_affected()
                }
            };
            tx.commit().await?;
            Ok(removed)
        })
    }
}
