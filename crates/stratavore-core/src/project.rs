//! A project: a named workspace with its directory, settings and quota.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ProjectId;
use crate::limits::{Limits, LimitsEdit};
use crate::name::Name;
use crate::quota::{Quota, QuotaEdit};

/// A named workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    pub id: ProjectId,
    /// Unique among the projects that are not archived.
    pub name: Name,
    /// Absolute and resolved: where runners start.
    pub directory: String,
    pub description: String,
    /// The assistant to launch when none is named.
    pub assistant: Option<Name>,
    pub quota: Quota,
    /// Limits of a runner that does not ask for its own.
    pub runner_limits: Limits,
    /// Counts the changes; equals the sequence number of the project's latest event.
    pub generation: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Archived projects keep their history and launch nothing.
    pub archived_at: Option<Timestamp>,
    /// Deleted projects are archived ones that are no longer shown; retention removes them.
    pub deleted_at: Option<Timestamp>,
}

/// What can be changed of a project; `None` leaves it as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProjectEdit {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assistant: Option<Name>,
    pub quota: QuotaEdit,
    pub runner_limits: LimitsEdit,
}

impl Project {
    /// The project after `edit`.
    pub fn edited(&self, edit: ProjectEdit, now: Timestamp) -> Project {
        Project {
            name: edit.name.unwrap_or_else(|| self.name.clone()),
            directory: edit.directory.unwrap_or_else(|| self.directory.clone()),
            description: edit.description.unwrap_or_else(|| self.description.clone()),
            assistant: edit.assistant.or_else(|| self.assistant.clone()),
            quota: self.quota.edited(edit.quota),
            runner_limits: self.runner_limits.edited(edit.runner_limits),
            generation: self.generation + 1,
            updated_at: now,
            ..self.clone()
        }
    }
}
