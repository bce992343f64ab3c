//! Transcripts: which files conversations stand in, and which blobs have their pieces.
//!
//! The blobs themselves are in a store of their own, by their digest; this is the list of what is
//! there. A blob is put there before its row, and removed after it: what a row names can be read.
//!
//! Invariant: the segments of a transcript follow one another without a gap, from 0 to its size.
//! Invariant: a row of a blob that a segment names is never removed.

use sqlx::types::Text;
use stratavore_core::transcript::{Digest, FileMark, Segment, Transcript};
use stratavore_core::{NodeId, ProjectId, SessionId, Timestamp, TranscriptId};

use crate::error::{Unique, doing, violated};
use crate::retry::retried;
use crate::tx::{Tx, on};
use crate::value::{DbTime, count, without_nul};
use crate::{Store, StoreError};

const LATEST: &str = "SELECT id, session_id, node_id, path, version, file, head, head_length, size,
        created_at, updated_at, replaced_at
    FROM transcripts WHERE node_id = $1 AND path = $2 ORDER BY version DESC LIMIT 1";

const OF_SESSION: &str =
    "SELECT id, session_id, node_id, path, version, file, head, head_length, size,
        created_at, updated_at, replaced_at
    FROM transcripts WHERE session_id = $1 ORDER BY path, version";

const INSERT: &str = "INSERT INTO transcripts (id, session_id, node_id, path, version, file, head,
        head_length, size, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $9)";

const REPLACE: &str = "UPDATE transcripts SET replaced_at = $1
    WHERE node_id = $2 AND path = $3 AND version < $4 AND replaced_at IS NULL";

const GROW: &str =
    "UPDATE transcripts SET size = $1, updated_at = $2, file = $3, head = $4, head_length = $5
    WHERE id = $6 AND size = $7 AND replaced_at IS NULL";

const SEEN: &str = "UPDATE transcripts SET updated_at = $1 WHERE id = $2 AND updated_at < $1";

/// A blob that is named again is a young one again: whoever tidies up leaves it alone.
const KEEP_BLOB: &str = "INSERT INTO blobs (store, digest, length, stored, created_at)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (store, digest) DO UPDATE SET created_at = excluded.created_at";

const ADD: &str = "INSERT INTO segments (transcript_id, begins, length, store, digest)
    VALUES ($1, $2, $3, $4, $5)";

const SEGMENTS: &str = "SELECT begins, length, store, digest FROM segments
    WHERE transcript_id = $1 ORDER BY begins";

const LAST_SEGMENTS: &str = "SELECT begins, length, store, digest FROM segments
    WHERE transcript_id = $1 ORDER BY begins DESC LIMIT $2";

const REMOVE_SEGMENT: &str = "DELETE FROM segments
    WHERE transcript_id = $1 AND begins = $2 AND length = $3 AND digest = $4";

const UNNAMED: &str = "SELECT digest FROM blobs
    WHERE store = $1 AND created_at < $2 AND NOT EXISTS (SELECT 1 FROM segments
        WHERE segments.store = blobs.store AND segments.digest = blobs.digest)
    ORDER BY digest LIMIT $3";

const FORGET_BLOB: &str = "DELETE FROM blobs
    WHERE store = $1 AND digest = $2 AND created_at < $3 AND NOT EXISTS (SELECT 1 FROM segments
        WHERE segments.store = blobs.store AND segments.digest = blobs.digest)";

const IS_KNOWN: &str = "SELECT count(*) FROM blobs WHERE store = $1 AND digest = $2";

const FORGET_SEGMENTS: &str = "DELETE FROM segments
    WHERE transcript_id IN (SELECT id FROM transcripts WHERE session_id = $1)";

const FORGET: &str = "DELETE FROM transcripts WHERE session_id = $1 RETURNING size";

/// What holds something, is older than is kept, and nobody carries on.
const EXPIRED: &str = "SELECT s.id, s.project_id FROM sessions AS s
    WHERE s.updated_at < $1 AND s.updated_at >= $2
        AND (EXISTS (SELECT 1 FROM messages AS m WHERE m.session_id = s.id)
            OR EXISTS (SELECT 1 FROM transcripts AS t WHERE t.session_id = s.id))
        AND NOT EXISTS (SELECT 1 FROM runners AS r WHERE r.session_id = s.id AND r.ended_at IS NULL)
    ORDER BY s.updated_at, s.id LIMIT $3";

const TOTAL: &str = "SELECT count(*), CAST(coalesce(sum(length), 0) AS bigint),
        CAST(coalesce(sum(stored), 0) AS bigint)
    FROM blobs WHERE store = $1";

