//! A run without a screen, and the limits that it has of its own.

use serde::{Deserialize, Serialize};

use crate::ItemId;

/// The limits of a run without a screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Headless {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
    /// In millionths of a US dollar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<i64>,
    /// It is an attempt of this item of a queue, which decides whether there is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<ItemId>,
}

/// A limit of a run without a screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunLimit {
    Turns,
    Cost,
    /// What it costs nobody knows, so it cannot be held to a cost.
    UnknownCost,
}

impl RunLimit {
    /// By whom a run was stopped that met it.
    pub fn stopper(self) -> &'static str {
        match self {
            Self::Turns => "its --max-turns",
            Self::Cost => "its --max-cost",
            Self::UnknownCost => "its --max-cost, of a model without a price",
        }
    }

    /// The limit that a run was stopped by, if it was one.
    pub fn of_stopper(by: &str) -> Option<Self> {
        let all = [Self::Turns, Self::Cost, Self::UnknownCost];
        all.into_iter().find(|limit| limit.stopper() == by)
    }

    /// The limit as it is told, and what to do about one that cannot be held.
    pub fn told(self) -> &'static str {
        match self {
            Self::Turns => "max_turns",
            Self::Cost => "max_cost",
            Self::UnknownCost => {
                "max_cost: its model has no price, and its assistant does not say what it costs; give the model one \
                 under `prices`, or leave --max-cost out and end it by --max-turns or --timeout"
            }
        }
    }
}

impl Headless {
    /// The limit that this is over. The answer that reaches a limit of turns may be the last one, so only the
    /// next is over; the one that reaches a limit of money is. A cost that is not known may be any: one that is
    /// limited is over with the first answer of which nobody can say what it cost.
    pub fn over(&self, turns: u64, cost: i64, is_known: bool) -> Option<RunLimit> {
        if self.max_cost.is_some_and(|max| cost >= max) {
            return Some(RunLimit::Cost);
        }
        if self.max_cost.is_some() && !is_known {
            return Some(RunLimit::UnknownCost);
        }
        self.max_turns.is_some_and(|max| turns > u64::from(max)).then_some(RunLimit::Turns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_that_nobody_knows_is_over_a_limit_of_cost_and_over_no_other() {
        let both = Headless { max_turns: Some(3), max_cost: Some(100), item: None };
        assert_eq!(both.over(3, 99, true), None);
        assert_eq!(both.over(3, 100, true), Some(RunLimit::Cost));
        assert_eq!(both.over(4, 99, true), Some(RunLimit::Turns));
        assert_eq!(both.over(1, 0, false), Some(RunLimit::UnknownCost));
        assert_eq!(both.over(1, 100, false), Some(RunLimit::Cost), "what is known is enough");
        let turns = Headless { max_cost: None, ..both };
        assert_eq!(turns.over(3, 1000, false), None);
        for limit in [RunLimit::Turns, RunLimit::Cost, RunLimit::UnknownCost] {
            assert_eq!(RunLimit::of_stopper(limit.stopper()), Some(limit));
        }
    }
}
