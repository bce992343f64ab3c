//! Hosts, and the daemons on them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{DaemonId, NodeId};

/// A host that can start runners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub hostname: String,
    /// The kernel's id of its current boot.
    pub boot_id: String,
    pub seen_at: Timestamp,
}

/// One run of `stratavored`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    pub id: DaemonId,
    pub node: NodeId,
    pub version: String,
    pub pid: u32,
    pub started_at: Timestamp,
    pub seen_at: Timestamp,
    pub stopped_at: Option<Timestamp>,
}
