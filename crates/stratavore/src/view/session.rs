//! Sessions.

use jiff::Timestamp;
use serde::Serialize;
use stratavore_proto::v1;

use super::usage::{UsageGroupView, UsageSumsView};
use super::{given, time};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct MessagesView {
    pub user: u64,
    pub assistant: u64,
    pub tool: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SessionView {
    pub id: String,
    pub project: String,
    pub project_id: String,
    pub assistant: String,
    /// As the assistant names it.
    pub external_id: Option<String>,
    pub title: Option<String>,
    pub first_prompt: Option<String>,
    pub directory: Option<String>,
    pub transcript: Option<String>,
    pub node_id: Option<String>,
    pub parent_id: Option<String>,
    pub lineage: Option<String>,
    pub runner: Option<String>,
    pub runner_id: Option<String>,
    pub models: Vec<String>,
    pub messages: MessagesView,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub created_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
}

impl From<&v1::Session> for SessionView {
    fn from(session: &v1::Session) -> Self {
        Self {
            id: session.id.clone(),
            project: session.project.clone(),
            project_id: session.project_id.clone(),
            assistant: session.assistant.clone(),
            external_id: given(&session.external_id),
            title: given(&session.title),
            first_prompt: given(&session.first_prompt),
            directory: given(&session.directory),
            transcript: given(&session.transcript),
            node_id: given(&session.node_id),
            parent_id: given(&session.parent_id),
            lineage: given(&session.lineage),
            runner: given(&session.runner),
            runner_id: given(&session.runner_id),
            models: session.models.clone(),
            messages: MessagesView {
                user: session.user_messages,
                assistant: session.assistant_messages,
                tool: session.tool_messages,
            },
            started_at: time(session.started_at_us),
            ended_at: time(session.ended_at_us),
            created_at: time(session.created_at_us),
            updated_at: time(session.updated_at_us),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct HolderView {
    pub runner: String,
    pub runner_id: String,
    pub epoch: i64,
    pub first_at: Option<Timestamp>,
    pub last_at: Option<Timestamp>,
}

/// `sessions show`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SessionDetailsView {
    #[serde(flatten)]
    pub session: SessionView,
    pub parent: Option<SessionView>,
    pub children: Vec<SessionView>,
    pub held: Vec<HolderView>,
    pub usage: UsageSumsView,
    pub by_model: Vec<UsageGroupView>,
}

impl From<&v1::SessionDetails> for SessionDetailsView {
    fn from(details: &v1::SessionDetails) -> Self {
        let holder = |held: &v1::SessionHolder| HolderView {
            runner: held.runner.clone(),
            runner_id: held.runner_id.clone(),
            epoch: held.epoch,
            first_at: time(held.first_at_us),
            last_at: time(held.last_at_us),
        };
        Self {
            session: (&details.session.clone().unwrap_or_default()).into(),
            parent: details.parent.as_ref().map(SessionView::from),
            children: details.children.iter().map(SessionView::from).collect(),
            held: details.held.iter().map(holder).collect(),
            usage: (&details.usage.unwrap_or_default()).into(),
            by_model: details.by_model.iter().map(UsageGroupView::from).collect(),
        }
    }
}
