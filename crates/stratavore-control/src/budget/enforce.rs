//! What budgets do to the runners of this host.
//!
//! The task looks at what is used and at who runs, and brings the one in line with the other: it holds
//! or stops whoever a step says, and lets go whom none does any more. It goes by what is so and not by
//! what was told, so it may run at any time and as often as it likes, and what a crash has cut off is
//! done by the next run.
//!
//! Each daemon acts on the runners of its own host only, and while no other can have that host.
//!
//! Invariant: a runner that a person has paused is not let go by a budget.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stratavore_core::budget::{Action, Budget, Period, Share, Step, Unit};
use stratavore_core::caller::Caller;
use stratavore_core::runner::{Activity, After, Desired, Input, Runner, RunnerState, Stop};
use stratavore_core::{BudgetId, RunnerId, Timestamp};
use stratavore_store::{BudgetAllowance, BudgetHold, BudgetPeriod, BudgetTime, RunnerFilter};

use crate::control::Control;
use crate::error::Error;
use crate::supervisor::chain;

/// How often it is looked at; sooner where something was counted here.
pub(crate) const EVERY: Duration = Duration::from_secs(5);
/// The same where other daemons count, who cannot wake this one.
pub(crate) const EVERY_SHARED: Duration = Duration::from_secs(1);
/// How often running time is counted; it is what a budget of time can be overrun by.
const TIME_EVERY: Duration = Duration::from_secs(10);
/// The most that a clock which goes steadily is off from another one between two looks.
const STEADY: Duration = Duration::from_secs(1);

/// Up to when each runner's time was counted, and what the monotonic clock said then.
#[derive(Default)]
pub(crate) struct Counted {
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    at: Option<Duration>,
    of_runners: HashMap<RunnerId, (Timestamp, Duration)>,
}

impl Counted {
    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is used, as it was read.
struct Standing {
    budgets: Vec<Budget>,
    current: BTreeMap<BudgetId, Vec<BudgetPeriod>>,
    allowances: Vec<BudgetAllowance>,
    now: Timestamp,
}

/// What a budget says about a runner.
struct Verdict<'b> {
    budget: &'b Budget,
    period: Period,
    step: Step,
    used: i64,
}

impl Standing {
    /// The strongest that any budget says of a runner.
    fn verdict(&self, runner: &Runner) -> Option<Verdict<'_>> {
        let of_it = self.budgets.iter().filter_map(|budget| {
            if !budget.scope.covers(Some(runner.project), Some(runner.id)) {
                return None;
            }
            let period = budget.period(self.now, Some(runner.id))?;
            let counted = self.current.get(&budget.id)?;
            let used = counted.iter().find(|one| one.period == period)?.account.used;
            let step = budget.in_force(used, &self.share(budget.id, &period, runner.id))?;
            Some(Verdict { budget, period, step, used })
        });
        of_it.max_by_key(|verdict| verdict.step.action)
    }

    fn share(&self, budget: BudgetId, period: &Period, runner: RunnerId) -> Share {
        let key = period.key();
        let allowed = self.allowances.iter().find(|allowance| {
            allowance.budget == budget && allowance.runner == runner && allowance.period == key
        });
        allowed.map_or_else(Share::default, |allowance| allowance.share)
    }

    /// True if any budget could say something of anybody.
    fn says_anything(&self) -> bool {
        self.budgets.iter().any(|budget| {
            self.current.get(&budget.id).into_iter().flatten().any(|one| {
                one.period.is_current(self.now)
                    && budget.in_force(one.account.used, &Share::default()).is_some()
            })
        })
    }
}

