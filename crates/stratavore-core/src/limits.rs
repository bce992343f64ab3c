//! What one runner may use.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Upper limits of one runner; `None` is no limit.
///
/// Memory, CPU and processes hold for the runner's whole process group together and are enforced
/// by the kernel where a cgroup can be had. Wall time is enforced by the agent, idle time by the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of one core.
    pub cpu_millis: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Seconds from the start of the assistant.
    pub wall_seconds: Option<u64>,
    /// Seconds for which the assistant may say that it is idle, until it is stopped.
    pub idle_seconds: Option<u64>,
}

impl Limits {
    /// These limits, with those of `defaults` where this says nothing.
    pub fn or(self, defaults: Limits) -> Limits {
        Limits {
            memory: self.memory.or(defaults.memory),
            cpu_millis: self.cpu_millis.or(defaults.cpu_millis),
            pids: self.pids.or(defaults.pids),
            wall_seconds: self.wall_seconds.or(defaults.wall_seconds),
            idle_seconds: self.idle_seconds.or(defaults.idle_seconds),
        }
    }

    /// These limits after `edit`.
    pub fn edited(self, edit: LimitsEdit) -> Limits {
        Limits {
            memory: edited(self.memory, edit.memory),
            cpu_millis: edited(self.cpu_millis, edit.cpu_millis),
            pids: edited(self.pids, edit.pids),
            wall_seconds: edited(self.wall_seconds, edit.wall_seconds),
            idle_seconds: edited(self.idle_seconds, edit.idle_seconds),
        }
    }

    pub fn wall_time(&self) -> Option<Duration> {
        self.wall_seconds.map(Duration::from_secs)
    }
}

/// What to change of limits: `None` leaves one as it is, and 0 lifts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsEdit {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u64>,
}

/// A limit after an edit of it.
pub(crate) fn edited(before: Option<u64>, edit: Option<u64>) -> Option<u64> {
    edit.map_or(before, |limit| (limit != 0).then_some(limit))
}
