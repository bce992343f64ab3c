//! When a message that was not taken is tried again, and when a destination is left alone.

use std::time::Duration;

/// The waits of the Standard Webhooks specification. The first attempt is made at once.
pub const SCHEDULE: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(5 * 3600),
    Duration::from_secs(10 * 3600),
    Duration::from_secs(14 * 3600),
    Duration::from_secs(20 * 3600),
    Duration::from_secs(24 * 3600),
];

/// The longest that a receiver may ask to be left alone.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// The wait after so many failed attempts; `None`: it is given up. `dice` spreads it by up to a tenth,
/// so that not all come back together.
pub fn wait(attempts: u32, dice: u8) -> Option<Duration> {
    let index = usize::try_from(attempts.checked_sub(1)?).ok()?;
    let wait = *SCHEDULE.get(index)?;
    Some(wait + wait.mul_f64(f64::from(dice) / 2560.0))
}

/// Leaves a destination alone that fails again and again, whatever the message: one attempt now and
/// then finds out whether it is back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    /// Nothing is tried before, on the monotonic clock.
    until: Duration,
}

/// So many failures in a row open it.
const FAILURES_MAX: u32 = 5;
const OPEN_FIRST: Duration = Duration::from_secs(30);
const OPEN_MAX: Duration = Duration::from_secs(600);

impl Breaker {
    pub fn is_open(&self) -> bool {
        self.failures >= FAILURES_MAX
    }

    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Nothing is tried before.
    pub fn until(&self) -> Duration {
        self.until
    }

    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// `asked`: the receiver asked to be left alone so long. `haste` divides the waits; 1 but in tests.
    pub fn failed(&mut self, now: Duration, asked: Option<Duration>, haste: u32) {
        self.failures = self.failures.saturating_add(1);
        let over = self.failures.saturating_sub(FAILURES_MAX).min(16);
        let open = match self.is_open() {
            true => OPEN_FIRST.saturating_mul(1 << over).min(OPEN_MAX) / haste,
            false => Duration::ZERO,
        };
        self.until = now + open.max(asked.unwrap_or_default().min(RETRY_AFTER_MAX) / haste);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_goes_on_for_days_and_ends() {
        let waits: Vec<Duration> = (1..).map_while(|attempts| wait(attempts, 0)).collect();
        assert_eq!(waits, SCHEDULE);
        let all: Duration = waits.iter().sum();
        assert!(all > Duration::from_secs(3 * 24 * 3600));
        assert_eq!(wait(0, 0), None);
        let spread = wait(1, 255).unwrap();
        assert!(spread > SCHEDULE[0] && spread <= SCHEDULE[0].mul_f64(1.1));
    }

    #[test]
    fn the_breaker_opens_after_failures_in_a_row_and_closes_by_a_success() {
        let mut breaker = Breaker::default();
        let now = Duration::from_secs(1000);
        for _ in 0..4 {
            breaker.failed(now, None, 1);
            assert!(!breaker.is_open() && breaker.until() == now);
        }
        breaker.failed(now, None, 1);
        assert!(breaker.is_open());
        assert_eq!(breaker.until(), now + OPEN_FIRST);
        for _ in 0..100 {
            breaker.failed(now, None, 1);
        }
        assert_eq!(breaker.until(), now + OPEN_MAX);
        breaker.succeeded();
        assert_eq!(breaker, Breaker::default());
        breaker.failed(now, Some(Duration::MAX), 1);
        assert_eq!(breaker.until(), now + RETRY_AFTER_MAX, "nobody is left alone for ever");
    }
}
