//! What lists and shows print as JSON and YAML.
//!
//! Invariant: a field's name and meaning never change; fields may be added. docs/cli.md lists
//! them, and the tests compare them with what they were.
//!
//! Times are RFC 3339 in UTC, sizes are bytes, CPU is a number of cores, `null` is "none" or
//! "not known".

mod budget;
mod inbox;
mod notify;
mod outbox;
mod queue;
mod run;
mod session;
mod usage;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use stratavore_proto::v1;

pub(crate) use budget::{AllowedView, BudgetDetailView, BudgetHistoryView, BudgetView};
pub(crate) use inbox::{AskView, DoingView, ExplanationView, PromptView, WaitingView};
pub(crate) use notify::{NotificationView, NotifyHistoryView, NotifyView};
pub(crate) use outbox::{DeadLetterView, DestinationView};
pub(crate) use queue::{ItemView, QueueView};
pub(crate) use run::{RunResultView, StepView};
pub(crate) use session::{SessionDetailsView, SessionView};
pub(crate) use usage::{UsageExplainedView, UsageReportView, WindowView, total};

/// Microseconds after 1970, where 0 is "never".
pub(crate) fn time(us: i64) -> Option<Timestamp> {
    (us != 0).then(|| Timestamp::from_microsecond(us).ok()).flatten()
}

fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn limit(n: u64) -> Option<u64> {
    (n != 0).then_some(n)
}

