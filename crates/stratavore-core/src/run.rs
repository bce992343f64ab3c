//! How a run without a screen came out.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The most characters of what a run said last that are shown; the recorded output has all of it.
pub const RESULT_TEXT_MAX: usize = 64 << 10;

/// How a run without a screen came out, by its final record and by how its runner ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum RunOutcome {
    Done {
        text: String,
    },
    /// It met its own limit of turns or cost.
    LimitReached {
        what: String,
    },
    /// Its maker lets it do nothing until a time, if that was told.
    RateLimited {
        why: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resets_at: Option<Timestamp>,
    },
    /// Its wall time was over.
    TimedOut,
    /// Somebody stopped it.
    Stopped {
        why: String,
    },
    /// There is no final record, so it did not come to its end.
    Cut {
        why: String,
    },
    Failed {
        why: String,
    },
}

impl RunOutcome {
    pub const NAMES: [&str; 7] =
        ["done", "limit_reached", "rate_limited", "timed_out", "stopped", "cut", "failed"];

    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Done { .. } => "done",
            Self::LimitReached { .. } => "limit_reached",
            Self::RateLimited { .. } => "rate_limited",
            Self::TimedOut => "timed_out",
            Self::Stopped { .. } => "stopped",
            Self::Cut { .. } => "cut",
            Self::Failed { .. } => "failed",
        }
    }

    /// What it said last, if it came to its end.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Done { text } => Some(text),
            Self::LimitReached { .. }
            | Self::RateLimited { .. }
            | Self::TimedOut
            | Self::Stopped { .. }
            | Self::Cut { .. }
            | Self::Failed { .. } => None,
        }
    }

    /// Why it is not done; empty if it is.
    pub fn why(&self) -> &str {
        match self {
            Self::Done { .. } => "",
            Self::LimitReached { what: why }
            | Self::RateLimited { why, .. }
            | Self::Stopped { why }
            | Self::Cut { why }
            | Self::Failed { why } => why,
            Self::TimedOut => "its time was over",
        }
    }
}
