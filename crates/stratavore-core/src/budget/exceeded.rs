//! The refusal of a launch that a budget has no room for.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Account, Budget, Period, Scope};
use crate::RunnerId;
use crate::name::Name;

/// What one runner has reserved and not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    pub runner: RunnerId,
    pub name: Name,
    pub open: i64,
}

/// Why a launch does not fit into a budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetExceeded {
    pub budget: Budget,
    pub period: Period,
    pub account: Account,
    /// How many runners were asked for.
    pub launches: i64,
    /// Who has reserved what, the most first.
    pub holders: Vec<Reserved>,
}

/// How many holders are named.
const NAMED: usize = 8;

impl std::error::Error for BudgetExceeded {}

impl fmt::Display for BudgetExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { budget, account, launches, holders, .. } = self;
        let show = |amount| budget.unit.show(amount);
        let whose = match budget.scope {
            Scope::Global => "of all projects",
            Scope::Project(_) => "of the project",
            Scope::Runner { .. } => "of the runner",
        };
        write!(
            f,
            "the budget `{}` {whose} is {}: {} used, {} reserved, {} asked for",
            budget.name,
            budget.limit(),
            show(account.used),
            show(account.reserved),
            show(budget.reserve.saturating_mul(*launches)),
        )?;
        if !holders.is_empty() {
            write!(f, "; reserved by ")?;
            for (i, holder) in holders.iter().take(NAMED).enumerate() {
                let comma = if i == 0 { "" } else { ", " };
                write!(f, "{comma}{} ({})", holder.name, show(holder.open))?;
            }
            if holders.len() > NAMED {
                write!(f, " and {} more", holders.len() - NAMED)?;
            }
        }
        Ok(())
    }
}

impl BudgetExceeded {
    /// What would lift it.
    pub fn hint(&self) -> String {
        let Self { budget, period, account, holders, .. } = self;
        // What is reserved and not used is free again once its runner ends.
        let is_reserved = !holders.is_empty() && account.used < budget.amount;
        budget.lift(period, is_reserved.then(|| "stop a runner that has reserved".into()))
    }
}