fn cores(millis: u64) -> Option<f64> {
    limit(millis).map(|millis| millis as f64 / 1000.0)
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LimitsView {
    pub memory: Option<u64>,
    pub cpu: Option<f64>,
    pub pids: Option<u64>,
    pub wall_seconds: Option<u64>,
    pub idle_seconds: Option<u64>,
}

impl From<&v1::Limits> for LimitsView {
    fn from(limits: &v1::Limits) -> Self {
        let v1::Limits { memory, cpu_millis, pids, wall_seconds, idle_seconds } = *limits;
        Self {
            memory: limit(memory),
            cpu: cores(cpu_millis),
            pids: limit(pids),
            wall_seconds: limit(wall_seconds),
            idle_seconds: limit(idle_seconds),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct QuotaView {
    pub runners: u64,
    pub memory: Option<u64>,
    pub cpu: Option<f64>,
    pub pids: Option<u64>,
    pub wall_seconds: Option<u64>,
}

impl From<&v1::Quota> for QuotaView {
    fn from(quota: &v1::Quota) -> Self {
        let v1::Quota { runners, memory, cpu_millis, pids, wall_seconds } = *quota;
        Self {
            runners,
            memory: limit(memory),
            cpu: cores(cpu_millis),
            pids: limit(pids),
            wall_seconds: limit(wall_seconds),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ProjectView {
    pub id: String,
    pub name: String,
    pub directory: String,
    pub description: String,
    pub assistant: Option<String>,
    pub quota: QuotaView,
    pub runner_limits: LimitsView,
    pub live_runners: u32,
    pub generation: i64,
    pub created_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
    pub archived_at: Option<Timestamp>,
}

impl From<&v1::Project> for ProjectView {
    fn from(project: &v1::Project) -> Self {
        Self {
            id: project.id.clone(),
            name: project.name.clone(),
            directory: project.directory.clone(),
            description: project.description.clone(),
            assistant: given(&project.assistant),
            quota: (&project.quota.unwrap_or_default()).into(),
            runner_limits: (&project.runner_limits.unwrap_or_default()).into(),
            live_runners: project.live_runners,
            generation: project.generation,
            created_at: time(project.created_at_us),
            updated_at: time(project.updated_at_us),
            archived_at: time(project.archived_at_us),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct UsageView {
    pub at: Option<Timestamp>,
    pub cpu_seconds: f64,
    pub memory: u64,
    pub processes: u32,
    pub output_bytes: u64,
    pub output_at: Option<Timestamp>,
    pub output_rate: Option<u64>,
    pub viewers: u32,
}

impl From<&v1::Usage> for UsageView {
    fn from(usage: &v1::Usage) -> Self {
        Self {
            at: time(usage.at_us),
            cpu_seconds: usage.cpu_ms as f64 / 1000.0,
            memory: usage.memory,
            processes: usage.processes,
            output_bytes: usage.output_bytes,
            output_at: time(usage.output_at_us),
            output_rate: usage.output_rate,
            viewers: usage.viewers,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RunnerView {
    pub id: String,
    pub name: String,
    pub project: String,
    pub project_id: String,
    pub assistant: String,
    pub state: String,
    pub cause: Option<String>,
    pub activity: String,
    pub doing: Option<DoingView>,
    pub desired: String,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub shortened: bool,
    pub prompt: Option<String>,
    pub bare: bool,
    pub headless: bool,
    pub directory: String,
    pub limits: LimitsView,
    pub limits_not_enforced: Option<String>,
    pub restart: String,
    pub restarts: u32,
    pub restart_at: Option<Timestamp>,
    pub last_cause: Option<String>,
    pub last_ended_at: Option<Timestamp>,
    pub epoch: i64,
    pub generation: i64,
    pub session_id: Option<String>,
    pub successor_of: Option<String>,
    pub node_id: String,
    pub pid: Option<u32>,
    pub agent_pid: Option<u32>,
    pub connected: bool,
    pub usage: Option<UsageView>,
    pub created_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
}

impl From<&v1::Runner> for RunnerView {
    fn from(runner: &v1::Runner) -> Self {
        Self {
            id: runner.id.clone(),
            name: runner.name.clone(),
            project: runner.project.clone(),
            project_id: runner.project_id.clone(),
            assistant: runner.assistant.clone(),
            state: runner.state.clone(),
            cause: given(&runner.cause),
            activity: runner.activity.clone(),
            doing: runner.doing.as_ref().map(DoingView::from),
            desired: runner.desired.clone(),
            argv: runner.argv.clone(),
            env: runner.env.iter().map(|v| (v.key.clone(), v.value.clone())).collect(),
            shortened: runner.shortened,
            prompt: given(&runner.prompt),
            bare: runner.bare,
            headless: runner.headless,
            directory: runner.directory.clone(),
            limits: (&runner.limits.unwrap_or_default()).into(),
            limits_not_enforced: given(&runner.limits_not_enforced),
            restart: runner.restart.clone(),
            restarts: runner.restarts,
            restart_at: time(runner.not_before_us),
            last_cause: given(&runner.last_cause),
            last_ended_at: time(runner.last_ended_at_us),
            epoch: runner.epoch,
            generation: runner.generation,
            session_id: given(&runner.session_id),
            successor_of: given(&runner.successor_of),
            node_id: runner.node_id.clone(),
            pid: (runner.pid != 0).then_some(runner.pid),
            agent_pid: (runner.agent_pid != 0).then_some(runner.agent_pid),
            connected: runner.connected,
            usage: runner.usage.as_ref().map(UsageView::from),
            created_at: time(runner.created_at_us),
            updated_at: time(runner.updated_at_us),
            started_at: time(runner.started_at_us),
            ended_at: time(runner.ended_at_us),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RecoveryView {
    pub dry_run: bool,
    pub runners: Vec<RunnerView>,
    pub remarks: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct EventView {
    pub id: String,
    pub position: i64,
    pub kind: String,
    pub entity: String,
    pub entity_id: String,
    /// What the entity was called then.
    pub name: String,
    pub project_id: Option<String>,
    pub seq: i64,
    pub at: Option<Timestamp>,
    pub by: String,
    pub data: serde_json::Value,
}

impl From<&v1::Event> for EventView {
    fn from(event: &v1::Event) -> Self {
        // A daemon writes objects only; whatever else comes is shown as the text that it is.
        let data = serde_json::from_str(&event.data).unwrap_or_else(|_| event.data.clone().into());
        Self {
            id: event.id.clone(),
            position: event.position,
            kind: event.kind.clone(),
            entity: event.entity.clone(),
            entity_id: event.entity_id.clone(),
            name: event.name.clone(),
            project_id: given(&event.project_id),
            seq: event.seq,
            at: time(event.at_us),
            by: event.by.clone(),
            data,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ScreenView {
    pub runner: String,
    pub offset: u64,
    pub columns: u32,
    pub rows: u32,
    pub cursor_row: u32,
    pub cursor_column: u32,
    pub alternate: bool,
    pub title: String,
    pub text: String,
}

impl ScreenView {
    pub(crate) fn new(runner: &str, screen: &v1::Screen) -> Self {
        Self {
            runner: runner.into(),
            offset: screen.offset,
            columns: screen.columns,
            rows: screen.rows,
            cursor_row: screen.cursor_row,
            cursor_column: screen.cursor_column,
            alternate: screen.alternate,
            title: screen.title.clone(),
            text: screen.text.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StoreView {
    pub engine: String,
    pub schema_version: i64,
    pub ping_ms: f64,
    pub connections_max: u32,
    pub connections_open: u32,
    pub connections_idle: u32,
    pub max_lifetime_seconds: f64,
    pub idle_timeout_seconds: f64,
    pub acquire_timeout_seconds: f64,
}

impl From<&v1::StoreStatus> for StoreView {
    fn from(store: &v1::StoreStatus) -> Self {
        Self {
            engine: store.engine.clone(),
            schema_version: store.schema_version,
            ping_ms: store.ping_us as f64 / 1000.0,
            connections_max: store.connections_max,
            connections_open: store.connections_open,
            connections_idle: store.connections_idle,
            max_lifetime_seconds: store.max_lifetime_ms as f64 / 1000.0,
            idle_timeout_seconds: store.idle_timeout_ms as f64 / 1000.0,
            acquire_timeout_seconds: store.acquire_timeout_ms as f64 / 1000.0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct TaskView {
    pub name: String,
    pub runs: u64,
    pub ran_at: Option<Timestamp>,
    pub report: String,
    pub error: Option<String>,
}

/// `daemon status`. All but `running` is absent while no daemon runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DaemonView {
    pub running: bool,
    #[serde(flatten)]
    pub status: Option<DaemonStatusView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DaemonStatusView {
    pub id: String,
    pub node_id: String,
    pub hostname: String,
    pub version: String,
    pub commit: String,
    pub pid: u32,
    pub started_at: Option<Timestamp>,
    pub health: String,
    pub problems: Vec<String>,
    pub state_dir: String,
    /// Recorded output of the host's runners, where it has a limit.
    pub output_bytes: Option<u64>,
    pub output_max_bytes: Option<u64>,
    pub memory: u64,
    pub projects: u32,
    pub runners: BTreeMap<String, u64>,
    pub agents_connected: u32,
    pub outbox_pending: u64,
    pub last_event_position: i64,
    pub store: Option<StoreView>,
    pub tasks: Vec<TaskView>,
}

impl From<&v1::DaemonStatus> for DaemonStatusView {
    fn from(status: &v1::DaemonStatus) -> Self {
        let task = |task: &v1::TaskStatus| TaskView {
            name: task.name.clone(),
            runs: task.runs,
            ran_at: time(task.ran_at_us),
            report: task.report.clone(),
            error: given(&task.error),
        };
        Self {
            id: status.id.clone(),
            node_id: status.node_id.clone(),
            hostname: status.hostname.clone(),
            version: status.version.clone(),
            commit: status.commit.clone(),
            pid: status.pid,
            started_at: time(status.started_at_us),
            health: status.health.clone(),
            problems: status.problems.clone(),
            state_dir: status.state_dir.clone(),
            output_bytes: limit(status.output_max_bytes).map(|_| status.output_bytes),
            output_max_bytes: limit(status.output_max_bytes),
            memory: status.memory,
            projects: status.projects,
            runners: status.runners.iter().map(|(state, n)| (state.clone(), *n)).collect(),
            agents_connected: status.agents_connected,
            outbox_pending: status.outbox_pending,
            last_event_position: status.last_event_position,
            store: status.store.as_ref().map(StoreView::from),
            tasks: status.tasks.iter().map(task).collect(),
        }
    }
}

/// `status`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StatusView {
    pub daemon: DaemonView,
    pub runners: Vec<RunnerView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ReconcileView {
    pub looked_at: u32,
    pub actions: Vec<String>,
}

/// `nodes`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct NodeView {
    pub id: String,
    pub hostname: String,
    pub here: bool,
    pub ready: bool,
    pub scheduling: String,
    pub runners: u64,
    pub capacity: Option<u64>,
    pub labels: Vec<String>,
    pub address: Option<String>,
    pub version: String,
    pub seen_at: Option<Timestamp>,
    pub keeps_ca: bool,
    /// Who wants its runners moved.
    pub moving_for: Option<String>,
    pub moves: Vec<MoveView>,
}

/// A runner on its way from a node that is drained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct MoveView {
    pub runner_id: String,
    pub name: String,
    pub stage: String,
    pub why: Option<String>,
    pub to: Option<String>,
    pub successor_id: Option<String>,
}

impl From<&v1::Move> for MoveView {
    fn from(of: &v1::Move) -> Self {
        Self {
            runner_id: of.runner_id.clone(),
            name: of.name.clone(),
            stage: of.stage.clone(),
            why: given(&of.why),
            to: given(&of.to),
            successor_id: given(&of.successor_id),
        }
    }
}

impl From<&v1::Node> for NodeView {
    fn from(node: &v1::Node) -> Self {
        Self {
            id: node.id.clone(),
            hostname: node.hostname.clone(),
            here: node.here,
            ready: node.ready,
            scheduling: node.scheduling.clone(),
            runners: node.runners,
            capacity: node.capacity,
            labels: node.labels.clone(),
            address: given(&node.address),
            version: node.version.clone(),
            seen_at: time(node.seen_at_us),
            keeps_ca: node.signs,
            moving_for: given(&node.moving_for),
            moves: node.moves.iter().map(Into::into).collect(),
        }
    }
}

/// `nodes tokens`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct JoinTokenView {
    pub accessor: String,
    pub created_by: String,
    pub created_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub used_by: Option<String>,
    pub used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

impl From<&v1::JoinTokenInfo> for JoinTokenView {
    fn from(token: &v1::JoinTokenInfo) -> Self {
        Self {
            accessor: token.accessor.clone(),
            created_by: token.created_by.clone(),
            created_at: time(token.created_at_us),
            expires_at: time(token.expires_at_us),
            used_by: given(&token.used_by),
            used_at: time(token.used_at_us),
            revoked_at: time(token.revoked_at_us),
        }
    }
}

impl JoinTokenView {
    /// What it is good for, in a word.
    pub(crate) fn state(&self, now: Timestamp) -> &'static str {
        match (self.revoked_at, self.used_at, self.expires_at) {
            (Some(_), _, _) => "revoked",
            (None, Some(_), _) => "used",
            (None, None, Some(end)) if end <= now => "expired",
            (None, None, _) => "unused",
        }
    }
}

/// `ca`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CaView {
    pub fingerprint: String,
    pub certificate: String,
}

impl From<&v1::Ca> for CaView {
    fn from(ca: &v1::Ca) -> Self {
        Self { fingerprint: ca.fingerprint.clone(), certificate: ca.certificate.clone() }
    }
}

#[cfg(test)]
mod tests;
