//! `stratavore daemon` and `stratavore reconcile`.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use rustix::process::{Pid, test_kill_process};
use stratavore_core::clock::Clock;
use stratavore_proto::v1::{DaemonStatus, ReconcileRequest, ShutdownRequest, StatusRequest};

use crate::api::Api;
use crate::clock::ago;
use crate::context::Context;
use crate::daemon_start;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table, Tone};
use crate::units;
use crate::view::{DaemonStatusView, DaemonView, ReconcileView, time};

/// Start, stop and look at the daemon
#[derive(Debug, Args)]
#[command(after_help = "\
Commands start a daemon by themselves where none runs. Runners do not need it: they go on while it
is stopped, restarted or upgraded.

Examples:
  stratavore daemon status
  stratavore daemon restart           After an upgrade of the programs
  stratavore daemon stop --stop-runners")]
pub(crate) struct Daemon {
    #[command(subcommand)]
    command: Option<DaemonCommand>,
}

#[derive(Debug, Subcommand)]
enum DaemonCommand {
    /// Start it, if none runs
    Start,
    /// Stop it; runners go on
    Stop {
        /// Stop all runners of this host first
        #[arg(long)]
        stop_runners: bool,
    },
    /// Stop it and start it again; runners go on
    Restart,
    /// Say whether and how it runs; starts none
    Status,
}

/// Look after every runner of this host now
#[derive(Debug, Args)]
#[command(after_help = "\
The daemon does this by itself; this is for when someone has meddled with files or processes.")]
pub(crate) struct Reconcile {}

/// How long a daemon may take to end after its answer. Runners that it stops come before that.
const ENDS: Duration = Duration::from_secs(60);
/// How long all runners of a host may take to stop.
const STOPS_RUNNERS: Duration = Duration::from_secs(300);

pub(crate) fn run(context: &Context, args: Daemon) -> Result<Exit, Failure> {
    context.block_on(async {
        match args.command.unwrap_or(DaemonCommand::Status) {
            DaemonCommand::Start => {
                if let Some(status) = status_if_running(context).await? {
                    context.ui.note(format!("a daemon runs already (pid {})", status.pid));
                    return show(context, Some(&status));
                }
                daemon_start::start(context).await?;
                let status = status_if_running(context).await?;
                show(context, status.as_ref())
            }
            DaemonCommand::Stop { stop_runners } => {
                let stopped = stop(context, stop_runners).await?;
                match stopped {
                    Some(pid) => context.ui.note(format!("stopped the daemon (pid {pid})")),
                    None => context.ui.note("no daemon runs"),
                }
                Ok(Exit::Ok)
            }
            DaemonCommand::Restart => {
                stop(context, false).await?;
                daemon_start::start(context).await?;
                let status = status_if_running(context).await?;
                show(context, status.as_ref())
            }
            DaemonCommand::Status => {
                let status = status_if_running(context).await?;
                show(context, status.as_ref())
            }
        }
    })
}

async fn status_if_running(context: &Context) -> Result<Option<DaemonStatus>, Failure> {
    let Some(api) = Api::connect_if_running(context).await? else { return Ok(None) };
    // Asked once: to ask again would start a daemon in place of one that dies just now.
    match api.client().daemon().status(StatusRequest {}).await {
        Ok(status) => Ok(Some(status.into_inner())),
        Err(status) if crate::api::is_lost(&status) => Ok(None),
        Err(status) => Err(crate::api::failure(&status)),
    }
}

/// Stops the daemon and waits until its process is gone. `None`: there was none.
async fn stop(context: &Context, stop_runners: bool) -> Result<Option<u32>, Failure> {
    let Some(mut api) = Api::connect_if_running(context).await? else { return Ok(None) };
    let pid = api.call(async |client| client.daemon().status(StatusRequest {}).await).await?.pid;
    let patience = if stop_runners { STOPS_RUNNERS } else { ENDS };
    // Asked once: a daemon that is asked again would be the next one.
    let shutdown = ShutdownRequest { stop_runners };
    let mut daemon = api.client().daemon();
    match tokio::time::timeout(patience, daemon.shutdown(shutdown)).await {
        Ok(Ok(_)) => {}
        Ok(Err(status)) if crate::api::is_lost(&status) => {}
        Ok(Err(status)) => return Err(crate::api::failure(&status)),
        Err(_) => return Err(stays(pid, patience)),
    }
    let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(Some(pid));
    };
    let deadline = Instant::now() + ENDS;
    let mut wait = Duration::from_millis(2);
    // A zombie of ours would answer too, so the lock that it held counts as well.
    while test_kill_process(process).is_ok() && lock_is_held(context) {
        if Instant::now() > deadline {
            return Err(stays(pid, ENDS));
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_millis(50));
    }
    Ok(Some(pid))
}

