//! When a runner that ended is started again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How restarts are spaced, and when they are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait; each further one is twice as long.
    pub first: Duration,
    pub max: Duration,
    /// So many restarts within the window are a crash loop.
    pub limit: u32,
    pub window: Duration,
    /// Random. Spreads the waits by up to a quarter, so that runners that failed together do not
    /// all come back together.
    pub dice: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            max: Duration::from_secs(300),
            limit: 5,
            window: Duration::from_secs(600),
            dice: 0,
        }
    }
}

/// What to do when a runner's assistant ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    Never,
    /// Again after any end but exit code 0.
    OnFailure,
    Always,
}

impl RestartPolicy {
    pub const ALL: [RestartPolicy; 3] = [Self::Never, Self::OnFailure, Self::Always];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }

    pub fn wants_restart(self, success: bool) -> bool {
        match self {
            Self::Never => false,
            Self::OnFailure => !success,
            Self::Always => true,
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RestartPolicy {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|p| p.as_str() == text).ok_or_else(|| {
            format!(
                "`{}` is no restart policy: use never, on-failure or always",
                text.escape_debug()
            )
        })
    }
}

/// The restarts of a runner so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Restarts {
    pub total: u32,
    /// Those within the crash-loop window, oldest first.
    pub recent: Vec<Timestamp>,
}

/// What is to happen after an unwanted end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Start again, not before the time given.
    Again(Restarts, Timestamp),
    /// As many restarts as are allowed did not help.
    CrashLoop,
}

impl Restarts {
    /// Decides on the next restart.
    pub fn next(&self, now: Timestamp, backoff: &Backoff) -> Verdict {
        let window = jiff::SignedDuration::try_from(backoff.window).unwrap_or_default();
        // A restart of a later time than now: the clock was set back since. It counts as one of
        // just now, or a runner would be in a crash loop for as long as the clock was set back.
        let mut recent: Vec<_> = self.recent.iter().map(|at| (*at).min(now)).collect();
        recent.retain(|at| now.duration_since(*at) < window);
        if recent.len() >= backoff.limit as usize {
            return Verdict::CrashLoop;
        }
        let wait = backoff.first.saturating_mul(1 << recent.len().min(16)).min(backoff.max);
        let jitter = wait.mul_f64(f64::from(backoff.dice) / f64::from(u32::MAX) / 4.0);
        recent.push(now);
        let not_before = now.checked_add(wait + jitter).unwrap_or(now);
        Verdict::Again(Restarts { total: self.total.saturating_add(1), recent }, not_before)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_grow_and_a_crash_loop_ends(dice: u32, limit in 0..12u32) {
            let backoff = Backoff { dice, limit, ..Backoff::default() };
            let mut now = Timestamp::UNIX_EPOCH;
            let mut restarts = Restarts::default();
            for n in 0..limit {
                let Verdict::Again(next, not_before) = restarts.next(now, &backoff) else {
                    return Err(TestCaseError::fail(format!("gave up after {n} restarts")));
                };
                let wait = not_before.duration_since(now).as_secs_f64();
                let base = f64::from(1 << n).min(300.0);
                prop_assert!(wait >= base && wait <= base * 1.25 + 0.001, "wait {wait} for base {base}");
                // The waits of a higher limit would outlast the window.
                restarts = next;
                now = if n < 8 { not_before } else { now };
            }
            prop_assert_eq!(restarts.next(now, &backoff), Verdict::CrashLoop);
            let later = now.checked_add(backoff.window).unwrap();
            let after = restarts.next(later, &Backoff { limit: limit.max(1), ..backoff });
            prop_assert!(matches!(after, Verdict::Again(..)), "the window passes");
        }

        #[test]
        fn a_clock_that_is_set_back_makes_no_crash_loop(back in 1_i64..100_000_000, dice: u32) {
            let backoff = Backoff { dice, ..Backoff::default() };
            let mut now = Timestamp::UNIX_EPOCH;
            let mut restarts = Restarts::default();
            for _ in 0..backoff.limit - 1 {
                let Verdict::Again(next, not_before) = restarts.next(now, &backoff) else {
                    return Err(TestCaseError::fail("a crash loop too early"));
                };
                (restarts, now) = (next, not_before);
            }
            now -= jiff::SignedDuration::from_secs(back);
            let Verdict::Again(next, _) = restarts.next(now, &backoff) else {
                return Err(TestCaseError::fail("the fifth is one too early"));
            };
            prop_assert_eq!(next.next(now, &backoff), Verdict::CrashLoop, "they still count");
            let later = now.checked_add(backoff.window).unwrap();
            prop_assert!(matches!(next.next(later, &backoff), Verdict::Again(..)), "and only for the window");
        }
    }
}
