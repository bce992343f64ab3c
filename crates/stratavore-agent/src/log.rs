//! What the agent itself has to say: lines in `agent.log`, which is its standard error.
//!
//! It says little: that something of the host failed, and when its state changed. Nothing of what
//! the runner prints or is sent comes here, and no secret.

use std::fmt;
use std::io::Write;

use stratavore_core::clock::Clock;
use stratavore_core::terminal::Untrusted;

use crate::clock::SystemClock;

/// Writes one line, whatever stands in it: a path or an error may hold anything.
pub(crate) fn note(what: fmt::Arguments<'_>) {
    let line = format!("{} {}\n", SystemClock.now(), Untrusted(&what.to_string()));
    // There is nobody else to be told that this failed.
    let _written = std::io::stderr().write_all(line.as_bytes());
}
