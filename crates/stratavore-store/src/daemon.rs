//! Hosts, and the daemons on them.

use sqlx::types::Text;
use stratavore_core::caller::By;
use stratavore_core::daemon::{Daemon, Node};
use stratavore_core::event::NewEvent;
use stratavore_core::node::{Profile, Scheduling};
use stratavore_core::{DaemonId, NodeId, Timestamp};

use crate::error::doing;
use crate::retry::retried;
use crate::tx::{Lane, on};
use crate::value::{DbTime, count, to_json, without_nul};
use crate::{Store, StoreError, node};

const NODE: &str = "SELECT id, hostname, boot_id, seen_at FROM nodes WHERE id = $1";

const NODE_WRITE: &str =
    "INSERT INTO nodes (id, hostname, boot_id, seen_at, labels, capacity, address)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (id) DO UPDATE
        SET hostname = excluded.hostname, boot_id = excluded.boot_id, seen_at = excluded.seen_at,
            labels = excluded.labels, capacity = excluded.capacity, address = excluded.address
    RETURNING scheduling";

const INSERT: &str =
    "INSERT INTO daemons (id, node_id, version, pid, started_at, seen_at, stopped_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (id) DO NOTHING";

const LEASES_LEFT: &str = "UPDATE leases SET expires_at = $1
    WHERE holder IN (SELECT id FROM daemons WHERE node_id = $2 AND id <> $3) AND expires_at > $1";

const SEEN: &str = "UPDATE daemons SET seen_at = $1 WHERE id = $2 AND seen_at < $1";

const NODE_SEEN: &str = "UPDATE nodes SET seen_at = $1
    WHERE id = (SELECT node_id FROM daemons WHERE id = $2) AND seen_at < $1";

const STOPPED: &str = "UPDATE daemons SET stopped_at = $1 WHERE id = $2 AND stopped_at IS NULL";

const LIST: &str = "SELECT id, node_id, version, pid, started_at, seen_at, stopped_at FROM daemons
    ORDER BY started_at DESC, id LIMIT 1000";

statements! { NODE, NODE_WRITE, INSERT, LEASES_LEFT, SEEN, NODE_SEEN, STOPPED, LIST }

#[derive(Debug, sqlx::FromRow)]
struct NodeRow {
    id: Text<NodeId>,
    hostname: String,
    boot_id: String,
    seen_at: DbTime,
}

#[derive(Debug, sqlx::FromRow)]
struct DaemonRow {
    id: Text<DaemonId>,
    node_id: Text<NodeId>,
    version: String,
    pid: i64,
    started_at: DbTime,
    seen_at: DbTime,
    stopped_at: Option<DbTime>,
}

/// What a daemon is told that has just started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The node as it was before, with the boot id of that time; `None` if it is new.
    pub before: Option<Node>,
    /// Whether the node takes runners; `None` if it was removed.
    pub scheduling: Option<Scheduling>,
}

