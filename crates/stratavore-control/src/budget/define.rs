//! What people ask for, made a budget or refused with what to do instead.

use std::collections::BTreeSet;

use stratavore_core::BudgetId;
use stratavore_core::budget::{Action, Budget, Every, Scope, Step, Unit, Zone, usual_ladder};

use super::{BUDGETS_MAX, NewBudget};
use crate::control::Control;
use crate::error::Error;

impl Control {
    pub(super) async fn budget_made(&self, new: &NewBudget) -> Result<Budget, Error> {
        let there = self.inner.store.budget_list(None).await?.len();
        if there >= BUDGETS_MAX {
            return Err(Error::invalid(
                format!("there are {there} budgets, which is the limit"),
                "remove one that nobody needs: stratavore budget rm NAME",
            ));
        }
        let name = new.name.parse().map_err(|error: stratavore_core::name::NameError| {
            Error::invalid(error.to_string(), "choose another name")
        })?;
        let unit = unit(&new.unit)?.ok_or_else(|| {
            let message = format!("there is no budget `{}` yet, and no amount is given", new.name);
            Error::invalid(message, "give --tokens, --money or --time")
        })?;
        let amount = amount_of(unit, "the amount", &new.amount)?;
        let reserve = match new.reserve.as_str() {
            "" => Budget::usual_reserve(amount),
            text => amount_of(unit, "--reserve", text)?,
        };
        let scope = self.scope(new).await?;
        let usual = if scope.runner().is_some() { Every::Run } else { Every::Day };
        let (now, ladder) = (self.now(), ladder(&new.steps)?.unwrap_or_else(usual_ladder));
        let budget = Budget {
            id: BudgetId::from_entropy(self.entropy()),
            name,
            scope,
            every: every(&new.every)?.unwrap_or(usual),
            zone: zone(&new.zone)?.unwrap_or_else(Zone::utc),
            unit,
            amount,
            reserve,
            ladder,
            generation: 1,
            created_at: now,
            updated_at: now,
            removed_at: None,
        };
        checked(budget)
    }

    pub(super) async fn budget_changed(
        &self,
        seen: &Budget,
        new: &NewBudget,
    ) -> Result<Budget, Error> {
        let other_scope = (!new.project.is_empty() || !new.runner.is_empty())
            && self.scope(new).await? != seen.scope;
        let is_other = [
            ("scope", other_scope),
            ("period", every(&new.every)?.is_some_and(|every| every != seen.every)),
            ("time zone", zone(&new.zone)?.is_some_and(|zone| zone != seen.zone)),
            ("unit", unit(&new.unit)?.is_some_and(|unit| unit != seen.unit)),
        ];
        if let Some((what, _)) = is_other.iter().find(|(_, other)| *other) {
            return Err(Error::invalid(
                format!("the {what} of the budget {} stays as it was made", seen.name),
                format!("remove it first: stratavore budget rm {}", seen.name),
            ));
        }
        let amount = match new.amount.as_str() {
            "" => seen.amount,
            text => amount_of(seen.unit, "the amount", text)?,
        };
        let reserve = match new.reserve.as_str() {
            // One that was never chosen goes with the amount.
            "" if seen.reserve == Budget::usual_reserve(seen.amount) => {
                Budget::usual_reserve(amount)
            }
            "" => seen.reserve.min(amount),
            text => amount_of(seen.unit, "--reserve", text)?,
        };
        checked(Budget {
            amount,
            reserve,
            ladder: ladder(&new.steps)?.unwrap_or_else(|| seen.ladder.clone()),
            generation: seen.generation + 1,
            updated_at: self.now(),
            ..seen.clone()
        })
    }

    async fn scope(&self, new: &NewBudget) -> Result<Scope, Error> {
        if !new.runner.is_empty() {
            let project = (!new.project.is_empty()).then_some(new.project.as_str());
            let runner = self.runner(&new.runner, project).await?;
            return Ok(Scope::Runner { runner: runner.id, project: runner.project });
        }
        match new.project.as_str() {
            "" => Ok(Scope::Global),
            project => Ok(Scope::Project(self.project(project).await?.id)),
        }
    }
}

fn checked(budget: Budget) -> Result<Budget, Error> {
    let hint = "give another amount, --reserve or --step: stratavore budget set --help";
    budget.check().map_err(|why| Error::invalid(why, hint))?;
    Ok(budget)
}

fn every(text: &str) -> Result<Option<Every>, Error> {
    let known = || Every::ALL.map(Every::as_str).join(", ");
    named(text, Every::parse(text), "period of budgets", known)
}

fn unit(text: &str) -> Result<Option<Unit>, Error> {
    named(text, Unit::parse(text), "unit of budgets", || Unit::ALL.map(Unit::as_str).join(", "))
}

fn zone(text: &str) -> Result<Option<Zone>, Error> {
    named(text, Zone::parse(text), "time zone", || {
        "the names of IANA, such as Europe/Berlin".into()
    })
}

fn named<T>(
    text: &str,
    found: Option<T>,
    what: &str,
    known: impl FnOnce() -> String,
) -> Result<Option<T>, Error> {
    match (text, found) {
        ("", _) => Ok(None),
        (_, Some(found)) => Ok(Some(found)),
        (text, None) => {
            let shown: String = text.chars().take(64).collect();
            let message = format!("`{}` is no {what}", shown.escape_debug());
            Err(Error::invalid(message, format!("use one of {}", known())))
        }
    }
}

pub(super) fn amount_of(unit: Unit, what: &str, text: &str) -> Result<i64, Error> {
    unit.read(text).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        let like = match unit {
            Unit::Tokens => "tokens are written as 500000, 500k or 2M",
            Unit::Money => "money is written in dollars, as 12.50",
            Unit::Time => "time is written as 90s, 30m, 8h or 1h30m",
        };
        Error::invalid(format!("{what}, `{}`, is no amount", shown.escape_debug()), like)
    })
}

fn ladder(steps: &[String]) -> Result<Option<BTreeSet<Step>>, Error> {
    if steps.is_empty() {
        return Ok(None);
    }
    let actions = || Action::ALL.map(Action::as_str).join(", ");
    let read = |text: &String| {
        text.parse::<Step>().map_err(|why| {
            Error::invalid(why, format!("a percentage and one of {}: 90=pause", actions()))
        })
    };
    steps.iter().map(read).collect::<Result<_, _>>().map(Some)
}
