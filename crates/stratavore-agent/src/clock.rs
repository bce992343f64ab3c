//! The system's clock.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use stratavore_core::Timestamp;
use stratavore_core::clock::{Clock, to_micros};

/// The clock of the host. Its monotonic time goes on through an upgrade of the agent in place.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the Clock that the others ask")]
    fn now(&self) -> Timestamp {
        to_micros(Timestamp::now())
    }

    fn monotonic(&self) -> Duration {
        let now = clock_gettime(ClockId::Monotonic);
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    }
}
