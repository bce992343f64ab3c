//! Which PostgreSQL server it is that answers.
//!
//! Where a standby was promoted, the primary of before may still answer, and take what is written to
//! it: two servers with one past. A promotion begins a new timeline, so each new connection is asked
//! for its server's identity and timeline, and what was seen last is kept in a file of this host: what
//! the old primary itself says of the past is of no use.
//!
//! Invariant: once a daemon has seen a timeline, no connection is used whose server has a lower one or
//! is another one, nor one that was made before.
//! Invariant: before the first position is given on a timeline, it is written down where the log was then.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use sqlx::{ConnectOptions, Connection, PgConnection};
use stratavore_core::lease::Lease;

use crate::error::doing;
use crate::hook::is_left_out;
use crate::retry::retried;
use crate::tx::{Reader, Tx};
use crate::{Engine, Store, StoreError, lease};

/// The timeline that is written now; the control file tells of it a little later only.
const LOOK_POSTGRES: &str = "SELECT pg_is_in_recovery(),
    (SELECT system_identifier FROM pg_control_system()),
    CASE WHEN pg_is_in_recovery() THEN 0
        ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END";

const IS_STANDBY_POSTGRES: &str = "SELECT pg_is_in_recovery()";

/// The rows of timelines are named so that their names have the order of their numbers.
const BEGIN_POSTGRES: &str = "INSERT INTO event_positions (name, last)
    SELECT $1, last FROM event_positions WHERE name = 'events' ON CONFLICT (name) DO NOTHING";

const AGREED_POSTGRES: &str = "SELECT min(last) FROM event_positions WHERE name = 'events'
    OR (name COLLATE \"C\" > $1 AND name COLLATE \"C\" < 'timeline:')";

statements! { LOOK_POSTGRES, IS_STANDBY_POSTGRES, BEGIN_POSTGRES, AGREED_POSTGRES }

/// Which server, and how often it or one before it was promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    system: i64,
    timeline: i64,
}

/// Lets a connection in, or refuses it. Shared by all pools of a store.
#[derive(Debug)]
pub(crate) struct Guard {
    /// Where the place is kept that was seen last.
    witness: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seen: Option<Place>,
    /// Since when it is on this timeline, if it was on another one before.
    moved: Option<Instant>,
    /// Why the last connection was refused.
    refusal: Option<String>,
}

