//! How a runner is doing right now: written often, kept apart from what changes rarely.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::RunnerId;

/// The latest heartbeat of a runner: sums over its whole process group.
///
/// Liveness in the sense of "is it alive" is never decided on this; a local agent is alive if its
/// lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Liveness {
    pub runner: RunnerId,
    pub epoch: i64,
    pub at: Timestamp,
    /// CPU time used since the start, in milliseconds.
    pub cpu_ms: u64,
    /// Resident memory, in bytes.
    pub memory: u64,
    pub processes: u32,
    /// Bytes that the runner has printed since its first start.
    pub output_bytes: u64,
    /// When it last printed something.
    pub output_at: Option<Timestamp>,
    pub viewers: u32,
}
