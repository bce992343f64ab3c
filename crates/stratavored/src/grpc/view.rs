//! The nouns of the core as messages, and back.

use prost::Message;
use stratavore_control::{DaemonStatus, Error, ReconcileReport, RunnerView};
use stratavore_core::Timestamp;
use stratavore_core::destination::{Backlog, DeadLetter, Destination};
use stratavore_core::event::Event;
use stratavore_core::limits::{Limits, LimitsEdit};
use stratavore_core::node::Wish;
use stratavore_core::project::Project;
use stratavore_core::quota::{Quota, QuotaEdit};
use stratavore_core::runner::{EnvValue, RunnerState};
use stratavore_proto::v1;
use stratavore_proto::version::{COMMIT, VERSION};
use stratavore_store::AuditKey;

fn micros(at: Option<Timestamp>) -> i64 {
    at.map_or(0, |at| at.as_microsecond())
}

/// On the wire 0 is no limit.
fn limit(value: u64) -> Option<u64> {
    (value != 0).then_some(value)
}

pub(super) fn limits(message: Option<v1::Limits>) -> Limits {
    let v1::Limits { memory, cpu_millis, pids, wall_seconds, idle_seconds } =
        message.unwrap_or_default();
    Limits {
        memory: limit(memory),
        cpu_millis: limit(cpu_millis),
        pids: limit(pids),
        wall_seconds: limit(wall_seconds),
        idle_seconds: limit(idle_seconds),
    }
}

fn limits_message(limits: Limits) -> v1::Limits {
    v1::Limits {
        memory: limits.memory.unwrap_or(0),
        cpu_millis: limits.cpu_millis.unwrap_or(0),
        pids: limits.pids.unwrap_or(0),
        wall_seconds: limits.wall_seconds.unwrap_or(0),
        idle_seconds: limits.idle_seconds.unwrap_or(0),
    }
}

/// Where a launch is to go.
pub(super) fn wish(launch: &v1::LaunchRunners) -> Result<Wish, Error> {
    let hint = "give NAME=VALUE, as `stratavore nodes` shows them";
    let read = |label: &String| label.parse().map_err(|error: String| Error::invalid(error, hint));
    Ok(Wish {
        node: (!launch.node.is_empty()).then(|| launch.node.clone()),
        labels: launch.node_labels.iter().map(read).collect::<Result<_, _>>()?,
    })
}

pub(super) fn quota(message: v1::Quota) -> Quota {
    let v1::Quota { runners, memory, cpu_millis, pids, wall_seconds } = message;
    Quota {
        runners: limit(runners).unwrap_or(Quota::default().runners),
        memory: limit(memory),
        cpu_millis: limit(cpu_millis),
        pids: limit(pids),
        wall_seconds: limit(wall_seconds),
    }
}

pub(super) fn limits_edit(message: v1::LimitsEdit) -> LimitsEdit {
    let v1::LimitsEdit { memory, cpu_millis, pids, wall_seconds, idle_seconds } = message;
    LimitsEdit { memory, cpu_millis, pids, wall_seconds, idle_seconds }
}

pub(super) fn quota_edit(message: v1::QuotaEdit) -> QuotaEdit {
    let v1::QuotaEdit { runners, memory, cpu_millis, pids, wall_seconds } = message;
    QuotaEdit { runners, memory, cpu_millis, pids, wall_seconds }
}

pub(super) fn project(project: Project, live_runners: u32) -> v1::Project {
    v1::Project {
        id: project.id.to_string(),
        name: project.name.to_string(),
        directory: project.directory,
        description: project.description,
        assistant: project.assistant.map(String::from).unwrap_or_default(),
        quota: Some(v1::Quota {
            runners: project.quota.runners,
            memory: project.quota.memory.unwrap_or(0),
            cpu_millis: project.quota.cpu_millis.unwrap_or(0),
            pids: project.quota.pids.unwrap_or(0),
            wall_seconds: project.quota.wall_seconds.unwrap_or(0),
        }),
        runner_limits: Some(limits_message(project.runner_limits)),
        generation: project.generation,
        created_at_us: project.created_at.as_microsecond(),
        updated_at_us: project.updated_at.as_microsecond(),
        archived_at_us: micros(project.archived_at),
        live_runners,
    }
}

