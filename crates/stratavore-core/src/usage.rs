//! What was used: tokens and money, one record for each billed message.
//!
//! Tokens are kept in kinds that exclude one another, whatever the assistant's own counting: their
//! sum is what was billed. Money is in millionths of a US dollar.
//!
//! Invariant: a record is known by its assistant and key, and however often it is told it counts once.

mod ledger;
mod report;

use std::cmp::Ordering;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::message::Place;

pub use ledger::{Belongs, LedgerRow, Priced, TokenSums, UsageDelta, UsageSums};
pub use report::{UsageBy, UsageFilter, UsageGroup, by_day};

/// The most characters of a key, an id or the name of a model.
pub const USAGE_TEXT_MAX: usize = 256;

/// The most characters of the path of a file.
pub const PATH_MAX: usize = 4096;

/// The most tokens of one kind that one message is taken to have used, and the most that it is taken to
/// have cost: a million times what any does.
const TOKENS_MAX: u64 = 1_000_000_000_000;
const COST_MAX: i64 = 1_000_000_000_000;

/// No assistant is older: 2020-01-01. A time before it is none.
const EARLIEST: Timestamp = Timestamp::constant(1_577_836_800, 0);

/// At most `max` characters of untrusted text, without NUL, which a database does not keep.
pub fn bounded_text(text: &str, max: usize) -> String {
    text.chars().take(max).map(|c| if c == '\0' { '\u{fffd}' } else { c }).collect()
}

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

impl Tokens {
    /// What two tellings of the same message come to.
    ///
    /// Each source may have fewer figures than the other and none has too many, so the larger one
    /// counts. But one source may have as a sum what another tells apart: what was written to caches,
    /// and output with reasoning. There the sums are compared, and the part that only one of them knows
    /// is taken out of the sum, so that nothing is counted as both.
    pub fn larger(&self, other: &Tokens) -> Tokens {
        let (cache_write, cache_write_1h) = larger_of_parts(
            (self.cache_write, self.cache_write_1h),
            (other.cache_write, other.cache_write_1h),
        );
        let (output, reasoning) =
            larger_of_parts((self.output, self.reasoning), (other.output, other.reasoning));
        Tokens {
            input: self.input.max(other.input),
            output,
            cache_read: self.cache_read.max(other.cache_read),
            cache_write,
            cache_write_1h,
            reasoning,
        }
    }
}

/// Of two figures, each a rest and a part that may not have been told apart: the larger sum, with the
/// larger part in it.
fn larger_of_parts(one: (u64, u64), other: (u64, u64)) -> (u64, u64) {
    let sum = one.0.saturating_add(one.1).max(other.0.saturating_add(other.1));
    let part = one.1.max(other.1);
    (sum - part, part)
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

    /// How much it says: what is told of every message says the least.
    fn says(self) -> u8 {
        match self {
            Self::Main => 0,
            Self::Other => 1,
            Self::Subagent => 2,
            Self::Title => 3,
            Self::Compaction => 4,
        }
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

impl UsageRecord {
    /// What is known of the message once `other` has told of it too; `self` was known before.
    ///
    /// Figures do not depend on who told first: of different quality the better one's count, of the
    /// same the larger ones ([`Tokens::larger`]). A cost that was reported is kept from whoever has it.
    /// To whom the message belongs and where it was read stays as it was told first: a fork, which has
    /// its parent's lines once more, takes nothing from it.
    pub fn merged(&self, other: &UsageRecord) -> UsageRecord {
        let tokens = match self.quality.cmp(&other.quality) {
            Ordering::Greater => self.tokens,
            Ordering::Less => other.tokens,
            Ordering::Equal => self.tokens.larger(&other.tokens),
        };
        let first = |one: &Option<String>, other: &Option<String>| one.clone().or(other.clone());
        let named = |one: &str, other: &str| if one.is_empty() { other } else { one }.to_owned();
        UsageRecord {
            key: self.key.clone(),
            session: named(&self.session, &other.session),
            request_id: first(&self.request_id, &other.request_id),
            message_id: first(&self.message_id, &other.message_id),
            model: named(&self.model, &other.model),
            purpose: if other.purpose.says() > self.purpose.says() {
                other.purpose
            } else {
                self.purpose
            },
            tokens,
            reported_cost: self.reported_cost.max(other.reported_cost),
            quality: self.quality.max(other.quality),
            at: self.at.min(other.at),
            place: self.place.clone(),
        }
    }

    /// The record as it may be kept, whatever an assistant wrote: its texts are bounded, no figure is so
    /// large that sums of them could not be, and it is not of the future.
    pub fn bounded(self, now: Timestamp) -> UsageRecord {
        let text = |text: String| bounded_text(&text, USAGE_TEXT_MAX);
        let count = |count: u64| count.min(TOKENS_MAX);
        let tokens = self.tokens;
        UsageRecord {
            key: text(self.key),
            session: text(self.session),
            request_id: self.request_id.map(text),
            message_id: self.message_id.map(text),
            model: text(self.model),
            purpose: self.purpose,
            tokens: Tokens {
                input: count(tokens.input),
                output: count(tokens.output),
                cache_read: count(tokens.cache_read),
                cache_write: count(tokens.cache_write),
                cache_write_1h: count(tokens.cache_write_1h),
                reasoning: count(tokens.reasoning),
            },
            reported_cost: self.reported_cost.map(|cost| cost.clamp(0, COST_MAX)),
            quality: self.quality,
            at: self.at.clamp(EARLIEST.min(now), now),
            place: Place {
                file: bounded_text(&self.place.file, PATH_MAX),
                offset: self.place.offset.min(i64::MAX.unsigned_abs()),
            },
        }
    }
}
