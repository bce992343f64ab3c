//! Nodes as the cluster sees them: what they are for, whether they take runners, who they are.

use sqlx::types::Text;
use stratavore_core::caller::By;
use stratavore_core::event::{Entity, NewEvent};
use stratavore_core::join::Redeemed;
use stratavore_core::node::{NodeView, Profile, Scheduling};
use stratavore_core::{NodeId, Timestamp};

use crate::error::doing;
use crate::event::{About, Author};
use crate::hook::passing;
use crate::retry::retried;
use crate::tx::{Tx, on};
use crate::value::{DbTime, count, from_json, to_json, without_nul};
use crate::{Store, StoreError, event, join, moving};

const NOUN: &str = "node";

const PROFILE: &str = "UPDATE nodes SET labels = $1, capacity = $2, address = $3, signs = $4
    WHERE id = $5";

/// All of them or one: how many runners live is counted only of those that are asked for. A node
/// is ready while a daemon has it: one that shares the store holds its lease.
const LIST_POSTGRES: &str =
    "SELECT id, hostname, labels, capacity, address, scheduling, signs, seen_at, moving,
        COALESCE((SELECT version FROM daemons WHERE node_id = nodes.id
            ORDER BY started_at DESC, id LIMIT 1), '') AS version,
        (SELECT count(*) FROM runners WHERE node_id = nodes.id AND ended_at IS NULL) AS runners,
        (SELECT count(*) FROM leases
            WHERE name = 'host:' || nodes.id AND expires_at > clock_timestamp()) AS ready
    FROM nodes WHERE scheduling <> 'removed' AND (id = $1 OR $1 IS NULL)
    ORDER BY hostname, id LIMIT 1000";

/// There is one daemon, and it asks.
const LIST_SQLITE: &str =
    "SELECT id, hostname, labels, capacity, address, scheduling, signs, seen_at, moving,
        COALESCE((SELECT version FROM daemons WHERE node_id = nodes.id
            ORDER BY started_at DESC, id LIMIT 1), '') AS version,
        (SELECT count(*) FROM runners WHERE node_id = nodes.id AND ended_at IS NULL) AS runners,
        1 AS ready
    FROM nodes WHERE scheduling <> 'removed' AND (id = $1 OR $1 IS NULL)
    ORDER BY hostname, id LIMIT 1000";

/// Holds the node's row, so that two events of it never get the same number.
const HOLD: &str = "UPDATE nodes SET seen_at = seen_at WHERE id = $1
    RETURNING hostname, scheduling, moving";

const NEXT: &str = "SELECT COALESCE((SELECT MAX(seq) FROM events WHERE entity_id = $1),
    (SELECT seq FROM trimmed_nodes WHERE node_id = $1), 0) + 1";

const SCHEDULE: &str = "UPDATE nodes SET scheduling = $1, moving = $3 WHERE id = $2";

const LIVE: &str = "SELECT count(*) FROM runners WHERE node_id = $1 AND ended_at IS NULL";

const BIND_KEY: &str = "UPDATE nodes SET key_digest = $1,
        scheduling = CASE WHEN scheduling = 'removed' THEN 'open' ELSE scheduling END
    WHERE id = $2";

const KEY: &str = "SELECT key_digest FROM nodes WHERE id = $1";

/// Locks what a node may hold, so that no two admissions count on the same place.
const CAPACITY_POSTGRES: &str = "SELECT capacity FROM nodes WHERE id = $1 FOR NO KEY UPDATE";
const CAPACITY_SQLITE: &str = "SELECT capacity FROM nodes WHERE id = $1";

statements! {
    PROFILE, LIST_POSTGRES, LIST_SQLITE, HOLD, NEXT, SCHEDULE, LIVE, BIND_KEY, KEY, CAPACITY_POSTGRES,
    CAPACITY_SQLITE,
}

/// How a removed node stands in its row; no list has it.
const REMOVED: &str = "removed";

#[derive(Debug, sqlx::FromRow)]
struct NodeRow {
    id: Text<NodeId>,
    hostname: String,
    labels: String,
    capacity: Option<i64>,
    address: Option<String>,
    scheduling: String,
    signs: i64,
    seen_at: DbTime,
    moving: Option<String>,
    version: String,
    runners: i64,
    ready: i64,
}

impl NodeRow {
    fn into_view(self) -> Result<NodeView, StoreError> {
        let scheduling =
            Scheduling::parse(&self.scheduling).ok_or_else(|| StoreError::Corrupt {
                what: format!("node {}", self.id.0),
                why: format!("`{}` is not how a node may stand", self.scheduling.escape_debug()),
            })?;
        Ok(NodeView {
            id: self.id.0,
            hostname: self.hostname,
            profile: Profile {
                labels: from_json("the labels of a node", &self.labels)?,
                capacity: self.capacity.map(i64::unsigned_abs),
                address: self.address,
            },
            scheduling,
            ready: self.ready != 0,
            seen_at: self.seen_at.0,
            version: self.version,
            runners: self.runners.unsigned_abs(),
            signs: self.signs != 0,
            // A program of before opens a node and does not know of moves.
            moving: self.moving.filter(|_| scheduling == Scheduling::Draining),
        })
    }
}

