//! Use cases and background tasks: the one place of every rule that is not pure.
//!
//! Transport calls [`Control`]; control decides with the rules of `stratavore_core`, makes it one
//! transaction of the store, and then acts on the host through the runtime. It knows no wire
//! format and no SQL.
//!
//! Invariant: what the store does not say has not happened. Acting comes after the commit, and
//! what a crash cut off between the two is finished by reconciling.

mod agent;
mod alert;
mod asked;
mod audit;
mod audit_file;
mod bounds;
mod budget;
mod checkpoint;
mod command;
mod control;
mod daemon;
mod disk;
mod embedding;
mod error;
mod event;
mod explain;
mod follow;
mod host;
mod idle;
mod inbox;
mod journal;
mod kept;
mod launch;
mod links;
mod liveness;
mod moves;
mod node;
mod notify;
mod outage;
mod outbox;
mod project;
mod prompt;
mod queue;
mod reboot;
mod reconcile;
mod refusal;
mod resume;
mod retention;
#[cfg(test)]
mod rig;
mod run;
mod run_limit;
mod runner;
mod seal;
mod search;
mod server;
mod session;
mod start;
mod supervisor;
mod task;
mod trim;
mod unsaid;
mod upgrade;
mod usage;
mod vault;
mod verify;
mod visit;
mod wake;
mod window;
mod wishes;

pub use agent::{AgentGreeting, Note, Welcome, WelcomeError};
pub use alert::LOOK_EVERY as ALERTS_EVERY;
pub use audit::RecordExport;
pub use budget::{BudgetView, NewBudget};
pub use control::{AssistantSettings, Control, Parts, Settings};
pub use daemon::{DaemonStatus, TaskStatus};
pub use embedding::Embedder;
pub use error::Error;
pub use event::{Place, Subscription};
pub use explain::{Explanation, SignalRead};
pub use inbox::{Held, Waiting, is_answerable};
pub use journal::JournalFile;
pub use kept::OUTPUT_EVERY;
pub use launch::Launch;
pub use links::AgentCommand;
pub use notify::{NewDestination, NotifySettings, NotifyView};
pub use outbox::RabbitSettings;
pub use prompt::Delivery;
pub use queue::QueueEdit;
pub use reconcile::ReconcileReport;
pub use resume::Resume;
pub use run::{RunProgress, RunResult, RunWatch};
pub use runner::{RunnerView, WaitFor, known_states};
pub use seal::CHECKPOINT_EVERY;
pub use search::{Search, SearchBy, SearchPage};
pub use server::LOOK_EVERY as SERVER_LOOK_EVERY;
pub use session::{SessionDetails, SessionPage, SessionQuery, SessionView};
pub use supervisor::{Supervisor, chain};
pub use usage::{NamedGroup, UsageExplained, UsageQuery, UsageReport};
pub use vault::{
    Care, ExportPart, Found, FoundFile, Imported, Importing, Manifest, ManifestFile,
    ManifestSession, SessionExport, SessionImport, Taken, VaultSettings,
};
pub use window::WindowView;
