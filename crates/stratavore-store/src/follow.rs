//! How far the files that tell of assistants have been read.
//!
//! Invariant: what a piece of a file says and that the piece was read commit together, and a piece is
//! taken by whoever says rightly where it begins; so nothing is counted twice, whoever reads.

use sqlx::types::Text;
use stratavore_core::caller::By;
use stratavore_core::event::NewEvent;
use stratavore_core::name::Name;
use stratavore_core::{NodeId, RunnerId, Timestamp};

use crate::error::doing;
use crate::node;
use crate::retry::retried;
use crate::tx::{Tx, on};
use crate::value::{DbTime, count, without_nul};
use crate::{Observed, Store, StoreError};

/// Bytes of the longest path that can be followed: it is part of a key.
const PATH_BYTES_MAX: usize = 2000;

/// Bytes of the most that a reader may keep in mind of one file.
const MEMORY_BYTES_MAX: usize = 64 << 10;

const GET: &str =
    "SELECT path, node_id, assistant, runner_id, read_to, memory, device, inode, updated_at
    FROM follows WHERE node_id = $1 AND path = $2";

const OF_RUNNER: &str =
    "SELECT path, node_id, assistant, runner_id, read_to, memory, device, inode, updated_at
    FROM follows WHERE node_id = $1 AND runner_id = $2 ORDER BY path";

const BEGIN: &str = "INSERT INTO follows
        (node_id, path, assistant, runner_id, read_to, memory, device, inode, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (node_id, path) DO NOTHING";

/// A later runner takes the file over; one that only imports leaves it to whom it has.
const STEP: &str = "UPDATE follows
    SET assistant = $3, runner_id = coalesce($4, runner_id), read_to = $5, memory = $6,
        device = $7, inode = $8, updated_at = $9
    WHERE node_id = $1 AND path = $2 AND read_to = $10 AND device = $11 AND inode = $12";

statements! { GET, OF_RUNNER, BEGIN, STEP }

/// Which file it is, whatever it is called: as the host tells them apart, in text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileIdentity {
    pub device: String,
    pub inode: String,
}

/// A file that is followed, and how far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    pub path: String,
    pub node: NodeId,
    pub assistant: Name,
    /// Whose it is; `None`: it was imported.
    pub runner: Option<RunnerId>,
    pub read_to: u64,
    /// What its reader keeps in mind, as JSON.
    pub memory: String,
    pub identity: FileIdentity,
    pub updated_at: Timestamp,
}

/// That a piece of a file was read.
#[derive(Debug, Clone, Copy)]
pub struct FollowStep<'a> {
    pub path: &'a str,
    /// Where the file stood when the piece was read; `None`: it was not followed yet.
    pub seen: Option<&'a Follow>,
    pub read_to: u64,
    pub memory: &'a str,
    pub identity: &'a FileIdentity,
}

#[derive(Debug, sqlx::FromRow)]
struct FollowRow {
    path: String,
    node_id: Text<NodeId>,
    assistant: Text<Name>,
    runner_id: Option<Text<RunnerId>>,
    read_to: i64,
    memory: String,
    device: String,
    inode: String,
    updated_at: DbTime,
}

impl From<FollowRow> for Follow {
    fn from(row: FollowRow) -> Self {
        Follow {
            path: row.path,
            node: row.node_id.0,
            assistant: row.assistant.0,
            runner: row.runner_id.map(|id| id.0),
            read_to: row.read_to.unsigned_abs(),
            memory: row.memory,
            identity: FileIdentity { device: row.device, inode: row.inode },
            updated_at: row.updated_at.0,
        }
    }
}

impl Store {
    /// How far a file of a node has been read; `None`: it is not followed.
    pub async fn follow_get(&self, node: NodeId, path: &str) -> Result<Option<Follow>, StoreError> {
        without_nul("the path of a file", path)?;
        let mut reader = self.read().await?;
        let row: Option<FollowRow> = on!(reader, |conn| sqlx::query_as(GET)
            .bind(Text(node))
            .bind(path)
            .fetch_optional(conn)
            .await)
        .map_err(doing("reading how far a file was read"))?;
        Ok(row.map(Follow::from))
    }

