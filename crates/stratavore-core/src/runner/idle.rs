//! Stopping what is idle for longer than it may.
//!
//! Invariant: nothing is stopped for being idle without a limit of its own, or while its assistant does not
//! say itself that it has done all that it was asked.

use jiff::{SignedDuration, Timestamp};

use crate::activity::{Activity, Confidence};
use crate::runner::{Desired, Runner, RunnerState};

/// By whom a runner was stopped that was idle for too long.
pub const IDLE_STOPPER: &str = "its idle limit";

impl Runner {
    /// When it will have been idle for as long as it may; `None` while it is not idle, or may be for ever.
    ///
    /// One that is silent is not idle: of a program that tells nothing it is not known. A run without a
    /// screen ends by itself.
    pub fn idle_until(&self) -> Option<Timestamp> {
        let limit = self.limits.idle_seconds?;
        let limit = SignedDuration::from_secs(i64::try_from(limit).unwrap_or(i64::MAX));
        // Beyond the end of the calendar is never.
        self.resting_since()?.checked_add(limit).ok()
    }

    /// Since when its assistant says itself that it has done all that it was asked; `None`: it does not, or
    /// is not as its person wants it. Who rests may be stopped and resumed: it loses nothing.
    pub fn resting_since(&self) -> Option<Timestamp> {
        let doing = self.doing.as_ref()?;
        let is_idle = doing.activity == Activity::Idle && doing.confidence > Confidence::Guess;
        let runs = matches!(self.state, RunnerState::Running { .. });
        let is_wanted = self.desired == Desired::Running && self.command.headless.is_none();
        (is_idle && runs && is_wanted).then_some(doing.since)
    }
}
