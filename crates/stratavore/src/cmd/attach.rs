//! `stratavore attach`.

use std::time::Duration;

use clap::Args;
use stratavore_core::clock::Clock;
use stratavore_core::runner::RunnerState;
use stratavore_proto::v1::Runner;
use tokio::signal::unix::{SignalKind, signal};

use super::{output, resolve};
use crate::api::Api;
use crate::attach::{Ending, Options, Summary, Target, session, tty};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::units;
use crate::view::time;

/// Attach the terminal to a runner
#[derive(Debug, Args)]
#[command(after_help = "\
Several may be attached to one runner; one of them types. The detach key (ctrl-q unless
`attach.detach_key` is configured) leaves the runner running. No daemon is needed for a runner of
this host.

Examples:
  stratavore attach claude
  stratavore attach claude --read-only   Watch, and do not disturb
  stratavore attach claude --steal       Take typing over from whoever has it")]
pub(crate) struct Attach {
    /// The runner, by id, the beginning of one, or name
    runner: String,
    /// Narrows a name to one project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
    /// Only watch
    #[arg(long, short)]
    read_only: bool,
    /// Take typing over from whoever has it
    #[arg(long, conflicts_with = "read_only")]
    steal: bool,
}

/// How to attach, as far as the command line says.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Attachment {
    pub read_only: bool,
    pub steal: bool,
}

/// How long the daemon may take to learn that a runner has ended.
const LEARNS: Duration = Duration::from_secs(3);
/// A restart that is due later than this is not waited for.
const RESTARTS: Duration = Duration::from_secs(30);

pub(crate) fn run(context: &Context, args: &Attach) -> Result<Exit, Failure> {
    need_terminal()?;
    let attachment = Attachment { read_only: args.read_only, steal: args.steal };
    context.block_on(async {
        let target = resolve::target(context, &args.runner, args.project.as_deref()).await?;
        stay(context, target, attachment).await
    })
}

/// Attaches to a runner that the daemon knows, once it runs.
pub(crate) async fn to(
    context: &Context,
    api: Api<'_>,
    runner: Runner,
    attachment: Attachment,
) -> Result<Exit, Failure> {
    let (id, epoch) = (runner.id.clone(), runner.epoch);
    let attached = async {
        let target = resolve::target_of(context, api, runner).await?;
        stay(context, target, attachment).await
    };
    match attached.await {
        Err(failure) => last_words(context, &id, epoch, failure).await,
        ended => ended,
    }
}

/// What a runner printed that ended before the terminal was attached; `failure` if it did not end.
async fn last_words(
    context: &Context,
    id: &str,
    epoch: i64,
    failure: Failure,
) -> Result<Exit, Failure> {
    let kinds = [Exit::Unavailable, Exit::Refused, Exit::Conflict, Exit::RunnerFailed];
    if !kinds.contains(&failure.exit) {
        return Err(failure);
    }
    let Some(mut api) = Api::connect_if_running(context).await? else { return Err(failure) };
    let runner = resolve::wait_at(&mut api, id, epoch, &resolve::ENDED, LEARNS).await?;
    if runner.epoch > epoch && !resolve::has_ended(&runner) {
        return crashed(context, &mut api, &runner).await;
    }
    if !resolve::has_ended(&runner) {
        return Err(failure);
    }
    output::print_recorded(context, &mut api, id).await?;
    context.ui.note(format!("runner {} ended: {}", runner.name, shown(&runner.cause)));
    Ok(if resolve::ended_well(&runner.cause) { Exit::Ok } else { Exit::RunnerFailed })
}

/// What a runner printed that ended at once and is started again, and that it did.
pub(crate) async fn crashed(
    context: &Context,
    api: &mut Api<'_>,
    runner: &Runner,
) -> Result<Exit, Failure> {
    output::print_recorded(context, api, &runner.id).await?;
    Err(resolve::crashed(runner))
}

pub(crate) fn need_terminal() -> Result<(), Failure> {
    if tty::is_here() {
        return Ok(());
    }
    Err(Failure::usage("attaching needs a terminal to type on and to see")
        .next("without one: stratavore screen, stratavore logs --follow, stratavore send"))
}

