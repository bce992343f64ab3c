//! Budgets: defined, looked at, and raised for one runner. What they do to runners is in `enforce.rs`.

mod define;
mod enforce;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stratavore_core::budget::{Account, Budget, Every, Period, Scope};
use stratavore_core::caller::{Caller, Principal};
use stratavore_core::event::NewEvent;
use stratavore_core::idempotency::Idempotency;
use stratavore_core::name::Reference;
use stratavore_core::runner::Runner;
use stratavore_core::{BudgetId, ProjectId, RunnerId, Timestamp};
use stratavore_store::{BudgetPeriod, BudgetShare, NewAllowance, StoreError, budget_definition};

use define::amount_of;
pub(crate) use enforce::{Counted, EVERY, EVERY_SHARED};

use crate::control::{CONFLICTS, Control};
use crate::error::Error;
use crate::project::nearest;

/// The most that a cluster has: each report is counted in all of those that it belongs to.
const BUDGETS_MAX: usize = 200;
const HISTORY_DEFAULT: u32 = 30;
const HISTORY_MAX: u32 = 1000;
/// Who has used a budget, at most so many.
const SHARES_MAX: u32 = 50;
/// Of budgets for each run, at most so many runs.
const RUNS_MAX: usize = 20;
/// How long it is known what was used in a period, and for how long by whom.
const PERIODS_KEPT: Duration = Duration::from_secs(800 * 24 * 3600);
const SHARES_KEPT: Duration = Duration::from_secs(32 * 24 * 3600);

/// A budget as somebody asks for it; what was not given is empty, and stays as it is in one that is
/// there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewBudget {
    pub name: String,
    /// By name or id. Neither this nor a runner: what everybody uses.
    pub project: String,
    pub runner: String,
    pub every: String,
    pub zone: String,
    pub unit: String,
    pub amount: String,
    pub reserve: String,
    /// Such as `90=pause`.
    pub steps: Vec<String>,
}

/// A budget with what it has counted.
#[derive(Debug, Clone)]
pub struct BudgetView {
    pub budget: Budget,
    /// What its project and its runner are called; empty if it is of none.
    pub project: String,
    pub runner: String,
    /// Those that are not over: one, or that of each runner, who has used the most first.
    pub periods: Vec<BudgetPeriod>,
}

impl Control {
    /// The budgets that are not removed: all, or those that count what a project uses.
    pub async fn budget_list(
        &self,
        caller: &Caller,
        project: Option<&str>,
    ) -> Result<Vec<BudgetView>, Error> {
        let own = self.confined_to(caller).await?;
        let project = match (&own, project) {
            (Some(own), None) => Some(own.project),
            (own, Some(wanted)) => {
                let wanted = self.project(wanted).await?.id;
                if own.as_ref().is_some_and(|own| own.project != wanted) {
                    return Err(not_its_own(caller));
                }
                Some(wanted)
            }
            (None, None) => None,
        };
        let budgets = self.inner.store.budget_list(project).await?;
        let mut current = self.inner.store.budget_current(self.now()).await?;
        for budget in &budgets {
            if let Some(periods) = current.get_mut(&budget.id) {
                periods.retain(|period| may_see(own.as_ref(), budget, period));
            }
        }
        self.budget_views(budgets, current).await
    }

    /// One of them, or one that was removed, and who has used it.
    pub async fn budget_get(
        &self,
        caller: &Caller,
        wanted: &str,
    ) -> Result<(BudgetView, Vec<BudgetShare>), Error> {
        let (budget, own) = self.budget_for(caller, wanted).await?;
        let store = &self.inner.store;
        let mut current = store.budget_current(self.now()).await?;
        current.retain(|id, _| *id == budget.id);
        let periods = current.entry(budget.id).or_default();
        periods.retain(|period| may_see(own.as_ref(), &budget, period));
        let mut shares = match periods.first() {
            Some(first) if budget.every != Every::Run => {
                store.budget_shares(budget.id, first.period, SHARES_MAX).await?
            }
            Some(_) | None => Vec::new(),
        };
        // Who has used what everybody uses is the affair of other projects.
        if let (Some(own), Scope::Global) = (&own, &budget.scope) {
            shares.retain(|share| share.runner == own.id);
        }
        let mut views = self.budget_views(vec![budget], current).await?;
        let view = views.pop().ok_or_else(|| Error::internal("a budget has no view"))?;
        Ok((view, shares))
    }

    /// What a budget has counted, the latest period first.
    pub async fn budget_history(
        &self,
        caller: &Caller,
        wanted: &str,
        limit: u32,
    ) -> Result<(Budget, Vec<BudgetPeriod>), Error> {
        let (budget, own) = self.budget_for(caller, wanted).await?;
        let limit = if limit == 0 { HISTORY_DEFAULT } else { limit.min(HISTORY_MAX) };
        let mut history = self.inner.store.budget_history(budget.id, limit).await?;
        history.retain(|period| may_see(own.as_ref(), &budget, period));
        Ok((budget, history))
    }