const TOTAL_TAKEN: &str =
    "SELECT count(*), CAST(coalesce(sum(size), 0) AS bigint) FROM transcripts";

statements! {
    LATEST, OF_SESSION, INSERT, REPLACE, GROW, SEEN, KEEP_BLOB, ADD, SEGMENTS, LAST_SEGMENTS, REMOVE_SEGMENT,
    UNNAMED, FORGET_BLOB, IS_KNOWN, FORGET_SEGMENTS, FORGET, EXPIRED, TOTAL, TOTAL_TAKEN,
}

/// What is in the blob store, for its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRow {
    /// The name of the blob store.
    pub store: String,
    pub digest: Digest,
    pub length: u64,
    /// What it takes there.
    pub stored: u64,
}

/// A segment with the blob store that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptSegment {
    pub segment: Segment,
    pub store: String,
}

/// What the vault holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VaultTotals {
    pub transcripts: u64,
    /// The bytes of all transcripts as they were.
    pub taken: u64,
    pub blobs: u64,
    /// The bytes of all different blobs, before and after they were compressed.
    pub length: u64,
    pub stored: u64,
}

#[derive(sqlx::FromRow)]
struct TranscriptRow {
    id: Text<TranscriptId>,
    session_id: Text<SessionId>,
    node_id: Text<NodeId>,
    path: String,
    version: i64,
    file: String,
    head: Text<Digest>,
    head_length: i64,
    size: i64,
    created_at: DbTime,
    updated_at: DbTime,
    replaced_at: Option<DbTime>,
}

impl From<TranscriptRow> for Transcript {
    fn from(row: TranscriptRow) -> Self {
        Self {
            id: row.id.0,
            session: row.session_id.0,
            node: row.node_id.0,
            path: row.path,
            version: row.version.unsigned_abs(),
            identity: FileMark {
                file: row.file,
                head: row.head.0,
                head_length: row.head_length.unsigned_abs(),
            },
            size: row.size.unsigned_abs(),
            created_at: row.created_at.0,
            updated_at: row.updated_at.0,
            is_replaced: row.replaced_at.is_some(),
        }
    }
}

#[derive(sqlx::FromRow)]
struct SegmentRow {
    begins: i64,
    length: i64,
    store: String,
    digest: Text<Digest>,
}

impl From<SegmentRow> for KeptSegment {
    fn from(row: SegmentRow) -> Self {
        Self {
            segment: Segment {
                offset: row.begins.unsigned_abs(),
                length: row.length.unsigned_abs(),
                blob: row.digest.0,
            },
            store: row.store,
        }
    }
}

impl Store {
    /// The newest version of a file that was taken in, if any was.
    pub async fn transcript_latest(
        &self,
        node: NodeId,
        path: &str,
    ) -> Result<Option<Transcript>, StoreError> {
        without_nul("the path of a transcript", path)?;
        let mut reader = self.read().await?;
        let row: Option<TranscriptRow> = on!(reader, |conn| sqlx::query_as(LATEST)
            .bind(Text(node))
            .bind(path)
            .fetch_optional(conn)
            .await)
        .map_err(doing("looking for a transcript"))?;
        Ok(row.map(Into::into))
    }

    /// All files of a session, each with all its versions.
    pub async fn transcript_list(&self, session: SessionId) -> Result<Vec<Transcript>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<TranscriptRow> = on!(reader, |conn| sqlx::query_as(OF_SESSION)
            .bind(Text(session))
            .fetch_all(conn)
            .await)
        .map_err(doing("listing transcripts"))?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Begins a version of a file, of which nothing is here yet; the one before takes no more. If
    /// somebody else began the same one, the answer is [`StoreError::Conflict`].
    pub async fn transcript_begin(&self, new: &Transcript) -> Result<(), StoreError> {
        let what = "beginning a transcript";
        without_nul("the path of a transcript", &new.path)?;
        retried!({
            let mut tx = self.begin().await?;
            on!(tx, |conn| sqlx::query(REPLACE)
                .bind(DbTime(new.created_at))
                .bind(Text(new.node))
                .bind(&new.path)
                .bind(count(new.version))
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing(what))?;
            let begun = on!(tx, |conn| sqlx::query(INSERT)
                .bind(Text(new.id))
                .bind(Text(new.session))
                .bind(Text(new.node))
                .bind(&new.path)
                .bind(count(new.version))
                .bind(&new.identity.file)
                .bind(Text(new.identity.head))
                .bind(count(new.identity.head_length))
                .bind(DbTime(new.created_at))
                .execute(conn)
                .await
                .map(drop));
            match begun {
                Err(error) if violated(&error) == Some(Unique::Other) => return Err(changed(new)),
                begun => begun.map_err(doing(what))?,
            }
            tx.commit().await
        })
    }

