//! One file, one connection that writes, a few that read.
//!
//! Invariant: what was committed is on the disk (`synchronous=FULL`), also where an earlier sync
//! has failed: what the log holds is made durable before anything is built on it.
//! Invariant: the file is readable by its owner only, and lies on a disk of this machine: the
//! write-ahead log is shared memory, which no network file system carries.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Sqlite, SqliteConnection, SqlitePool, Transaction};

use crate::error::doing;
use crate::schema::{self, Applied, Standing};
use crate::{PoolSettings, StoreError};

pub(crate) static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How long a writer waits for another process that writes, such as `sqlite3` in a terminal.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it waits between two tries where SQLite itself does not wait.
const BUSY_STEP: Duration = Duration::from_millis(20);
/// Each connection is a thread; more than these gain nothing on the hosts that use SQLite.
const READERS_MAX: u32 = 4;
/// A file of at most this size is checked before it is used. A larger one is checked while it is
/// used, so that no start takes longer for what the years have brought.
const CHECKED_AT_START: u64 = 16 << 20;
/// SQLite's codes, of which the lowest byte says what it is and the rest how it came.
const BUSY: i32 = 5;
const INTERRUPTED: i32 = 9;
/// All that a disk may do to it.
const IO_ERROR: i32 = 10;
/// Pages, or steps of SQLite, between two looks at whether a check is to go on.
const CHECK_STEPS: i32 = 1000;

/// In KiB, which SQLite tells from pages by the sign.
const READER_CACHE: &str = "-256";

/// The writing and the reading pool, and the number of the schema.
pub(crate) async fn open(
    path: &Path,
    pool: &PoolSettings,
) -> Result<(SqlitePool, SqlitePool, i64), StoreError> {
    let size = prepare_file(path)?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT);

    let log = log_of(path);
    if has_content(&log) {
        bring_in_order(&options, &log).await?;
    }
    let one = SqlitePoolOptions::new()
        .max_connections(1)
        .min_connections(1)
        .acquire_timeout(pool.acquire_timeout)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        // When the disk is full or fails, SQLite takes a transaction back by itself. The rollback that
        // follows then fails, sqlx counts the transaction as open for ever, and lets none begin on
        // that connection any more: another one takes its place.
        .before_acquire(|conn, _| Box::pin(async { Ok(!conn.is_in_transaction()) }))
        .after_connect(move |conn, _| Box::pin(settle(conn, log.clone())));
    // Never analysed: the statements are written for the indexes as they are, and plans that
    // depend on what happened to be counted would be others than those that are tested.
    let opened = when_free(|| one.clone().connect_with(options.clone())).await;
    let write = opened.map_err(doing("opening the database file"))?;
    if size <= CHECKED_AT_START {
        let mut conn = write.acquire().await.map_err(doing("checking the database file"))?;
        judged(quick_check(&mut conn).await)?;
    }
    let schema = migrate(&write).await?;

    // Lazy: the first reader is opened when somebody reads.
    let read = SqlitePoolOptions::new()
        .max_connections(pool.max_connections.clamp(1, READERS_MAX))
        .acquire_timeout(pool.acquire_timeout)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        // What they read stands in the kernel's cache; each would keep two megabytes of its own.
        .connect_lazy_with(options.read_only(true).pragma("cache_size", READER_CACHE));
    Ok((write, read, schema))
}

/// Begins a transaction that writes, on the connection that does.
///
/// IMMEDIATE: a transaction that reads first and writes later fails at once when another process
/// wrote in between, and no busy timeout applies to that.
pub(crate) async fn begin(write: &SqlitePool) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
    write.begin_with("BEGIN IMMEDIATE").await
}

/// Keeps and logs that a commit failed by the disk's fault, once.
///
/// The next transaction is no second try at the same pages: SQLite writes its own over those of the
/// one that failed. But a disk that has failed once is to be looked at.
pub(crate) fn sound(alarm: &OnceLock<String>, error: &sqlx::Error) {
    if is_code(error, IO_ERROR) {
        let told = alarm.set(format!(
            "the disk failed to keep what the database wrote ({error}): look at the disk and at the \
             kernel's log, then: stratavore daemon restart"
        ));
        if told.is_ok() {
            tracing::error!(%error, "the disk failed to keep what the database wrote; nobody was told that it is done");
        }
    }
}