pub(super) fn runner(view: RunnerView) -> v1::Runner {
    let RunnerView { runner, project, liveness, output_rate, connected, tells_of_prompts } = view;
    let ended = runner.state.ended().map(|(cause, at)| (cause.to_string(), at));
    let last_end = runner.last_end;
    let not_before = match &runner.state {
        RunnerState::Pending { not_before } => *not_before,
        RunnerState::Starting { .. }
        | RunnerState::Running { .. }
        | RunnerState::Unresponsive { .. }
        | RunnerState::Stopping { .. }
        | RunnerState::Exited { .. }
        | RunnerState::Failed { .. }
        | RunnerState::Lost { .. } => None,
    };
    let env = runner.command.env.into_iter().map(|(key, value)| v1::EnvVariable {
        key,
        value: match value {
            EnvValue::Literal(value) => value,
            EnvValue::File(path) => format!("file:{path}"),
            EnvValue::Daemon(name) => format!("env:{name}"),
        },
    });
    v1::Runner {
        id: runner.id.to_string(),
        name: runner.name.to_string(),
        project_id: runner.project.to_string(),
        project,
        assistant: runner.command.assistant.to_string(),
        argv: runner.command.argv,
        env: env.collect(),
        directory: runner.command.directory,
        limits: Some(limits_message(runner.limits)),
        restart: runner.restart.to_string(),
        desired: runner.desired.as_str().into(),
        state: runner.state.as_str().into(),
        cause: ended.as_ref().map(|(cause, _)| cause.clone()).unwrap_or_default(),
        activity: runner.activity.as_str().into(),
        epoch: runner.epoch,
        generation: runner.generation,
        restarts: runner.restarts.total,
        session_id: runner.session.map(|id| id.to_string()).unwrap_or_default(),
        successor_of: runner.successor_of.map(|id| id.to_string()).unwrap_or_default(),
        node_id: runner.node.to_string(),
        pid: runner.state.process().map_or(0, |process| process.pid),
        agent_pid: runner.state.agent().map_or(0, |agent| agent.pid),
        created_at_us: runner.created_at.as_microsecond(),
        updated_at_us: runner.updated_at.as_microsecond(),
        started_at_us: micros(runner.started_at),
        ended_at_us: micros(ended.map(|(_, at)| at)),
        not_before_us: micros(not_before),
        limits_not_enforced: runner.limits_not_enforced.unwrap_or_default(),
        usage: liveness.map(|liveness| v1::Usage {
            at_us: liveness.at.as_microsecond(),
            cpu_ms: liveness.cpu_ms,
            memory: liveness.memory,
            processes: liveness.processes,
            output_bytes: liveness.output_bytes,
            output_at_us: micros(liveness.output_at),
            viewers: liveness.viewers,
            output_rate,
        }),
        connected,
        last_cause: last_end.as_ref().map(|end| end.cause.to_string()).unwrap_or_default(),
        last_ended_at_us: micros(last_end.map(|end| end.at)),
        shortened: false,
        doing: runner.doing.map(|doing| v1::Doing {
            since_us: doing.since.as_microsecond(),
            source: doing.source.as_str().into(),
            confidence: doing.confidence.as_str().into(),
            signal: doing.signal,
            question: doing.question.unwrap_or_default(),
            resets_at_us: micros(doing.resets_at),
        }),
        prompt: runner.command.prompt.unwrap_or_default(),
        bare: runner.command.bare,
        headless: runner.command.headless.is_some(),
        tells_of_prompts,
    }
}

/// The most bytes of runners in one message; gRPC's clients take 4 MiB.
const MESSAGE_MAX: usize = 3 << 20;

/// The first of `runners` that go into one message, which is at least one.
pub(super) fn page(mut runners: Vec<v1::Runner>) -> Vec<v1::Runner> {
    let mut bytes = 0;
    let fitting = runners.iter().take_while(|runner| {
        bytes += runner.encoded_len();
        bytes <= MESSAGE_MAX
    });
    let fitting = fitting.count().max(1);
    runners.truncate(fitting);
    runners
}

/// All of `runners`, without the arguments and variables of the longest if they are too long for
/// one message.
pub(super) fn shortened(mut runners: Vec<v1::Runner>) -> Vec<v1::Runner> {
    let mut bytes: usize = runners.iter().map(Message::encoded_len).sum();
    let mut by_length: Vec<usize> = (0..runners.len()).collect();
    by_length.sort_by_key(|i| std::cmp::Reverse(runners[*i].encoded_len()));
    for i in by_length {
        if bytes <= MESSAGE_MAX {
            break;
        }
        let runner = &mut runners[i];
        bytes -= runner.encoded_len();
        (runner.argv, runner.env, runner.shortened) = (Vec::new(), Vec::new(), true);
        runner.prompt = String::new();
        bytes += runner.encoded_len();
    }
    runners
}

