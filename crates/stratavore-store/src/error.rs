//! What can go wrong in the store, in words for the person who asked.

use std::error::Error;

use sqlx::error::DatabaseError;
use stratavore_core::budget::BudgetExceeded;
use stratavore_core::name::Name;
use stratavore_core::quota::{Holder, QuotaExceeded};
use stratavore_core::{AskId, NodeId, RunnerId, SessionId};

/// What caused an error; the database library behind it is nobody else's business.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why the store did not do what was asked. Nothing was changed, except where said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no {noun} `{}`", wanted.escape_debug())]
    NotFound { noun: &'static str, wanted: String },

    /// `candidates` are ids with names, at most [`CANDIDATES_MAX`] of them.
    #[error("`{}` could be any of several {noun}s: {}; give more of the id", wanted.escape_debug(), candidates.join(", "))]
    Ambiguous { noun: &'static str, wanted: String, candidates: Vec<String> },

    #[error("the name `{name}` is taken by another {noun}; choose another one")]
    NameTaken { noun: &'static str, name: Name },

    #[error(
        "project `{0}` is archived, and an archived project launches nothing; unarchive it first"
    )]
    ProjectArchived(Name),

    #[error("runners of the project live: {}", names(.0))]
    LiveRunners(Vec<Holder>),

    #[error(transparent)]
    Quota(Box<QuotaExceeded>),

    #[error(transparent)]
    Budget(Box<BudgetExceeded>),

    #[error("{node} has {live} of {capacity} runners")]
    NodeFull { node: NodeId, live: u64, capacity: u64 },

    #[error("{runner} is already carried on by {by}")]
    AlreadySucceeded { runner: RunnerId, by: RunnerId },

    #[error("{session} is open in {runner}; attach to it, or stop it first")]
    SessionBusy { session: SessionId, runner: RunnerId },

    #[error("{id} is {state} already, and an ask is answered once")]
    AskOver { id: AskId, state: &'static str },

    /// What the caller saw is no longer so. Read again and decide again; do not just repeat.
    #[error("{what} has changed since it was read")]
    Conflict { what: String },

    #[error(
        "the idempotency key `{key}` was used for another request; use a fresh key for each request"
    )]
    IdempotencyReuse { key: String },

    /// The caller's term is over: it must stop what it does under this lease.
    #[error("the lease `{name}` is held by someone else now")]
    StaleLease { name: String },

    #[error(
        "the database has schema version {found}, which needs a program that knows version {needed}, and this one knows versions up to {known}: use a newer program"
    )]
    SchemaNewer { found: i64, known: i64, needed: i64 },

    #[error(
        "the events after position {after} are in files by now; the oldest one here has position {}",
        upto + 1
    )]
    Trimmed { after: i64, upto: i64 },

    /// No connection was free, or others kept the rows locked. Nothing was changed; try again.
    #[error("the database is too busy for {doing}; try again")]
    Busy { doing: &'static str, source: Cause },

    /// The database cannot be reached, or went away. A change may or may not have happened: repeat
    /// it with the same idempotency key.
    #[error("the database did not answer while {doing}")]
    Unavailable { doing: &'static str, source: Cause },

    /// Nothing was changed: a standby answers, or a primary of before, or another server.
    #[error("the database server cannot be used: {why}")]
    WrongServer { why: String },

    /// Nothing was changed. What is only read still works.
    #[error("no space is left for the database (while {doing})")]
    Full { doing: &'static str, source: Cause },

    /// The database refused a statement of ours: a fault of this program, or of a schema that
    /// somebody changed.
    #[error("the database refused {doing}")]
    Failed { doing: &'static str, source: Cause },

    #[error("{what} cannot be read: {why}")]
    Corrupt { what: String, why: String },

    #[error("{what} is not valid: {why}")]
    Invalid { what: String, why: String },
}

/// The most candidates that an ambiguous reference is answered with.
pub const CANDIDATES_MAX: usize = 10;

fn names(holders: &[Holder]) -> String {
    let mut names: Vec<_> = holders.iter().take(8).map(|h| h.name.as_str()).collect();
    if holders.len() > names.len() {
        names.push("…");
    }
    names.join(", ")
}

/// Turns a database error into ours. To be given to `map_err`, with what was being done.
pub(crate) fn doing(doing: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |error| match Class::of(&error) {
        Class::Busy | Class::Collision => StoreError::Busy { doing, source: error.into() },
        Class::Unavailable => StoreError::Unavailable { doing, source: error.into() },
        Class::Full => StoreError::Full { doing, source: error.into() },
        Class::Corrupt => StoreError::Corrupt {
            what: format!("the database, while {doing},"),
            why: error.to_string(),
        },
        Class::Refused => StoreError::Failed { doing, source: error.into() },
    }
}

impl StoreError {
    /// True if two transactions got in each other's way and the database chose this one to fail:
    /// it changed nothing, and may be repeated whole.
    pub(crate) fn is_collision(&self) -> bool {
        matches!(self, Self::Busy { source, .. } if source
            .downcast_ref::<sqlx::Error>()
            .is_some_and(|error| Class::of(error) == Class::Collision))
    }

    /// True if the same request may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unavailable { .. } | Self::WrongServer { .. })
    }

    /// True if a new runner has no place now, and may have one once others end, more is allowed, or the
    /// project is taken out of the archive.
    pub fn is_for_want_of_a_place(&self) -> bool {
        matches!(
            self,
            Self::Quota(_) | Self::Budget(_) | Self::NodeFull { .. } | Self::ProjectArchived(_)
        )
    }

    pub(crate) fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), why: why.into() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Busy,
    /// Deadlock or serialization failure.
    Collision,
    Unavailable,
    Full,
    Corrupt,
    Refused,
}

impl Class {
    #[expect(clippy::wildcard_enum_match_arm, reason = "not ours, and the rest is alike to us")]
    fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolTimedOut => Self::Busy,
            sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => Self::Full,
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Corrupt,
            sqlx::Error::Database(error) => {
                match error.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
                    Some(_) => Self::of_sqlite(error.as_ref()),
                    None => Self::of_postgres(error.as_ref()),
                }
            }
            _ => Self::Refused,
        }
    }

    /// By SQLSTATE.
    fn of_postgres(error: &dyn DatabaseError) -> Self {
        let code = error.code().unwrap_or_default();
        match &*code {
            "40001" | "40P01" => Self::Collision,
            // Lock timeout, statement timeout, too many connections.
            "55P03" | "57014" | "53300" => Self::Busy,
            // A standby that was taken for the primary.
            "25006" => Self::Unavailable,
            "53100" => Self::Full,
            // Connections that break, servers that stop or start, and resources that run out.
            _ if code.starts_with("08") || code.starts_with("57P") || code.starts_with("53") => {
                Self::Unavailable
            }
            _ if code.starts_with("XX00") => Self::Corrupt,
            _ => Self::Refused,
        }
    }

    /// By the primary result code, the low byte.
    fn of_sqlite(error: &dyn DatabaseError) -> Self {
        let code: i32 = error.code().and_then(|code| code.parse().ok()).unwrap_or_default();
        match code & 0xff {
            5 | 6 => Self::Busy,
            13 => Self::Full,
            // Read-only, I/O error, cannot open.
            8 | 10 | 14 => Self::Unavailable,
            // Corrupt, not a database.
            11 | 26 => Self::Corrupt,
            _ => Self::Refused,
        }
    }
}

/// A uniqueness that the schema guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unique {
    ProjectName,
    RunnerName,
    RunnerSession,
    RunnerSuccessor,
    BudgetName,
    Other,
}

/// Which uniqueness a statement would have broken, if that is why it failed.
///
/// PostgreSQL names the index, SQLite the columns.
pub(crate) fn violated(error: &sqlx::Error) -> Option<Unique> {
    let error = error.as_database_error().filter(|e| e.is_unique_violation())?;
    let message = error.message();
    let is = |index: &str, columns: &str| {
        error.constraint() == Some(index)
            || message.strip_prefix("UNIQUE constraint failed: ") == Some(columns)
    };
    Some(if is("projects_name", "projects.name") {
        Unique::ProjectName
    } else if is("runners_live_name", "runners.project_id, runners.name") {
        Unique::RunnerName
    } else if is("runners_live_session", "runners.session_id") {
        Unique::RunnerSession
    } else if is("runners_successor", "runners.successor_of") {
        Unique::RunnerSuccessor
    } else if is("budgets_name", "budgets.name") {
        Unique::BudgetName
    } else {
        Unique::Other
    })
}