/// Opens a file that another process may have open for the first time too.
///
/// Whoever opens a new file turns it to a write-ahead log, for which nobody else may read. SQLite
/// says that it is locked at once then, and waits no [`BUSY_TIMEOUT`]: it holds a lock itself by
/// then, and two of these would wait for each other.
async fn when_free<T, F>(mut open: impl FnMut() -> F) -> Result<T, sqlx::Error>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    let until = Instant::now() + BUSY_TIMEOUT;
    loop {
        match open().await {
            Err(error) if is_code(&error, BUSY) && Instant::now() < until => {
                tokio::time::sleep(BUSY_STEP).await;
            }
            opened => return opened,
        }
    }
}

/// What a daemon that did not end in order has left: its log is taken back into the file.
async fn bring_in_order(options: &SqliteConnectOptions, log: &Path) -> Result<(), StoreError> {
    let opened = when_free(|| options.connect()).await;
    let mut conn = opened.map_err(doing("opening the database file"))?;
    let what = "making durable what the last daemon has written";
    settle(&mut conn, log.into()).await.map_err(doing(what))?;
    let taken_back = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut conn).await;
    taken_back.map_err(doing(what))?;
    conn.close().await.map_err(doing(what))
}

/// Makes durable what the log holds, before anything is built on it.
///
/// It may hold a transaction whose sync has failed. Its writer told nobody that it was done, but
/// the kernel shows it to whoever opens the file next, and has forgotten that it never came to the
/// disk: all that is written behind it would be lost with it when the host goes down. What is
/// written once more is to be synced once more, or this fails too.
async fn settle(conn: &mut SqliteConnection, log: PathBuf) -> Result<(), sqlx::Error> {
    if !has_content(&log) {
        return Ok(());
    }
    // The writer's lock: nobody appends meanwhile.
    let tx = conn.begin_with("BEGIN IMMEDIATE").await?;
    let again = tokio::task::spawn_blocking(move || write_again(&log));
    again.await.unwrap_or_else(|gone| Err(io::Error::other(gone)))?;
    tx.rollback().await
}

fn has_content(log: &Path) -> bool {
    log.metadata().is_ok_and(|found| found.len() > 0)
}

/// Writes a file's own bytes over it, and syncs them.
fn write_again(path: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let mut block = vec![0; 1 << 16];
    let mut at = 0;
    loop {
        match file.read_at(&mut block, at)? {
            0 => return file.sync_all(),
            read => {
                file.write_all_at(&block[..read], at)?;
                at += read as u64;
            }
        }
    }
}

/// The write-ahead log of a database file.
fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Reads the whole file and answers whether it was checked to the end. `goes_on` is asked now and
/// then whether it is to go on.
pub(crate) async fn check(
    path: &Path,
    goes_on: impl FnMut() -> bool + Send + 'static,
) -> Result<bool, StoreError> {
    let what = "opening the database file to check it";
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut conn = options.busy_timeout(BUSY_TIMEOUT).connect().await.map_err(doing(what))?;
    conn.lock_handle().await.map_err(doing(what))?.set_progress_handler(CHECK_STEPS, goes_on);
    let found = quick_check(&mut conn).await;
    // Whatever it has to say at its end is no news of the file.
    conn.close().await.ok();
    if found.as_ref().is_err_and(|error| is_code(error, INTERRUPTED)) {
        return Ok(false);
    }
    judged(found).map(|()| true)
}

async fn quick_check(conn: &mut SqliteConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(conn).await
}

