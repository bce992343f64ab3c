//! Join tokens, of which only digests are kept. Their time is the database's.

use std::time::Duration;

use serde_json::json;
use sqlx::types::Text;
use stratavore_core::caller::By;
use stratavore_core::event::NewEvent;
use stratavore_core::join::{Redeemed, TokenRecord, Used};
use stratavore_core::{NodeId, Timestamp};

use crate::error::doing;
use crate::hook::is_left_out;
use crate::retry::retried;
use crate::tx::{Tx, on};
use crate::value::{DbTime, without_nul};
use crate::{Store, StoreError, node};

// The clock is read once: read twice, a token would live longer than it may, by what lies between.
const ADD_POSTGRES: &str = "INSERT INTO join_tokens
        (accessor, secret_digest, created_by, created_at, expires_at)
    SELECT $1, $2, $3, made, made + $4 * interval '1 microsecond'
    FROM (SELECT clock_timestamp() AS made) AS clock
    RETURNING created_at, expires_at";

const ADD_SQLITE: &str = "INSERT INTO join_tokens
        (accessor, secret_digest, created_by, created_at, expires_at)
    VALUES ($1, $2, $3, CAST(unixepoch('subsec') * 1000000 AS INTEGER),
        CAST(unixepoch('subsec') * 1000000 AS INTEGER) + $4)
    RETURNING created_at, expires_at";

const BY_DIGEST_POSTGRES: &str = "SELECT accessor, created_by, created_at, expires_at, used_at,
        node_id, key_digest, revoked_at, clock_timestamp() AS now
    FROM join_tokens WHERE accessor = $1 AND secret_digest = $2 FOR UPDATE";

const BY_DIGEST_SQLITE: &str = "SELECT accessor, created_by, created_at, expires_at, used_at,
        node_id, key_digest, revoked_at, CAST(unixepoch('subsec') * 1000000 AS INTEGER) AS now
    FROM join_tokens WHERE accessor = $1 AND secret_digest = $2";

const USE: &str = "UPDATE join_tokens SET used_at = $1, node_id = $2, key_digest = $3
    WHERE accessor = $4";

const REVOKE: &str = "UPDATE join_tokens SET revoked_at = $1
    WHERE accessor = $2 AND revoked_at IS NULL RETURNING accessor";

const LIST: &str =
    "SELECT accessor, created_by, created_at, expires_at, used_at, node_id, key_digest,
        revoked_at, created_at AS now
    FROM join_tokens ORDER BY created_at DESC, accessor LIMIT 1000";

const PURGE: &str = "DELETE FROM join_tokens WHERE expires_at < $1";

statements! { ADD_POSTGRES, ADD_SQLITE, BY_DIGEST_POSTGRES, BY_DIGEST_SQLITE, USE, REVOKE, LIST, PURGE }

#[derive(Debug, sqlx::FromRow)]
struct TokenRow {
    accessor: String,
    created_by: String,
    created_at: DbTime,
    expires_at: DbTime,
    used_at: Option<DbTime>,
    node_id: Option<Text<NodeId>>,
    key_digest: Option<String>,
    revoked_at: Option<DbTime>,
    now: DbTime,
}

impl TokenRow {
    fn into_record(self) -> TokenRecord {
        let used = match (self.used_at, self.node_id, self.key_digest) {
            (Some(at), Some(node), Some(key_digest)) => {
                Some(Used { at: at.0, node: node.0, key_digest })
            }
            (_, _, _) => None,
        };
        TokenRecord {
            accessor: self.accessor,
            created_by: self.created_by,
            created_at: self.created_at.0,
            expires_at: self.expires_at.0,
            used,
            revoked_at: self.revoked_at.map(|at| at.0),
        }
    }
}

