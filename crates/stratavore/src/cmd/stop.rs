//! `stratavore kill`, `restart`, `pause` and `unpause`.

use std::time::Duration;

use clap::Args;
use stratavore_proto::v1::{ListNodes, PauseRunner, RestartRunner, Runner, StopRunner};

use super::resolve::{self, ENDED, LAUNCH};
use crate::api::Api;
use crate::clock::fresh_key;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::Cell;
use crate::units::{parse_duration, span};
use crate::view::RunnerView;

/// Stop runners, and wait until nothing of them is left
#[derive(Debug, Args)]
#[command(after_help = "\
A runner is asked to end, and killed with everything that it started if it has not after the grace
period. What it printed and its session are kept.

Examples:
  stratavore kill claude
  stratavore kill --project api --timeout 30s
  stratavore kill --all --force")]
pub(crate) struct Kill {
    /// The runners, by id, the beginning of one, or name
    #[arg(required_unless_present_any = ["all", "project"])]
    runners: Vec<String>,
    /// All runners of this project; with runners, narrows their names
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
    /// Every live runner
    #[arg(long, conflicts_with_all = ["runners", "project"])]
    all: bool,
    /// Do not ask; kill at once
    #[arg(long, short)]
    force: bool,
    /// The grace period between asking and killing [default: as configured]
    #[arg(long, short, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "force")]
    timeout: Option<Duration>,
}

/// Start a runner again: stop and start a live one, carry an ended one on
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  stratavore restart claude
  stratavore restart claude --force   Kill it first, without asking")]
pub(crate) struct Restart {
    /// The runner, by id, the beginning of one, or name
    runner: String,
    /// Narrows a name to one project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
    /// Kill it at once instead of asking it to end
    #[arg(long, short)]
    force: bool,
}

/// Freeze all processes of runners
#[derive(Debug, Args)]
pub(crate) struct Pause {
    #[command(flatten)]
    pub which: Paused,
}

/// Let paused runners go on
#[derive(Debug, Args)]
pub(crate) struct Unpause {
    #[command(flatten)]
    pub which: Paused,
}

#[derive(Debug, Args)]
pub(crate) struct Paused {
    /// The runners, by id, the beginning of one, or name
    #[arg(required = true)]
    runners: Vec<String>,
    /// Narrows names to one project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
}

/// How long after its grace period a runner may take to be gone.
const GONE: Duration = Duration::from_secs(30);

pub(crate) fn kill(context: &Context, args: Kill) -> Result<Exit, Failure> {
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let project = args.project.clone().unwrap_or_default();
        let (wanted, narrow) = if args.runners.is_empty() {
            let live = resolve::runners(&mut api, &project, false, 10_000).await?;
            (live.into_iter().map(|runner| runner.id).collect(), String::new())
        } else {
            (args.runners.clone(), project)
        };
        // All are asked before any is waited for.
        let mut asked = Vec::new();
        let mut failures = Vec::new();
        for runner in wanted {
            let stop = StopRunner {
                idempotency_key: fresh_key(),
                runner,
                project: narrow.clone(),
                force: args.force,
                grace_ms: args
                    .timeout
                    .map_or(0, |grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX).max(1)),
            };
            match api.call(async |client| client.runners().stop(stop.clone()).await).await {
                // Named twice is stopped once.
                Ok(runner) if asked.iter().any(|other: &Runner| other.id == runner.id) => {}
                Ok(runner) => asked.push(runner),
                Err(failure) => failures.push(failure),
            }
        }
        let grace = args.timeout.unwrap_or(context.config.runner.grace);
        let stopped = wait_until_gone(context, &mut api, asked, grace).await?;
        report(context, &stopped)?;
        if stopped.is_empty() && failures.is_empty() {
            context.ui.note("no runner lives");
        }
        let late =
            stopped.iter().filter(|runner| !resolve::has_ended(runner)).map(resolve::too_slow);
        failures.extend(late);
        finish(context, failures)
    })
}

/// Tells all failures but the last, which becomes the command's own.
fn finish(context: &Context, mut failures: Vec<Failure>) -> Result<Exit, Failure> {
    let last = failures.pop();
    for failure in &failures {
        context.ui.fail(failure);
    }
    last.map_or(Ok(Exit::Ok), Err)
}

