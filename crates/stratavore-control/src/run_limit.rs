//! The limits of a run without a screen, for assistants that do not hold them by themselves.
//!
//! They are looked at when usage has been taken in, which is after an answer: a run ends over its limit by what
//! its last answers cost.

use stratavore_assistants as assistants;
use stratavore_core::RunnerId;
use stratavore_core::caller::Caller;
use stratavore_core::runner::{After, Input, Runner, Stop};
use stratavore_core::usage::{UsageBy, UsageFilter, UsageSums};

use crate::control::Control;
use crate::error::Error;

impl Control {
    /// Stops a run that has met a limit of its own.
    pub(crate) async fn hold_to_limits(&self, runner: &Runner) -> Result<(), Error> {
        let Some(limits) = runner.command.headless else { return Ok(()) };
        let limited = limits.max_cost.is_some() || limits.max_turns.is_some();
        let own = assistants::adapter(&runner.command.assistant).proves().own_limits;
        if !limited || own || runner.is_terminal() {
            return Ok(());
        }
        let used = self.used_by(runner.id).await?;
        let Some(limit) = limits.over(used.messages.unsigned_abs(), used.cost) else {
            return Ok(());
        };
        let grace_ms = self.inner.settings.grace.as_millis() as u64;
        let by = limit.stopper().into();
        let stop = Stop { by, grace_ms, force: false, after: After::End };
        self.apply(runner.id, Input::Stop(stop), &Caller::daemon(), None).await.map(drop)
    }

    /// All that a runner has used.
    pub(crate) async fn used_by(&self, runner: RunnerId) -> Result<UsageSums, Error> {
        let filter = UsageFilter { runner: Some(runner), ..UsageFilter::default() };
        let utc = jiff::tz::TimeZone::UTC;
        let used = self.inner.store.usage_report(UsageBy::Runner, &filter, &utc).await?;
        Ok(used.first().map(|group| group.sums).unwrap_or_default())
    }
}
