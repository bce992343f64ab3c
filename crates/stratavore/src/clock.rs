//! The system's clock and randomness: the two things that this program asks the world for.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use stratavore_core::clock::{Clock, to_micros};

use crate::units;

/// Tells the system's time.
pub(crate) struct SystemClock {
    began: Instant,
}

impl SystemClock {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that the others are to ask")]
    fn now(&self) -> Timestamp {
        to_micros(Timestamp::now())
    }

    fn monotonic(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Fills `buffer` with random bytes of the kernel's.
fn entropy(buffer: &mut [u8]) {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::rand::getrandom(&mut buffer[filled..], rustix::rand::GetRandomFlags::empty())
        {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel gives no random bytes: {error}"),
        }
    }
}

/// A key that no other request has.
pub(crate) fn fresh_key() -> String {
    let mut bytes = [0; 16];
    entropy(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A random number below 1.
pub(crate) fn dice() -> f64 {
    let mut bytes = [0; 4];
    entropy(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

/// How long ago `then` was, for people; empty if it never was.
pub(crate) fn ago(now: Timestamp, then: Option<Timestamp>) -> String {
    then.map_or_else(String::new, |then| {
        units::span(Duration::try_from(now.duration_since(then)).unwrap_or_default())
    })
}
