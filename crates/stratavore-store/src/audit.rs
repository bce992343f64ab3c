//! The record's chain: published events get a hash each, in order, and checkpoints and keys stand
//! beside them.
//!
//! Invariant: the seals have the positions 1, 2, 3, … without a gap, and only the holder of the
//! sealer's lease adds any.

use stratavore_audit::{Content, HASH_LEN, Hash, Line, Record, line, record_line};
use stratavore_core::caller::By;
use stratavore_core::event::NewEvent;
use stratavore_core::lease::Lease;
use stratavore_core::{NodeId, Timestamp};

use crate::error::doing;
use crate::retry::retried;
use crate::tx::{Tx, on};
use crate::value::DbTime;
use crate::{Store, StoreError, lease, node};

const UNSEALED: &str =
    "SELECT id, position, entity, entity_id, name, project_id, seq, kind, at, caused_by, data,
        origin, decision, reason, mac, NULL AS hash
    FROM events WHERE position > $1 ORDER BY position LIMIT $2";

const RECORDS: &str =
    "SELECT id, s.position, entity, entity_id, name, project_id, seq, kind, at, caused_by, data,
        origin, decision, reason, mac, hash
    FROM audit_seals AS s LEFT JOIN events AS e ON e.position = s.position
    WHERE s.position > $1 ORDER BY s.position LIMIT $2";

const HEAD: &str = "SELECT position, hash FROM audit_seals ORDER BY position DESC LIMIT 1";

const HASHES: &str = "SELECT hash FROM audit_seals WHERE position > $1 ORDER BY position LIMIT $2";

const SEAL: &str = "INSERT INTO audit_seals (position, hash) VALUES ($1, $2)";

const SEAL_POSTGRES: &str = "INSERT INTO audit_seals (position, hash)
    SELECT $1 + number, hash FROM unnest($2::bytea[]) WITH ORDINALITY AS new (hash, number)";

const CHECKPOINT: &str =
    "INSERT INTO audit_checkpoints (size, note, frontier, at) VALUES ($1, $2, $3, $4)";

const LATEST: &str =
    "SELECT size, note, frontier, at FROM audit_checkpoints ORDER BY size DESC LIMIT 1";

const CHECKPOINT_OF: &str =
    "SELECT size, note, frontier, at FROM audit_checkpoints WHERE size = $1";

const CHECKPOINTS: &str = "SELECT size, note, frontier, at FROM audit_checkpoints
    WHERE size > $1 ORDER BY size LIMIT $2";

statements! { UNSEALED, RECORDS, HEAD, HASHES, SEAL, SEAL_POSTGRES, CHECKPOINT, LATEST, CHECKPOINT_OF, CHECKPOINTS }

/// An event as the record holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    pub position: u64,
    /// Of the event, if it is there.
    pub kind: Option<String>,
    /// Its canonical text; `None` if the event is not there, or is none that can have one.
    pub content: Option<Vec<u8>>,
    /// The code of the daemon that wrote it.
    pub mac: Option<String>,
    /// `None` while it is not sealed.
    pub hash: Option<Hash>,
}

impl AuditRecord {
    /// Appends its line of an export. An event that is gone has one without content, which no
    /// verifier takes.
    pub fn write_line(&self, lines: &mut Vec<u8>) {
        let record = Record {
            position: self.position,
            hash: self.hash.unwrap_or_default(),
            mac: self.mac.as_deref().unwrap_or_default().as_bytes(),
            content: self.content.as_deref().unwrap_or(b"{}"),
        };
        record_line(lines, &record);
    }
}

/// A checkpoint as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditCheckpoint {
    pub size: u64,
    pub note: String,
    pub frontier: Vec<u8>,
    pub at: Timestamp,
}

#[derive(sqlx::FromRow)]
struct RecordRow {
    id: Option<String>,
    position: i64,
    entity: Option<String>,
    entity_id: Option<String>,
    name: Option<String>,
    project_id: Option<String>,
    seq: Option<i64>,
    kind: Option<String>,
    at: Option<DbTime>,
    caused_by: Option<String>,
    data: Option<String>,
    origin: Option<String>,
    decision: Option<String>,
    reason: Option<String>,
    mac: Option<String>,
    hash: Option<Vec<u8>>,
}

#[derive(sqlx::FromRow)]
pub(crate) struct CheckpointRow {
    size: i64,
    note: String,
    frontier: Vec<u8>,
    at: DbTime,
}