impl Control {
    /// The periodic task.
    pub(crate) async fn enforce_budgets(&self) -> Result<String, Error> {
        if !self.has_host() {
            return Ok("another daemon has this host".into());
        }
        let (store, here) = (&self.inner.store, self.inner.node.id);
        let budgets = store.budget_list(None).await?;
        let holds = store.budget_holds(Some(here)).await?;
        if budgets.is_empty() && holds.is_empty() {
            return Ok("no budgets".into());
        }
        let counts_time = budgets.iter().any(|budget| budget.unit == Unit::Time);
        let mut live = None;
        if counts_time && self.time_is_due() {
            let runners = self.live_here().await?;
            self.count_time(&budgets, &runners).await?;
            live = Some(runners);
        }
        let now = self.now();
        let current = store.budget_current(now).await?;
        let mut standing = Standing { budgets, current, allowances: Vec::new(), now };
        let says_anything = standing.says_anything();
        if !says_anything && holds.is_empty() {
            return Ok(format!("{} budgets, none of which holds anybody", standing.budgets.len()));
        }
        standing.allowances = store.budget_allowances(here).await?;
        let live = match live {
            Some(live) => live,
            None => self.live_here().await?,
        };
        let (mut held, mut failed) = (0, None);
        for runner in &live {
            let hold = holds.iter().find(|hold| hold.runner == runner.id);
            let done = match standing.verdict(runner) {
                Some(verdict) => {
                    held += 1;
                    self.carry_out(runner, &verdict, hold).await
                }
                None => match hold {
                    Some(hold) => self.let_go(runner, hold).await,
                    None => Ok(()),
                },
            };
            // One that cannot be held does not keep the others from it; the next run tries again.
            if let Err(error) = done {
                tracing::warn!(runner = %runner.id, error = %chain(&error), "a budget could not act");
                failed = Some(error);
            }
        }
        for hold in holds.iter().filter(|hold| live.iter().all(|one| one.id != hold.runner)) {
            store.budget_unhold(hold.runner).await?;
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(format!("{held} runners are held or stopped by budgets")),
        }
    }

    pub(crate) async fn live_here(&self) -> Result<Vec<Runner>, Error> {
        let node = Some(self.inner.node.id);
        let filter = RunnerFilter { node, live_only: true, ..RunnerFilter::default() };
        let listed = self.inner.store.runner_list(&filter).await?;
        Ok(listed.into_iter().map(|(runner, _)| runner).collect())
    }

    async fn carry_out(
        &self,
        runner: &Runner,
        verdict: &Verdict<'_>,
        hold: Option<&BudgetHold>,
    ) -> Result<(), Error> {
        match verdict.step.action {
            Action::Notify => Ok(()),
            Action::Ask | Action::Pause => self.hold(runner, verdict, hold).await,
            Action::StopAtTurnEnd if is_at_turn_end(runner) => self.stop_for(runner, verdict).await,
            Action::StopAtTurnEnd => Ok(()),
            Action::StopNow => self.stop_for(runner, verdict).await,
        }
    }

    async fn stop_for(&self, runner: &Runner, verdict: &Verdict<'_>) -> Result<(), Error> {
        if matches!(&runner.state, RunnerState::Stopping { stop, .. } if stop.after == After::End) {
            return Ok(());
        }
        let stop = Stop {
            by: verdict.budget.because(&verdict.period, verdict.used),
            grace_ms: u64::try_from(self.inner.settings.grace.as_millis()).unwrap_or(u64::MAX),
            force: false,
            after: After::End,
        };
        self.apply_to(runner, Input::Stop(stop), &Caller::daemon()).await.map(drop)
    }

    async fn hold(
        &self,
        runner: &Runner,
        verdict: &Verdict<'_>,
        hold: Option<&BudgetHold>,
    ) -> Result<(), Error> {
        // One that does not run yet is held once it does.
        if !matches!(runner.state, RunnerState::Running { .. } | RunnerState::Unresponsive { .. }) {
            return Ok(());
        }
        let is_paused = runner.desired == Desired::Paused;
        let new = BudgetHold {
            runner: runner.id,
            budget: verdict.budget.id,
            period: verdict.period.key(),
            step: verdict.step,
            was_paused: hold.map_or(is_paused, |hold| hold.was_paused),
            at: self.now(),
        };
        let is_noted = hold.is_some_and(|hold| {
            (hold.budget, &hold.period, hold.step) == (new.budget, &new.period, new.step)
        });
        if !is_noted {
            // Before the pause: one that nobody has noted would never be let go.
            let asks = verdict.step.action == Action::Ask;
            let lift = asks.then(|| verdict.budget.lift_hold(&verdict.period, runner.id));
            let by = self.by(&Caller::daemon(), None);
            self.inner
                .store
                .budget_hold(verdict.budget, runner, &new, lift.as_deref(), &by)
                .await?;
            self.inner.relay_wake.notify_one();
        }
        if is_paused {
            return Ok(());
        }
        self.apply_to(runner, Input::Pause, &Caller::daemon()).await.map(drop)
    }

