//! A PostgreSQL server that several daemons share.
//!
//! Invariant: no transaction outlives a pause of ours by more than ten seconds: the server ends
//! those that idle.
//! Invariant: we never speak to a standby, nor to a primary of before (`server.rs`); every decision is
//! made on the primary.

use futures_util::future::{self, Either};
use secrecy::ExposeSecret;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::deadline::Deadline;
use crate::error::doing;
use crate::schema::{self, Applied, Standing};
use crate::server::{self, Guard};
use crate::{Host, PoolSettings, PostgresSettings, StoreError, TlsMode};

pub(crate) static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

const VERSION_MIN: i32 = 14;

/// All that has to be known before the schema is.
const LOOK: &str = "SELECT current_setting('server_version_num')::int,
        to_regclass('_sqlx_migrations') IS NOT NULL";
/// The longest wait for a row that another transaction holds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// The server ends a transaction that does nothing for this long.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(10);
/// Connections kept for leases and heartbeats.
const VITAL_CONNECTIONS: u32 = 2;
/// A connection that was used within this time is taken to be alive still.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// The common pool, the one for leases and heartbeats, how long their statements are waited for, and
/// the number of the schema.
pub(crate) async fn open(
    at: &PostgresSettings,
    pool: &PoolSettings,
    guard: &Arc<Guard>,
) -> Result<(PgPool, PgPool, Deadline, i64), StoreError> {
    let options = options(at).options([
        ("statement_timeout", millis(at.statement_timeout)),
        ("lock_timeout", millis(LOCK_TIMEOUT)),
        ("idle_in_transaction_session_timeout", millis(IDLE_IN_TRANSACTION)),
        // What the statements are written for, whatever the server's default is.
        ("default_transaction_isolation", "read committed".into()),
    ]);
    let deadline = Deadline::of(at.statement_timeout);
    let common = pool_options(pool, &deadline, guard)
        .max_connections(pool.max_connections)
        .min_connections(pool.min_connections.min(pool.max_connections))
        .connect_lazy_with(options.clone());
    let vital = pool_options(pool, &deadline, guard)
        .max_connections(VITAL_CONNECTIONS)
        .connect_lazy_with(options);

    // Each pool's first connection is made while the schema is looked at: whoever opens the store
    // asks both of them something at once. Until the schema is known to be ours nothing is asked.
    let pools = [common.clone(), vital.clone()];
    let first = future::join_all(pools.iter().map(PgPool::acquire));
    // What is in their way is told by whoever looks, or by whoever needs them next.
    let (schema, first) = match future::select(pin!(migrate(at, pool, guard)), pin!(first)).await {
        Either::Left((looked, first)) => (looked?, first.await),
        Either::Right((first, looking)) => (looking.await?, first),
    };
    // Dropped, they would be given back a moment too late for who comes next.
    for mut connection in first.into_iter().flatten() {
        connection.return_to_pool().await;
    }
    Ok((common, vital, deadline, schema))
}

fn pool_options(pool: &PoolSettings, deadline: &Deadline, guard: &Arc<Guard>) -> PgPoolOptions {
    let deadline = deadline.clone();
    let (at_use, at_first) = (guard.clone(), guard.clone());
    PgPoolOptions::new()
        .acquire_timeout(pool.acquire_timeout)
        .max_lifetime(pool.max_lifetime)
        .idle_timeout(pool.idle_timeout)
        .test_before_acquire(false)
        // A ping costs a round trip; a connection that just worked needs none.
        .before_acquire(move |conn, metadata| {
            let is_of_before = at_use.is_of_before(metadata.age);
            Box::pin(async move {
                if is_of_before {
                    return Ok(false);
                }
                if metadata.idle_for > TRUSTED_FOR {
                    conn.ping().await?;
                }
                Ok(true)
            })
        })
        .after_release(move |conn, _| {
            let deadline = deadline.clone();
            Box::pin(async move { deadline.check(conn).await })
        })
        .after_connect(move |conn, _| {
            let guard = at_first.clone();
            Box::pin(async move { guard.admit(conn).await })
        })
}

