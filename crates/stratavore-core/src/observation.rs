//! What an adapter has read of an assistant's signals and transcripts, in words of our own.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::activity::Doing;
use crate::message::Message;
use crate::usage::UsageRecord;

/// How a conversation came from another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The other one, as the assistant names it.
    pub parent: String,
    pub kind: LineageKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineageKind {
    Forked,
    /// A part of the work that the assistant gave to another of its kind.
    Subagent,
}

impl LineageKind {
    pub const ALL: [LineageKind; 2] = [Self::Forked, Self::Subagent];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forked => "forked",
            Self::Subagent => "subagent",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A conversation, as far as one signal or line tells of it. Untrusted text all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SessionSeen {
    /// As the assistant names it.
    pub session: String,
    pub directory: Option<String>,
    /// The file that it is written to.
    pub transcript: Option<String>,
    pub title: Option<String>,
    pub model: Option<String>,
    pub lineage: Option<Lineage>,
    pub at: Option<Timestamp>,
    /// The runner's assistant holds this conversation from now on. False where a transcript only
    /// mentions it.
    pub is_current: bool,
}

/// The assistant wants to do something and asks whether it may, or what it should do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The call of the hook that waits for the answer; `None`: only the assistant's own screen takes
    /// it.
    pub call: Option<String>,
    pub session: String,
    pub kind: AskKind,
    /// The tool that it wants to use.
    pub tool: String,
    /// What with, on one line or some.
    pub text: String,
    pub at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AskKind {
    Permission,
    /// A question with answers to choose from, or a plan to agree to.
    Question,
}

impl AskKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permission => "permission",
            Self::Question => "question",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Permission, Self::Question].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How much of a subscription's window is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RateWindow {
    /// As its maker names it: `primary`, `5h`, `weekly`.
    pub name: String,
    /// 0 to 100.
    pub used_percent: f64,
    pub window_minutes: Option<u64>,
    pub resets_at: Option<Timestamp>,
    pub at: Timestamp,
}

/// One thing that an adapter has read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observation {
    Session(SessionSeen),
    Doing(Doing),
    Message(Message),
    Usage(UsageRecord),
    Asked(Asked),
    /// The hook of this call waits no longer.
    AskOver {
        call: String,
    },
    Window(RateWindow),
    /// The assistant has taken a prompt.
    PromptTaken {
        session: String,
        text: String,
        at: Timestamp,
    },
    /// A turn is over; what the assistant said last, and whether it was a failure.
    TurnOver {
        session: String,
        text: Option<String>,
        failure: Option<String>,
        at: Timestamp,
    },
}
