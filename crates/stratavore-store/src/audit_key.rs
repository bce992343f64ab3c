//! The public keys of the record. Their private halves are on the hosts.

use sqlx::types::Text;
use stratavore_core::caller::By;
use stratavore_core::event::NewEvent;
use stratavore_core::lease::Lease;
use stratavore_core::{NodeId, Timestamp};

use crate::audit::place;
use crate::error::doing;
use crate::retry::retried;
use crate::tx::{Tx, on};
use crate::value::DbTime;
use crate::{Store, StoreError, lease, node};

const KEYS: &str = "SELECT id, origin, public, state, node_id, since_size, change, created_at
    FROM audit_keys ORDER BY since_size, created_at, id";

const KEY_INSERT: &str = "INSERT INTO audit_keys
    (id, origin, public, state, node_id, since_size, change, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

const KEYS_RETIRE: &str = "UPDATE audit_keys SET state = 'retired' WHERE state = 'active'";

statements! { KEYS, KEY_INSERT, KEYS_RETIRE }

/// A public key of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditKey {
    pub id: String,
    /// The log that it signs for.
    pub origin: String,
    pub public: String,
    /// `active` or `retired`.
    pub state: String,
    /// The host that has the private half.
    pub node: NodeId,
    pub since_size: u64,
    /// What the key before it has signed to introduce it; `None` for the first.
    pub change: Option<String>,
    pub created_at: Timestamp,
}

#[derive(sqlx::FromRow)]
struct KeyRow {
    id: String,
    origin: String,
    public: String,
    state: String,
    node_id: Text<NodeId>,
    since_size: i64,
    change: Option<String>,
    created_at: DbTime,
}

impl From<KeyRow> for AuditKey {
    fn from(row: KeyRow) -> Self {
        Self {
            id: row.id,
            origin: row.origin,
            public: row.public,
            state: row.state,
            node: row.node_id.0,
            since_size: row.since_size.unsigned_abs(),
            change: row.change,
            created_at: row.created_at.0,
        }
    }
}

impl Store {
    /// All public keys, the oldest first.
    pub async fn audit_keys(&self) -> Result<Vec<AuditKey>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<KeyRow> = on!(reader, |conn| sqlx::query_as(KEYS).fetch_all(conn).await)
            .map_err(doing("reading the keys of the record"))?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Keeps the first key.
    pub async fn audit_key_begin(&self, lease: &Lease, key: &AuditKey) -> Result<(), StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            lease::check(self, &mut tx, lease).await?;
            insert(&mut tx, key).await?;
            tx.commit().await
        })
    }

    /// Keeps a key that signs from now on, with what is to be told of it on the record of its node; those
    /// before it are retired.
    pub async fn audit_key_add(
        &self,
        lease: &Lease,
        key: &AuditKey,
        event: &NewEvent,
        by: &By,
    ) -> Result<(), StoreError> {
        let by = self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            lease::check(self, &mut tx, lease).await?;
            let held = node::hold(&mut tx, key.node).await?;
            on!(tx, |conn| sqlx::query(KEYS_RETIRE).execute(conn).await.map(drop))
                .map_err(doing("retiring a key of the record"))?;
            insert(&mut tx, key).await?;
            node::append(&mut tx, &held, event, &by, key.created_at).await?;
            tx.commit().await
        })
    }
}

async fn insert(tx: &mut Tx, key: &AuditKey) -> Result<(), StoreError> {
    on!(tx, |conn| sqlx::query(KEY_INSERT)
        .bind(&key.id)
        .bind(&key.origin)
        .bind(&key.public)
        .bind(&key.state)
        .bind(Text(key.node))
        .bind(place(key.since_size))
        .bind(&key.change)
        .bind(DbTime(key.created_at))
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("keeping a key of the record"))
}
