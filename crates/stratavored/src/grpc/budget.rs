//! Budgets.

use stratavore_control::{BudgetView, Error, NewBudget};
use stratavore_core::budget::{Budget, Every, Period, Step};
use stratavore_core::caller::Caller;
use stratavore_core::idempotency::Idempotency;
use stratavore_proto::v1;
use stratavore_proto::v1::budgets_server::Budgets;
use stratavore_store::{BudgetPeriod, BudgetShare};
use tonic::{Request, Response, Status};

use super::problem::status;
use super::{Api, caller, given, keyed};

fn step(step: &Step) -> v1::BudgetStep {
    v1::BudgetStep { percent: step.percent.into(), action: step.action.as_str().into() }
}

fn period(found: &BudgetPeriod) -> v1::BudgetPeriod {
    let (starts, ends, runner_id) = match found.period {
        Period::Span { starts, ends } => (Some(starts), Some(ends), String::new()),
        Period::Run(runner) => (None, found.ended_at, runner.to_string()),
    };
    v1::BudgetPeriod {
        starts_at_us: starts.map_or(0, |at| at.as_microsecond()),
        ends_at_us: ends.map_or(0, |at| at.as_microsecond()),
        runner_id,
        used: found.account.used,
        reserved: found.account.reserved,
        reached: found.account.reached.iter().map(step).collect(),
    }
}

fn budget(budget: Budget) -> v1::Budget {
    let text = |id: Option<String>| id.unwrap_or_default();
    v1::Budget {
        id: budget.id.to_string(),
        scope: budget.scope.as_str().into(),
        project_id: text(budget.scope.project().map(|id| id.to_string())),
        project: String::new(),
        runner_id: text(budget.scope.runner().map(|id| id.to_string())),
        runner: String::new(),
        every: budget.every.as_str().into(),
        zone: if budget.every == Every::Run { String::new() } else { budget.zone.to_string() },
        unit: budget.unit.as_str().into(),
        amount: budget.amount,
        reserve: budget.reserve,
        steps: budget.ladder.iter().map(step).collect(),
        periods: Vec::new(),
        created_at_us: budget.created_at.as_microsecond(),
        removed_at_us: budget.removed_at.map_or(0, |at| at.as_microsecond()),
        name: budget.name.to_string(),
    }
}

fn view(found: BudgetView) -> v1::Budget {
    v1::Budget {
        project: found.project,
        runner: found.runner,
        periods: found.periods.iter().map(period).collect(),
        ..budget(found.budget)
    }
}

fn share(found: BudgetShare) -> v1::BudgetShare {
    v1::BudgetShare {
        runner_id: found.runner.to_string(),
        runner: found.name.to_string(),
        used: found.share.settled,
        reserved: found.share.open(),
        allowed: found.share.allowed,
    }
}

#[tonic::async_trait]
impl Budgets for Api {
    async fn list(
        &self,
        request: Request<v1::ListBudgets>,
    ) -> Result<Response<v1::BudgetList>, Status> {
        let caller = caller(&request)?;
        let project = request.into_inner().project;
        let found = self.control.budget_list(&caller, given(&project)).await;
        let found = self.told(&caller, "budget.list", &project, found).await?;
        Ok(Response::new(v1::BudgetList { budgets: found.into_iter().map(view).collect() }))
    }

    async fn show(
        &self,
        request: Request<v1::ShowBudget>,
    ) -> Result<Response<v1::BudgetDetail>, Status> {
        let caller = caller(&request)?;
        let wanted = request.into_inner().budget;
        let found = self.control.budget_get(&caller, &wanted).await;
        let (found, shares) = self.told(&caller, "budget.show", &wanted, found).await?;
        Ok(Response::new(v1::BudgetDetail {
            budget: Some(view(found)),
            shares: shares.into_iter().map(share).collect(),
        }))
    }

    async fn history(
        &self,
        request: Request<v1::BudgetHistoryOf>,
    ) -> Result<Response<v1::BudgetHistory>, Status> {
        let caller = caller(&request)?;
        let v1::BudgetHistoryOf { budget: wanted, limit } = request.into_inner();
        let found = self.control.budget_history(&caller, &wanted, limit).await;
        let (found, periods) = self.told(&caller, "budget.history", &wanted, found).await?;
        Ok(Response::new(v1::BudgetHistory {
            budget: Some(budget(found)),
            periods: periods.iter().map(period).collect(),
        }))
    }

    async fn set(&self, request: Request<v1::SetBudget>) -> Result<Response<v1::Budget>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let key = keyed!("budget.set", request);
        let new = NewBudget {
            name: request.name,
            project: request.project,
            runner: request.runner,
            every: request.every,
            zone: request.zone,
            unit: request.unit,
            amount: request.amount,
            reserve: request.reserve,
            steps: request.steps,
        };
        let (control, by, on) = (self.control.clone(), caller.clone(), new.name.clone());
        let work = async move { control.budget_set(&caller, new, key).await };
        let found = self.control.decided(&by, "budget.set", &on, work).await.map_err(status)?;
        Ok(Response::new(view(found)))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveBudget>,
    ) -> Result<Response<v1::Budget>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let key = keyed!("budget.remove", request);
        let (control, by, on) = (self.control.clone(), caller.clone(), request.budget.clone());
        let work = async move { control.budget_remove(&caller, &request.budget, key).await };
        let removed =
            self.control.decided(&by, "budget.remove", &on, work).await.map_err(status)?;
        Ok(Response::new(budget(removed)))
    }

    async fn allow(
        &self,
        request: Request<v1::AllowBudget>,
    ) -> Result<Response<v1::AllowedBudget>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let key = keyed!("budget.allow", request);
        let (api, by, on) = (self.clone(), caller.clone(), request.runner.clone());
        let work = async move { api.allow_budget(&caller, request, key).await };
        let allowed = self.control.decided(&by, "budget.allow", &on, work).await.map_err(status)?;
        Ok(Response::new(allowed))
    }
}

impl Api {
    /// Who may not look is refused, and that goes on the record.
    async fn told<T>(
        &self,
        caller: &Caller,
        what: &'static str,
        on: &str,
        found: Result<T, Error>,
    ) -> Result<T, Status> {
        if let Err(error) = &found {
            self.control.refused(caller, what, on, error).await;
        }
        found.map_err(status)
    }

    async fn allow_budget(
        &self,
        caller: &Caller,
        request: v1::AllowBudget,
        key: Option<Idempotency>,
    ) -> Result<v1::AllowedBudget, Error> {
        let v1::AllowBudget { runner, project, budget: wanted, amount, .. } = request;
        let runner = self.control.runner(&runner, given(&project)).await?;
        let (found, until) =
            self.control.budget_allow(caller, &runner, given(&wanted), given(&amount), key).await?;
        Ok(v1::AllowedBudget {
            budget: Some(budget(found)),
            runner_id: runner.id.to_string(),
            runner: runner.name.to_string(),
            until_us: until.map_or(0, |at| at.as_microsecond()),
        })
    }
}
