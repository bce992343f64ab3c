//! `stratavore launch`.

use std::path::PathBuf;

use clap::Args;
use stratavore_core::restart::RestartPolicy;
use stratavore_core::runner::{EnvError, parse_env};
use stratavore_core::window::{AfterLimit, AfterLimitError};
use stratavore_proto::v1::{LaunchRunners, Runner};

use super::attach::{self, Attachment};
use super::limits::LimitArgs;
use super::resolve::{self, LAUNCH};
use crate::api::Api;
use crate::attach::tty;
use crate::clock::fresh_key;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::Cell;
use crate::view::RunnerView;

/// Launch runners in a project
#[derive(Debug, Args)]
#[command(after_help = "\
Without --project it is the project whose directory the current one is in, else the only project.
Arguments after `--` go to the assistant; for `generic` they are the program and its arguments.

Examples:
  stratavore launch --assistant claude --attach
  stratavore launch --assistant claude -- --model opus
  stratavore launch --assistant claude --prompt \"run the tests, and mend what fails\"
  stratavore launch --assistant generic --name tests --restart on-failure -- make test
  stratavore launch --count 3 --memory 2GiB --wall 2h
  stratavore launch --env GITHUB_TOKEN=file:/home/me/.github-token")]
pub(crate) struct Launch {
    /// The project to launch in
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
    /// The assistant: claude, codex, gemini, opencode or generic [default: the project's]
    #[arg(long, short, value_name = "NAME", default_value = "", hide_default_value = true)]
    assistant: String,
    /// How many to launch
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// Attach to it once it runs
    #[arg(long)]
    attach: bool,
    /// Its name, or the stem of the names [default: numbered after the assistant]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    /// Set a variable; VALUE may be file:PATH or env:NAME (of the daemon)
    #[arg(long, short, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// What to do when it ends: never, on-failure or always
    #[arg(long, value_name = "POLICY", default_value_t = RestartPolicy::Never, value_parser = parse_policy)]
    restart: RestartPolicy,
    /// Where to start it [default: the project's directory]
    #[arg(long, short, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The node to launch on: its host name, id, or the beginning of one [default: this one if it
    /// has room, else where most is free]
    #[arg(long, value_name = "NODE", default_value = "", hide_default_value = true)]
    node: String,
    /// A label that the node must have; may be given more than once
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// The first prompt of the conversation
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prompt: String,
    /// Go on with this session: its id, the beginning of one, or the assistant's own id
    #[arg(long, value_name = "SESSION", default_value = "", hide_default_value = true)]
    resume: String,
    /// With --resume: in a new session that begins as that one is now
    #[arg(long, requires = "resume")]
    fork: bool,
    /// Observe nothing: give the assistant no hooks, settings or telemetry of ours
    #[arg(long)]
    bare: bool,
    /// What to do once a limit of the assistant's maker is over: wait, or continue by itself
    #[arg(long, value_name = "WHAT", default_value = "wait", value_parser = parse_after_limit)]
    after_limit: AfterLimit,
    #[command(flatten)]
    limits: LimitArgs,
    /// Arguments for the assistant
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

fn parse_policy(text: &str) -> Result<RestartPolicy, String> {
    text.parse()
}

fn parse_after_limit(text: &str) -> Result<AfterLimit, AfterLimitError> {
    text.parse()
}

/// Checked here, so that a mistake is one of usage; the daemon asks again. Not done by the parser of
/// the command line, which repeats the whole value, and that may be a secret.
///
/// Variables that change how programs run need the configuration's word.
pub(crate) fn check_variables(env: &[String], allowed: &[String]) -> Result<(), Failure> {
    for text in env {
        let (error, next) = match parse_env(text) {
            Ok(_) => continue,
            Err(EnvError::Forbidden(key)) if allowed.contains(&key) => continue,
            Err(error @ EnvError::Forbidden(_)) => {
                (error, "if it has to: name it in runner.env_allow of the configuration")
            }
            // Without a key it may be the secret alone.
            Err(EnvError::Form(_)) => {
                let message = "--env: what was given is not KEY=VALUE";
                return Err(Failure::usage(message).next("stratavore launch --help"));
            }
            Err(error) => (error, "stratavore launch --help"),
        };
        return Err(Failure::usage(format!("--env: {error}")).next(next));
    }
    Ok(())
}

pub(crate) fn run(context: &Context, args: Launch) -> Result<Exit, Failure> {
    check_variables(&args.env, &context.config.runner.env_allow)?;
    if args.attach && args.count > 1 {
        return Err(Failure::usage("--attach goes with one runner, and --count asks for more")
            .next("launch them, then: stratavore attach RUNNER"));
    }
    if args.attach {
        attach::need_terminal()?;
    }
    let attach = args.attach;
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let project = resolve::project(&mut api, args.project.as_deref()).await?;
        let request = LaunchRunners {
            idempotency_key: fresh_key(),
            project,
            assistant: args.assistant,
            args: args.args,
            name: args.name,
            count: args.count,
            env: args.env,
            restart: args.restart.as_str().into(),
            limits: args.limits.limits(),
            node: args.node,
            node_labels: args.labels,
            prompt: args.prompt,
            session: args.resume,
            fork: args.fork,
            bare: args.bare,
            after_limit: args.after_limit.as_str().into(),
            directory: args
                .directory
                .as_deref()
                .map(resolve::absolute)
                .transpose()?
                .unwrap_or_default(),
            ..sized()
        };
        let mut launched = launch(context, &mut api, request).await?;
        if !attach {
            resolve::settle(&mut api, &mut launched).await?;
            return report(context, &launched);
        }
        let [runner] = launched.as_slice() else {
            return Err(Failure::failed(format!(
                "asked for one runner, and the daemon launched {}",
                launched.len()
            )));
        };
        if !runner.last_cause.is_empty() && !resolve::has_ended(runner) {
            return attach::crashed(context, &mut api, runner).await;
        }
        attach::to(context, api, runner.clone(), Attachment::default()).await
    })
}

