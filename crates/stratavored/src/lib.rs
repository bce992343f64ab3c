//! The daemon: transport, configuration, wiring and shutdown.
//!
//! It translates and authenticates, and decides nothing: every rule is in `stratavore_control`.
//!
//! Invariant: no socket of it is open to another user.
//! Invariant: its end, however it comes, touches no runner.

mod agents;
mod clock;
mod grpc;
mod lock;
mod log;
mod notify;
mod peer;
mod run;
mod setup;

pub use run::{Arguments, Failure, run};