impl Store {
    /// Records that a daemon has started on a node, and what that node says of itself.
    ///
    /// The caller holds the node's state directory, so every earlier daemon of the node is gone:
    /// what leases they held are free from now on, by the daemon's clock.
    ///
    /// Harmless to repeat, but then the answer is the node as the first call left it.
    pub async fn daemon_started(
        &self,
        node: &Node,
        daemon: &Daemon,
        profile: &Profile,
    ) -> Result<Started, StoreError> {
        for (what, text) in [
            ("a host name", node.hostname.as_str()),
            ("a boot id", &node.boot_id),
            ("a version", &daemon.version),
            ("the address of a node", profile.address.as_deref().unwrap_or_default()),
        ] {
            without_nul(what, text)?;
        }
        if daemon.node != node.id {
            return Err(StoreError::invalid(
                daemon.id.to_string(),
                format!("it is not on {}", node.id),
            ));
        }
        retried!({
            let mut tx = self.begin().await?;
            let before: Option<NodeRow> =
                on!(tx, |conn| sqlx::query_as(NODE).bind(Text(node.id)).fetch_optional(conn).await)
                    .map_err(doing("reading a node"))?;
            let scheduling: String = on!(tx, |conn| sqlx::query_scalar(NODE_WRITE)
                .bind(Text(node.id))
                .bind(&node.hostname)
                .bind(&node.boot_id)
                .bind(DbTime(node.seen_at))
                .bind(to_json(&profile.labels))
                .bind(profile.capacity.map(count))
                .bind(&profile.address)
                .fetch_one(conn)
                .await)
            .map_err(doing("recording a node"))?;
            on!(tx, |conn| sqlx::query(INSERT)
                .bind(Text(daemon.id))
                .bind(Text(daemon.node))
                .bind(&daemon.version)
                .bind(i64::from(daemon.pid))
                .bind(DbTime(daemon.started_at))
                .bind(DbTime(daemon.seen_at))
                .bind(daemon.stopped_at.map(DbTime))
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing("recording a daemon"))?;
            on!(tx, |conn| sqlx::query(LEASES_LEFT)
                .bind(DbTime(daemon.started_at))
                .bind(Text(daemon.node))
                .bind(Text(daemon.id))
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing("freeing leases of earlier daemons"))?;
            tx.commit().await?;
            let before = before.map(|row| Node {
                id: row.id.0,
                hostname: row.hostname,
                boot_id: row.boot_id,
                seen_at: row.seen_at.0,
            });
            Ok(Started { before, scheduling: Scheduling::parse(&scheduling) })
        })
    }

    /// Records that a daemon, and with it its node, was alive at `at`. Never moves a time back.
    pub async fn daemon_seen(&self, id: DaemonId, at: Timestamp) -> Result<(), StoreError> {
        retried!({
            let mut tx = self.begin_in(Lane::Vital).await?;
            for sql in [SEEN, NODE_SEEN] {
                on!(tx, |conn| sqlx::query(sql)
                    .bind(DbTime(at))
                    .bind(Text(id))
                    .execute(conn)
                    .await
                    .map(drop))
                .map_err(doing("recording that a daemon was seen"))?;
            }
            tx.commit().await
        })
    }

    /// Records that a daemon stopped in good order. The first time given stays.
    pub async fn daemon_stopped(&self, id: DaemonId, at: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.begin_in(Lane::Vital).await?;
        on!(tx, |conn| sqlx::query(STOPPED)
            .bind(DbTime(at))
            .bind(Text(id))
            .execute(conn)
            .await
            .map(drop))
        .map_err(doing("recording that a daemon stopped"))?;
        tx.commit().await
    }

    /// Appends an event about a node.
    pub async fn node_event(
        &self,
        id: NodeId,
        event: &NewEvent,
        by: impl Into<By>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let by = &self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            let held = node::hold(&mut tx, id).await?;
            node::append(&mut tx, &held, event, by, at).await?;
            tx.commit().await
        })
    }

    /// The daemons that started last, newest first, at most a thousand.
    pub async fn daemon_list(&self) -> Result<Vec<Daemon>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<DaemonRow> = on!(reader, |conn| sqlx::query_as(LIST).fetch_all(conn).await)
            .map_err(doing("listing daemons"))?;
        rows.into_iter().map(DaemonRow::into_daemon).collect()
    }
}

impl DaemonRow {
    fn into_daemon(self) -> Result<Daemon, StoreError> {
        let pid = u32::try_from(self.pid).map_err(|error| StoreError::Corrupt {
            what: format!("the pid of {}", self.id.0),
            why: error.to_string(),
        })?;
        Ok(Daemon {
            id: self.id.0,
            node: self.node_id.0,
            version: self.version,
            pid,
            started_at: self.started_at.0,
            seen_at: self.seen_at.0,
            stopped_at: self.stopped_at.map(|at| at.0),
        })
    }
}
