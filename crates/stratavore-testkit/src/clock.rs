//! A clock that stands still until a test moves it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use stratavore_core::clock::{Clock, to_micros};

/// A [`Clock`] moved by hand. Clones share one time, so a test keeps one and gives the other away.
///
/// Invariant: its monotonic time never goes back, whatever happens to its wall-clock time.
#[derive(Debug, Clone)]
pub struct TestClock {
    times: Arc<Mutex<Times>>,
}

#[derive(Debug)]
struct Times {
    wall: Timestamp,
    monotonic: Duration,
}

impl TestClock {
    /// A clock that stands at `start` (cut to microseconds), with a monotonic time of zero.
    pub fn at(start: Timestamp) -> TestClock {
        let times = Times { wall: to_micros(start), monotonic: Duration::ZERO };
        TestClock { times: Arc::new(Mutex::new(times)) }
    }

    /// Lets time pass, for both times alike.
    ///
    /// # Panics
    /// If the wall-clock time would pass the year 9999.
    pub fn advance(&self, by: Duration) {
        let mut times = self.times();
        times.wall = to_micros(times.wall.checked_add(by).expect("the clock ends in year 9999"));
        times.monotonic += by;
    }

    /// Sets the wall-clock time, forwards or back, as an administrator or NTP would. The monotonic
    /// time does not move.
    pub fn set(&self, to: Timestamp) {
        self.times().wall = to_micros(to);
    }

    /// Moves only the wall-clock time, by an amount that may be negative.
    ///
    /// # Panics
    /// If it would leave the years -9999 to 9999.
    pub fn jump(&self, by: SignedDuration) {
        let mut times = self.times();
        times.wall = to_micros(times.wall.checked_add(by).expect("the clock ends in year 9999"));
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().expect("no one panics while holding it, but where the clock's end is met")
    }
}

impl Default for TestClock {
    /// A clock at the first moment of 2026, UTC.
    fn default() -> TestClock {
        TestClock::at(Timestamp::constant(1_767_225_600, 0))
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.times().wall
    }

    fn monotonic(&self) -> Duration {
        self.times().monotonic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_a_time_and_a_jump_spares_the_monotonic_one() {
        let clock = TestClock::default();
        let given: Box<dyn Clock> = Box::new(clock.clone());
        assert_eq!(given.now().to_string(), "2026-01-01T00:00:00Z");

        clock.advance(Duration::from_millis(1500));
        assert_eq!(given.now().to_string(), "2026-01-01T00:00:01.5Z");
        assert_eq!(given.monotonic(), Duration::from_millis(1500));

        clock.jump(SignedDuration::from_hours(-1));
        assert_eq!(given.now().to_string(), "2025-12-31T23:00:01.5Z");
        assert_eq!(given.monotonic(), Duration::from_millis(1500));
    }

    #[test]
    fn times_are_cut_to_microseconds() {
        let clock = TestClock::at("2026-01-01T00:00:00.123456789Z".parse().unwrap());
        assert_eq!(clock.now().to_string(), "2026-01-01T00:00:00.123456Z");
    }
}
