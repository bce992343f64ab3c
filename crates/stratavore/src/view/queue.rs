//! What queues print as JSON and YAML.

use jiff::Timestamp;
use serde::Serialize;
use stratavore_proto::v1;

use super::{given, time};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ItemView {
    pub id: String,
    pub project: String,
    pub project_id: String,
    /// queued, running, done, failed, cancelled
    pub state: String,
    pub assistant: Option<String>,
    pub prompt: Option<String>,
    pub args: Vec<String>,
    pub name: Option<String>,
    pub priority: i32,
    pub attempts: u32,
    pub max_attempts: u32,
    pub backoff_ms: u64,
    pub waits_for_reset: bool,
    pub timeout_seconds: Option<u64>,
    pub not_before: Option<Timestamp>,
    pub runner: Option<String>,
    pub session: Option<String>,
    pub text: Option<String>,
    pub why: Option<String>,
    pub by: String,
    pub cancelled_by: Option<String>,
    pub created_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
}

impl From<&v1::QueueItem> for ItemView {
    fn from(item: &v1::QueueItem) -> Self {
        Self {
            id: item.id.clone(),
            project: item.project.clone(),
            project_id: item.project_id.clone(),
            state: item.state.clone(),
            assistant: given(&item.assistant),
            prompt: given(&item.prompt),
            args: item.args.clone(),
            name: given(&item.name),
            priority: item.priority,
            attempts: item.attempts,
            max_attempts: item.max_attempts,
            backoff_ms: item.backoff_ms,
            waits_for_reset: !item.fails_at_rate_limit,
            timeout_seconds: super::limit(item.timeout_seconds),
            not_before: time(item.not_before_us),
            runner: given(&item.runner_id),
            session: given(&item.session_id),
            text: given(&item.text),
            why: given(&item.why),
            by: item.by.clone(),
            cancelled_by: given(&item.cancelled_by),
            created_at: time(item.created_at_us),
            started_at: time(item.started_at_us),
            ended_at: time(item.ended_at_us),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct QueueView {
    pub project: String,
    pub concurrency: u32,
    pub paused: bool,
}

impl From<&v1::QueueSettings> for QueueView {
    fn from(queue: &v1::QueueSettings) -> Self {
        let v1::QueueSettings { project, concurrency, paused } = queue.clone();
        Self { project, concurrency, paused }
    }
}
