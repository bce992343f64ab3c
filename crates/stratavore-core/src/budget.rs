//! Budgets: how much may be used in a period, and what is done as it is used up.
//!
//! What was used is counted as it is reported, in the period in which it was used. A launch reserves
//! a part beforehand, so that many at once do not all see the same room; what a runner uses is taken
//! from its reservation first.
//!
//! A budget cannot see a request before it is paid for. How far it can be overrun is
//! [`Action::overshoot`].
//!
//! Invariant: what is reserved and used together fits when a launch is admitted.
//! Invariant: a step is reached once in a period, unless the budget is raised above it in between.

mod exceeded;
mod period;
mod unit;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::{BudgetId, ProjectId, RunnerId};

pub use exceeded::{BudgetExceeded, Reserved};
pub use period::{Every, Period, Zone};
pub use unit::Unit;

/// Whose use is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everybody's, on every node.
    Global,
    Project(ProjectId),
    Runner {
        runner: RunnerId,
        project: ProjectId,
    },
}

impl Scope {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Project(_) => "project",
            Self::Runner { .. } => "runner",
        }
    }

    pub fn project(&self) -> Option<ProjectId> {
        match self {
            Self::Global => None,
            Self::Project(project) | Self::Runner { project, .. } => Some(*project),
        }
    }

    pub fn runner(&self) -> Option<RunnerId> {
        match self {
            Self::Global | Self::Project(_) => None,
            Self::Runner { runner, .. } => Some(*runner),
        }
    }

    /// True if what a runner of a project uses, or what is used by no runner, counts.
    pub fn covers(&self, project: Option<ProjectId>, runner: Option<RunnerId>) -> bool {
        match self {
            Self::Global => true,
            Self::Project(its) => project == Some(*its),
            Self::Runner { runner: its, .. } => runner == Some(*its),
        }
    }
}

/// What is done where a step is reached; the strongest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// People are told.
    Notify,
    /// Runners are paused, and a person is asked whether each may go on.
    Ask,
    /// Runners are paused until the budget has room again.
    Pause,
    /// Runners are stopped once they have done what they are at.
    StopAtTurnEnd,
    StopNow,
}

impl Action {
    pub const ALL: [Action; 5] =
        [Self::Notify, Self::Ask, Self::Pause, Self::StopAtTurnEnd, Self::StopNow];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Ask => "ask",
            Self::Pause => "pause",
            Self::StopAtTurnEnd => "stop_at_turn_end",
            Self::StopNow => "stop_now",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }

    /// The most that can be used beyond a step with this action by `live` runners, where no
    /// response uses more than `response` and no turn more than `turn`; `None`: there is no bound.
    ///
    /// A response is counted when it is complete. So the one that reaches the step may go beyond
    /// it, and each runner may have another one under way by the time it is held. What is reported
    /// later than that (a daemon that was down, an assistant that writes late) comes on top.
    pub fn overshoot(self, live: u64, response: u64, turn: u64) -> Option<u64> {
        match self {
            Self::Notify => None,
            Self::Ask | Self::Pause | Self::StopNow => {
                Some(response.saturating_mul(live.saturating_add(1)))
            }
            Self::StopAtTurnEnd => Some(response.saturating_add(turn.saturating_mul(live))),
        }
    }
}

/// One of the ladder: at so many percent of the amount, this is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Step {
    pub percent: u16,
    pub action: Action,
}

/// The most that a ladder has.
pub const STEPS_MAX: usize = 16;
/// The highest step, in percent.
pub const PERCENT_MAX: u16 = 1000;

/// The ladder of a budget that names none: people are told at three quarters, nine tenths, and all
/// of it. Launches are refused at all of it, whatever the ladder.
pub fn usual_ladder() -> BTreeSet<Step> {
    [75, 90, 100].map(|percent| Step { percent, action: Action::Notify }).into()
}

/// A limit on what is used in each period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub id: BudgetId,
    /// Unique among those that are not removed.
    pub name: Name,
    pub scope: Scope,
    pub every: Every,
    pub zone: Zone,
    pub unit: Unit,
    /// Greater than zero.
    pub amount: i64,
    /// What a launch reserves; greater than zero and at most the amount.
    pub reserve: i64,
    pub ladder: BTreeSet<Step>,
    /// Counts its events; equals the sequence number of the latest.
    pub generation: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub removed_at: Option<Timestamp>,
}

/// What a budget has counted in a period.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Account {
    pub used: i64,
    /// By runners that have not used it yet.
    pub reserved: i64,
    /// The steps that were reached, and told of.
    pub reached: BTreeSet<Step>,
}

/// What one runner has of a budget in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Share {
    pub reserved: i64,
    pub settled: i64,
    /// Up to which use of its own it may go on although the budget would hold it.
    pub allowed: Option<i64>,
    /// It has ended, and what it had reserved is free.
    pub released: bool,
}

impl Share {
    /// What it has reserved and not used.
    pub fn open(&self) -> i64 {
        if self.released { 0 } else { self.reserved.saturating_sub(self.settled).max(0) }
    }

    /// Counts what the runner has used; answers by how much its open reservation has changed.
    pub fn settle(&mut self, amount: i64) -> i64 {
        let before = self.open();
        self.settled = self.settled.saturating_add(amount);
        self.open() - before
    }

    fn is_allowed(&self) -> bool {
        self.allowed.is_some_and(|upto| self.settled < upto)
    }
}

