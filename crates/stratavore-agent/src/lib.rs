//! The supervisor of one runner, and what others need to look after the runners of dead ones.
//!
//! The program `stratavore-agent` owns the PTY and the processes of one runner and outlives every
//! daemon. The public modules are for the daemon's side: finding out whether an agent lives
//! ([`identity`]), ending what a dead one left ([`kill`]), and reading recorded output
//! ([`output`]), what the assistant told of itself ([`signal_log`]) and what an agent could not tell
//! any more ([`spool`]); and what assistants call: the hook ([`hook`]), and the tool that one without a screen
//! asks for permission ([`permission`]).

pub mod failpoint;
pub mod hook;
pub mod identity;
pub mod inside;
pub mod kill;
pub mod output;
pub mod permission;
pub mod program;
pub mod signal_log;
pub mod spool;

mod agent;
mod attach;
mod cgroup;
mod child;
mod clock;
mod drain;
mod entropy;
mod escape;
mod finish;
mod harden;
mod input;
mod link;
mod log;
mod mounts;
mod observe;
mod procfs;
mod pty;
mod replay;
mod runner;
mod screen;
mod sent;
mod signals;
mod socket;
mod start;
mod stop;
mod sys;
mod telemetry;
mod terminal;
mod upgrade;
mod usage;
mod viewers;
mod visits;

pub use start::{StartError, run};
pub use upgrade::{STATE_FORM, resume};
