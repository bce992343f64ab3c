//! A session: one conversation of an assistant, across the runners that carry it on.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::{ProjectId, RunnerId, SessionId};

/// One conversation, by our id and by the assistant's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    pub project: ProjectId,
    pub assistant: Name,
    /// The assistant's own id of it, once it is known. Untrusted text.
    pub external_id: Option<String>,
    /// The conversation that this one was forked or continued from.
    pub parent: Option<SessionId>,
    /// The runner that carries it at the moment, if any: at most one does.
    pub runner: Option<RunnerId>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}