fn lock_is_held(context: &Context) -> bool {
    use rustix::fs::{FlockOperation, flock};
    let Ok(file) = std::fs::File::open(context.paths.daemon_lock()) else { return false };
    flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}

fn stays(pid: u32, waited: Duration) -> Failure {
    let message = format!("the daemon (pid {pid}) has not ended within {}", units::span(waited));
    Failure::new(Exit::Timeout, "timeout", message)
        .next(format!("see its log; runners do not mind: kill -9 {pid}"))
}

fn show(context: &Context, status: Option<&DaemonStatus>) -> Result<Exit, Failure> {
    let view = DaemonView { running: status.is_some(), status: status.map(DaemonStatusView::from) };
    context.ui.show(&view, || match status {
        None => context.ui.line("no daemon runs; runners, if any, go on without it"),
        Some(status) => details(context, status),
    })?;
    Ok(if status.is_some() { Exit::Ok } else { Exit::Unavailable })
}

fn details(context: &Context, status: &DaemonStatus) -> Result<(), Failure> {
    let now = context.clock.now();
    let store = status.store.as_ref().map_or_else(String::new, |store| {
        format!(
            "{}, schema {}, answers in {:.1} ms, connections {} of {} ({} idle)",
            store.engine,
            store.schema_version,
            store.ping_us as f64 / 1000.0,
            store.connections_open,
            store.connections_max,
            store.connections_idle
        )
    });
    context.ui.fields(&[
        ("health", status.health.clone()),
        ("problems", status.problems.join("; ")),
        ("version", format!("{} ({})", status.version, status.commit)),
        ("pid", status.pid.to_string()),
        ("running for", ago(now, time(status.started_at_us))),
        ("memory", units::bytes(status.memory)),
        ("store", store),
        ("runners", counts(status)),
        ("agents", format!("{} connected", status.agents_connected)),
        ("projects", status.projects.to_string()),
        (
            "events",
            format!(
                "{} so far, {} to be published",
                status.last_event_position, status.outbox_pending
            ),
        ),
        ("output", kept_output(status)),
        ("node", format!("{} ({})", status.hostname, status.node_id)),
        ("state", status.state_dir.clone()),
        ("log", context.paths.daemon_log().display().to_string()),
    ])?;
    if status.tasks.is_empty() {
        return Ok(());
    }
    let mut table = Table::new([
        Column::new("TASK"),
        Column::new("RUNS").right(),
        Column::new("LAST").right(),
        Column::new("REPORT").shrinks(),
    ]);
    for task in &status.tasks {
        let (report, tone) = if task.error.is_empty() {
            (&task.report, Tone::Plain)
        } else {
            (&task.error, Tone::Bad)
        };
        table.row([
            Cell::new(&task.name),
            Cell::new(task.runs.to_string()),
            Cell::new(ago(now, time(task.ran_at_us))),
            Cell::toned(report, tone),
        ]);
    }
    context.ui.line("")?;
    context.ui.table(&table)
}

/// How much output is kept, where that has a limit.
fn kept_output(status: &DaemonStatus) -> String {
    match status.output_max_bytes {
        0 => String::new(),
        max => {
            format!("{} kept of at most {}", units::bytes(status.output_bytes), units::bytes(max))
        }
    }
}

/// How many runners are in which state, in words.
pub(crate) fn counts(status: &DaemonStatus) -> String {
    let order = stratavore_core::runner::RunnerState::NAMES;
    let known = order.iter().filter_map(|state| Some((*state, *status.runners.get(*state)?)));
    let parts: Vec<String> =
        known.filter(|(_, n)| *n > 0).map(|(state, n)| format!("{n} {state}")).collect();
    if parts.is_empty() { "none".into() } else { parts.join(", ") }
}

pub(crate) fn reconcile(context: &Context) -> Result<Exit, Failure> {
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let report =
            api.call(async |client| client.daemon().reconcile(ReconcileRequest {}).await).await?;
        let view = ReconcileView { looked_at: report.looked_at, actions: report.actions.clone() };
        context.ui.show(&view, || {
            for action in &report.actions {
                context.ui.line(Cell::new(action).text())?;
            }
            Ok(())
        })?;
        let done = if report.actions.is_empty() { "; all is as it should be" } else { "" };
        context.ui.note(format!("looked at {} runners{done}", report.looked_at));
        Ok(Exit::Ok)
    })
}