    /// Adds a piece, which begins where `seen` ends, with its blob. What the file's beginning is by
    /// now is written down too. If somebody else has added to it, or there is a newer version, the
    /// answer is [`StoreError::Conflict`].
    pub async fn transcript_append(
        &self,
        seen: &Transcript,
        blob: &BlobRow,
        identity: &FileMark,
        now: Timestamp,
    ) -> Result<Transcript, StoreError> {
        let size = seen.size + blob.length;
        retried!({
            let mut tx = self.begin().await?;
            let grown = on!(tx, |conn| sqlx::query(GROW)
                .bind(count(size))
                .bind(DbTime(now))
                .bind(&identity.file)
                .bind(Text(identity.head))
                .bind(count(identity.head_length))
                .bind(Text(seen.id))
                .bind(count(seen.size))
                .execute(conn)
                .await
                .map(|done| done.rows_affected()))
            .map_err(doing("adding to a transcript"))?;
            if grown == 0 {
                return Err(changed(seen));
            }
            name(&mut tx, seen.id, seen.size, blob, now).await?;
            tx.commit().await
        })?;
        Ok(Transcript { size, updated_at: now, identity: identity.clone(), ..seen.clone() })
    }

    /// Writes down that a transcript was found unchanged.
    pub async fn transcript_seen(
        &self,
        id: TranscriptId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            on!(tx, |conn| sqlx::query(SEEN)
                .bind(DbTime(now))
                .bind(Text(id))
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing("looking at a transcript"))?;
            tx.commit().await
        })
    }

    /// The pieces of a transcript, in order.
    pub async fn transcript_segments(
        &self,
        id: TranscriptId,
    ) -> Result<Vec<KeptSegment>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<SegmentRow> =
            on!(reader, |conn| sqlx::query_as(SEGMENTS).bind(Text(id)).fetch_all(conn).await)
                .map_err(doing("listing the pieces of a transcript"))?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// The last pieces of a transcript, in order, at most so many.
    pub async fn transcript_last_segments(
        &self,
        id: TranscriptId,
        limit: u32,
    ) -> Result<Vec<KeptSegment>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<SegmentRow> = on!(reader, |conn| sqlx::query_as(LAST_SEGMENTS)
            .bind(Text(id))
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)
        .map_err(doing("listing the pieces of a transcript"))?;
        Ok(rows.into_iter().rev().map(Into::into).collect())
    }

    /// Puts one piece in place of several that follow one another; `blob` has the bytes of all of
    /// them. If they are no longer there as they were seen, the answer is [`StoreError::Conflict`].
    pub async fn transcript_merge(
        &self,
        id: TranscriptId,
        seen: &[KeptSegment],
        blob: &BlobRow,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let what = "merging the pieces of a transcript";
        let gone = || StoreError::Conflict { what: format!("transcript {id}") };
        let mut end = seen.first().map(|first| first.segment.offset).ok_or_else(gone)?;
        let begins = end;
        for KeptSegment { segment, .. } in seen {
            if segment.offset != end {
                return Err(gone());
            }
            end += segment.length;
        }
        if end - begins != blob.length {
            return Err(StoreError::invalid(
                "a merged piece",
                "its length is not that of its parts",
            ));
        }
        retried!({
            let mut tx = self.begin().await?;
            for KeptSegment { segment, .. } in seen {
                let removed = on!(tx, |conn| sqlx::query(REMOVE_SEGMENT)
                    .bind(Text(id))
                    .bind(count(segment.offset))
                    .bind(count(segment.length))
                    .bind(Text(segment.blob))
                    .execute(conn)
                    .await
                    .map(|done| done.rows_affected()))
                .map_err(doing(what))?;
                if removed == 0 {
                    return Err(gone());
                }
            }
            name(&mut tx, id, begins, blob, now).await?;
            tx.commit().await
        })
    }

    /// Blobs of a store that nobody has named since `before`.
    pub async fn blob_unnamed(
        &self,
        store: &str,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<Digest>, StoreError> {
        let mut reader = self.read().await?;
        let found: Vec<Text<Digest>> = on!(reader, |conn| sqlx::query_scalar(UNNAMED)
            .bind(store)
            .bind(DbTime(before))
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)
        .map_err(doing("looking for what nobody names"))?;
        Ok(found.into_iter().map(|digest| digest.0).collect())
    }

    /// Removes the row of a blob, if nobody has named it since `before`. True if it is gone: now
    /// the blob itself may go.
    pub async fn blob_forget(
        &self,
        store: &str,
        digest: Digest,
        before: Timestamp,
    ) -> Result<bool, StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            let removed = on!(tx, |conn| sqlx::query(FORGET_BLOB)
                .bind(store)
                .bind(Text(digest))
                .bind(DbTime(before))
                .execute(conn)
                .await
                .map(|done| done.rows_affected()))
            .map_err(doing("forgetting a blob"))?;
            tx.commit().await?;
            Ok(removed == 1)
        })
    }

    /// Whether there is a row of a blob.
    pub async fn blob_is_known(&self, store: &str, digest: Digest) -> Result<bool, StoreError> {
        let mut reader = self.read().await?;
        let known: i64 = on!(reader, |conn| sqlx::query_scalar(IS_KNOWN)
            .bind(store)
            .bind(Text(digest))
            .fetch_one(conn)
            .await)
        .map_err(doing("looking for a blob"))?;
        Ok(known > 0)
    }

    /// Sessions that were used last between two times and of which something is kept, with their
    /// projects, the oldest first. None that a runner carries.
    pub async fn vault_expired(
        &self,
        from: Timestamp,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<(SessionId, ProjectId)>, StoreError> {
        let mut reader = self.read().await?;
        let found: Vec<(Text<SessionId>, Text<ProjectId>)> = on!(reader, |conn| {
            sqlx::query_as(EXPIRED)
                .bind(DbTime(before))
                .bind(DbTime(from))
                .bind(i64::from(limit))
                .fetch_all(conn)
                .await
        })
        .map_err(doing("looking for what is kept no longer"))?;
        Ok(found.into_iter().map(|(session, project)| (session.0, project.0)).collect())
    }

    /// How much the vault holds, and how much room it takes in the blob store of this name.
    pub async fn vault_totals(&self, store: &str) -> Result<VaultTotals, StoreError> {
        let what = "counting what the vault holds";
        let mut reader = self.read().await?;
        let (blobs, length, stored): (i64, i64, i64) =
            on!(reader, |conn| sqlx::query_as(TOTAL).bind(store).fetch_one(conn).await)
                .map_err(doing(what))?;
        let (transcripts, taken): (i64, i64) =
            on!(reader, |conn| sqlx::query_as(TOTAL_TAKEN).fetch_one(conn).await)
                .map_err(doing(what))?;
        let [transcripts, taken, blobs, length, stored] =
            [transcripts, taken, blobs, length, stored].map(i64::unsigned_abs);
        Ok(VaultTotals { transcripts, taken, blobs, length, stored })
    }
}

