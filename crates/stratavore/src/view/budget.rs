//! Budgets, and what they have counted.

use jiff::Timestamp;
use serde::Serialize;
use stratavore_proto::v1;

use super::{given, time};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct BudgetView {
    pub id: String,
    pub name: String,
    pub scope: String,
    pub project: Option<String>,
    pub project_id: Option<String>,
    pub runner: Option<String>,
    pub runner_id: Option<String>,
    pub every: String,
    pub zone: Option<String>,
    pub unit: String,
    pub amount: i64,
    pub reserve: i64,
    pub steps: Vec<StepView>,
    pub periods: Vec<PeriodView>,
    pub created_at: Option<Timestamp>,
    pub removed_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StepView {
    pub percent: u32,
    pub action: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PeriodView {
    pub starts_at: Option<Timestamp>,
    pub ends_at: Option<Timestamp>,
    pub runner_id: Option<String>,
    pub used: i64,
    pub reserved: i64,
    pub reached: Vec<StepView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ShareView {
    pub runner_id: String,
    pub runner: String,
    pub used: i64,
    pub reserved: i64,
    pub allowed: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct BudgetDetailView {
    pub budget: Option<BudgetView>,
    pub shares: Vec<ShareView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct BudgetHistoryView {
    pub budget: Option<BudgetView>,
    pub periods: Vec<PeriodView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct AllowedView {
    pub budget: Option<BudgetView>,
    pub runner_id: String,
    pub runner: String,
    pub until: Option<Timestamp>,
}

fn steps(steps: &[v1::BudgetStep]) -> Vec<StepView> {
    let view =
        |step: &v1::BudgetStep| StepView { percent: step.percent, action: step.action.clone() };
    steps.iter().map(view).collect()
}

impl From<&v1::Budget> for BudgetView {
    fn from(budget: &v1::Budget) -> Self {
        Self {
            id: budget.id.clone(),
            name: budget.name.clone(),
            scope: budget.scope.clone(),
            project: given(&budget.project),
            project_id: given(&budget.project_id),
            runner: given(&budget.runner),
            runner_id: given(&budget.runner_id),
            every: budget.every.clone(),
            zone: given(&budget.zone),
            unit: budget.unit.clone(),
            amount: budget.amount,
            reserve: budget.reserve,
            steps: steps(&budget.steps),
            periods: budget.periods.iter().map(PeriodView::from).collect(),
            created_at: time(budget.created_at_us),
            removed_at: time(budget.removed_at_us),
        }
    }
}

impl From<&v1::BudgetPeriod> for PeriodView {
    fn from(period: &v1::BudgetPeriod) -> Self {
        Self {
            starts_at: time(period.starts_at_us),
            ends_at: time(period.ends_at_us),
            runner_id: given(&period.runner_id),
            used: period.used,
            reserved: period.reserved,
            reached: steps(&period.reached),
        }
    }
}

impl From<&v1::BudgetDetail> for BudgetDetailView {
    fn from(detail: &v1::BudgetDetail) -> Self {
        let share = |share: &v1::BudgetShare| ShareView {
            runner_id: share.runner_id.clone(),
            runner: share.runner.clone(),
            used: share.used,
            reserved: share.reserved,
            allowed: share.allowed,
        };
        Self {
            budget: detail.budget.as_ref().map(BudgetView::from),
            shares: detail.shares.iter().map(share).collect(),
        }
    }
}

impl From<&v1::BudgetHistory> for BudgetHistoryView {
    fn from(history: &v1::BudgetHistory) -> Self {
        Self {
            budget: history.budget.as_ref().map(BudgetView::from),
            periods: history.periods.iter().map(PeriodView::from).collect(),
        }
    }
}

impl From<&v1::AllowedBudget> for AllowedView {
    fn from(allowed: &v1::AllowedBudget) -> Self {
        Self {
            budget: allowed.budget.as_ref().map(BudgetView::from),
            runner_id: allowed.runner_id.clone(),
            runner: allowed.runner.clone(),
            until: time(allowed.until_us),
        }
    }
}