    /// The files of a runner that are followed, by their paths.
    pub async fn follow_list(
        &self,
        node: NodeId,
        runner: RunnerId,
    ) -> Result<Vec<Follow>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<FollowRow> = on!(reader, |conn| sqlx::query_as(OF_RUNNER)
            .bind(Text(node))
            .bind(Text(runner))
            .fetch_all(conn)
            .await)
        .map_err(doing("listing the files of a runner"))?;
        Ok(rows.into_iter().map(Follow::from).collect())
    }
}

impl Store {
    /// Puts on the record what a piece of a log of visits tells, together with that the piece was read.
    ///
    /// If somebody else has read it meanwhile the answer is [`StoreError::Conflict`] and nothing was written:
    /// so whatever is told of is on the record once, whichever daemon dies where.
    pub async fn visits_recorded(
        &self,
        batch: &Observed<'_>,
        visits: &[(NewEvent, By)],
    ) -> Result<(), StoreError> {
        let authors =
            visits.iter().map(|(_, by)| self.author(by)).collect::<Result<Vec<_>, _>>()?;
        retried!({
            let mut tx = self.begin().await?;
            step(&mut tx, batch).await?;
            if !visits.is_empty() {
                let held = node::hold(&mut tx, batch.node).await?;
                for ((event, _), by) in visits.iter().zip(&authors) {
                    node::append(&mut tx, &held, event, by, batch.now).await?;
                }
            }
            tx.commit().await
        })
    }
}

/// Moves the file on, or answers [`StoreError::Conflict`]: somebody else has read that piece.
///
/// It locks the file's row until the end of the transaction: of two that read the same piece, the
/// second one waits here, and then finds that it is done.
pub(crate) async fn step(tx: &mut Tx, batch: &Observed<'_>) -> Result<(), StoreError> {
    let Some(step) = &batch.follow else { return Ok(()) };
    check(step)?;
    let sql = if step.seen.is_some() { STEP } else { BEGIN };
    let moved = on!(tx, |conn| {
        let query = sqlx::query(sql)
            .bind(Text(batch.node))
            .bind(step.path)
            .bind(batch.assistant.as_str())
            .bind(batch.runner.map(Text))
            .bind(count(step.read_to))
            .bind(step.memory)
            .bind(&step.identity.device)
            .bind(&step.identity.inode)
            .bind(DbTime(batch.now));
        let query = match step.seen {
            Some(seen) => query
                .bind(count(seen.read_to))
                .bind(&seen.identity.device)
                .bind(&seen.identity.inode),
            None => query,
        };
        query.execute(conn).await.map(|done| done.rows_affected())
    })
    .map_err(doing("recording how far a file was read"))?;
    if moved == 0 {
        let what = format!("how far `{}` was read", step.path.escape_debug());
        return Err(StoreError::Conflict { what });
    }
    Ok(())
}

fn check(step: &FollowStep<'_>) -> Result<(), StoreError> {
    let texts = [step.path, step.memory, &step.identity.device, &step.identity.inode];
    texts.into_iter().try_for_each(|text| without_nul("what is known of a file", text))?;
    if step.path.len() > PATH_BYTES_MAX {
        let why = format!(
            "it has {} bytes, and a file that is followed has a path of at most {PATH_BYTES_MAX}; use a shorter one",
            step.path.len()
        );
        return Err(StoreError::invalid("the path of a transcript", why));
    }
    if step.memory.len() > MEMORY_BYTES_MAX {
        let why =
            format!("it has {} bytes, and at most {MEMORY_BYTES_MAX} are kept", step.memory.len());
        return Err(StoreError::invalid("what a reader keeps in mind of a file", why));
    }
    Ok(())
}
