//! Signals: caught or held back in the agent, as new in what it starts.
//!
//! Nothing is ignored here, for what is ignored stays so through exec, and the runner's program
//! must find every signal as it should be. What is caught does not.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::sys;

/// The signals that mean something to the agent.
pub(crate) struct Signals {
    /// A child has ended.
    pub child: Signal,
    /// The host wants the agent to end.
    pub terminate: Signal,
}

/// Catches all signals that would end the agent; of most of them nothing comes. Needs a runtime.
pub(crate) fn catch() -> io::Result<Signals> {
    // A caught signal stays so for the life of the process, listened to or not.
    for kind in [
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
        SignalKind::pipe(),
        SignalKind::alarm(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ] {
        drop(signal(kind)?);
    }
    Ok(Signals { child: signal(SignalKind::child())?, terminate: signal(SignalKind::terminate())? })
}

/// Holds all signals back until [`release`]; through exec too.
pub(crate) fn hold() {
    sys::mask_signals(true);
}

/// Lets signals through.
pub(crate) fn release() {
    sys::mask_signals(false);
}

/// In a new process before exec: all signals as the system has them. Allocates nothing.
pub(crate) fn reset() {
    sys::reset_signals();
    release();
}
