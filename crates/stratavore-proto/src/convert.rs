//! Between the messages and the nouns of the core.

use stratavore_core::runner;

use crate::v1;

impl From<runner::AgentIdentity> for v1::AgentIdentity {
    fn from(from: runner::AgentIdentity) -> Self {
        let runner::AgentIdentity { boot_id, pid, start_time, nonce } = from;
        Self { boot_id, pid, start_time, nonce }
    }
}

impl From<v1::AgentIdentity> for runner::AgentIdentity {
    fn from(from: v1::AgentIdentity) -> Self {
        let v1::AgentIdentity { boot_id, pid, start_time, nonce } = from;
        Self { boot_id, pid, start_time, nonce }
    }
}

impl From<runner::ProcessIdentity> for v1::ProcessIdentity {
    fn from(from: runner::ProcessIdentity) -> Self {
        Self { pid: from.pid, start_time: from.start_time }
    }
}

impl From<v1::ProcessIdentity> for runner::ProcessIdentity {
    fn from(from: v1::ProcessIdentity) -> Self {
        Self { pid: from.pid, start_time: from.start_time }
    }
}