impl Store {
    /// Writes down what a node says of itself, and whether it can sign the certificates of others.
    pub async fn node_profile(
        &self,
        id: NodeId,
        profile: &Profile,
        signs: bool,
    ) -> Result<(), StoreError> {
        if let Some(address) = &profile.address {
            without_nul("the address of a node", address)?;
        }
        retried!({
            let mut tx = self.begin().await?;
            on!(tx, |conn| sqlx::query(PROFILE)
                .bind(to_json(&profile.labels))
                .bind(profile.capacity.map(count))
                .bind(&profile.address)
                .bind(i64::from(signs))
                .bind(Text(id))
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing("writing down what a node is for"))?;
            tx.commit().await
        })
    }

    /// Every node that was not removed, by host name, at most a thousand.
    pub async fn node_list(&self) -> Result<Vec<NodeView>, StoreError> {
        self.node_views(None).await
    }

    /// One node, unless it was removed.
    pub async fn node_get(&self, id: NodeId) -> Result<Option<NodeView>, StoreError> {
        Ok(self.node_views(Some(id)).await?.pop())
    }

    async fn node_views(&self, only: Option<NodeId>) -> Result<Vec<NodeView>, StoreError> {
        let sql = if self.is_shared() { LIST_POSTGRES } else { LIST_SQLITE };
        let mut reader = self.read().await?;
        let rows: Vec<NodeRow> =
            on!(reader, |conn| sqlx::query_as(sql).bind(only.map(Text)).fetch_all(conn).await)
                .map_err(doing("listing nodes"))?;
        rows.into_iter().map(NodeRow::into_view).collect()
    }

    /// Lets a node take runners, or none; `moves`: those of one that is drained go on on other nodes.
    /// True if that changes anything.
    pub async fn node_schedule(
        &self,
        id: NodeId,
        scheduling: Scheduling,
        moves: bool,
        by: &By,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let by = self.author(by)?;
        let moves = moves && scheduling == Scheduling::Draining;
        retried!({
            let mut tx = self.begin().await?;
            let held = hold(&mut tx, id).await?;
            let moved = held.scheduling == Scheduling::Draining.as_str() && held.moving.is_some();
            if held.scheduling == scheduling.as_str() && moved == moves {
                return Ok(false);
            }
            let moving = moves.then_some(by.name.as_str());
            set_scheduling(&mut tx, id, scheduling.as_str(), moving).await?;
            let kind = match scheduling {
                Scheduling::Open => "node.opened",
                Scheduling::Cordoned => "node.cordoned",
                Scheduling::Draining => "node.draining",
            };
            let data = match moves {
                true => serde_json::json!({ "move": true }),
                false => serde_json::json!({}),
            };
            append(&mut tx, &held, &NewEvent::new(kind, data), &by, at).await?;
            tx.commit().await?;
            Ok(true)
        })
    }

    /// Takes a node out of the cluster: its key is worth nothing from now on, and it is listed no
    /// more. A new token lets it in again. Refused while runners live there.
    pub async fn node_remove(&self, id: NodeId, by: &By, at: Timestamp) -> Result<(), StoreError> {
        let by = self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            let held = hold(&mut tx, id).await?;
            let live: i64 =
                on!(tx, |conn| sqlx::query_scalar(LIVE).bind(Text(id)).fetch_one(conn).await)
                    .map_err(doing("counting the runners of a node"))?;
            if live > 0 {
                let why = format!("{live} runners live there");
                return Err(StoreError::invalid(format!("node {}", held.hostname), why));
            }
            let between = moving::between(&mut tx, id).await?;
            if between > 0 {
                let why = format!("{between} runners of it were stopped and run nowhere else yet");
                return Err(StoreError::invalid(format!("node {}", held.hostname), why));
            }
            bind_key(&mut tx, id, None).await?;
            set_scheduling(&mut tx, id, REMOVED, None).await?;
            let removed = NewEvent::new("node.removed", serde_json::json!({}));
            append(&mut tx, &held, &removed, &by, at).await?;
            tx.commit().await
        })
    }

    /// The digest of the key that a node is bound to; `None`: to none.
    pub async fn node_key(&self, id: NodeId) -> Result<Option<String>, StoreError> {
        let mut reader = self.read().await?;
        let key: Option<Option<String>> =
            on!(reader, |conn| sqlx::query_scalar(KEY).bind(Text(id)).fetch_optional(conn).await)
                .map_err(doing("reading the key of a node"))?;
        Ok(key.flatten())
    }

    /// Binds a node to a key without a token: a node that keeps the CA. False: it was bound to it.
    pub async fn node_bind(
        &self,
        id: NodeId,
        key_digest: &str,
        by: &By,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let by = self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            let held = hold(&mut tx, id).await?;
            let bound: Option<String> =
                on!(tx, |conn| sqlx::query_scalar(KEY).bind(Text(id)).fetch_one(conn).await)
                    .map_err(doing("reading the key of a node"))?;
            if bound.as_deref() == Some(key_digest) {
                return Ok(false);
            }
            bind_key(&mut tx, id, Some(key_digest)).await?;
            let joined = NewEvent::new("node.joined", serde_json::json!({ "keeps_ca": true }));
            append(&mut tx, &held, &joined, &by, at).await?;
            tx.commit().await?;
            Ok(true)
        })
    }

    /// Uses a join token for `node` and the key of this digest, and says what came of it. What it
    /// comes to is decided by the token's rules, under its lock; of two hosts one is first.
    pub async fn node_join(
        &self,
        accessor: &str,
        secret_digest: &str,
        node: NodeId,
        key_digest: &str,
        by: &By,
        at: Timestamp,
    ) -> Result<Redeemed, StoreError> {
        let by = self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            let held = hold(&mut tx, node).await?;
            let redeemed = join::redeem(&mut tx, accessor, secret_digest, node, key_digest).await?;
            let event = match &redeemed {
                Redeemed::Bound => {
                    bind_key(&mut tx, node, Some(key_digest)).await?;
                    Some(NewEvent::new("node.joined", serde_json::json!({ "token": accessor })))
                }
                Redeemed::Stolen { node: first } => {
                    bind_key(&mut tx, *first, None).await?;
                    let data = serde_json::json!({ "token": accessor, "used_for": first });
                    Some(NewEvent::new("node.token_stolen", data))
                }
                Redeemed::Again | Redeemed::Refused(_) => None,
            };
            if let Some(event) = event {
                append(&mut tx, &held, &event, &by, at).await?;
            }
            tx.commit().await?;
            Ok(redeemed)
        })
    }
}

