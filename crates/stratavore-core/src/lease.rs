//! Duties that one daemon at a time holds.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::DaemonId;

/// A duty held by a daemon for a term.
///
/// Every write made under a lease names its term, and the store refuses a stale one: two daemons
/// may both believe that they hold a lease, but only one of them can act on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Such as `relay` or `host:node_…`.
    pub name: String,
    pub holder: DaemonId,
    /// Grows by one with each change of holder.
    pub term: i64,
    /// By the database's clock.
    pub expires_at: Timestamp,
    /// Of the server that it was taken of; 0 where there are no timelines.
    pub timeline: i64,
}

/// How long this process may trust a lease, on its own monotonic clock.
///
/// Counted from before the request was sent, less a margin, so that a pause of the process or a
/// slow answer can only shorten the trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    until: Duration,
}

impl Trust {
    /// `attempted_at` is the monotonic time at which the acquiring or renewing request was begun.
    pub fn new(attempted_at: Duration, ttl: Duration) -> Self {
        Self { until: attempted_at + ttl.saturating_sub(ttl / 5) }
    }

    pub fn holds(&self, monotonic: Duration) -> bool {
        monotonic < self.until
    }
}