impl Budget {
    /// A reservation for those that name none: a hundredth of the amount.
    pub fn usual_reserve(amount: i64) -> i64 {
        (amount / 100).max(1)
    }

    /// What is wrong with it, if anything is.
    pub fn check(&self) -> Result<(), String> {
        if self.amount <= 0 {
            return Err("the amount of a budget is greater than zero".into());
        }
        if !(1..=self.amount).contains(&self.reserve) {
            let (reserve, amount) = (self.unit.show(self.reserve), self.unit.show(self.amount));
            return Err(format!("a launch would reserve {reserve} of {amount}"));
        }
        if self.ladder.len() > STEPS_MAX {
            return Err(format!("{} steps are over the limit of {STEPS_MAX}", self.ladder.len()));
        }
        if let Some(step) = self.ladder.iter().find(|s| !(1..=PERCENT_MAX).contains(&s.percent)) {
            return Err(format!("{} % is no step: 1 to {PERCENT_MAX} are", step.percent));
        }
        Ok(())
    }

    /// The period that something at `at` counts in; `None`: only in a runner's, and it was none's.
    pub fn period(&self, at: Timestamp, runner: Option<RunnerId>) -> Option<Period> {
        match self.every {
            Every::Run => runner.map(Period::Run),
            Every::Hour | Every::Day | Every::Week | Every::Month => self.zone.span(self.every, at),
        }
    }

    /// True if a launch has to reserve: where each runner has a period of its own, there is nothing
    /// that others could take.
    pub fn reserves(&self) -> bool {
        self.every != Every::Run
    }

    pub fn is_reached(&self, step: &Step, used: i64) -> bool {
        i128::from(used) * 100 >= i128::from(self.amount) * i128::from(step.percent)
    }

    /// Whether `launches` more runners fit; if so, what they reserve together.
    pub fn fits(&self, account: &Account, launches: i64) -> Option<i64> {
        let asked = self.reserve.saturating_mul(launches);
        let taken = account.used.max(0).saturating_add(account.reserved);
        (taken.saturating_add(asked) <= self.amount).then_some(asked)
    }

    /// Counts what was used, and answers the steps that are reached by it, lowest first.
    pub fn charge(&self, account: &mut Account, amount: i64) -> Vec<Step> {
        account.used = account.used.saturating_add(amount);
        self.newly_reached(account)
    }

    /// After the budget itself was changed: forgets the steps that are not reached any more, and
    /// answers those that are now and were not told of.
    pub fn changed(&self, account: &mut Account) -> Vec<Step> {
        let used = account.used;
        account.reached.retain(|step| self.ladder.contains(step) && self.is_reached(step, used));
        self.newly_reached(account)
    }

    fn newly_reached(&self, account: &mut Account) -> Vec<Step> {
        let reached = self.ladder.iter().filter(|step| self.is_reached(step, account.used));
        let new: Vec<Step> =
            reached.filter(|step| !account.reached.contains(step)).copied().collect();
        account.reached.extend(&new);
        new
    }

    /// The strongest that has to be done to a runner now, by what is used and not by what was told.
    pub fn in_force(&self, used: i64, share: &Share) -> Option<Step> {
        let reached = self.ladder.iter().filter(|step| self.is_reached(step, used));
        let strongest = reached.max_by_key(|step| step.action)?;
        (strongest.action > Action::Notify && !share.is_allowed()).then_some(*strongest)
    }

    /// What a runner that this budget holds or stops is told, and everybody who looks at it.
    pub fn because(&self, period: &Period, used: i64) -> String {
        let (used, limit) = (self.unit.show(used), self.limit());
        format!("budget {}: {used} used of {limit}; {}", self.name, self.lift(period, None))
    }

    /// What would lift its limit; `other`: what would as well just now.
    pub fn lift(&self, period: &Period, other: Option<String>) -> String {
        let wait = |ends| format!("wait until {} {}", self.zone.show(ends), self.zone);
        let raise = format!("raise it: stratavore budget set {} --amount …", self.name);
        let ways = period.ends().map(wait).into_iter().chain(other).chain([raise]);
        ways.collect::<Vec<_>>().join(", or ")
    }

    /// The same for a runner that it holds.
    pub fn lift_hold(&self, period: &Period, runner: RunnerId) -> String {
        let allow =
            format!("let it go on: stratavore budget allow {runner} --budget {}", self.name);
        self.lift(period, Some(allow))
    }

    /// `50.00 USD a day`.
    pub fn limit(&self) -> String {
        let amount = self.unit.show(self.amount);
        match self.every {
            Every::Hour => format!("{amount} an hour"),
            Every::Day => format!("{amount} a day"),
            Every::Week => format!("{amount} a week"),
            Every::Month => format!("{amount} a month"),
            Every::Run => format!("{amount} for each runner"),
        }
    }
}

impl FromStr for Step {
    type Err = String;

    /// Reads `90=pause`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (percent, action) = text.split_once('=').unwrap_or((text, ""));
        let percent = percent.trim_end_matches('%').parse().ok();
        let percent = percent.filter(|percent| (1..=PERCENT_MAX).contains(percent));
        match (percent, Action::parse(&action.replace('-', "_"))) {
            (Some(percent), Some(action)) => Ok(Self { percent, action }),
            _ => Err(format!("`{}` is no step", text.escape_debug())),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.percent, self.action.as_str())
    }
}

#[cfg(test)]
mod tests;
