//! Facts: what changed, in the order in which it was published.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::caller::Origin;
use crate::{EventId, ProjectId};

/// What kind of thing an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entity {
    Project,
    Runner,
    Session,
    Node,
    Budget,
}

impl Entity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Runner => "runner",
            Self::Session => "session",
            Self::Node => "node",
            Self::Budget => "budget",
        }
    }
}

/// What was decided about what somebody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    #[default]
    Allowed,
    Refused,
}

impl Decision {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Allowed, Self::Refused].into_iter().find(|decision| decision.as_str() == text)
    }
}

/// An immutable fact about one entity.
///
/// Invariant: the events of one entity have the sequence numbers 1, 2, 3, … without a gap, and
/// their positions grow in the same order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub id: EventId,
    /// Where it stands among all published events; given by the relay when it publishes it.
    pub position: Option<i64>,
    /// What kind of thing it is about: an [`Entity`], or what only a later version knows, whose daemon has
    /// written it into the same database.
    pub entity: String,
    /// The id of the entity.
    pub entity_id: String,
    /// What the entity was called then.
    pub name: String,
    pub project: Option<ProjectId>,
    /// The number of this event among those of its entity, from 1.
    pub seq: i64,
    /// Such as `runner.started`.
    pub kind: String,
    pub at: Timestamp,
    /// Who caused it, for people.
    pub by: String,
    /// From where; `None` for events of programs that did not record it yet.
    #[serde(default)]
    pub origin: Option<Origin>,
    #[serde(default)]
    pub decision: Decision,
    /// Why it was refused.
    #[serde(default)]
    pub reason: Option<String>,
    pub data: serde_json::Value,
}

/// An event before the store has given it an id and a place.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    pub kind: &'static str,
    pub decision: Decision,
    pub reason: Option<String>,
    pub data: serde_json::Value,
}

impl NewEvent {
    pub fn new(kind: &'static str, data: serde_json::Value) -> Self {
        Self { kind, decision: Decision::Allowed, reason: None, data }
    }

    /// Something that did not happen, since it was refused.
    pub fn refused(kind: &'static str, data: serde_json::Value, reason: String) -> Self {
        Self { kind, decision: Decision::Refused, reason: Some(reason), data }
    }
}

/// Which events a reader wants; an empty filter wants all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    pub project: Option<ProjectId>,
    /// The id of a runner, session, project, node or budget.
    pub entity_id: Option<String>,
    /// A kind, or the beginning of one that ends in a dot (`runner.`).
    pub kinds: Vec<String>,
}

impl EventFilter {
    pub fn matches(&self, event: &Event) -> bool {
        self.project.is_none_or(|p| event.project == Some(p))
            && self.entity_id.as_ref().is_none_or(|id| *id == event.entity_id)
            && (self.kinds.is_empty()
                || self.kinds.iter().any(|k| Self::kind_matches(k, &event.kind)))
    }

    fn kind_matches(wanted: &str, kind: &str) -> bool {
        if wanted.ends_with('.') { kind.starts_with(wanted) } else { kind == wanted }
    }
}
