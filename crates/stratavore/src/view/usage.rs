//! What was used: money is dollars, tokens are counted by kinds that exclude one another.

use jiff::Timestamp;
use serde::Serialize;
use stratavore_proto::v1;

use super::{given, time};

/// Millionths of a dollar as dollars.
fn dollars(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// All tokens of sums.
pub(crate) fn total(sums: &v1::UsageSums) -> i64 {
    let kinds = [
        sums.input,
        sums.output,
        sums.cache_read,
        sums.cache_write,
        sums.cache_write_1h,
        sums.reasoning,
    ];
    kinds.into_iter().fold(0, i64::saturating_add)
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct TokensView {
    pub input: i64,
    pub output: i64,
    pub cache_read: i64,
    pub cache_write: i64,
    pub cache_write_1h: i64,
    pub reasoning: i64,
    pub total: i64,
}

impl From<&v1::UsageSums> for TokensView {
    fn from(sums: &v1::UsageSums) -> Self {
        Self {
            input: sums.input,
            output: sums.output,
            cache_read: sums.cache_read,
            cache_write: sums.cache_write,
            cache_write_1h: sums.cache_write_1h,
            reasoning: sums.reasoning,
            total: total(sums),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct UsageSumsView {
    pub tokens: TokensView,
    pub cost_usd: f64,
    pub reported_usd: f64,
    pub messages: i64,
    pub unpriced: i64,
    pub reporting: i64,
    pub estimated: i64,
    pub lost: i64,
}

impl From<&v1::UsageSums> for UsageSumsView {
    fn from(sums: &v1::UsageSums) -> Self {
        Self {
            tokens: sums.into(),
            cost_usd: dollars(sums.cost),
            reported_usd: dollars(sums.reported),
            messages: sums.messages,
            unpriced: sums.unpriced,
            reporting: sums.reporting,
            estimated: sums.estimated,
            lost: sums.lost,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct UsageGroupView {
    /// An id, a name or a date.
    pub of: Option<String>,
    pub label: Option<String>,
    #[serde(flatten)]
    pub sums: UsageSumsView,
}

impl From<&v1::UsageGroup> for UsageGroupView {
    fn from(group: &v1::UsageGroup) -> Self {
        Self {
            of: given(&group.of),
            label: given(&group.label),
            sums: (&group.sums.unwrap_or_default()).into(),
        }
    }
}

/// `usage`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct UsageReportView {
    pub by: String,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub zone: String,
    pub groups: Vec<UsageGroupView>,
    /// How many groups are over the limit, and what they come to.
    pub more: u64,
    pub others: UsageSumsView,
    pub total: UsageSumsView,
}

impl UsageReportView {
    pub(crate) fn new(
        report: &v1::UsageReport,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        zone: &str,
    ) -> Self {
        Self {
            by: report.by.clone(),
            since,
            until,
            zone: zone.into(),
            groups: report.groups.iter().map(UsageGroupView::from).collect(),
            more: report.more,
            others: (&report.others.unwrap_or_default()).into(),
            total: (&report.total.unwrap_or_default()).into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct UsageRowView {
    pub at: Option<Timestamp>,
    pub assistant: String,
    pub key: String,
    pub session_id: Option<String>,
    pub external_session: Option<String>,
    pub runner_id: Option<String>,
    pub project_id: Option<String>,
    pub request_id: Option<String>,
    pub message_id: Option<String>,
    pub model: Option<String>,
    pub purpose: String,
    pub tokens: TokensView,
    pub cost_usd: Option<f64>,
    pub price_version: Option<String>,
    pub reported_usd: Option<f64>,
    pub quality: String,
    pub file: String,
    pub offset: u64,
    pub recorded_at: Option<Timestamp>,
}

impl From<&v1::UsageRow> for UsageRowView {
    fn from(row: &v1::UsageRow) -> Self {
        Self {
            at: time(row.at_us),
            assistant: row.assistant.clone(),
            key: row.key.clone(),
            session_id: given(&row.session_id),
            external_session: given(&row.external_session),
            runner_id: given(&row.runner_id),
            project_id: given(&row.project_id),
            request_id: given(&row.request_id),
            message_id: given(&row.message_id),
            model: given(&row.model),
            purpose: row.purpose.clone(),
            tokens: (&row.sums.unwrap_or_default()).into(),
            cost_usd: row.cost.map(dollars),
            price_version: given(&row.price_version),
            reported_usd: row.reported.map(dollars),
            quality: row.quality.clone(),
            file: row.file.clone(),
            offset: row.offset,
            recorded_at: time(row.recorded_at_us),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct NotCoveredView {
    pub assistant: String,
    pub what: Vec<String>,
}

/// `usage explain`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct UsageExplainedView {
    pub noun: String,
    pub id: String,
    pub label: Option<String>,
    pub total: UsageSumsView,
    pub rows: Vec<UsageRowView>,
    pub not_covered: Vec<NotCoveredView>,
    /// Give it to `--page` to go on.
    pub next: Option<String>,
}

impl From<&v1::UsageExplained> for UsageExplainedView {
    fn from(explained: &v1::UsageExplained) -> Self {
        let not_covered = |not: &v1::NotCovered| NotCoveredView {
            assistant: not.assistant.clone(),
            what: not.what.clone(),
        };
        Self {
            noun: explained.noun.clone(),
            id: explained.id.clone(),
            label: given(&explained.label),
            total: (&explained.total.unwrap_or_default()).into(),
            rows: explained.rows.iter().map(UsageRowView::from).collect(),
            not_covered: explained.not_covered.iter().map(not_covered).collect(),
            next: given(&explained.next),
        }
    }
}

/// How much of a subscription's window is used. Over: it has begun anew since it was told.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct WindowView {
    pub assistant: String,
    pub node_id: String,
    pub host: Option<String>,
    pub window: String,
    pub used_percent: f64,
    pub minutes: Option<u64>,
    pub resets_at: Option<Timestamp>,
    pub told_at: Option<Timestamp>,
    pub runner_id: String,
    pub over: bool,
}

impl From<&v1::Window> for WindowView {
    fn from(window: &v1::Window) -> Self {
        Self {
            assistant: window.assistant.clone(),
            node_id: window.node_id.clone(),
            host: given(&window.host),
            window: window.name.clone(),
            used_percent: window.used_percent,
            minutes: (window.minutes != 0).then_some(window.minutes),
            resets_at: time(window.resets_at_us),
            told_at: time(window.at_us),
            runner_id: window.runner_id.clone(),
            over: window.over,
        }
    }
}