/// Forgets the files of a session, and answers how many they were, and of how many bytes. Their blobs
/// are removed later, unless somebody else names them.
pub(crate) async fn forget(tx: &mut Tx, session: SessionId) -> Result<(u64, u64), StoreError> {
    let what = "forgetting transcripts";
    on!(tx, |conn| sqlx::query(FORGET_SEGMENTS).bind(Text(session)).execute(conn).await.map(drop))
        .map_err(doing(what))?;
    let sizes: Vec<i64> =
        on!(tx, |conn| sqlx::query_scalar(FORGET).bind(Text(session)).fetch_all(conn).await)
            .map_err(doing(what))?;
    Ok((sizes.len() as u64, sizes.iter().map(|size| size.unsigned_abs()).sum()))
}

/// Writes down a blob, and the piece that it is.
async fn name(
    tx: &mut Tx,
    id: TranscriptId,
    begins: u64,
    blob: &BlobRow,
    now: Timestamp,
) -> Result<(), StoreError> {
    on!(tx, |conn| sqlx::query(KEEP_BLOB)
        .bind(&blob.store)
        .bind(Text(blob.digest))
        .bind(count(blob.length))
        .bind(count(blob.stored))
        .bind(DbTime(now))
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("writing down a blob"))?;
    on!(tx, |conn| sqlx::query(ADD)
        .bind(Text(id))
        .bind(count(begins))
        .bind(count(blob.length))
        .bind(&blob.store)
        .bind(Text(blob.digest))
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("writing down a piece of a transcript"))
}

fn changed(transcript: &Transcript) -> StoreError {
    StoreError::Conflict { what: format!("transcript {}", transcript.path.escape_debug()) }
}