impl RecordRow {
    fn canonical(&self) -> Option<Vec<u8>> {
        let content = Content {
            id: self.id.as_deref()?,
            entity: self.entity.as_deref()?,
            entity_id: self.entity_id.as_deref()?,
            name: self.name.as_deref()?,
            project: self.project_id.as_deref(),
            seq: self.seq?,
            kind: self.kind.as_deref()?,
            at_us: self.at?.0.as_microsecond(),
            by: self.caused_by.as_deref()?,
            origin: self.origin.as_deref(),
            decision: self.decision.as_deref(),
            reason: self.reason.as_deref(),
            data: self.data.as_deref()?,
        };
        content.is_sound().then(|| content.canonical())
    }

    fn into_record(self) -> Result<AuditRecord, StoreError> {
        let content = self.canonical();
        let hash = self.hash.map(|hash| read_hash(&hash)).transpose()?;
        let position = self.position.unsigned_abs();
        Ok(AuditRecord { position, kind: self.kind, content, mac: self.mac, hash })
    }
}

fn read_hash(bytes: &[u8]) -> Result<Hash, StoreError> {
    <[u8; HASH_LEN]>::try_from(bytes).map_err(|_| StoreError::Corrupt {
        what: "a seal of the record".into(),
        why: format!("it has {} bytes", bytes.len()),
    })
}

impl From<CheckpointRow> for AuditCheckpoint {
    fn from(row: CheckpointRow) -> Self {
        let CheckpointRow { size, note, frontier, at } = row;
        Self { size: size.unsigned_abs(), note, frontier, at: at.0 }
    }
}

