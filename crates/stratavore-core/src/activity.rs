//! What an assistant is doing, and how we know.
//!
//! Several sources tell of it. They are trusted in the order of [`Source`]: what the assistant's own
//! events say is not overruled by a guess from its screen.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The most characters of a question that are kept.
pub const QUESTION_MAX: usize = 1000;

/// What the assistant is doing, as far as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// The assistant does not tell.
    #[default]
    Unknown,
    Working,
    /// It has done what it was asked, and waits for the next prompt.
    Idle,
    /// It asks something and goes on only with an answer.
    NeedsInput,
    /// It wants to use a tool and goes on only if it may.
    NeedsPermission,
    /// Its maker lets it do nothing until some time.
    RateLimited,
}

impl Activity {
    pub const ALL: [Activity; 6] = [
        Self::Unknown,
        Self::Working,
        Self::Idle,
        Self::NeedsInput,
        Self::NeedsPermission,
        Self::RateLimited,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Working => "working",
            Self::Idle => "idle",
            Self::NeedsInput => "needs_input",
            Self::NeedsPermission => "needs_permission",
            Self::RateLimited => "rate_limited",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.as_str() == text)
    }

    /// True if it goes on only once a person has done something.
    pub fn waits_for_person(self) -> bool {
        match self {
            Self::NeedsInput | Self::NeedsPermission => true,
            Self::Unknown | Self::Working | Self::Idle | Self::RateLimited => false,
        }
    }
}

/// From where something is known of a running assistant; the most trusted last.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    #[default]
    Process,
    Screen,
    Transcript,
    /// Its hooks, event stream or telemetry.
    Events,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Screen => "screen",
            Self::Transcript => "transcript",
            Self::Events => "events",
        }
    }
}

/// How sure it is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    #[default]
    Guess,
    Likely,
    Certain,
}

impl Confidence {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guess => "guess",
            Self::Likely => "likely",
            Self::Certain => "certain",
        }
    }
}

/// What an assistant is doing since when, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doing {
    pub activity: Activity,
    pub since: Timestamp,
    pub source: Source,
    pub confidence: Confidence,
    /// Which signal told, in its maker's words: a hook's name, a kind of line.
    pub signal: String,
    /// What it asks, in its own words. Untrusted text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// When a rate limit ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_at: Option<Timestamp>,
}

impl Doing {
    /// Something that the assistant's own events told.
    pub fn told(activity: Activity, since: Timestamp, signal: impl Into<String>) -> Self {
        Self {
            activity,
            since,
            source: Source::Events,
            confidence: Confidence::Certain,
            signal: signal.into(),
            question: None,
            resets_at: None,
        }
    }

    /// The same, with what it asks.
    pub fn asking(self, question: &str) -> Self {
        let question = question.chars().take(QUESTION_MAX).collect();
        Self { question: Some(question), ..self }
    }

    /// What counts of `self`, which is known, and `new`, which was told later.
    ///
    /// A source that is trusted less changes nothing for as long as a better one has something to
    /// say, unless what it says is the same: then the better one stays. Nor does what was so before:
    /// some sources tell late.
    pub fn followed_by(self, new: Doing) -> Doing {
        let is_known = self.activity != Activity::Unknown;
        let overruled = is_known && (new.source < self.source || new.since < self.since);
        if overruled || (new.activity == self.activity && new.question == self.question) {
            return self;
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doing(activity: Activity, second: i64) -> Doing {
        Doing::told(activity, Timestamp::from_second(second).unwrap(), "test")
    }

    #[test]
    fn what_is_told_late_or_less_surely_changes_nothing() {
        let idle = doing(Activity::Idle, 10);
        let late = doing(Activity::Working, 9);
        let screen = Doing { source: Source::Screen, ..doing(Activity::Working, 11) };
        let next = doing(Activity::Working, 10);
        assert_eq!(idle.clone().followed_by(late), idle);
        assert_eq!(idle.clone().followed_by(screen.clone()), idle);
        assert_eq!(idle.clone().followed_by(next.clone()), next);
        // Nothing is known yet: whatever comes is better.
        let unknown = doing(Activity::Unknown, 100);
        assert_eq!(unknown.followed_by(screen.clone()), screen);
        // The same, said later and with a question.
        let asks = next.clone().asking("may it?");
        assert_eq!(next.followed_by(asks.clone()), asks);
    }
}
