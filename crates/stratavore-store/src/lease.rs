//! Duties that one daemon at a time holds, by the database's clock.
//!
//! A released or expired lease keeps its row, so that its terms never begin anew.
//!
//! Invariant: the term grows with each change of holder.

use std::time::Duration;

use stratavore_core::DaemonId;
use stratavore_core::lease::Lease;

use sqlx::types::Text;

use crate::error::doing;
use crate::hook::is_left_out;
use crate::retry::retried;
use crate::tx::{Lane, Tx, on};
use crate::value::{DbTime, without_nul};
use crate::{Store, StoreError};

// The clock is read when the row is locked and not when the transaction began: a wait may lie
// between the two. A lease that lasts longer than any does was taken before the clock was set back;
// its holder may be gone, and where it is not, the term fences it off.

const ACQUIRE_POSTGRES: &str = "INSERT INTO leases AS lease (name, holder, term, expires_at)
    VALUES ($1, $2, 1, clock_timestamp() + $3 * interval '1 microsecond')
    ON CONFLICT (name) DO UPDATE SET
        term = lease.term + CASE WHEN lease.holder = excluded.holder THEN 0 ELSE 1 END,
        holder = excluded.holder,
        expires_at = clock_timestamp() + $3 * interval '1 microsecond'
    WHERE lease.holder = excluded.holder OR lease.expires_at <= clock_timestamp()
        OR lease.expires_at > clock_timestamp() + $3 * interval '1 microsecond'
    RETURNING term, expires_at";

const ACQUIRE_SQLITE: &str = "INSERT INTO leases AS lease (name, holder, term, expires_at)
    VALUES ($1, $2, 1, CAST(unixepoch('subsec') * 1000000 AS INTEGER) + $3)
    ON CONFLICT (name) DO UPDATE SET
        term = lease.term + CASE WHEN lease.holder = excluded.holder THEN 0 ELSE 1 END,
        holder = excluded.holder,
        expires_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER) + $3
    WHERE lease.holder = excluded.holder
        OR lease.expires_at <= CAST(unixepoch('subsec') * 1000000 AS INTEGER)
        OR lease.expires_at > CAST(unixepoch('subsec') * 1000000 AS INTEGER) + $3
    RETURNING term, expires_at";

const RENEW_POSTGRES: &str = "UPDATE leases
    SET expires_at = clock_timestamp() + $4 * interval '1 microsecond'
    WHERE name = $1 AND holder = $2 AND term = $3
    RETURNING expires_at";

const RENEW_SQLITE: &str = "UPDATE leases
    SET expires_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER) + $4
    WHERE name = $1 AND holder = $2 AND term = $3
    RETURNING expires_at";

const GET: &str = "SELECT holder, term, expires_at FROM leases WHERE name = $1";

const CHECK_POSTGRES: &str =
    "SELECT term FROM leases WHERE name = $1 AND holder = $2 AND term = $3 FOR NO KEY UPDATE";

const CHECK_SQLITE: &str = "SELECT term FROM leases WHERE name = $1 AND holder = $2 AND term = $3";

statements! { ACQUIRE_POSTGRES, ACQUIRE_SQLITE, RENEW_POSTGRES, RENEW_SQLITE, GET, CHECK_POSTGRES, CHECK_SQLITE }

/// Refuses the transaction if the lease's term is over, and keeps it from ending before the
/// transaction does.
///
/// A lease that has expired but that nobody took is still good: it is the term that counts.
pub(crate) async fn check(store: &Store, tx: &mut Tx, lease: &Lease) -> Result<(), StoreError> {
    let sql = tx.either(CHECK_POSTGRES, CHECK_SQLITE);
    let held: Option<i64> = on!(tx, |conn| sqlx::query_scalar(sql)
        .bind(&lease.name)
        .bind(Text(lease.holder))
        .bind(lease.term)
        .fetch_optional(conn)
        .await)
    .map_err(doing("checking a lease"))?;
    if is_left_out("lease_check") {
        return Ok(());
    }
    let held = held.filter(|_| store.is_of_this_server(lease));
    held.map(drop).ok_or_else(|| StoreError::StaleLease { name: lease.name.clone() })
}

