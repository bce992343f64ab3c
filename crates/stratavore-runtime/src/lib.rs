//! Where runners run: as processes of this host, each under an agent of its own.
//!
//! This crate starts agents, finds them again, talks to their sockets, and clears what a dead one
//! left. It decides nothing: what to do about what it finds is `stratavore_core::reconcile`.
//!
//! Invariant: a signal goes only to a process whose identity (boot, pid, start time) was checked.
//! Invariant: secrets are handed to an agent in memory, never in arguments, environment or files.

pub mod find;
mod kept;
pub mod output;
pub mod process;
pub mod socket;
mod user;
pub mod watch;

pub use find::Discovery;
pub use process::{Agent, Runtime, Settings, Start, StartError};
pub use user::user_name;
pub use watch::Watch;

pub use stratavore_agent::failpoint::{failpoint, is_off};
pub use stratavore_agent::inside::Place;
pub use stratavore_agent::output::{Chunk, OutputReader};
pub use stratavore_agent::{program, signal_log};
pub use stratavore_proto::runner_dir::{Observe, RunnerDir, write_durably};
