//! For tests only: a store of one's own on either database, and switches that break a promise so
//! that a test can show that it would notice.

pub mod bare;
mod ledger;
pub mod schema;
mod work;

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection};
use stratavore_testkit::postgres::{self, TestPostgres};
use tempfile::TempDir;

use crate::{
    Database, Host, PoolSettings, PostgresSettings, STATEMENT_TIMEOUT, Settings, Store, TlsMode,
};

/// Makes two tests of each function, one for each database.
///
/// The caller's crate needs tokio with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! on_both_databases {
    ($($(#[$attribute:meta])* async fn $name:ident($db:ident: TestStore) $body:block)*) => {$(
        $(#[$attribute])*
        mod $name {
            use super::*;

            async fn check($db: $crate::testing::TestStore) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                check($crate::testing::TestStore::sqlite().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                check($crate::testing::TestStore::postgres().await).await;
            }
        }
    )*};
}

/// A fresh database with a store on it. Dropping it removes the database.
pub struct TestStore {
    store: Store,
    settings: Settings,
    home: Home,
}

enum Home {
    /// Held for its end, when the directory is removed.
    Sqlite {
        _directory: TempDir,
    },
    Postgres(TestPostgres),
}

impl TestStore {
    pub async fn sqlite() -> TestStore {
        let home = TempDir::new().expect("a temporary directory can be made");
        let database = Database::Sqlite { path: home.path().join("stratavore.db") };
        TestStore::open(database, Home::Sqlite { _directory: home }).await
    }

    /// On the server that the tests share.
    ///
    /// # Panics
    /// If there is no PostgreSQL; the message says what to install.
    pub async fn postgres() -> TestStore {
        let made = tokio::task::spawn_blocking(postgres::database).await;
        let home = made.expect("a test database can be made");
        let database = on_server(&home);
        TestStore::open(database, Home::Postgres(home)).await
    }

    async fn open(database: Database, home: Home) -> TestStore {
        let pool = PoolSettings { min_connections: 0, ..PoolSettings::default() };
        let settings = Settings { database, pool };
        let store = Store::open(settings.clone()).await.expect("a fresh database can be opened");
        TestStore { store, settings, home }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What the store was opened with, to open it again as another daemon would.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Another store on the same database, with connections of its own.
    pub async fn another(&self) -> Store {
        Store::open(self.settings.clone()).await.expect("the database can be opened again")
    }

    /// The file of the database, if it is SQLite's.
    pub fn file(&self) -> Option<&Path> {
        match (&self.home, &self.settings.database) {
            (Home::Sqlite { .. }, Database::Sqlite { path }) => Some(path),
            (
                Home::Sqlite { .. } | Home::Postgres(_),
                Database::Sqlite { .. } | Database::Postgres(_),
            ) => None,
        }
    }

    /// The database on the server, if it is PostgreSQL's.
    pub fn server(&self) -> Option<&TestPostgres> {
        match &self.home {
            Home::Sqlite { .. } => None,
            Home::Postgres(server) => Some(server),
        }
    }
}

/// A database on the tests' server, as a store reaches it.
pub fn on_server(home: &TestPostgres) -> Database {
    Database::Postgres(PostgresSettings {
        host: Host::Socket(home.socket_dir.clone()),
        port: home.port,
        database: home.database.clone(),
        user: home.user.clone(),
        password: None,
        tls: TlsMode::Disable,
        root_certificate: None,
        statement_timeout: STATEMENT_TIMEOUT,
        witness: None,
    })
}

impl Store {
    /// The same store, admitting runners without the project's lock: the negative control of the
    /// quota test. It makes a difference on PostgreSQL only; on SQLite every writer is alone.
    pub fn without_admission_lock(&self) -> Store {
        Store { admission_lock: false, ..self.clone() }
    }
}

impl Store {
    /// The id above which a look into the outbox begins.
    pub fn outbox_floor(&self) -> i64 {
        self.floor()
    }
}

/// Every fixed statement of this crate, as module, name and text.
pub fn statements() -> Vec<(&'static str, &'static str, &'static str)> {
    macro_rules! of {
        ($($module:ident),*) => {
            [$((stringify!($module), crate::$module::STATEMENTS)),*]
        };
    }
    let modules = of!(
        account,
        admit,
        alert,
        alone,
        ask,
        audit,
        audit_key,
        budget,
        budget_hold,
        cluster,
        daemon,
        destination,
        embedding,
        event,
        follow,
        hold,
        idempotency,
        join,
        lease,
        liveness,
        message,
        moving,
        nearby,
        node,
        notify,
        outbox,
        project,
        reserve,
        queue,
        runner,
        schema,
        server,
        session,
        session_seen,
        transaction,
        transcript,
        trim,
        usage,
        usage_report,
        wake,
        window
    );
    let all = modules.into_iter().flat_map(|(module, statements)| {
        statements.iter().map(move |(name, sql)| (module, *name, *sql))
    });
    all.collect()
}

/// Runs one statement on a SQLite file behind every daemon's back, and answers how many rows it
/// touched.
///
/// # Panics
/// With what the database said, if it refuses.
pub async fn sqlite_execute(file: &Path, sql: &str) -> u64 {
    let mut connection = SqliteConnectOptions::new()
        .filename(file)
        .foreign_keys(true)
        .connect()
        .await
        .expect("the database file can be opened");
    let done = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await;
    done.expect("the statement is one of this schema").rows_affected()
}

/// The one number that a query on a SQLite file answers.
///
/// # Panics
/// With what the database said, if it refuses.
pub async fn sqlite_number(file: &Path, sql: &str) -> i64 {
    let mut connection = sqlite_to_read(file).await;
    let found = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await;
    found.expect("the query is one of this schema")
}

/// A connection that changes no row. The file itself is open for writing: what a killed writer left
/// half done is taken back by whoever opens the file next, which SQLite refuses a connection that
/// was opened read-only (`SQLITE_READONLY_ROLLBACK`).
async fn sqlite_to_read(file: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(file).pragma("query_only", "true");
    options.connect().await.expect("the database file can be opened")
}

/// The texts that a query on a SQLite file answers, one of each row.
///
/// # Panics
/// With what the database said, if it refuses.
pub async fn sqlite_texts(file: &Path, sql: &str) -> Vec<String> {
    let mut connection = sqlite_to_read(file).await;
    let found = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await;
    found.expect("the query is one of this schema")
}

/// Another program that is in the middle of writing to a SQLite file. It lets go when dropped.
pub struct SqliteHold {
    _connection: SqliteConnection,
}

impl SqliteHold {
    /// # Panics
    /// With what the database said, if it refuses.
    pub async fn take(file: &Path) -> SqliteHold {
        let mut connection = SqliteConnectOptions::new()
            .filename(file)
            .busy_timeout(std::time::Duration::from_secs(5))
            .connect()
            .await
            .expect("the database file can be opened");
        let begun = sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await;
        begun.expect("nobody else writes for so long");
        SqliteHold { _connection: connection }
    }
}