impl Store {
    /// False if another server was promoted since the lease was taken. It may have the lease's row, and
    /// lack what was read or written under it.
    ///
    /// Whoever holds a connection asks: a connection to another server is let in only after that is known.
    pub(crate) fn is_of_this_server(&self, lease: &Lease) -> bool {
        lease.timeline == self.timeline() || is_left_out("timeline_check")
    }

    /// Takes the lease for `ttl` if it is free, was released or has expired, or is the holder's
    /// already; then it keeps its term. `None`: somebody else holds it.
    pub async fn lease_acquire(
        &self,
        name: &str,
        holder: DaemonId,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        without_nul("the name of a lease", name)?;
        retried!({
            // Before there is a connection: one that moves meanwhile makes the lease stale at once.
            let timeline = self.timeline();
            let mut tx = self.begin_in(Lane::Vital).await?;
            let sql = tx.either(ACQUIRE_POSTGRES, ACQUIRE_SQLITE);
            let taken: Option<(i64, DbTime)> = on!(tx, |conn| sqlx::query_as(sql)
                .bind(name)
                .bind(Text(holder))
                .bind(micros(ttl))
                .fetch_optional(conn)
                .await)
            .map_err(doing("taking a lease"))?;
            tx.commit().await?;
            Ok(taken.map(|(term, expires_at)| Lease {
                name: name.into(),
                holder,
                term,
                expires_at: expires_at.0,
                timeline,
            }))
        })
    }

    /// Who holds the lease, or held it last.
    pub async fn lease_get(&self, name: &str) -> Result<Option<Lease>, StoreError> {
        without_nul("the name of a lease", name)?;
        let timeline = self.timeline();
        let mut reader = self.read().await?;
        let found: Option<(Text<DaemonId>, i64, DbTime)> =
            on!(reader, |conn| sqlx::query_as(GET).bind(name).fetch_optional(conn).await)
                .map_err(doing("reading a lease"))?;
        Ok(found.map(|(holder, term, expires_at)| Lease {
            name: name.into(),
            holder: holder.0,
            term,
            expires_at: expires_at.0,
            timeline,
        }))
    }

    /// Holds the lease for `ttl` from now. `None`: it was lost to somebody else, or with its server.
    pub async fn lease_renew(
        &self,
        lease: &Lease,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        retried!({
            let mut tx = self.begin_in(Lane::Vital).await?;
            if !self.is_of_this_server(lease) {
                return Ok(None);
            }
            let expires_at = set_expiry(&mut tx, lease, ttl).await?;
            tx.commit().await?;
            Ok(expires_at.map(|at| Lease { expires_at: at.0, ..lease.clone() }))
        })
    }

    /// Gives the lease back, so that another daemon need not wait until it expires. One that was
    /// lost already is left alone.
    pub async fn lease_release(&self, lease: &Lease) -> Result<(), StoreError> {
        retried!({
            let mut tx = self.begin_in(Lane::Vital).await?;
            set_expiry(&mut tx, lease, Duration::ZERO).await?;
            tx.commit().await
        })
    }
}

async fn set_expiry(
    tx: &mut Tx,
    lease: &Lease,
    ttl: Duration,
) -> Result<Option<DbTime>, StoreError> {
    let sql = tx.either(RENEW_POSTGRES, RENEW_SQLITE);
    on!(tx, |conn| sqlx::query_scalar(sql)
        .bind(&lease.name)
        .bind(Text(lease.holder))
        .bind(lease.term)
        .bind(micros(ttl))
        .fetch_optional(conn)
        .await)
    .map_err(doing("renewing a lease"))
}

fn micros(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX)
}
