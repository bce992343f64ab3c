//! The seam through which time comes in.

use std::time::Duration;

use jiff::Timestamp;

/// Tells the time. The binaries have one on the system clock, tests one that they move.
///
/// Wall-clock time is for records and for people. Whether something has taken too long is asked
/// with [`Clock::monotonic`], which no clock change moves.
pub trait Clock: Send + Sync + 'static {
    /// Now, cut to microseconds, which is what every database keeps.
    fn now(&self) -> Timestamp;

    /// Time since some fixed point of this process.
    fn monotonic(&self) -> Duration;
}

/// Cuts a time to microseconds, so that it reads back from a database as it was written.
pub fn to_micros(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}
