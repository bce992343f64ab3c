//! The limits of a run without a screen, for assistants that do not hold them by themselves.
//!
//! They are looked at when usage has been taken in, which is after an answer: a run ends over its limit by what
//! its last answers cost.

use stratavore_assistants as assistants;
use stratavore_core::RunnerId;
use stratavore_core::caller::Caller;
use stratavore_core::runner::{After, Input, Runner, Stop};
use stratavore_core::usage::{LedgerRow, Quality, UsageBy, UsageFilter, UsageSums};

use crate::control::Control;
use crate::error::Error;

/// So many answers are looked at for one whose cost nobody knows: it is looked after each batch of them.
const LOOKED_AT: u32 = 100;

fn of_runner(runner: RunnerId) -> UsageFilter {
    UsageFilter { runner: Some(runner), ..UsageFilter::default() }
}

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
        // Our prices or what the assistant says: whoever is right, it has cost no more than that.
        let cost = used.cost.max(used.reported);
        let is_known = used.unpriced == 0 || self.cost_is_known(runner.id).await?;
        let Some(limit) = limits.over(used.messages.unsigned_abs(), cost, is_known) else {
            return Ok(());
        };
        let grace_ms = self.inner.settings.grace.as_millis() as u64;
        let by = limit.stopper().into();
        let stop = Stop { by, grace_ms, force: false, after: After::End };
        self.apply(runner.id, Input::Stop(stop), &Caller::daemon(), None).await.map(drop)
    }

    /// Whether somebody can say of the latest answers what each has cost: we, or the assistant. One that was cut
    /// off, or is under way, has no figures yet.
    async fn cost_is_known(&self, runner: RunnerId) -> Result<bool, Error> {
        let rows = self.inner.store.usage_rows(&of_runner(runner), None, LOOKED_AT).await?;
        let is_known = |row: &LedgerRow| {
            let has_figures = row.record.quality != Quality::Lost;
            !has_figures || row.price.is_some() || row.record.reported_cost.is_some()
        };
        Ok(rows.iter().all(is_known))
    }

    /// All that a runner has used.
    pub(crate) async fn used_by(&self, runner: RunnerId) -> Result<UsageSums, Error> {
        let filter = of_runner(runner);
        let utc = jiff::tz::TimeZone::UTC;
        let used = self.inner.store.usage_report(UsageBy::Runner, &filter, &utc).await?;
        Ok(used.first().map(|group| group.sums).unwrap_or_default())
    }
}
