//! What somebody did at a runner's own socket, as its agent wrote it down.
//!
//! Whoever is on the runner's host needs no daemon to attach to it or to type into it. So its agent writes
//! down what belongs on the record, and a daemon puts it there, whenever there is one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::RunnerId;

/// One line of the log of visits. What was typed does not stand in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visit {
    /// The runner's epoch.
    pub epoch: i64,
    pub deed: Deed,
    /// Whoever attached may type.
    #[serde(default)]
    pub keyboard: bool,
    /// When it began; of several that are told together, the first of them.
    pub from: Timestamp,
    /// When it was over; of several, the last of them.
    pub until: Timestamp,
    pub uid: u32,
    /// Of several, the last one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// It was a program inside this runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<RunnerId>,
    /// How often, if it is several that are told together.
    pub times: u64,
    /// How much was typed, of all of them.
    #[serde(default)]
    pub bytes: u64,
    /// The prompt that was typed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Why it was not let do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// So many different ones came that those after them are counted as one.
    #[serde(default)]
    pub various: bool,
}

/// What a runner's own socket lets one do, as far as it belongs on the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    Attach,
    Detach,
    Send,
    /// Answering what the assistant has asked.
    Answer,
    /// Having the agent dial its daemon anew.
    Poke,
    /// Reading output or the screen. On the record only if it was refused.
    Read,
    /// Speaking as the assistant's hook. On the record only if it was refused.
    Hook,
}

impl Deed {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attach => "attach",
            Self::Detach => "detach",
            Self::Send => "send",
            Self::Answer => "answer",
            Self::Poke => "poke",
            Self::Read => "read",
            Self::Hook => "hook",
        }
    }
}

impl Visit {
    /// True if both may be told as one: of the same one, the same thing, with the same outcome.
    pub fn is_like(&self, other: &Self) -> bool {
        let alike = |of: &Self| {
            (of.epoch, of.deed, of.keyboard, of.uid, of.inside, of.refused.is_some(), of.various)
        };
        alike(self) == alike(other)
    }

    /// Both together.
    #[must_use]
    pub fn and(self, later: Self) -> Self {
        Self {
            from: self.from.min(later.from),
            until: self.until.max(later.until),
            times: self.times.saturating_add(later.times),
            bytes: self.bytes.saturating_add(later.bytes),
            ..later
        }
    }
}