/// Stays attached, also when the runner is restarted.
async fn stay(
    context: &Context,
    target: Target<'_>,
    attachment: Attachment,
) -> Result<Exit, Failure> {
    let id = target.id();
    if std::env::var("STRATAVORE_RUNNER_ID").is_ok_and(|own| own == id) {
        let message = format!("this terminal is that of runner {} itself", target.name());
        return Err(
            Failure::new(Exit::Refused, "refused", message).next("attach from another terminal")
        );
    }
    let options = Options {
        read_only: attachment.read_only,
        steal: attachment.steal,
        detach_key: context.config.attach.detach_key.clone(),
    };
    let mut target = target;
    loop {
        let label = target.label();
        context.ui.note(format!("attached to {label}; {} detaches", options.detach_key));
        let (ending, summary) = session::run(&target, &options).await?;
        tell(context, &summary);
        match ending {
            Ending::Detached => {
                context.ui.note(format!("detached from {label}; it goes on"));
                return Ok(Exit::Ok);
            }
            Ending::HungUp => return Ok(Exit::Ok),
            Ending::Signalled(exit) => return Ok(exit),
            Ending::Lost(why) => {
                let message = format!("lost the connection to {label}: {why}");
                return Err(Failure::new(Exit::Unavailable, "agent_unreachable", message)
                    .next(format!("stratavore runners show {id}; stratavore doctor")));
            }
            Ending::Ended(cause) => match after_end(context, &id, target.epoch()).await {
                After::Restarted(again) => {
                    context.ui.note(format!(
                        "runner {} ended: {}; it was restarted",
                        target.name(),
                        shown(&cause)
                    ));
                    target = *again;
                }
                After::Ended(told) => {
                    let cause = told.unwrap_or(cause);
                    context.ui.note(format!("runner {} ended: {}", target.name(), shown(&cause)));
                    if resolve::ended_well(&cause) {
                        return Ok(Exit::Ok);
                    }
                    let name = target.name();
                    context.ui.note(format!("stratavore logs {name} shows what it printed"));
                    return Ok(Exit::RunnerFailed);
                }
                After::Interrupted => return Ok(Exit::Interrupted),
            },
        }
    }
}

enum After<'c> {
    /// It runs again.
    Restarted(Box<Target<'c>>),
    /// It is over, for the cause that the daemon tells.
    Ended(Option<String>),
    Interrupted,
}

/// Whether a runner whose process of `epoch` has ended is over. Without a daemon it is.
async fn after_end<'c>(context: &'c Context, id: &str, epoch: i64) -> After<'c> {
    let Ok(mut interrupt) = signal(SignalKind::interrupt()) else { return After::Ended(None) };
    let finding_out = async {
        let mut api = Api::connect_if_running(context).await.ok()??;
        // Until the daemon has heard of the end it says `running` of the epoch that is over.
        let any = RunnerState::NAMES;
        let mut runner = resolve::wait_at(&mut api, id, epoch + 1, &any, LEARNS).await.ok()?;
        if runner.epoch > epoch && matches!(runner.state.as_str(), "pending" | "starting") {
            let now = context.clock.now();
            let due = time(runner.not_before_us).map_or(now, |at| at.max(now));
            let wait = Duration::try_from(due.duration_since(now)).unwrap_or_default();
            let (name, span) = (&runner.name, units::span(wait));
            if wait > RESTARTS {
                context.ui.note(format!("runner {name} is to be restarted in {span}"));
                return Some(After::Ended(Some(runner.last_cause)));
            }
            context.ui.note(format!("runner {name} is being restarted"));
            let again = runner.epoch;
            runner = resolve::wait_at(&mut api, id, again, &["running"], RESTARTS).await.ok()?;
        }
        if resolve::has_ended(&runner) {
            return Some(After::Ended(Some(runner.cause)));
        }
        if runner.epoch <= epoch {
            // The daemon has not heard of the end.
            return None;
        }
        let target = resolve::target_of(context, api, runner).await.ok()?;
        Some(After::Restarted(Box::new(target)))
    };
    tokio::select! {
        after = finding_out => after.unwrap_or(After::Ended(None)),
        _ = interrupt.recv() => After::Interrupted,
    }
}

fn shown(cause: &str) -> String {
    stratavore_core::terminal::escape_untrusted(cause)
}

fn tell(context: &Context, summary: &Summary) {
    if summary.missed > 0 {
        let missed = units::bytes(summary.missed);
        context.ui.note(format!(
            "{missed} of output came faster than this terminal shows; stratavore logs has it"
        ));
    }
    if summary.reconnects > 0 {
        context
            .ui
            .note(format!("the connection was lost and made anew {} times", summary.reconnects));
    }
    if summary.withheld_clipboard > 0 {
        context.ui.note(format!(
            "the runner tried to write to the clipboard {} times",
            summary.withheld_clipboard
        ));
    }
}
