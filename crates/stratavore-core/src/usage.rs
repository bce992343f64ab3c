//! What was used: tokens and money, one record for each billed message.
//!
//! Tokens are kept in kinds that exclude one another, whatever the assistant's own counting: their
//! sum is what was billed. Money is in millionths of a US dollar.
//!
//! Invariant: a record is known by its assistant and key, and however often it is told it counts once.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::message::Place;
use crate::{ProjectId, RunnerId, SessionId};

/// Tokens by kind. The kinds exclude one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Tokens {
    /// Read anew: neither from a cache nor into one.
    pub input: u64,
    /// Without reasoning, where the assistant tells the two apart.
    pub output: u64,
    pub cache_read: u64,
    /// Written to a cache that lasts five minutes, or some time that is not told.
    pub cache_write: u64,
    /// Written to a cache that lasts an hour.
    pub cache_write_1h: u64,
    pub reasoning: u64,
}

impl Tokens {
    pub fn total(&self) -> u64 {
        [
            self.input,
            self.output,
            self.cache_read,
            self.cache_write,
            self.cache_write_1h,
            self.reasoning,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    pub fn is_zero(&self) -> bool {
        self.total() == 0
    }
}

impl Add for Tokens {
    type Output = Tokens;
    fn add(self, other: Tokens) -> Tokens {
        Tokens {
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
            cache_read: self.cache_read.saturating_add(other.cache_read),
            cache_write: self.cache_write.saturating_add(other.cache_write),
            cache_write_1h: self.cache_write_1h.saturating_add(other.cache_write_1h),
            reasoning: self.reasoning.saturating_add(other.reasoning),
        }
    }
}

impl AddAssign for Tokens {
    fn add_assign(&mut self, other: Tokens) {
        *self = *self + other;
    }
}

impl Sum for Tokens {
    fn sum<I: Iterator<Item = Tokens>>(all: I) -> Tokens {
        all.fold(Tokens::default(), Add::add)
    }
}

/// How good a record is; the best last.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Something was billed, and no source has its figures.
    #[default]
    Lost,
    /// The assistant's own guess.
    Estimated,
    /// What the model's maker counted.
    Exact,
}

impl Quality {
    pub const ALL: [Quality; 3] = [Self::Lost, Self::Estimated, Self::Exact];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Estimated => "estimated",
            Self::Exact => "exact",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|quality| quality.as_str() == text)
    }
}

/// What a request was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    #[default]
    Main,
    Subagent,
    Compaction,
    Title,
    Other,
}

impl Purpose {
    pub const ALL: [Purpose; 5] =
        [Self::Main, Self::Subagent, Self::Compaction, Self::Title, Self::Other];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Subagent => "subagent",
            Self::Compaction => "compaction",
            Self::Title => "title",
            Self::Other => "other",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.as_str() == text)
    }
}

/// One billed message, as one source tells it.
///
/// Sources name the same message by the same `key`. The ledger keeps one row for it, and of each
/// figure the best that any source had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRecord {
    /// The message, unique for its assistant: the id that its maker gave to the request, else the
    /// message. Untrusted text.
    pub key: String,
    /// The conversation, as the assistant names it.
    pub session: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    pub model: String,
    pub purpose: Purpose,
    pub tokens: Tokens,
    /// What the assistant says that it cost, in millionths of a US dollar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_cost: Option<i64>,
    pub quality: Quality,
    pub at: Timestamp,
    /// Where it was read.
    pub place: Place,
}

/// What the ledger has really grown by: that of one message which was not known before, or the part
/// of it that was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageDelta {
    pub project: Option<ProjectId>,
    /// `None`: a conversation that no runner of ours has held.
    pub runner: Option<RunnerId>,
    pub session: Option<SessionId>,
    pub model: String,
    pub tokens: Tokens,
    /// In millionths of a US dollar; 0 where no price is known. Less than zero takes back.
    pub cost: i64,
    pub at: Timestamp,
}