/// A node whose row is held until the transaction ends.
pub(crate) struct Held {
    id: NodeId,
    hostname: String,
    scheduling: String,
    moving: Option<String>,
}

pub(crate) async fn hold(tx: &mut Tx, id: NodeId) -> Result<Held, StoreError> {
    let held: Option<(String, String, Option<String>)> =
        on!(tx, |conn| sqlx::query_as(HOLD).bind(Text(id)).fetch_optional(conn).await)
            .map_err(doing("holding a node"))?;
    let (hostname, scheduling, moving) =
        held.ok_or_else(|| StoreError::NotFound { noun: NOUN, wanted: id.to_string() })?;
    Ok(Held { id, hostname, scheduling, moving })
}

/// Appends an event about a node that is held.
pub(crate) async fn append(
    tx: &mut Tx,
    held: &Held,
    event: &NewEvent,
    by: &Author,
    at: Timestamp,
) -> Result<(), StoreError> {
    let seq: i64 =
        on!(tx, |conn| sqlx::query_scalar(NEXT).bind(Text(held.id)).fetch_one(conn).await)
            .map_err(doing("counting the events of a node"))?;
    passing("node_event");
    let about = About {
        entity: Entity::Node,
        entity_id: held.id.to_string(),
        name: &held.hostname,
        project: None,
        seq,
        at,
        by,
    };
    event::append(tx, about, event).await
}

/// Refuses `wanted` more runners on a node that is full with them. The node's row stays locked until
/// the transaction ends, so no two admissions count on the same place.
pub(crate) async fn check_capacity(
    tx: &mut Tx,
    id: NodeId,
    wanted: usize,
) -> Result<(), StoreError> {
    let sql = tx.either(CAPACITY_POSTGRES, CAPACITY_SQLITE);
    let capacity: Option<Option<i64>> =
        on!(tx, |conn| sqlx::query_scalar(sql).bind(Text(id)).fetch_optional(conn).await)
            .map_err(doing("locking a node"))?;
    let Some(capacity) = capacity.flatten() else { return Ok(()) };
    let live: i64 = on!(tx, |conn| sqlx::query_scalar(LIVE).bind(Text(id)).fetch_one(conn).await)
        .map_err(doing("counting the runners of a node"))?;
    if live.saturating_add(i64::try_from(wanted).unwrap_or(i64::MAX)) > capacity {
        return Err(StoreError::NodeFull {
            node: id,
            live: live.unsigned_abs(),
            capacity: capacity.unsigned_abs(),
        });
    }
    Ok(())
}

async fn set_scheduling(
    tx: &mut Tx,
    id: NodeId,
    scheduling: &str,
    moving: Option<&str>,
) -> Result<(), StoreError> {
    on!(tx, |conn| sqlx::query(SCHEDULE)
        .bind(scheduling)
        .bind(Text(id))
        .bind(moving)
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("cordoning a node"))
}

async fn bind_key(tx: &mut Tx, id: NodeId, key_digest: Option<&str>) -> Result<(), StoreError> {
    on!(tx, |conn| sqlx::query(BIND_KEY)
        .bind(key_digest)
        .bind(Text(id))
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("binding a node to its key"))
}
