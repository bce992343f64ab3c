//! One file, one connection that writes, a few that read.
//!
//! Invariant: what was committed is on the disk (`synchronous=FULL`).
//! Invariant: the file is readable by its owner only, and lies on a disk of this machine: the
//! write-ahead log is shared memory, which no network file system carries.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};

use crate::error::doing;
use crate::open::migrating;
use crate::{PoolSettings, StoreError};

pub(crate) static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How long a writer waits for another process that writes, such as `sqlite3` in a terminal.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Each connection is a thread; more than these gain nothing on the hosts that use SQLite.
const READERS_MAX: u32 = 4;

/// The writing and the reading pool.
pub(crate) async fn open(
    path: &Path,
    pool: &PoolSettings,
) -> Result<(SqlitePool, SqlitePool), StoreError> {
    prepare_file(path)?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT);

    let write = SqlitePoolOptions::new()
        .max_connections(1)
        .min_connections(1)
        .acquire_timeout(pool.acquire_timeout)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options.clone().optimize_on_close(true, None))
        .await
        .map_err(doing("opening the database file"))?;
    check(&write).await?;
    migrate(&write).await?;

    // Lazy: the first reader is opened when somebody reads.
    let read = SqlitePoolOptions::new()
        .max_connections(pool.max_connections.clamp(1, READERS_MAX))
        .acquire_timeout(pool.acquire_timeout)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_lazy_with(options.read_only(true));
    Ok((write, read))
}

/// Begins a transaction that writes, on the connection that does.
///
/// IMMEDIATE: a transaction that reads first and writes later fails at once when another process
/// wrote in between, and no busy timeout applies to that.
///
/// When the disk is full or fails, SQLite takes the transaction back by itself. The rollback that
/// follows then fails, sqlx counts the transaction as open for ever, and lets none begin on that
/// connection any more; so a new one takes its place.
pub(crate) async fn begin(write: &SqlitePool) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
    const BEGIN: &str = "BEGIN IMMEDIATE";
    match write.begin_with(BEGIN).await {
        Err(sqlx::Error::InvalidSavePointStatement) => {
            // What it has to say at its end was said before.
            write.acquire().await?.close().await.ok();
            write.begin_with(BEGIN).await
        }
        begun => begun,
    }
}

async fn check(write: &SqlitePool) -> Result<(), StoreError> {
    let found: String = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_one(write)
        .await
        .map_err(doing("checking the database file"))?;
    if found == "ok" {
        return Ok(());
    }
    Err(StoreError::Corrupt {
        what: "the database file".into(),
        why: format!("{found}; restore it from a backup, or move it away to begin anew"),
    })
}

/// In one transaction that holds the write lock, so that a second process that starts meanwhile
/// waits and then finds nothing to do.
async fn migrate(write: &SqlitePool) -> Result<(), StoreError> {
    let mut tx =
        write.begin_with("BEGIN IMMEDIATE").await.map_err(doing("locking the database file"))?;
    MIGRATIONS.run_direct(None, &mut *tx, false).await.map_err(migrating(&MIGRATIONS))?;
    tx.commit().await.map_err(doing("bringing the schema up to date"))
}

/// Makes the file with its final permissions before SQLite would make it with looser ones.
fn prepare_file(path: &Path) -> Result<(), StoreError> {
    let shown = path.display();
    let cannot = |what: &'static str| {
        move |error: std::io::Error| StoreError::Unavailable { doing: what, source: error.into() }
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(|error| {
            StoreError::invalid(
                format!("database file {shown}"),
                format!("it cannot be opened: {error}"),
            )
        })?;
    let metadata = file.metadata().map_err(cannot("looking at the database file"))?;
    if !metadata.is_file() {
        return Err(StoreError::invalid(
            format!("database file {shown}"),
            "it is not a regular file",
        ));
    }
    let owner = metadata.uid();
    let me = rustix::process::geteuid().as_raw();
    if owner != me {
        let why = format!("it belongs to user {owner}, and this is user {me}");
        return Err(StoreError::invalid(format!("database file {shown}"), why));
    }
    if let Some(kind) = network_file_system(&file) {
        let why = format!(
            "it lies on a network file system ({kind}), where SQLite cannot lock; use a local disk"
        );
        return Err(StoreError::invalid(format!("database file {shown}"), why));
    }
    if metadata.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(cannot("protecting the database file"))?;
    }
    Ok(())
}

fn network_file_system(file: &File) -> Option<&'static str> {
    // Cut to 32 bits: some of the numbers are sign-extended where the field is wider.
    let magic = rustix::fs::fstatfs(file).ok()?.f_type as u32;
    network_kind(magic)
}

/// The kind of network file system that the number of `statfs` stands for.
fn network_kind(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517b => "SMB",
        0xff53_4d42 => "CIFS",
        0xfe53_4d42 => "SMB2",
        0x0102_1997 => "9P",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x00c3_6400 => "Ceph",
        0x7375_7245 => "Coda",
        0x0bd0_0bd0 => "Lustre",
        0x564c => "NCP",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_told_from_local_ones() {
        assert_eq!(network_kind(0x6969), Some("NFS"));
        assert_eq!(network_kind(0xef53), None, "ext4");
        assert_eq!(network_kind(0x0102_1994), None, "tmpfs");
    }
}