async fn wait_until_gone(
    context: &Context,
    api: &mut Api<'_>,
    asked: Vec<Runner>,
    grace: Duration,
) -> Result<Vec<Runner>, Failure> {
    if context.ui.is_watched() && asked.iter().any(|runner| !resolve::has_ended(runner)) {
        let names: Vec<String> = asked.iter().map(|runner| runner.name.clone()).collect();
        context.ui.note(format!(
            "stopping {} (killed after {})",
            resolve::some_of(&names),
            span(grace)
        ));
    }
    tell_who_is_away(context, api, &asked).await;
    let mut stopped = Vec::new();
    for runner in asked {
        if resolve::has_ended(&runner) {
            stopped.push(runner);
        } else {
            stopped.push(resolve::wait_for(api, &runner.id, &ENDED, grace + GONE).await?);
        }
    }
    Ok(stopped)
}

/// Says of runners whose host has no daemon now that they are stopped later, which may be longer than
/// anybody waits. Only said if it is known.
async fn tell_who_is_away(context: &Context, api: &mut Api<'_>, asked: &[Runner]) {
    let waiting = || asked.iter().filter(|runner| !resolve::has_ended(runner));
    if waiting().next().is_none() {
        return;
    }
    let list = api.call(async |client| client.nodes().list(ListNodes {}).await).await;
    let nodes = list.map(|list| list.nodes).unwrap_or_default();
    for runner in waiting() {
        let host = nodes.iter().find(|node| node.id == runner.node_id && !node.ready);
        if let Some(host) = host {
            let (name, host) = (Cell::new(&runner.name), Cell::new(&host.hostname));
            context.ui.note(format!(
                "{} is stopped when its host {} is back, which is away",
                name.text(),
                host.text()
            ));
        }
    }
}

fn report(context: &Context, runners: &[Runner]) -> Result<(), Failure> {
    let views: Vec<RunnerView> = runners.iter().map(RunnerView::from).collect();
    context.ui.show(&views, || {
        for runner in runners.iter().filter(|runner| resolve::has_ended(runner)) {
            let (name, cause) = (Cell::new(&runner.name), Cell::new(&runner.cause));
            context.ui.line(format!("{} {}: {}", name.text(), runner.state, cause.text()))?;
        }
        Ok(())
    })
}

pub(crate) fn restart(context: &Context, args: Restart) -> Result<Exit, Failure> {
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let request = RestartRunner {
            idempotency_key: fresh_key(),
            runner: args.runner,
            project: args.project.unwrap_or_default(),
            force: args.force,
        };
        let asked =
            api.call(async |client| client.runners().restart(request.clone()).await).await?;
        if context.ui.is_watched() {
            context.ui.note(format!("restarting {}", asked.name));
        }
        let patience = context.config.runner.grace + LAUNCH;
        let epoch = next_epoch(&asked);
        let mut runner =
            resolve::wait_at(&mut api, &asked.id, epoch, &["running"], patience).await?;
        resolve::settle(&mut api, std::slice::from_mut(&mut runner)).await?;
        let view = RunnerView::from(&runner);
        context.ui.show(&view, || {
            let name = Cell::new(&runner.name);
            context.ui.line(format!("restarted {} ({}): {}", name.text(), runner.id, runner.state))
        })?;
        if runner.epoch > epoch && !resolve::has_ended(&runner) {
            return Err(resolve::crashed(&runner));
        }
        if runner.state == "running" {
            return Ok(Exit::Ok);
        }
        if !resolve::has_ended(&runner) {
            return Err(resolve::too_slow(&runner));
        }
        let Runner { name, state, cause, .. } = &runner;
        Err(Failure::new(
            Exit::RunnerFailed,
            "runner_failed",
            format!("runner {name} {state}: {cause}"),
        )
        .next(format!("stratavore logs {name}")))
    })
}

/// The epoch that a restart leads to. The one before it runs until it has stopped, and must not be
/// taken for it.
fn next_epoch(asked: &Runner) -> i64 {
    if asked.state == "stopping" { asked.epoch + 1 } else { asked.epoch }
}

pub(crate) fn pause(context: &Context, args: Paused, paused: bool) -> Result<Exit, Failure> {
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let mut changed = Vec::new();
        let mut failures = Vec::new();
        for runner in args.runners {
            let request = PauseRunner {
                idempotency_key: fresh_key(),
                runner,
                project: args.project.clone().unwrap_or_default(),
                paused,
            };
            match api.call(async |client| client.runners().pause(request.clone()).await).await {
                Ok(runner) => changed.push(runner),
                Err(failure) => failures.push(failure),
            }
        }
        let views: Vec<RunnerView> = changed.iter().map(RunnerView::from).collect();
        context.ui.show(&views, || {
            for runner in &changed {
                let what = if paused { "paused" } else { "goes on:" };
                context.ui.line(format!("{what} {}", Cell::new(&runner.name).text()))?;
            }
            Ok(())
        })?;
        finish(context, failures)
    })
}
