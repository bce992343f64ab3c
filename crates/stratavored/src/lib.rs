//! The daemon: transport, configuration, wiring and shutdown.
//!
//! It translates and authenticates, and decides nothing: every rule is in `stratavore_control`.
//!
//! Invariant: no socket of it is open to another user, and no port but to nodes of its cluster.
//! Invariant: its memory, which holds secrets of runners, is on no disk and open to nobody.
//! Invariant: its end, however it comes, touches no runner.

mod agents;
mod clock;
mod cluster;
mod crowd;
mod grpc;
mod harden;
mod lock;
mod log;
mod notify;
mod peer;
mod run;
mod setup;
mod times;
mod vault;

pub use run::{Arguments, Failure, run};