fn judged(found: Result<String, sqlx::Error>) -> Result<(), StoreError> {
    let why = match found.map_err(doing("checking the database file")) {
        Ok(found) if found == "ok" => return Ok(()),
        Ok(found) | Err(StoreError::Corrupt { why: found, .. }) => found,
        Err(error) => return Err(error),
    };
    let why = format!("{why}; restore it from a backup, or move it away to begin anew");
    Err(StoreError::Corrupt { what: "the database file".into(), why })
}

fn is_code(error: &sqlx::Error, wanted: i32) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    code.is_some_and(|code| code & 0xff == wanted)
}

/// In one transaction that holds the write lock, so that a second process that starts meanwhile
/// waits and then finds nothing to do. Answers the schema's number.
async fn migrate(write: &SqlitePool) -> Result<i64, StoreError> {
    const BEGUN: &str =
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations')";
    let looking = "looking at the schema";
    let mut tx =
        write.begin_with("BEGIN IMMEDIATE").await.map_err(doing("locking the database file"))?;
    let known = schema::known(&MIGRATIONS);
    let newest = schema::newest(&known);
    let begun: bool =
        sqlx::query_scalar(BEGUN).fetch_one(&mut *tx).await.map_err(doing(looking))?;
    let applied: Vec<Applied> = match begun {
        true => {
            sqlx::query_as(schema::APPLIED).fetch_all(&mut *tx).await.map_err(doing(looking))?
        }
        false => Vec::new(),
    };
    let number = match schema::standing(&known, &applied)? {
        Standing::Ours => newest,
        Standing::Newer(found) => {
            let marked = sqlx::query_scalar(schema::HAS_MARK_SQLITE).fetch_one(&mut *tx).await;
            let works_from = match marked.map_err(doing(looking))? {
                true => sqlx::query_scalar(schema::WORKS_FROM).fetch_optional(&mut *tx).await,
                false => Ok(None),
            };
            schema::permit(newest, found, works_from.map_err(doing(looking))?)?
        }
        Standing::Behind => {
            known.run_direct(None, &mut *tx, false).await.map_err(schema::migrating(newest))?;
            newest
        }
    };
    tx.commit().await.map_err(doing("bringing the schema up to date"))?;
    Ok(number)
}

/// Makes the file with its final permissions before SQLite would make it with looser ones. Answers
/// its size.
fn prepare_file(path: &Path) -> Result<u64, StoreError> {
    let shown = path.display();
    let cannot = |what: &'static str| {
        move |error: io::Error| StoreError::Unavailable { doing: what, source: error.into() }
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
    Ok(metadata.len())
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

    /// Row 48, by the numbers of the kernel's `magic.h`; no such file system can be mounted here.
    #[test]
    fn network_file_systems_are_told_from_local_ones() {
        let remote = [
            (0x6969, "NFS"),
            (0x517b, "SMB"),
            (0xff53_4d42, "CIFS"),
            (0xfe53_4d42, "SMB2"),
            (0x0102_1997, "9P"),
            (0x5346_414f, "AFS"),
            (0x6b41_4653, "AFS"),
            (0x00c3_6400, "Ceph"),
        ];
        for (magic, kind) in remote {
            assert_eq!(network_kind(magic), Some(kind));
        }
        let local = [
            (0xef53, "ext4"),
            (0x0102_1994, "tmpfs"),
            (0x5846_5342, "XFS"),
            (0x9123_683e, "Btrfs"),
            (0x794c_7630, "overlay"),
            (0x2fc1_2fc1, "ZFS"),
        ];
        for (magic, kind) in local {
            assert_eq!(network_kind(magic), None, "{kind}");
        }
    }

    /// The real ones of this machine: where tests keep their files, and a disk in memory.
    #[test]
    fn the_file_systems_of_this_machine_are_taken() {
        for directory in [std::env::temp_dir(), "/dev/shm".into()] {
            let home = tempfile::tempdir_in(directory).unwrap();
            assert_eq!(prepare_file(&home.path().join("s.db")).unwrap(), 0);
        }
    }

    #[test]
    fn a_file_that_is_written_again_is_the_same() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("log");
        write_again(&path).unwrap();
        assert!(!path.exists(), "none is made");
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        write_again(&path).unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
    }
}
