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
    /// say, unless what it says is the same: then the better one stays. Events and transcripts are both the
    /// assistant's own words: of those the later counts. What is about an earlier time changes nothing:
    /// some sources tell late. What is known since a time that is not yet, by `now`, was told before the
    /// host's clock was set back: whatever is told after that is later.
    pub fn followed_by(mut self, new: Doing, now: Timestamp) -> Doing {
        if self.since > now {
            self.since = new.since.min(now);
        }
        let is_guess = new.source < Source::Transcript && new.source < self.source;
        let is_known = self.activity != Activity::Unknown;
        let overruled = is_known && (is_guess || new.since < self.since);
        if overruled || self.says_as_much(&new) {
            return self;
        }
        new
    }

    /// True if `new` tells nothing that is not known: a file that says "waits" does not say for what.
    fn says_as_much(&self, new: &Doing) -> bool {
        let same = new.activity == self.activity && new.question == self.question;
        let both_wait = new.activity.waits_for_person() && self.activity.waits_for_person();
        same || (both_wait && new.question.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn told(activity: Activity, second: i64) -> Doing {
        Doing::told(activity, at(second), "test")
    }

    impl Doing {
        /// By a clock that is after all of these.
        fn then(self, new: Doing) -> Doing {
            self.followed_by(new, at(1000))
        }
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nothing_of_now_old() {
        let working = told(Activity::Working, 100);
        let idle = told(Activity::Idle, 40);
        assert_eq!(working.clone().followed_by(idle.clone(), at(100)), working);
        assert_eq!(working.clone().followed_by(idle.clone(), at(41)), idle);
        // What was told before that, by the clock as it was, is no later.
        let before = told(Activity::NeedsInput, 99);
        assert_eq!(idle.clone().followed_by(before.clone(), at(42)), before);
        // Nor is the same thing so since a time that is not yet.
        let same = told(Activity::Working, 41);
        assert_eq!(working.followed_by(same.clone(), at(42)), same);
    }

    #[test]
    fn what_is_about_an_earlier_time_changes_nothing() {
        let working = told(Activity::Working, 10);
        assert_eq!(working.clone().then(told(Activity::Idle, 9)), working);
        assert_eq!(working.then(told(Activity::Idle, 10)).activity, Activity::Idle);
    }

    #[test]
    fn a_question_stays_until_the_wait_is_over() {
        let asks = told(Activity::NeedsPermission, 10).asking("Bash: ls");
        for less in [Activity::NeedsPermission, Activity::NeedsInput] {
            assert_eq!(asks.clone().then(told(less, 11)), asks);
        }
        let other = told(Activity::NeedsPermission, 11).asking("Bash: rm");
        assert_eq!(asks.clone().then(other.clone()), other);
        assert_eq!(asks.then(told(Activity::Idle, 11)).question, None);
    }

    #[test]
    fn what_is_told_late_or_less_surely_changes_nothing() {
        let idle = told(Activity::Idle, 10);
        let late = told(Activity::Working, 9);
        let screen = Doing { source: Source::Screen, ..told(Activity::Working, 11) };
        let next = told(Activity::Working, 10);
        assert_eq!(idle.clone().then(late), idle);
        assert_eq!(idle.clone().then(screen.clone()), idle);
        assert_eq!(idle.clone().then(next.clone()), next);
        // Nothing is known yet: whatever comes is better.
        let unknown = told(Activity::Unknown, 100);
        assert_eq!(unknown.then(screen.clone()), screen);
        // An interrupt is told by the transcript only.
        let cut = Doing { source: Source::Transcript, ..told(Activity::Idle, 12) };
        assert_eq!(next.clone().then(cut.clone()), cut);
        // The same, said later and with a question.
        let asks = next.clone().asking("may it?");
        assert_eq!(next.then(asks.clone()), asks);
    }
}
