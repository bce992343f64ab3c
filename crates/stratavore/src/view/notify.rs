//! Destinations that tell people and programs, and what was sent to them.

use jiff::Timestamp;
use serde::Serialize;
use stratavore_proto::v1;

use super::{given, limit, time};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct NotifyView {
    pub name: String,
    pub kind: String,
    pub to: String,
    pub enabled: bool,
    pub health: String,
    pub problem: Option<String>,
    pub told_at: Option<Timestamp>,
    pub position: i64,
    pub dead: u64,
    pub events: Vec<String>,
    pub projects: Vec<String>,
    pub severity: String,
    pub quiet: Option<String>,
    pub zone: Option<String>,
    pub urgent: Option<String>,
    pub group_ms: u64,
    pub per_hour: Option<u64>,
    pub created_at: Option<Timestamp>,
}

impl From<&v1::NotifyDestination> for NotifyView {
    fn from(destination: &v1::NotifyDestination) -> Self {
        let rules = destination.rules.clone().unwrap_or_default();
        Self {
            name: destination.name.clone(),
            kind: destination.kind.clone(),
            to: destination.to.clone(),
            enabled: destination.enabled,
            health: destination.health.clone(),
            problem: given(&destination.problem),
            told_at: time(destination.told_at_us),
            position: destination.position,
            dead: destination.dead,
            events: rules.events,
            projects: rules.projects,
            severity: rules.severity,
            quiet: given(&rules.quiet),
            zone: given(&rules.zone),
            urgent: given(&rules.urgent),
            group_ms: rules.group_ms,
            per_hour: limit(rules.per_hour.into()),
            created_at: time(destination.created_at_us),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct NotificationView {
    pub id: String,
    pub state: String,
    pub title: String,
    pub severity: String,
    pub count: u64,
    pub first: i64,
    pub last: i64,
    pub created_at: Option<Timestamp>,
    pub attempts: u32,
    pub history: Vec<AttemptView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct AttemptView {
    pub at: Option<Timestamp>,
    pub took_ms: u64,
    pub delivered: bool,
    pub status: Option<u64>,
    pub detail: Option<String>,
    pub next_at: Option<Timestamp>,
}

impl From<&v1::Notification> for NotificationView {
    fn from(sent: &v1::Notification) -> Self {
        let history = sent.history.iter().map(|attempt| AttemptView {
            at: time(attempt.at_us),
            took_ms: attempt.took_ms,
            delivered: attempt.delivered,
            status: limit(attempt.status.into()),
            detail: given(&attempt.detail),
            next_at: time(attempt.next_at_us),
        });
        Self {
            id: sent.id.clone(),
            state: sent.state.clone(),
            title: sent.title.clone(),
            severity: sent.severity.clone(),
            count: sent.count,
            first: sent.first,
            last: sent.last,
            created_at: time(sent.created_at_us),
            attempts: sent.attempts,
            history: history.collect(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct NotifyHistoryView {
    pub destination: Option<NotifyView>,
    pub notifications: Vec<NotificationView>,
}

impl From<&v1::NotifyHistory> for NotifyHistoryView {
    fn from(history: &v1::NotifyHistory) -> Self {
        Self {
            destination: history.destination.as_ref().map(NotifyView::from),
            notifications: history.notifications.iter().map(NotificationView::from).collect(),
        }
    }
}