    async fn let_go(&self, runner: &Runner, hold: &BudgetHold) -> Result<(), Error> {
        if runner.desired == Desired::Paused && !hold.was_paused {
            self.apply_to(runner, Input::Unpause, &Caller::daemon()).await?;
        }
        Ok(self.inner.store.budget_unhold(runner.id).await?)
    }

    fn time_is_due(&self) -> bool {
        let now = self.inner.clock.monotonic();
        let last = self.inner.budget_counted.last().at;
        last.is_none_or(|last| now.saturating_sub(last) >= TIME_EVERY)
    }

    /// Counts how long the runners of this host ran since they were looked at last.
    async fn count_time(&self, budgets: &[Budget], live: &[Runner]) -> Result<(), Error> {
        let (now, monotonic) = (self.now(), self.inner.clock.monotonic());
        let clocks = self.inner.store.budget_clocks(self.inner.node.id).await?;
        let known = self.inner.budget_counted.last().of_runners.clone();
        let since = |runner: &Runner| {
            let of_it = budgets.iter().filter(|budget| {
                budget.unit == Unit::Time
                    && budget.scope.covers(Some(runner.project), Some(runner.id))
            });
            of_it.map(|budget| budget.created_at).min()
        };
        let mut times = Vec::new();
        for clock in &clocks {
            let passed = known
                .get(&clock.runner.id)
                .filter(|(counted, _)| *counted == clock.counted)
                .map(|(_, then)| monotonic.saturating_sub(*then));
            times.push(time_of(&clock.runner, Some(clock.counted), passed, now));
        }
        for runner in live.iter().filter(|one| clocks.iter().all(|c| c.runner.id != one.id)) {
            if let Some(since) = since(runner).filter(|_| is_running(runner)) {
                let mut time = time_of(runner, None, None, now);
                let from = runner.started_at.unwrap_or(now).max(since);
                time.ran = if from < now { vec![(from, now)] } else { Vec::new() };
                times.push(time);
            }
        }
        self.inner.store.budget_ran(&times, &self.by(&Caller::daemon(), None), now).await?;
        let counted =
            times.iter().filter_map(|time| Some((time.runner.id, (time.counted?, monotonic))));
        let of_runners = counted.collect();
        *self.inner.budget_counted.last() = Last { at: Some(monotonic), of_runners };
        Ok(())
    }
}

/// When its turn is over, or nobody can tell: the assistant does not say, or has not begun.
fn is_at_turn_end(runner: &Runner) -> bool {
    match runner.activity {
        Activity::Idle | Activity::NeedsInput | Activity::Unknown => true,
        Activity::Working | Activity::NeedsPermission | Activity::RateLimited => false,
    }
}

fn is_running(runner: &Runner) -> bool {
    runner.state.process().is_some() && runner.desired != Desired::Paused
}

/// How long a runner ran since `seen`. `passed`: by the monotonic clock, where this daemon has counted
/// it before; a clock that was set meanwhile adds nothing and takes nothing.
fn time_of(
    runner: &Runner,
    seen: Option<Timestamp>,
    passed: Option<Duration>,
    now: Timestamp,
) -> BudgetTime<'_> {
    let mut ran = Vec::new();
    if let Some(seen) = seen {
        let from = match passed.and_then(|passed| now.checked_sub(passed).ok()) {
            Some(from) if from.duration_since(seen).unsigned_abs() > STEADY => from,
            Some(_) | None => seen,
        };
        let (ended, started) = match runner.state.ended() {
            Some((_, at)) => (Some(at), None),
            None => (runner.last_end.as_ref().map(|end| end.at), runner.started_at),
        };
        // What ended since, and what began since.
        if let Some(ended) = ended.filter(|ended| *ended > from) {
            ran.push((from, ended.min(now)));
        }
        if is_running(runner) {
            let from = started.map_or(from, |started| started.max(from));
            ran.push((from, now));
        }
        ran.retain(|(from, until)| from < until);
    }
    let counted = (!runner.is_terminal()).then_some(now);
    BudgetTime { runner, seen, ran, counted }
}

#[cfg(test)]
mod tests;