/// The number of the schema, if there is nothing to be applied to it: then there is nothing to lock,
/// as at almost every start.
async fn fitting(conn: &mut PgConnection, known: &Migrator) -> Result<Option<i64>, StoreError> {
    let looking = "looking at the schema";
    let applied: Vec<Applied> =
        sqlx::query_as(schema::APPLIED).fetch_all(&mut *conn).await.map_err(doing(looking))?;
    let newest = schema::newest(known);
    match schema::standing(known, &applied)? {
        Standing::Ours => Ok(Some(newest)),
        Standing::Behind => Ok(None),
        Standing::Newer(found) => {
            let marked = sqlx::query_scalar(schema::HAS_MARK_POSTGRES).fetch_one(&mut *conn).await;
            let works_from = match marked.map_err(doing(looking))? {
                true => sqlx::query_scalar(schema::WORKS_FROM).fetch_optional(conn).await,
                false => Ok(None),
            };
            schema::permit(newest, found, works_from.map_err(doing(looking))?).map(Some)
        }
    }
}

/// On a connection of its own without timeouts: a migration takes the time that it takes, and one
/// that another daemon is at is waited for. Answers the schema's number.
async fn migrate(
    at: &PostgresSettings,
    pool: &PoolSettings,
    guard: &Guard,
) -> Result<i64, StoreError> {
    let options = options(at);
    // Nothing can be lost by giving up here: there is no transaction yet.
    let connected = tokio::time::timeout(pool.connect_timeout, options.connect()).await;
    let mut conn = connected
        .map_err(|late| StoreError::Unavailable { doing: "connecting", source: late.into() })?
        .map_err(doing("connecting"))?;
    guard.admit(&mut conn).await.map_err(server::refused("connecting"))?;
    let (version, begun): (i32, bool) =
        sqlx::query_as(LOOK).fetch_one(&mut conn).await.map_err(doing("connecting"))?;
    if version < VERSION_MIN * 10_000 {
        let why =
            format!("it has version {}, and {VERSION_MIN} or newer is needed", version / 10_000);
        return Err(StoreError::invalid("the PostgreSQL server", why));
    }
    let known = schema::known(&MIGRATIONS);
    let newest = schema::newest(&known);
    let fits = if begun { fitting(&mut conn, &known).await? } else { None };
    let number = match fits {
        Some(number) => number,
        None => match known.run_direct(None, &mut conn, false).await {
            Ok(()) => newest,
            // A newer program was at it while this one waited: what it has made is looked at.
            Err(MigrateError::VersionMissing(found)) if found > newest => {
                match fitting(&mut conn, &known).await? {
                    Some(number) => number,
                    None => {
                        return Err(schema::migrating(newest)(MigrateError::VersionMissing(found)));
                    }
                }
            }
            Err(error) => return Err(schema::migrating(newest)(error)),
        },
    };
    conn.close().await.map_err(doing("bringing the schema up to date"))?;
    Ok(number)
}

pub(crate) fn options(at: &PostgresSettings) -> PgConnectOptions {
    let mut options = PgConnectOptions::new_without_pgpass()
        .port(at.port)
        .database(&at.database)
        .username(&at.user)
        .application_name("stratavore")
        .ssl_mode(match at.tls {
            TlsMode::Disable => PgSslMode::Disable,
            TlsMode::Prefer => PgSslMode::Prefer,
            TlsMode::Require => PgSslMode::Require,
            TlsMode::VerifyCa => PgSslMode::VerifyCa,
            TlsMode::VerifyFull => PgSslMode::VerifyFull,
        });
    options = match &at.host {
        Host::Tcp(host) => options.host(host),
        Host::Socket(directory) => options.socket(directory),
    };
    if let Some(password) = &at.password {
        options = options.password(password.expose_secret());
    }
    if let Some(certificate) = &at.root_certificate {
        options = options.ssl_root_cert(certificate);
    }
    options
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}
