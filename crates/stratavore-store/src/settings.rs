//! Which database, and how many connections to it.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// What [`crate::Store::open`] needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    pub database: Database,
    pub pool: PoolSettings,
}

#[derive(Debug, Clone)]
pub enum Database {
    /// One file, made if it is missing. Its directory must exist, on a disk of this machine.
    Sqlite {
        path: PathBuf,
    },
    Postgres(PostgresSettings),
}

/// How to reach a PostgreSQL database, version 14 or newer.
#[derive(Debug, Clone)]
pub struct PostgresSettings {
    pub host: Host,
    pub port: u16,
    pub database: String,
    pub user: String,
    pub password: Option<SecretString>,
    pub tls: TlsMode,
    /// Certificates to trust instead of the system's, as PEM.
    pub root_certificate: Option<PathBuf>,
    /// The longest that one statement may take.
    pub statement_timeout: Duration,
    /// The file that says which server was seen last; made if it is missing. `None`: it is known while
    /// the store is open.
    pub witness: Option<PathBuf>,
}

/// How long a statement may take unless set otherwise.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name or an address.
    Tcp(String),
    /// The directory of a Unix socket.
    Socket(PathBuf),
}

/// PostgreSQL's `sslmode`. Only the last two know to whom they speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    Disable,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// How many connections are kept, and for how long.
///
/// SQLite has one connection that writes and up to four, by `max_connections`, that read; of the
/// rest only `acquire_timeout` means anything there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSettings {
    pub max_connections: u32,
    /// Connections that are kept open even when nobody needs them.
    pub min_connections: u32,
    /// How long a request waits for a free connection before it is refused as busy.
    pub acquire_timeout: Duration,
    /// How long the first connection may take to be made.
    pub connect_timeout: Duration,
    pub max_lifetime: Duration,
    pub idle_timeout: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            max_connections: 25,
            min_connections: 5,
            acquire_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(5),
            max_lifetime: Duration::from_secs(60 * 60),
            idle_timeout: Duration::from_secs(30 * 60),
        }
    }
}

/// How the connections are doing, for `status` and `doctor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// `sqlite` or `postgres`.
    pub engine: &'static str,
    /// The number of the newest migration that the database had when it was opened.
    pub schema: i64,
    pub max: u32,
    pub open: u32,
    pub idle: u32,
    pub settings: PoolSettings,
}
