//! The database.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::SslMode;
use crate::Paths;
use crate::value::{Given, Wanted, text};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    pub url: StoreUrl,
    pub postgres: Postgres,
    pub pool: Pool,
    /// A transaction of anybody's that is open for longer is a problem.
    pub transaction_alarm: Duration,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: StoreUrl::default(),
            postgres: Postgres::default(),
            pool: Pool::default(),
            transaction_alarm: Duration::from_secs(300),
        }
    }
}

impl Store {
    /// The file of the SQLite database, or `None` where the store is PostgreSQL.
    pub fn database(&self, paths: &Paths) -> Option<PathBuf> {
        match &self.url {
            StoreUrl::Sqlite => Some(paths.database()),
            StoreUrl::SqliteFile(path) => Some(path.clone()),
            StoreUrl::Postgres => None,
        }
    }
}

/// Which database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StoreUrl {
    /// A file in the state directory.
    #[default]
    Sqlite,
    /// A file elsewhere.
    SqliteFile(PathBuf),
    /// The server of [`Postgres`].
    Postgres,
}

impl StoreUrl {
    pub(crate) fn read(given: &Given) -> Result<Self, Wanted> {
        let text = text(given, "`sqlite`, `sqlite:/a/file` or `postgres`")?;
        match text.as_str() {
            "sqlite" => Ok(Self::Sqlite),
            "postgres" => Ok(Self::Postgres),
            _ => match text.strip_prefix("sqlite:").map(PathBuf::from) {
                Some(path) if path.is_absolute() => Ok(Self::SqliteFile(path)),
                Some(_) => Err("`sqlite:` and an absolute path, such as `sqlite:/var/lib/stratavore/db`".into()),
                None if text.starts_with("postgres") => Err(
                    "`postgres`, with the server under `store.postgres` (`host`, `port`, `database`, `user`, `password_file`)"
                        .into(),
                ),
                None => Err("`sqlite`, `sqlite:/a/file` or `postgres`".into()),
            },
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite => f.write_str("sqlite"),
            Self::SqliteFile(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres => f.write_str("postgres"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postgres {
    /// A name, an address, or the directory of a Unix socket.
    pub host: String,
    pub port: u16,
    pub database: String,
    pub user: String,
    /// Holds the password, alone. Read it with [`crate::read_secret`].
    pub password_file: Option<PathBuf>,
    /// What was asked for; [`Postgres::ssl_mode`] is what holds.
    pub sslmode: Option<SslMode>,
    pub root_cert: Option<PathBuf>,
}

impl Default for Postgres {
    fn default() -> Self {
        Self {
            host: "/var/run/postgresql".into(),
            port: 5432,
            database: "stratavore".into(),
            user: "stratavore".into(),
            password_file: None,
            sslmode: None,
            root_cert: None,
        }
    }
}

impl Postgres {
    pub fn is_unix_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// The mode that was asked for. By default the server must prove who it is, unless it is on
    /// this host: a Unix socket has no TLS, and loopback is not eavesdropped on.
    pub fn ssl_mode(&self) -> SslMode {
        let local = matches!(self.host.as_str(), "localhost" | "127.0.0.1" | "::1");
        match self.sslmode {
            Some(mode) => mode,
            None if self.is_unix_socket() => SslMode::Disable,
            None if local => SslMode::Prefer,
            None => SslMode::VerifyFull,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    pub max_connections: u32,
    pub min_connections: u32,
    pub acquire_timeout: Duration,
    pub max_lifetime: Duration,
    pub idle_timeout: Duration,
    pub connect_timeout: Duration,
    pub statement_timeout: Duration,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            max_connections: 25,
            min_connections: 5,
            acquire_timeout: Duration::from_secs(2),
            max_lifetime: Duration::from_secs(60 * 60),
            idle_timeout: Duration::from_secs(30 * 60),
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(5),
        }
    }
}
