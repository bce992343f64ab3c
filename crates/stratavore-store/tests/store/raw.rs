//! The database behind the store's back.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, SqliteConnection};
use stratavore_store::testing::TestStore;

pub(crate) async fn postgres(db: &TestStore) -> PgConnection {
    PgConnection::connect(&db.server().expect("this is PostgreSQL").url()).await.unwrap()
}

pub(crate) async fn sqlite(db: &TestStore) -> SqliteConnection {
    let file = db.file().expect("this is SQLite");
    SqliteConnectOptions::new().filename(file).foreign_keys(true).connect().await.unwrap()
}

/// Runs one statement, and answers how many rows it touched or what the database said.
pub(crate) async fn execute(db: &TestStore, sql: &str) -> Result<u64, String> {
    let sql = AssertSqlSafe(sql.to_owned());
    match db.file() {
        Some(_) => {
            sqlx::query(sql).execute(&mut sqlite(db).await).await.map(|done| done.rows_affected())
        }
        None => {
            sqlx::query(sql).execute(&mut postgres(db).await).await.map(|done| done.rows_affected())
        }
    }
    .map_err(|error| error.to_string())
}

/// Has the database look at a statement without running it; answers what it said against it.
pub(crate) async fn prepare(db: &TestStore, sql: &'static str) -> Result<(), String> {
    let sql = sqlx::SqlSafeStr::into_sql_str(sql);
    match db.file() {
        Some(_) => sqlite(db).await.prepare(sql).await.map(drop),
        None => postgres(db).await.prepare(sql).await.map(drop),
    }
    .map_err(|error| error.to_string())
}

/// The one number that a query answers.
pub(crate) async fn number(db: &TestStore, sql: &str) -> i64 {
    let sql = AssertSqlSafe(sql.to_owned());
    match db.file() {
        Some(_) => sqlx::query_scalar(sql).fetch_one(&mut sqlite(db).await).await,
        None => sqlx::query_scalar(sql).fetch_one(&mut postgres(db).await).await,
    }
    .unwrap()
}

pub(crate) async fn texts(db: &TestStore, sql: &str) -> Vec<String> {
    let sql = AssertSqlSafe(sql.to_owned());
    match db.file() {
        Some(_) => sqlx::query_scalar(sql).fetch_all(&mut sqlite(db).await).await,
        None => sqlx::query_scalar(sql).fetch_all(&mut postgres(db).await).await,
    }
    .unwrap()
}
