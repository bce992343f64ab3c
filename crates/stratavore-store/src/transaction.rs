//! Transactions of whoever else is in the database, as far as they harm us.
//!
//! PostgreSQL tidies up no row that the oldest snapshot could still see. What changes often gets
//! larger and slower meanwhile, however short our own transactions are.

use std::time::Duration;

use crate::error::doing;
use crate::tx::Reader;
use crate::{Store, StoreError};

/// One that a vacuum is running in is not waited for by others.
const OLDEST_POSTGRES: &str = "SELECT pid::bigint, coalesce(usename::text, ''), application_name,
        coalesce(host(client_addr), ''),
        extract(epoch FROM clock_timestamp() - xact_start)::bigint AS open_s
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
        AND backend_type <> 'autovacuum worker'
        AND xact_start < clock_timestamp() - $1 * interval '1 microsecond'
    UNION ALL
    SELECT 0, owner::text, 'prepared transaction ' || gid, '',
        extract(epoch FROM clock_timestamp() - prepared)::bigint
    FROM pg_prepared_xacts
    WHERE database = current_database()
        AND prepared < clock_timestamp() - $1 * interval '1 microsecond'
    ORDER BY open_s DESC LIMIT 1";

statements! { OLDEST_POSTGRES }

/// A transaction that has been open for long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldTransaction {
    /// The server's process; 0: a prepared one, which has none.
    pub pid: i64,
    pub user: String,
    /// What the program calls itself, which may be anything.
    pub application: String,
    /// Empty: it is on the server's host.
    pub address: String,
    pub open: Duration,
}

impl Store {
    /// The transaction that has kept the database from tidying up for longest, if that is longer
    /// than `bound`. SQLite has no such thing.
    pub async fn old_transaction(
        &self,
        bound: Duration,
    ) -> Result<Option<OldTransaction>, StoreError> {
        let Reader::Postgres(mut conn, deadline) = self.read().await? else { return Ok(None) };
        let bound = i64::try_from(bound.as_micros()).unwrap_or(i64::MAX);
        let oldest = sqlx::query_as(OLDEST_POSTGRES).bind(bound).fetch_optional(&mut *conn);
        let oldest: Option<(i64, String, String, String, i64)> =
            deadline.keep(oldest).await.map_err(doing("looking for old transactions"))?;
        Ok(oldest.map(|(pid, user, application, address, open)| OldTransaction {
            pid,
            user,
            application,
            address,
            open: Duration::from_secs(open.unsigned_abs()),
        }))
    }
}