/// A place in the record as a column; none is ever so large.
pub(crate) fn place(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Store {
    /// The position and the hash of the last event that is sealed.
    pub async fn audit_head(&self) -> Result<Option<(u64, Hash)>, StoreError> {
        let mut reader = self.read().await?;
        let head: Option<(i64, Vec<u8>)> =
            on!(reader, |conn| sqlx::query_as(HEAD).fetch_optional(conn).await)
                .map_err(doing("looking for the last seal"))?;
        head.map(|(position, hash)| Ok((position.unsigned_abs(), read_hash(&hash)?))).transpose()
    }

    /// Published events after a position, in order, sealed or not.
    pub async fn audit_unsealed(
        &self,
        after: u64,
        limit: u32,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        self.audit_rows(UNSEALED, after, limit).await
    }

    /// What is sealed after a position, in order. An event that is gone leaves a place without
    /// content.
    pub async fn audit_records(
        &self,
        after: u64,
        limit: u32,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        self.audit_rows(RECORDS, after, limit).await
    }

    async fn audit_rows(
        &self,
        sql: &'static str,
        after: u64,
        limit: u32,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<RecordRow> = on!(reader, |conn| sqlx::query_as(sql)
            .bind(place(after))
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)
        .map_err(doing("reading the record"))?;
        rows.into_iter().map(RecordRow::into_record).collect()
    }

    /// The hashes of what is sealed after a position, in order.
    pub async fn audit_hashes(&self, after: u64, limit: u32) -> Result<Vec<Hash>, StoreError> {
        let mut reader = self.read().await?;
        let hashes: Vec<Vec<u8>> = on!(reader, |conn| sqlx::query_scalar(HASHES)
            .bind(place(after))
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)
        .map_err(doing("reading seals"))?;
        hashes.iter().map(|hash| read_hash(hash)).collect()
    }

    /// Adds the hashes of the events after `after`, and perhaps a checkpoint of what is sealed then.
    ///
    /// Only under the sealer's lease, and only if `after` is the last that was sealed: a sealer that
    /// another one has followed is refused.
    pub async fn audit_seal(
        &self,
        lease: &Lease,
        after: u64,
        hashes: &[Hash],
        checkpoint: Option<&AuditCheckpoint>,
    ) -> Result<(), StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            lease::check(self, &mut tx, lease).await?;
            let head: Option<(i64, Vec<u8>)> =
                on!(tx, |conn| sqlx::query_as(HEAD).fetch_optional(conn).await)
                    .map_err(doing("looking for the last seal"))?;
            if head.map_or(0, |(position, _)| position.unsigned_abs()) != after {
                return Err(StoreError::Conflict { what: "what is sealed of the record".into() });
            }
            insert(&mut tx, after, hashes).await?;
            if let Some(kept) = checkpoint {
                on!(tx, |conn| sqlx::query(CHECKPOINT)
                    .bind(place(kept.size))
                    .bind(&kept.note)
                    .bind(&kept.frontier)
                    .bind(DbTime(kept.at))
                    .execute(conn)
                    .await
                    .map(drop))
                .map_err(doing("keeping a checkpoint"))?;
            }
            tx.commit().await
        })
    }

    /// Tells of the record as whoever seals it: appends an event about its node.
    pub async fn audit_tell(
        &self,
        lease: &Lease,
        here: NodeId,
        event: &NewEvent,
        by: &By,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let by = self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            lease::check(self, &mut tx, lease).await?;
            let held = node::hold(&mut tx, here).await?;
            node::append(&mut tx, &held, event, &by, at).await?;
            tx.commit().await
        })
    }

    /// The checkpoint that covers most.
    pub async fn audit_checkpoint_latest(&self) -> Result<Option<AuditCheckpoint>, StoreError> {
        let mut reader = self.read().await?;
        let row: Option<CheckpointRow> =
            on!(reader, |conn| sqlx::query_as(LATEST).fetch_optional(conn).await)
                .map_err(doing("reading a checkpoint"))?;
        Ok(row.map(Into::into))
    }

    /// The checkpoint of exactly this size.
    pub async fn audit_checkpoint(&self, size: u64) -> Result<Option<AuditCheckpoint>, StoreError> {
        let mut reader = self.read().await?;
        let row: Option<CheckpointRow> = on!(reader, |conn| sqlx::query_as(CHECKPOINT_OF)
            .bind(place(size))
            .fetch_optional(conn)
            .await)
        .map_err(doing("reading a checkpoint"))?;
        Ok(row.map(Into::into))
    }

    /// Checkpoints of a larger size than `after`, in order.
    pub async fn audit_checkpoints(
        &self,
        after: u64,
        limit: u32,
    ) -> Result<Vec<AuditCheckpoint>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<CheckpointRow> = on!(reader, |conn| sqlx::query_as(CHECKPOINTS)
            .bind(place(after))
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)
        .map_err(doing("reading checkpoints"))?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// The lines of an export before those of the records: the log's name, the keys and the
    /// checkpoints. `None`: nothing is sealed yet.
    pub async fn audit_export_head(&self) -> Result<Option<Vec<u8>>, StoreError> {
        const PAGE: u32 = 1000;
        let keys = self.audit_keys().await?;
        let Some(first) = keys.first() else { return Ok(None) };
        let mut head = line(&Line::StratavoreRecord { origin: first.origin.clone() });
        head.push_str(&line(&Line::Key(first.public.clone())));
        for change in keys.iter().filter_map(|key| key.change.clone()) {
            head.push_str(&line(&Line::KeyChange(change)));
        }
        // Those before may be gone in part.
        let trim = self.trim_last().await?;
        let mut after = trim.as_ref().map_or(0, |trim| trim.upto - 1);
        if let Some(trim) = trim {
            head.push_str(&line(&Line::Trimmed(trim.note)));
        }
        loop {
            let checkpoints = self.audit_checkpoints(after, PAGE).await?;
            let Some(last) = checkpoints.last() else { return Ok(Some(head.into_bytes())) };
            after = last.size;
            for checkpoint in checkpoints {
                head.push_str(&line(&Line::Checkpoint(checkpoint.note)));
            }
        }
    }
}

/// On SQLite a statement is no journey, so each seal has its own.
async fn insert(tx: &mut Tx, after: u64, hashes: &[Hash]) -> Result<(), StoreError> {
    let what = "sealing the record";
    match tx {
        Tx::Postgres(tx, deadline, _) => {
            let hashes: Vec<&[u8]> = hashes.iter().map(|hash| hash.as_slice()).collect();
            let insert = sqlx::query(SEAL_POSTGRES).bind(place(after)).bind(hashes);
            let done = deadline.keep(insert.execute(&mut **tx)).await;
            done.map(drop).map_err(doing(what))
        }
        Tx::Sqlite(tx, _, _) => {
            for (position, hash) in (after + 1..).zip(hashes) {
                let insert = sqlx::query(SEAL).bind(place(position)).bind(hash.as_slice());
                insert.execute(&mut **tx).await.map_err(doing(what))?;
            }
            Ok(())
        }
    }
}
