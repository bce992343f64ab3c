//! Where state lives: SQLite for one daemon, PostgreSQL for several.
//!
//! Each function of [`Store`] is one use case and one transaction, named for what it does. It
//! writes the change, the event that tells of it and the event's place in the outbox together, or
//! nothing. Rules are not decided here: callers hand in what they decided on ([`Runner`] as seen)
//! and what is to be, and the store refuses if that is no longer what it has. The exception is
//! admission, which must be decided under the project's lock, and calls the core's rules there.
//!
//! This is no table accessor, knows no wire format, and asks no clock but the database's, and
//! that one only for leases. It is the only crate that names sqlx.
//!
//! Invariant: both databases give the same answers; every test of a function runs on both.
//! Invariant: a change, its event and its outbox row commit together or not at all.
//! Invariant: the events of an entity have the sequence numbers 1, 2, 3, …, equal to the entity's
//! generation, and get positions in that order, without a gap.
//! Invariant: a runner that has ended never changes; a trigger guards it.
//! Invariant: a write under a lease or by an epoch is refused once the term or epoch is over.
//!
//! [`Runner`]: stratavore_core::runner::Runner

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

#[macro_use]
mod statement;

mod account;
mod admit;
mod alert;
mod alone;
mod ask;
mod audit;
mod audit_key;
mod budget;
mod budget_hold;
mod cluster;
mod daemon;
mod deadline;
mod destination;
mod embedding;
mod error;
mod event;
mod follow;
mod hold;
mod hook;
mod idempotency;
mod join;
mod journal;
mod lease;
mod liveness;
mod message;
mod moving;
mod nearby;
mod node;
mod notify;
mod observed;
mod open;
mod outbox;
mod postgres;
mod project;
mod queue;
mod reserve;
mod retry;
mod runner;
mod schema;
mod server;
mod session;
mod session_seen;
mod settings;
mod sqlite;
#[cfg(feature = "testing")]
pub mod testing;
mod transaction;
mod transcript;
mod trim;
mod tx;
mod usage;
mod usage_report;
mod usage_row;
mod value;
mod wake;
mod window;

pub use admit::{NameWish, NewRunner};
pub use alert::Teller;
pub use audit::{AuditCheckpoint, AuditRecord};
pub use audit_key::AuditKey;
pub use budget::{BudgetPeriod, BudgetShare, definition as budget_definition};
pub use budget_hold::{BudgetAllowance, BudgetClock, BudgetHold, BudgetTime, NewAllowance};
pub use daemon::Started;
pub use embedding::Unembedded;
pub use error::{CANDIDATES_MAX, Cause, StoreError};
pub use follow::{FileIdentity, Follow, FollowStep};
pub use hook::{LEFT_OUT, PASSING};
pub use journal::{Journal, Written};
pub use message::KeptMessage;
pub use observed::{Observed, PriceOf, Recorded};
pub use outbox::OutboxDepth;
pub use queue::ItemFilter;
pub use runner::{RunnerFilter, RunnerWrite};
pub use session::{SessionFilter, SessionStory};
pub use settings::{
    Database, Host, PoolSettings, PoolStatus, PostgresSettings, STATEMENT_TIMEOUT, Settings,
    TlsMode,
};
pub use transaction::OldTransaction;
pub use transcript::{BlobRow, KeptSegment, VaultTotals};
pub use trim::RecordTrim;
pub use usage_report::UsagePlace;
pub use wake::{Listener, Wake};

/// The database, whichever it is. Cheap to clone; all clones share its connections.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    /// False only in the negative control of the quota test.
    #[cfg(feature = "testing")]
    admission_lock: bool,
}

struct Inner {
    engine: Engine,
    pool: PoolSettings,
    /// The number of the newest migration that the database had when it was opened.
    schema: i64,
    writer: OnceLock<Arc<stratavore_audit::Writer>>,
    journal: OnceLock<Arc<dyn Journal>>,
    floor: std::sync::Mutex<outbox::Floor>,
    nearby: nearby::Nearby,
    /// By what other daemons' wake-ups are told from our own.
    voice: String,
}

enum Engine {
    Postgres {
        common: sqlx::PgPool,
        vital: sqlx::PgPool,
        deadline: deadline::Deadline,
        guard: Arc<server::Guard>,
    },
    Sqlite {
        path: PathBuf,
        write: sqlx::SqlitePool,
        read: sqlx::SqlitePool,
        alarm: tx::Alarm,
    },
}
