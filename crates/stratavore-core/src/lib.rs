//! What a project, a runner and a session are: types, state machines and policies.
//!
//! Nothing here does I/O or asks the world for anything. Time, randomness and what was found on
//! the host come in as arguments, so every rule in this crate can be tested by properties.
//!
//! Invariant: this crate names no runtime, no database and no file.

pub mod activity;
pub mod alert;
pub mod ask;
pub mod budget;
pub mod caller;
pub mod clock;
pub mod daemon;
pub mod daily;
pub mod destination;
pub mod embedding;
pub mod envelope;
pub mod event;
pub mod id;
pub mod idempotency;
pub mod join;
pub mod kept;
pub mod lease;
pub mod limits;
pub mod liveness;
pub mod message;
pub mod moving;
pub mod name;
pub mod node;
pub mod notify;
pub mod observation;
pub mod price;
pub mod project;
pub mod queue;
pub mod quota;
pub mod reconcile;
pub mod restart;
pub mod run;
pub mod runner;
pub mod search;
pub mod session;
pub mod signal;
pub mod terminal;
pub mod transcript;
pub mod usage;
pub mod visit;
pub mod window;
pub mod words;

pub use id::{
    AskId, BudgetId, DaemonId, DeadLetterId, EventId, ItemId, NodeId, NotificationId, ProjectId,
    PromptId, RequestId, RunnerId, SessionId, TranscriptId,
};
pub use jiff::Timestamp;
