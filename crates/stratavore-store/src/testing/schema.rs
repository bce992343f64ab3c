//! Databases of other versions: as a program of before has left them, and as one to come will.

use std::path::Path;

use sqlx::migrate::{Migrate, Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqlSafeStr};

use crate::{Database, Settings, postgres, sqlite};

const EXPAND: [&str; 2] = [
    include_str!("../../tests/schemas/next/expand.sqlite.sql"),
    include_str!("../../tests/schemas/next/expand.postgres.sql"),
];

const CONTRACT: [&str; 2] = [
    include_str!("../../tests/schemas/next/contract.sqlite.sql"),
    include_str!("../../tests/schemas/next/contract.postgres.sql"),
];

/// What a program to come does to the schema.
#[derive(Debug, Clone, Copy)]
pub enum Next {
    /// It only adds.
    Expand,
    /// It adds, and then takes away what programs of today use.
    Contract,
}

/// Makes the schema of the kept migrations in an empty database, and answers its number.
///
/// # Panics
/// With what the database said, if it refuses.
pub async fn make_kept(settings: &Settings) -> i64 {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas/kept");
    let kept = Migrator::new(directory.join(engine(settings))).await.expect("they are kept");
    run(&kept, settings).await
}

/// Brings the schema to that of a program to come, and answers its number.
///
/// # Panics
/// With what the database said, if it refuses.
pub async fn make_next(settings: &Settings, next: Next) -> i64 {
    let index = usize::from(engine(settings) == "postgres");
    let mut migrations: Vec<Migration> = ours(settings).iter().cloned().collect();
    let made: &[&'static str] = match next {
        Next::Expand => &[EXPAND[index]],
        Next::Contract => &[EXPAND[index], CONTRACT[index]],
    };
    for sql in made {
        let number = migrations.last().map_or(0, |last| last.version) + 1;
        let kind = MigrationType::Simple;
        let next = Migration::new(number, "to come".into(), kind, sql.into_sql_str(), false);
        migrations.push(next);
    }
    run(&Migrator::with_migrations(migrations), settings).await
}

/// The number of the schema that programs of today make.
pub fn newest() -> i64 {
    crate::schema::newest(&sqlite::MIGRATIONS)
}

/// The names and texts of the migrations that programs of today have, of `sqlite` and `postgres`.
pub fn migrations() -> Vec<(&'static str, i64, &'static str)> {
    let of = |engine, migrator: &'static Migrator| {
        migrator.iter().map(move |m| (engine, m.version, m.sql.as_str()))
    };
    of("sqlite", &sqlite::MIGRATIONS).chain(of("postgres", &postgres::MIGRATIONS)).collect()
}

fn engine(settings: &Settings) -> &'static str {
    match settings.database {
        Database::Sqlite { .. } => "sqlite",
        Database::Postgres(_) => "postgres",
    }
}

fn ours(settings: &Settings) -> &'static Migrator {
    match settings.database {
        Database::Sqlite { .. } => &sqlite::MIGRATIONS,
        Database::Postgres(_) => &postgres::MIGRATIONS,
    }
}

async fn run(migrations: &Migrator, settings: &Settings) -> i64 {
    async fn on<C: Migrate>(migrations: &Migrator, conn: &mut C) {
        migrations.run_direct(None, conn, false).await.expect("the migrations fit");
    }
    match &settings.database {
        Database::Sqlite { path } => {
            let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
            let mut conn = options.connect().await.expect("the database file can be opened");
            on(migrations, &mut conn).await;
            conn.close().await.expect("the database file is closed");
        }
        Database::Postgres(at) => {
            let mut conn = postgres::options(at).connect().await.expect("the server answers");
            on(migrations, &mut conn).await;
            conn.close().await.expect("the server lets go");
        }
    }
    crate::schema::newest(migrations)
}