impl Guard {
    pub(crate) fn open(witness: Option<&Path>) -> Result<Arc<Self>, StoreError> {
        let seen = match witness {
            Some(path) => read(path)?,
            None => None,
        };
        let state = Mutex::new(State { seen, ..State::default() });
        Ok(Arc::new(Self { witness: witness.map(Path::to_owned), state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the server what it is, and refuses one that must not be spoken to.
    pub(crate) async fn admit(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let looked = sqlx::query_as::<_, (bool, i64, i64)>(LOOK_POSTGRES).fetch_one(&mut *conn);
        let (standby, place) = match looked.await {
            Ok((standby, system, timeline)) => (standby, Some(Place { system, timeline })),
            // A service that is like PostgreSQL may not let everybody ask.
            Err(sqlx::Error::Database(error)) if is_withheld(error.code().as_deref()) => {
                let standby = sqlx::query_scalar(IS_STANDBY_POSTGRES).fetch_one(conn).await?;
                (standby, None)
            }
            Err(error) => return Err(error),
        };
        let judged = match (standby, place) {
            (true, _) => Err("the server is a standby, and its primary is needed".to_owned()),
            (false, Some(place)) if !is_off() => self.judge(place),
            (false, _) => Ok(()),
        };
        self.state().refusal = judged.clone().err();
        judged.map_err(sqlx::Error::Protocol)
    }

    /// Takes in what a primary is.
    fn judge(&self, place: Place) -> Result<(), String> {
        let mut state = self.state();
        match state.seen {
            Some(seen) if seen == place => return Ok(()),
            Some(seen) if seen.system != place.system => {
                return Err(format!(
                    "it is another server than before (system identifier {}, and not {}); see where \
                     store.postgres.host leads; {}",
                    place.system,
                    seen.system,
                    self.if_meant()
                ));
            }
            Some(seen) if place.timeline < seen.timeline => {
                return Err(format!(
                    "it is a primary of before: its timeline is {}, and {} was seen, so another server \
                     was promoted; stop this one or make it a standby (pg_rewind), and let \
                     store.postgres.host lead to the one that was promoted; {}",
                    place.timeline,
                    seen.timeline,
                    self.if_meant()
                ));
            }
            Some(seen) => {
                tracing::warn!(
                    before = seen.timeline,
                    now = place.timeline,
                    "another server was promoted"
                );
                state.moved = Some(Instant::now());
            }
            None => {}
        }
        state.seen = Some(place);
        if let Some(path) = &self.witness
            && let Err(error) = write(path, place)
        {
            // It is known as long as this process lives.
            let path = path.display();
            tracing::warn!(%error, %path, "could not keep which database server was seen");
        }
        Ok(())
    }

    fn if_meant(&self) -> String {
        let file = self.witness.as_deref().and_then(Path::file_name).unwrap_or_default();
        let file = file.to_string_lossy();
        format!("if this server is meant, remove {file} from the state directory of each daemon")
    }

    /// True of a connection of this age that was made before the server was another one.
    pub(crate) fn is_of_before(&self, age: Duration) -> bool {
        self.state().moved.is_some_and(|at| age > at.elapsed())
    }

    pub(crate) fn timeline(&self) -> i64 {
        self.state().seen.map_or(0, |seen| seen.timeline)
    }

    /// Why connections are refused, if they are.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.state().refusal.clone()
    }
}

impl Store {
    /// The timeline of the server that was spoken to last; 0 where there is none. When it has grown,
    /// another server was promoted, which may not have all that the one before had acknowledged.
    pub fn timeline(&self) -> i64 {
        match &self.inner.engine {
            Engine::Postgres { guard, .. } => guard.timeline(),
            Engine::Sqlite { .. } => 0,
        }
    }

    /// Writes down where the log was when the lease's timeline began, unless that is known. Whoever gives
    /// positions does this first: with those of its own the log may differ from what was read before.
    pub async fn timeline_begin(&self, lease: &Lease) -> Result<(), StoreError> {
        if lease.timeline == 0 || is_left_out("timeline_check") {
            return Ok(());
        }
        retried!({
            let mut tx = self.begin().await?;
            lease::check(self, &mut tx, lease).await?;
            if let Tx::Postgres(tx, deadline, _) = &mut tx {
                let begun = sqlx::query(BEGIN_POSTGRES).bind(named(lease.timeline));
                let begun = deadline.keep(begun.execute(&mut **tx)).await;
                begun.map_err(doing("writing down where a timeline begins"))?;
            }
            tx.commit().await
        })
    }

    /// The last position up to which the log is the one of that timeline, and of those before it.
    pub async fn event_agreed_position(&self, timeline: i64) -> Result<i64, StoreError> {
        match self.read().await? {
            Reader::Sqlite(_) => self.event_last_position().await,
            Reader::Postgres(mut conn, deadline) => {
                let agreed = sqlx::query_scalar(AGREED_POSTGRES).bind(named(timeline));
                let agreed = deadline.keep(agreed.fetch_one(&mut *conn)).await;
                agreed.map_err(doing("reading where timelines begin"))
            }
        }
    }

    /// Looks which server answers now, and refuses it with [`StoreError::WrongServer`] if it must not be
    /// spoken to. The connections that there are may lead to one of before, as long as that lives.
    pub async fn server_look(&self) -> Result<(), StoreError> {
        let Engine::Postgres { common, guard, .. } = &self.inner.engine else { return Ok(()) };
        let what = "looking which server answers";
        match tokio::time::timeout(self.inner.pool.connect_timeout, look(common, guard)).await {
            Ok(looked) => looked.map_err(refused(what)),
            Err(late) => Err(StoreError::Unavailable { doing: what, source: late.into() }),
        }
    }
}

/// A timeline's row among the positions. Its number has 32 bits.
fn named(timeline: i64) -> String {
    format!("timeline {timeline:010}")
}

/// What it means that a connection was not let in.
#[expect(clippy::wildcard_enum_match_arm, reason = "not ours, and the rest is told as usual")]
pub(crate) fn refused(what: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |error| match error {
        sqlx::Error::Protocol(why) => StoreError::WrongServer { why },
        error => doing(what)(error),
    }
}

async fn look(pool: &PgPool, guard: &Guard) -> Result<(), sqlx::Error> {
    let mut conn = pool.connect_options().connect().await?;
    guard.admit(&mut conn).await?;
    conn.close().await
}

/// No right to ask, or no such thing.
fn is_withheld(code: Option<&str>) -> bool {
    matches!(code, Some("42501" | "42883" | "0A000"))
}

/// Leaves the check out, in the tests of what it is for: `STRATAVORE_FAILPOINTS="server=off"`.
fn is_off() -> bool {
    let points = || std::env::var("STRATAVORE_FAILPOINTS").unwrap_or_default();
    cfg!(debug_assertions) && points().split(';').any(|point| point == "server=off")
}

fn read(path: &Path) -> Result<Option<Place>, StoreError> {
    let unusable = |why: String| {
        let what = path.display().to_string();
        StoreError::Corrupt {
            what,
            why: format!("{why}; it says which server was seen, and may be removed"),
        }
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(error.to_string())),
    };
    let numbers: Vec<i64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [system, timeline] => Ok(Some(Place { system, timeline })),
        _ => Err(unusable("it is not two numbers".into())),
    }
}

/// Whole or not at all, whatever dies meanwhile.
fn write(path: &Path, place: Place) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    writeln!(file, "{} {}", place.system, place.timeline)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(system: i64, timeline: i64) -> Place {
        Place { system, timeline }
    }

    #[test]
    fn a_timeline_only_grows_and_outlives_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server");
        let guard = Guard::open(Some(&path)).unwrap();
        guard.judge(place(7, 1)).unwrap();
        assert!(!guard.is_of_before(Duration::MAX), "it was on no other one");
        guard.judge(place(7, 3)).unwrap();
        assert!(guard.is_of_before(Duration::MAX), "what was made before is not used");
        assert!(!guard.is_of_before(Duration::ZERO));
        let refused = guard.judge(place(7, 2)).unwrap_err();
        assert!(refused.contains("its timeline is 2, and 3 was seen"), "{refused}");

        let again = Guard::open(Some(&path)).unwrap();
        assert_eq!(again.timeline(), 3);
        assert!(again.judge(place(7, 2)).is_err());
        let other = again.judge(place(8, 9)).unwrap_err();
        assert!(other.contains("another server") && other.contains("remove "), "{other}");
        again.judge(place(7, 3)).unwrap();

        std::fs::write(&path, "7").unwrap();
        assert!(Guard::open(Some(&path)).is_err(), "it is not taken for nothing seen");
        std::fs::remove_file(&path).unwrap();
        Guard::open(Some(&path)).unwrap().judge(place(8, 1)).unwrap();
    }
}