pub(super) fn event(event: Event) -> v1::Event {
    v1::Event {
        id: event.id.to_string(),
        position: event.position.unwrap_or(0),
        entity: event.entity,
        entity_id: event.entity_id,
        name: event.name,
        project_id: event.project.map(|id| id.to_string()).unwrap_or_default(),
        seq: event.seq,
        kind: event.kind,
        at_us: event.at.as_microsecond(),
        by: event.by,
        data: event.data.to_string(),
        origin: event
            .origin
            .and_then(|origin| serde_json::to_string(&origin).ok())
            .unwrap_or_default(),
        decision: event.decision.as_str().into(),
        reason: event.reason.unwrap_or_default(),
        timeline: 0,
    }
}

pub(super) fn record_keys(keys: Vec<AuditKey>) -> v1::RecordKeys {
    let keys = keys.into_iter().map(|key| v1::RecordKey {
        id: key.id,
        public: key.public,
        state: key.state,
        node_id: key.node.to_string(),
        since_size: key.since_size,
        change: key.change.unwrap_or_default(),
        created_at_us: key.created_at.as_microsecond(),
    });
    v1::RecordKeys { keys: keys.collect() }
}

pub(super) fn daemon_status(status: DaemonStatus) -> v1::DaemonStatus {
    let health = match (status.stopping, status.problems.is_empty()) {
        (true, _) => "stopping",
        (false, true) => "ready",
        (false, false) => "degraded",
    };
    let pool = status.pool;
    let (output_bytes, output_max_bytes) = status.kept_output.unwrap_or_default();
    v1::DaemonStatus {
        id: status.daemon.id.to_string(),
        node_id: status.node.id.to_string(),
        hostname: status.node.hostname,
        version: VERSION.into(),
        commit: COMMIT.into(),
        pid: status.daemon.pid,
        started_at_us: status.daemon.started_at.as_microsecond(),
        health: health.into(),
        problems: status.problems,
        store: Some(v1::StoreStatus {
            engine: pool.engine.into(),
            schema_version: pool.schema,
            connections_max: pool.max,
            connections_open: pool.open,
            connections_idle: pool.idle,
            ping_us: status.ping.map_or(0, |ping| ping.as_micros() as u64),
            max_lifetime_ms: pool.settings.max_lifetime.as_millis() as u64,
            idle_timeout_ms: pool.settings.idle_timeout.as_millis() as u64,
            acquire_timeout_ms: pool.settings.acquire_timeout.as_millis() as u64,
        }),
        runners: status.runners.into_iter().map(|(state, n)| (state.into(), n)).collect(),
        projects: status.projects as u32,
        agents_connected: status.agents_connected as u32,
        outbox_pending: status.outbox_pending,
        last_event_position: status.last_event_position,
        memory: own_memory(),
        tasks: status
            .tasks
            .into_iter()
            .map(|task| v1::TaskStatus {
                name: task.name.into(),
                runs: task.runs,
                ran_at_us: micros(task.ran_at),
                report: task.report,
                error: task.error.unwrap_or_default(),
            })
            .collect(),
        state_dir: status.state_dir,
        output_bytes,
        output_max_bytes,
    }
}

pub(super) fn destination((destination, backlog): (Destination, Backlog)) -> v1::Destination {
    v1::Destination {
        name: destination.name,
        kind: destination.kind,
        settings: destination.settings,
        position: destination.position,
        pending: backlog.pending,
        oldest_at_us: micros(backlog.oldest),
        dead: backlog.dead,
        health: destination.health.as_str().into(),
        problem: destination.problem,
        told_at_us: destination.told_at.as_microsecond(),
    }
}

pub(super) fn dead_letter((letter, of): (DeadLetter, Event)) -> v1::DeadLetter {
    v1::DeadLetter {
        id: letter.id.to_string(),
        destination: letter.destination,
        event: Some(event(of)),
        reason: letter.reason,
        attempts: letter.attempts.unsigned_abs(),
        died_at_us: letter.died_at.as_microsecond(),
        retry_at_us: micros(letter.retry_at),
    }
}

pub(super) fn reconcile_report(report: ReconcileReport) -> v1::ReconcileReport {
    v1::ReconcileReport { looked_at: report.looked_at as u32, actions: report.actions }
}

/// Resident memory of this process in bytes; 0 if the kernel does not say.
fn own_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}