    /// Makes a budget, or changes one: its amount, what launches reserve, and its steps.
    pub async fn budget_set(
        &self,
        caller: &Caller,
        new: NewBudget,
        key: Option<Idempotency>,
    ) -> Result<BudgetView, Error> {
        self.may_change(caller, "set budgets")?;
        if let Some(answer) = self.answered::<Budget>(key.as_ref()).await? {
            return self.budget_view(answer).await;
        }
        let wanted = Reference::parse(&new.name, "bud");
        for _ in 0..CONFLICTS {
            let there = match self.inner.store.budget_find(&wanted).await {
                Ok(found) => Some(found).filter(|budget| budget.removed_at.is_none()),
                Err(StoreError::NotFound { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            let by = self.by(caller, key.as_ref());
            let written = match &there {
                None => {
                    let made = self.budget_made(&new).await?;
                    self.inner.store.budget_create(&made, &by, key.as_ref()).await
                }
                Some(seen) => {
                    let next = self.budget_changed(seen, &new).await?;
                    if same(seen, &next) {
                        return self.budget_view(seen.clone()).await;
                    }
                    let event = NewEvent::new("budget.changed", budget_definition(&next));
                    self.inner.store.budget_write(seen, &next, event, &by, key.as_ref()).await
                }
            };
            match written {
                Ok(budget) => {
                    self.budgets_changed();
                    return self.budget_view(budget).await;
                }
                // Somebody has made it, or it has reached a step.
                Err(StoreError::Conflict { .. } | StoreError::NameTaken { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict { what: format!("budget {}", new.name) }.into())
    }

    /// Removes a budget; what it has counted can be looked at still.
    pub async fn budget_remove(
        &self,
        caller: &Caller,
        wanted: &str,
        key: Option<Idempotency>,
    ) -> Result<Budget, Error> {
        self.may_change(caller, "remove budgets")?;
        if let Some(answer) = self.answered(key.as_ref()).await? {
            return Ok(answer);
        }
        for _ in 0..CONFLICTS {
            let seen = self.budget(wanted).await?;
            if seen.removed_at.is_some() {
                return Ok(seen);
            }
            let now = self.now();
            let (generation, removed_at) = (seen.generation + 1, Some(now));
            let next = Budget { generation, removed_at, updated_at: now, ..seen.clone() };
            let event = NewEvent::new("budget.removed", budget_definition(&seen));
            let by = self.by(caller, key.as_ref());
            match self.inner.store.budget_write(&seen, &next, event, &by, key.as_ref()).await {
                Ok(removed) => {
                    self.budgets_changed();
                    return Ok(removed);
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict { what: format!("budget {wanted}") }.into())
    }

    /// Lets a runner go on although a budget holds it, or will: until it has used `amount` more, or to
    /// the end of the period. Without a name, the budget that holds it is meant.
    ///
    /// Answers the budget, and when that ends.
    pub async fn budget_allow(
        &self,
        caller: &Caller,
        runner: &Runner,
        budget: Option<&str>,
        amount: Option<&str>,
        key: Option<Idempotency>,
    ) -> Result<(Budget, Option<Timestamp>), Error> {
        self.may_change(caller, "let runners go on beyond a budget")?;
        if runner.is_terminal() {
            return Err(Error::invalid(
                format!("{} has ended", runner.name),
                format!("carry it on, then allow that: stratavore restart {}", runner.name),
            ));
        }
        let budget = match budget {
            Some(wanted) => self.budget(wanted).await?,
            None => self.holder_of(runner).await?,
        };
        if budget.removed_at.is_some()
            || !budget.scope.covers(Some(runner.project), Some(runner.id))
        {
            return Err(Error::invalid(
                format!("the budget {} does not count what {} uses", budget.name, runner.name),
                format!("see which do: stratavore budget list --project {}", runner.project),
            ));
        }
        let amount = amount.map(|text| amount_of(budget.unit, "--amount", text)).transpose()?;
        let now = self.now();
        let period = budget.period(now, Some(runner.id)).ok_or_else(|| no_period(&budget))?;
        let wish = NewAllowance { budget: budget.id, period, amount };
        let by = self.by(caller, key.as_ref());
        self.inner.store.budget_allow(runner, wish, &by, now, key.as_ref()).await?;
        self.budgets_changed();
        Ok((budget, period.ends()))
    }

    /// Has budgets looked at now: something was counted, or one was changed.
    pub fn budgets_changed(&self) {
        self.inner.relay_wake.notify_one();
        self.inner.budget_wake.notify_one();
    }

    /// Forgets what was counted long ago.
    pub(crate) async fn purge_budgets(&self) -> Result<(), Error> {
        let now = self.now_for_expiry();
        let (shares, periods) = (now - SHARES_KEPT, now - PERIODS_KEPT);
        Ok(self.inner.store.budget_tidy(shares, periods, now).await?)
    }

    /// The budget that a person means.
    async fn budget(&self, wanted: &str) -> Result<Budget, Error> {
        match self.inner.store.budget_find(&Reference::parse(wanted, "bud")).await {
            Err(StoreError::NotFound { .. }) => {
                let known = self.inner.store.budget_list(None).await?;
                let names = known.into_iter().map(|budget| budget.name.to_string()).collect();
                let nearest = nearest(wanted, names);
                Err(Error::NotFound { noun: "budget", wanted: wanted.into(), nearest })
            }
            found => Ok(found?),
        }
    }

    /// The same for one who may see only those of its own project.
    async fn budget_for(
        &self,
        caller: &Caller,
        wanted: &str,
    ) -> Result<(Budget, Option<Runner>), Error> {
        let own = self.confined_to(caller).await?;
        let budget = self.budget(wanted).await?;
        match (&own, budget.scope.project()) {
            (Some(own), Some(project)) if own.project != project => Err(not_its_own(caller)),
            _ => Ok((budget, own)),
        }
    }

    /// The runner inside of which the caller is, and whose project it may look at.
    async fn confined_to(&self, caller: &Caller) -> Result<Option<Runner>, Error> {
        match &caller.principal {
            Principal::Inside(runner) => Ok(Some(self.inner.store.runner_get(*runner).await?)),
            Principal::User { .. }
            | Principal::Daemon
            | Principal::Agent(_)
            | Principal::Node(_) => Ok(None),
        }
    }

    async fn holder_of(&self, runner: &Runner) -> Result<Budget, Error> {
        let holds = self.inner.store.budget_holds(Some(runner.node)).await?;
        match holds.into_iter().find(|hold| hold.runner == runner.id) {
            Some(hold) => self.budget(&hold.budget.to_string()).await,
            None => Err(Error::invalid(
                format!("no budget holds {}", runner.name),
                format!("name one: stratavore budget allow {} --budget NAME", runner.name),
            )),
        }
    }

    async fn budget_view(&self, budget: Budget) -> Result<BudgetView, Error> {
        let mut current = self.inner.store.budget_current(self.now()).await?;
        current.retain(|id, _| *id == budget.id);
        let mut views = self.budget_views(vec![budget], current).await?;
        views.pop().ok_or_else(|| Error::internal("a budget has no view"))
    }

    async fn budget_views(
        &self,
        budgets: Vec<Budget>,
        mut current: BTreeMap<BudgetId, Vec<BudgetPeriod>>,
    ) -> Result<Vec<BudgetView>, Error> {
        let projects: BTreeSet<ProjectId> =
            budgets.iter().filter_map(|budget| budget.scope.project()).collect();
        let names = self.inner.store.project_names(&projects).await?;
        let (now, mut views) = (self.now(), Vec::with_capacity(budgets.len()));
        for budget in budgets {
            let project = budget.scope.project();
            let project = project.and_then(|id| names.get(&id).cloned()).unwrap_or_default();
            let runner = match budget.scope.runner() {
                Some(id) => self.runner_name(id).await?,
                None => String::new(),
            };
            let mut periods = current.remove(&budget.id).unwrap_or_default();
            periods.sort_by_key(|period| std::cmp::Reverse(period.account.used));
            periods.truncate(RUNS_MAX);
            // One that nothing was counted in yet is shown as well.
            if periods.is_empty()
                && let Some(period) = budget.period(now, budget.scope.runner())
            {
                periods.push(BudgetPeriod {
                    period,
                    ended_at: None,
                    account: Account::default(),
                    updated_at: budget.created_at,
                });
            }
            views.push(BudgetView { budget, project, runner, periods });
        }
        Ok(views)
    }

    async fn runner_name(&self, id: RunnerId) -> Result<String, Error> {
        match self.inner.store.runner_get(id).await {
            Ok(runner) => Ok(runner.name.to_string()),
            Err(StoreError::NotFound { .. }) => Ok(id.to_string()),
            Err(error) => Err(error.into()),
        }
    }
}

/// True if nothing changes but the times.
fn same(seen: &Budget, next: &Budget) -> bool {
    let as_seen =
        Budget { generation: seen.generation, updated_at: seen.updated_at, ..next.clone() };
    as_seen == *seen
}

/// Of a budget of everybody's, what another runner has used is nothing for a program inside of one.
fn may_see(own: Option<&Runner>, budget: &Budget, period: &BudgetPeriod) -> bool {
    match (own, &budget.scope, period.period) {
        (Some(own), Scope::Global, Period::Run(runner)) => runner == own.id,
        _ => true,
    }
}

fn no_period(budget: &Budget) -> Error {
    Error::internal(format!("{} has no period now", budget.id))
}

fn not_its_own(caller: &Caller) -> Error {
    let message = format!("{caller} may not look at the budgets of another project");
    Error::Forbidden { message }
}
