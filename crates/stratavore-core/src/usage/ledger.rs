//! The ledger: whom billed messages belong to, what they cost, and what many of them come to.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Quality, Tokens, UsageRecord};
use crate::name::Name;
use crate::{ProjectId, RunnerId, SessionId};

/// Whom a billed message belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Belongs {
    pub project: Option<ProjectId>,
    pub session: Option<SessionId>,
    /// `None`: it was read of a conversation that no runner of ours held.
    pub runner: Option<RunnerId>,
}

impl Belongs {
    /// What is kept of `self`, which is known, and `other`, which was told later: it is told once and
    /// as a whole, so that a message of one conversation is never one of another's runner.
    fn or(self, other: Belongs) -> Belongs {
        let is_same = self.runner.is_none() || self.runner == other.runner;
        if self.session.is_none() && is_same && other != Belongs::default() { other } else { self }
    }
}

/// Our price of a message, in millionths of a US dollar, and the version of the table that it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priced {
    pub cost: i64,
    pub version: String,
}

/// A row of the ledger: a billed message, whom it belongs to, and what it cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRow {
    pub assistant: Name,
    pub record: UsageRecord,
    pub belongs: Belongs,
    /// By our table; `None`: it has no price for the model.
    pub price: Option<Priced>,
    pub recorded_at: Timestamp,
}

impl LedgerRow {
    /// The row once another source has told of the same message. What it costs is to be said anew.
    pub fn merged(&self, other: &LedgerRow) -> LedgerRow {
        LedgerRow {
            assistant: self.assistant.clone(),
            record: self.record.merged(&other.record),
            belongs: self.belongs.or(other.belongs),
            price: self.price.clone(),
            recorded_at: self.recorded_at,
        }
    }

    /// What it adds to sums.
    pub fn sums(&self) -> UsageSums {
        let one = |holds: bool| i64::from(holds);
        UsageSums {
            tokens: self.record.tokens.into(),
            cost: self.price.as_ref().map_or(0, |price| price.cost),
            reported: self.record.reported_cost.unwrap_or(0),
            messages: 1,
            unpriced: one(self.price.is_none()),
            reporting: one(self.record.reported_cost.is_some()),
            estimated: one(self.record.quality == Quality::Estimated),
            lost: one(self.record.quality == Quality::Lost),
        }
    }
}

/// Tokens by kind as parts of a sum, or of a change of one, which may be less than nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct TokenSums {
    pub input: i64,
    pub output: i64,
    pub cache_read: i64,
    pub cache_write: i64,
    pub cache_write_1h: i64,
    pub reasoning: i64,
}

impl TokenSums {
    pub fn total(&self) -> i64 {
        [
            self.input,
            self.output,
            self.cache_read,
            self.cache_write,
            self.cache_write_1h,
            self.reasoning,
        ]
        .into_iter()
        .fold(0, i64::saturating_add)
    }
}

impl From<Tokens> for TokenSums {
    fn from(tokens: Tokens) -> Self {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Self {
            input: signed(tokens.input),
            output: signed(tokens.output),
            cache_read: signed(tokens.cache_read),
            cache_write: signed(tokens.cache_write),
            cache_write_1h: signed(tokens.cache_write_1h),
            reasoning: signed(tokens.reasoning),
        }
    }
}

/// What many messages come to, or what a sum of them changes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct UsageSums {
    pub tokens: TokenSums,
    /// By our prices, of the messages that have one.
    pub cost: i64,
    /// What assistants say that it cost, of the messages of which they do.
    pub reported: i64,
    pub messages: i64,
    /// How many of the messages have no price of ours.
    pub unpriced: i64,
    /// Of how many the assistant says what they cost.
    pub reporting: i64,
    /// How many are the assistant's own guess.
    pub estimated: i64,
    /// How many were billed and have no figures.
    pub lost: i64,
}

impl UsageSums {
    /// Each figure of two sums, by `combine`.
    fn with(self, other: UsageSums, combine: fn(i64, i64) -> i64) -> UsageSums {
        let tokens = TokenSums {
            input: combine(self.tokens.input, other.tokens.input),
            output: combine(self.tokens.output, other.tokens.output),
            cache_read: combine(self.tokens.cache_read, other.tokens.cache_read),
            cache_write: combine(self.tokens.cache_write, other.tokens.cache_write),
            cache_write_1h: combine(self.tokens.cache_write_1h, other.tokens.cache_write_1h),
            reasoning: combine(self.tokens.reasoning, other.tokens.reasoning),
        };
        UsageSums {
            tokens,
            cost: combine(self.cost, other.cost),
            reported: combine(self.reported, other.reported),
            messages: combine(self.messages, other.messages),
            unpriced: combine(self.unpriced, other.unpriced),
            reporting: combine(self.reporting, other.reporting),
            estimated: combine(self.estimated, other.estimated),
            lost: combine(self.lost, other.lost),
        }
    }

    pub fn is_zero(&self) -> bool {
        *self == UsageSums::default()
    }
}

impl Add for UsageSums {
    type Output = UsageSums;
    fn add(self, other: UsageSums) -> UsageSums {
        self.with(other, i64::saturating_add)
    }
}

impl Sub for UsageSums {
    type Output = UsageSums;
    fn sub(self, other: UsageSums) -> UsageSums {
        self.with(other, i64::saturating_sub)
    }
}

impl AddAssign for UsageSums {
    fn add_assign(&mut self, other: UsageSums) {
        *self = *self + other;
    }
}

impl Sum for UsageSums {
    fn sum<I: Iterator<Item = UsageSums>>(all: I) -> UsageSums {
        all.fold(UsageSums::default(), Add::add)
    }
}

/// What a report has really added to the ledger, of one message: nothing if it was told before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageDelta {
    pub assistant: Name,
    pub belongs: Belongs,
    pub model: String,
    pub at: Timestamp,
    pub change: UsageSums,
}
