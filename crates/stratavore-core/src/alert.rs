//! Alerts: what is wrong with a host or the cluster, and that it is so no longer.

use serde_json::json;

use crate::event::NewEvent;
use crate::notify::Severity;
use crate::{NodeId, Timestamp};

/// The kind of their events.
pub const KIND: &str = "system.alert";

/// Whose problem it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    Cluster,
    Host(NodeId),
}

/// Which problem it is: with the scope and what it is about, what one is told from another by. The words
/// may change while it lasts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub scope: Scope,
    /// Such as `disk_low`.
    pub problem: String,
    /// What has it, such as a destination; empty if there is only one.
    pub about: String,
}

/// A problem that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    pub key: Key,
    pub severity: Severity,
    /// What is wrong and what to do, as it stands in the daemon's status.
    pub words: String,
}

impl Scope {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Host(_) => "host",
        }
    }
}

impl Alert {
    /// That it has begun.
    pub fn raised(&self) -> NewEvent {
        NewEvent::new(
            KIND,
            json!({
                "state": "raised", "severity": self.severity, "scope": self.key.scope.as_str(),
                "problem": self.key.problem, "about": self.key.about, "words": self.words,
            }),
        )
    }

    /// That it is over. It matters as much as its beginning: whoever was told of that is to be told.
    pub fn cleared(&self, raised_at: Timestamp, now: Timestamp) -> NewEvent {
        let lasted = now.duration_since(raised_at).as_secs().max(0);
        NewEvent::new(
            KIND,
            json!({
                "state": "cleared", "severity": self.severity, "scope": self.key.scope.as_str(),
                "problem": self.key.problem, "about": self.key.about, "words": self.words,
                "raised_at": raised_at, "lasted_s": lasted,
            }),
        )
    }
}
