//! A session: one conversation of an assistant, across the runners that carry it on.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::message::Role;
use crate::name::Name;
use crate::observation::LineageKind;
use crate::{NodeId, ProjectId, RunnerId, SessionId};

/// The most characters of a title.
pub const TITLE_MAX: usize = 200;

/// The most characters of a first prompt that are kept for lists. The vault has all of it.
pub const FIRST_PROMPT_MAX: usize = 1000;

/// The most models that one conversation is shown with.
pub const MODELS_MAX: usize = 20;

/// One conversation, by our id and by the assistant's own. What the assistant told is untrusted text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    pub project: ProjectId,
    pub assistant: Name,
    /// The assistant's own id of it, once it is known.
    pub external_id: Option<String>,
    /// The conversation that this one came from.
    pub parent: Option<SessionId>,
    pub lineage: Option<LineageKind>,
    /// The runner that carries it at the moment, if any: at most one does.
    pub runner: Option<RunnerId>,
    pub title: Option<String>,
    pub first_prompt: Option<String>,
    pub directory: Option<String>,
    /// The file that the assistant writes it to, on `node`.
    pub transcript: Option<String>,
    pub node: Option<NodeId>,
    /// Those that have answered in it, as they came.
    pub models: Vec<String>,
    pub messages: MessageCounts,
    /// When the first thing was said in it, and the last.
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub created_at: Timestamp,
    /// When it was used last.
    pub updated_at: Timestamp,
}

impl Session {
    /// True once something was said in it. One that was only opened is one that assistants do not find
    /// again.
    pub fn has_begun(&self) -> bool {
        self.messages.total() > 0
    }

    /// What it is called for people: its title, else how it began.
    pub fn label(&self) -> Option<&str> {
        self.title.as_deref().or(self.first_prompt.as_deref())
    }
}

/// How many messages a conversation has, by who said them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MessageCounts {
    pub user: u64,
    pub assistant: u64,
    pub tool: u64,
}

impl MessageCounts {
    pub fn add(&mut self, role: Role) {
        let count = match role {
            Role::User => &mut self.user,
            Role::Assistant => &mut self.assistant,
            Role::Tool => &mut self.tool,
        };
        *count = count.saturating_add(1);
    }

    pub fn total(self) -> u64 {
        self.user.saturating_add(self.assistant).saturating_add(self.tool)
    }
}

/// That a runner has held a conversation, at one of its starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub runner: RunnerId,
    /// What the runner is called.
    pub name: Name,
    pub epoch: i64,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
}