/// A request that carries the size of the terminal, if there is one.
pub(crate) fn sized() -> LaunchRunners {
    let mut request = LaunchRunners::default();
    if tty::is_here() {
        let (columns, rows) = tty::size();
        (request.columns, request.rows) = (columns.into(), rows.into());
    }
    request
}

/// Launches, and waits until each of them runs or has ended.
pub(crate) async fn launch(
    context: &Context,
    api: &mut Api<'_>,
    request: LaunchRunners,
) -> Result<Vec<Runner>, Failure> {
    let list = api.call(async |client| client.runners().launch(request.clone()).await).await?;
    for remark in &list.remarks {
        context.ui.warn(remark);
    }
    let mut launched = Vec::new();
    for runner in list.runners {
        launched.push(resolve::wait_at(api, &runner.id, runner.epoch, &["running"], LAUNCH).await?);
    }
    Ok(launched)
}

/// Tells what became of the launched. One that failed makes the command fail.
pub(crate) fn report(context: &Context, launched: &[Runner]) -> Result<Exit, Failure> {
    let views: Vec<RunnerView> = launched.iter().map(RunnerView::from).collect();
    context.ui.show(&views, || {
        for runner in launched {
            let (name, project) = (Cell::new(&runner.name), Cell::new(&runner.project));
            let what = match runner.state.as_str() {
                _ if !runner.last_cause.is_empty() => "restarting",
                "running" => "launched",
                // Its error says why.
                other => other,
            };
            context.ui.line(format!(
                "{what} {} in {} ({})",
                name.text(),
                project.text(),
                runner.id
            ))?;
        }
        Ok(())
    })?;
    for runner in launched.iter().filter(|runner| !runner.limits_not_enforced.is_empty()) {
        context.ui.warn(format!(
            "{}: limits that this host cannot enforce: {}",
            runner.name, runner.limits_not_enforced
        ));
    }
    let failed: Vec<&Runner> = launched
        .iter()
        .filter(|r| resolve::has_ended(r) && !resolve::ended_well(&r.cause))
        .collect();
    match failed.as_slice() {
        [] => {
            let ended = launched.iter().find(|runner| !runner.last_cause.is_empty());
            if let Some(runner) = ended.filter(|runner| !resolve::ended_well(&runner.last_cause)) {
                return Err(resolve::crashed(runner));
            }
            if let Some(late) = launched
                .iter()
                .filter(|runner| runner.last_cause.is_empty())
                .find(|runner| ["pending", "starting"].contains(&runner.state.as_str()))
            {
                return Err(resolve::too_slow(late));
            }
            if let [runner] = launched
                && runner.state == "running"
            {
                context.ui.note(format!("next: stratavore attach {}", runner.name));
            }
            Ok(Exit::Ok)
        }
        [runner, ..] => {
            let Runner { name, state, cause, .. } = runner;
            Err(Failure::new(
                Exit::RunnerFailed,
                "runner_failed",
                format!("runner {name} {state}: {cause}"),
            )
            .next(format!("stratavore logs {name}")))
        }
    }
}