/// Looks at the token under its lock, and writes down its use. One that nobody knows answers like one
/// that is over: whoever guesses learns nothing.
pub(crate) async fn redeem(
    tx: &mut Tx,
    accessor: &str,
    secret_digest: &str,
    node: NodeId,
    key_digest: &str,
) -> Result<Redeemed, StoreError> {
    let sql = tx.either(BY_DIGEST_POSTGRES, BY_DIGEST_SQLITE);
    let row: Option<TokenRow> = on!(tx, |conn| sqlx::query_as(sql)
        .bind(accessor)
        .bind(secret_digest)
        .fetch_optional(conn)
        .await)
    .map_err(doing("reading a join token"))?;
    let Some(row) = row else { return Ok(Redeemed::Refused("it is not known")) };
    let now = row.now;
    let mut record = row.into_record();
    if is_left_out("token_once") {
        (record.used, record.revoked_at) = (None, None);
    }
    let redeemed = record.redeem(node, key_digest, now.0);
    match &redeemed {
        Redeemed::Bound => on!(tx, |conn| sqlx::query(USE)
            .bind(now)
            .bind(Text(node))
            .bind(key_digest)
            .bind(accessor)
            .execute(conn)
            .await
            .map(drop)),
        Redeemed::Stolen { .. } => on!(tx, |conn| sqlx::query(REVOKE)
            .bind(now)
            .bind(accessor)
            .execute(conn)
            .await
            .map(drop)),
        Redeemed::Again | Redeemed::Refused(_) => Ok(()),
    }
    .map_err(doing("using a join token"))?;
    Ok(redeemed)
}

impl Store {
    /// Keeps a new token, of which it learns a digest only, with who made it on the record.
    pub async fn join_token_add(
        &self,
        accessor: &str,
        secret_digest: &str,
        ttl: Duration,
        here: NodeId,
        by: &By,
        at: Timestamp,
    ) -> Result<TokenRecord, StoreError> {
        let by = self.author(by)?;
        let micros = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
        retried!({
            let mut tx = self.begin().await?;
            let held = node::hold(&mut tx, here).await?;
            let sql = tx.either(ADD_POSTGRES, ADD_SQLITE);
            let (created_at, expires_at): (DbTime, DbTime) = on!(tx, |conn| sqlx::query_as(sql)
                .bind(accessor)
                .bind(secret_digest)
                .bind(&by.name)
                .bind(micros)
                .fetch_one(conn)
                .await)
            .map_err(doing("keeping a join token"))?;
            let data = json!({ "token": accessor, "expires_at": expires_at.0 });
            let event = NewEvent::new("node.token_made", data);
            node::append(&mut tx, &held, &event, &by, at).await?;
            tx.commit().await?;
            Ok(TokenRecord {
                accessor: accessor.into(),
                created_by: by.name.clone(),
                created_at: created_at.0,
                expires_at: expires_at.0,
                used: None,
                revoked_at: None,
            })
        })
    }

    /// The tokens that were made last, newest first, at most a thousand.
    pub async fn join_token_list(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<TokenRow> = on!(reader, |conn| sqlx::query_as(LIST).fetch_all(conn).await)
            .map_err(doing("listing join tokens"))?;
        Ok(rows.into_iter().map(TokenRow::into_record).collect())
    }

    /// Makes a token worth nothing, with who did on the record. False: there is none of this accessor
    /// that was worth anything.
    pub async fn join_token_revoke(
        &self,
        accessor: &str,
        here: NodeId,
        by: &By,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        without_nul("the name of a token", accessor)?;
        let by = self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            let held = node::hold(&mut tx, here).await?;
            let revoked: Option<String> = on!(tx, |conn| sqlx::query_scalar(REVOKE)
                .bind(DbTime(at))
                .bind(accessor)
                .fetch_optional(conn)
                .await)
            .map_err(doing("revoking a join token"))?;
            if revoked.is_none() {
                return Ok(false);
            }
            let event = NewEvent::new("node.token_revoked", json!({ "token": accessor }));
            node::append(&mut tx, &held, &event, &by, at).await?;
            tx.commit().await?;
            Ok(true)
        })
    }

    /// Forgets the tokens that were over before `before`.
    pub async fn join_token_purge(&self, before: Timestamp) -> Result<u64, StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            let purged = on!(tx, |conn| sqlx::query(PURGE)
                .bind(DbTime(before))
                .execute(conn)
                .await
                .map(|done| done.rows_affected()))
            .map_err(doing("forgetting join tokens"))?;
            tx.commit().await?;
            Ok(purged)
        })
    }
}
