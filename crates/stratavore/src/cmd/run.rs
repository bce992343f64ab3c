//! `stratavore run`: one prompt, its steps as they come, and a result.
//!
//! The run belongs to its runner: it goes on whatever becomes of this program, of the daemon, and of the
//! connection between them. Watching it goes on where it was.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use stratavore_core::restart::RestartPolicy;
use stratavore_core::terminal::{PlainText, Untrusted};
use stratavore_proto::client::Client;
use stratavore_proto::v1::{
    LaunchRunners, Limits, RunProgress, RunResult, RunStep, Runner, StopRunner, WatchRun,
    run_progress,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::{Status, Streaming};

use super::launch::check_variables;
use crate::api::{Api, failure, is_lost};
use crate::clock::fresh_key;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::Tone;
use crate::ui::{Format, Ui};
use crate::units::{money, parse_seconds, parse_usd};
use crate::view::{RunResultView, StepView};

/// The most that is read as a prompt, in bytes; the daemon takes less.
const PROMPT_MAX: u64 = 1 << 20;
/// The most characters of a step that people are shown; --json and the logs have all of it.
const SHOWN_MAX: usize = 400;

/// Run an assistant on one prompt, without a screen, and print the result
#[derive(Debug, Args)]
#[command(after_help = "\
What the assistant does is told on standard error, and what it says last is printed. With --json there is
one JSON object on a line for each step, and one with `\"kind\":\"result\"` at the end. The exit code tells how
it came out: 0 done, 4 a limit was reached, 6 the provider's rate limit was met, 9 its time was over,
10 it failed or was cut short (docs/run.md).

Ctrl-C stops the run; a second one leaves it to stop alone. Closing the terminal stops nothing.

Examples:
  stratavore run api \"run the tests, and mend what fails\"
  stratavore run api --assistant codex --file task.md --timeout 30m --max-cost 2
  git diff | stratavore run api --json -
  stratavore run api --resume ses_7k3m9 \"and now the documentation\"
  stratavore run api --assistant generic -- make test")]
pub(crate) struct Run {
    /// The project to run in
    project: String,
    /// What is to be done; `-` reads it from standard input
    #[arg(value_name = "PROMPT")]
    text: Option<String>,
    /// The same as an option
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["text", "file"])]
    prompt: Option<String>,
    /// Read it from this file; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// The assistant: claude, codex, gemini, opencode, aider or generic [default: the project's]
    #[arg(long, short, value_name = "NAME", default_value = "", hide_default_value = true)]
    assistant: String,
    /// End it after so many turns
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_turns: u32,
    /// End it once it has cost so many US dollars
    #[arg(long, value_name = "USD", value_parser = parse_usd)]
    max_cost: Option<i64>,
    /// End it after this time, such as 30m
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    timeout: Option<u64>,
    /// The name of its runner [default: numbered after the assistant]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    /// Go on with this session: its id, the beginning of one, or the assistant's own id
    #[arg(
        long,
        visible_alias = "session",
        value_name = "SESSION",
        default_value = "",
        hide_default_value = true
    )]
    resume: String,
    /// With --resume: in a new session that begins as that one is now
    #[arg(long, requires = "resume")]
    fork: bool,
    /// Set a variable; VALUE may be file:PATH or env:NAME (of the daemon)
    #[arg(long, short, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Print each step and the result as a line of JSON
    #[arg(long)]
    json: bool,
    /// Arguments for the assistant; for `generic` the program and its arguments
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

/// Where a prompt comes from.
pub(super) fn read_prompt(
    text: Option<String>,
    file: Option<&Path>,
) -> Result<Option<String>, Failure> {
    let dash = Path::new("-");
    let bytes = match (text.as_deref(), file) {
        (Some("-"), _) => read(std::io::stdin(), "standard input")?,
        (None, Some(path)) if path == dash => read(std::io::stdin(), "standard input")?,
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(path)) => {
            let shown = path.display().to_string();
            let file = std::fs::File::open(path)
                .map_err(|error| Failure::io(format_args!("read {shown}"), &error))?;
            read(file, &shown)?
        }
        (None, None) => return Ok(None),
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::usage("a prompt has to be UTF-8 text").next("convert it first"))?;
    if text.trim().is_empty() {
        return Err(Failure::usage("the prompt is empty").next("say what is to be done"));
    }
    Ok(Some(text))
}

fn read(from: impl Read, shown: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    from.take(PROMPT_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io(format_args!("read {shown}"), &error))?;
    if bytes.len() as u64 > PROMPT_MAX {
        return Err(Failure::usage(format!(
            "a prompt of more than {PROMPT_MAX} bytes is too long"
        ))
        .next("put it into a file of the project, and name the file in the prompt"));
    }
    Ok(bytes)
}

pub(crate) fn run(mut context: Context, args: Run) -> Result<Exit, Failure> {
    if args.json {
        context.ui = Ui::new(Format::Json, context.ui.quiet);
    }
    check_variables(&args.env, &context.config.runner.env_allow)?;
    let prompt = read_prompt(args.text.or(args.prompt), args.file.as_deref())?;
    if prompt.is_none() && args.args.is_empty() {
        return Err(Failure::usage("there is nothing to do").next(
            "say what: stratavore run PROJECT \"PROMPT\", or --file FILE, or - for standard input",
        ));
    }
    let request = LaunchRunners {
        idempotency_key: fresh_key(),
        project: args.project,
        assistant: args.assistant,
        args: args.args,
        name: args.name,
        count: 1,
        env: args.env,
        restart: RestartPolicy::Never.as_str().into(),
        limits: args.timeout.map(|wall_seconds| Limits { wall_seconds, ..Limits::default() }),
        prompt: prompt.unwrap_or_default(),
        headless: true,
        max_turns: args.max_turns,
        max_cost: args.max_cost.unwrap_or(0),
        session: args.resume,
        fork: args.fork,
        ..LaunchRunners::default()
    };
    context.block_on(async {
        let mut api = Api::connect(&context).await?;
        let asked = async |client: Client| client.runners().launch(request.clone()).await;
        let list = api.call(asked).await?;
        for remark in &list.remarks {
            context.ui.warn(remark);
        }
        let runner = list.runners.into_iter().next();
        let runner = runner.ok_or_else(|| Failure::failed("the daemon launched nothing"))?;
        context.ui.note(format!("running {} ({})", runner.name, runner.id));
        let mut watch = Watch::new(&context, &runner)?;
        let result = watch.follow_to_its_end(&mut api).await?;
        report(&context, &result, watch.interrupted)
    })
}

/// Who watches a run.
struct Watch<'c> {
    context: &'c Context,
    runner: String,
    /// Where to go on.
    from: u64,
    interrupt: Signal,
    terminate: Signal,
    /// By which signal the run was stopped.
    interrupted: Option<Exit>,
}

impl<'c> Watch<'c> {
    fn new(context: &'c Context, runner: &Runner) -> Result<Self, Failure> {
        let io = |error: std::io::Error| Failure::io("hear of signals", &error);
        Ok(Self {
            context,
            runner: runner.id.clone(),
            from: 0,
            interrupt: signal(SignalKind::interrupt()).map_err(io)?,
            terminate: signal(SignalKind::terminate()).map_err(io)?,
            interrupted: None,
        })
    }

    /// Shows what comes until the result does, over as many connections as it takes.
    async fn follow_to_its_end(&mut self, api: &mut Api<'_>) -> Result<RunResult, Failure> {
        loop {
            let request =
                WatchRun { runner: self.runner.clone(), from: self.from, ..WatchRun::default() };
            let lost = match api.client().runs().watch(request).await {
                Ok(response) => match self.follow(api, response.into_inner()).await? {
                    Ok(result) => return Ok(result),
                    Err(lost) => lost,
                },
                Err(status) => status,
            };
            if !is_lost(&lost) {
                return Err(failure(&lost));
            }
            self.context.ui.note("lost the daemon; the run goes on, and so will this");
            api.reconnect(&mut 1).await?;
        }
    }

    /// Shows what comes over one connection.
    async fn follow(
        &mut self,
        api: &mut Api<'_>,
        mut progress: Streaming<RunProgress>,
    ) -> Result<Result<RunResult, Status>, Failure> {
        loop {
            let asked = tokio::select! {
                biased;
                _ = self.interrupt.recv() => Exit::Interrupted,
                _ = self.terminate.recv() => Exit::Terminated,
                message = progress.message() => {
                    use run_progress::Kind;
                    match message {
                        Ok(Some(RunProgress { kind: Some(Kind::Steps(steps)) })) => {
                            for step in &steps.steps {
                                show(&self.context.ui, step)?;
                            }
                            self.from = steps.next;
                        }
                        Ok(Some(RunProgress { kind: Some(Kind::Result(result)) })) => {
                            return Ok(Ok(*result));
                        }
                        Ok(Some(RunProgress { kind: None })) => {}
                        Ok(None) => return Ok(Err(Status::unavailable("the daemon said no more"))),
                        Err(status) => return Ok(Err(status)),
                    }
                    continue;
                }
            };
            if self.interrupted.is_some() {
                let message = format!("left the run {}, which is being stopped", self.runner);
                return Err(Failure::new(asked, "interrupted", message)
                    .next(format!("see how it is: stratavore runners show {}", self.runner)));
            }
            self.interrupted = Some(asked);
            self.context.ui.note("stopping the run; once more leaves it to stop alone");
            let stop = StopRunner {
                idempotency_key: fresh_key(),
                runner: self.runner.clone(),
                ..StopRunner::default()
            };
            let stopped = api.call(async |client| client.runners().stop(stop.clone()).await).await;
            // One that has just ended needs no stop, and says how it came out.
            if let Err(failure) = stopped
                && failure.code != "refused"
            {
                return Err(failure);
            }
        }
    }
}

/// A step as people see it. What is said stands alone; the rest is an aside.
fn show(ui: &Ui, step: &RunStep) -> Result<(), Failure> {
    if ui.format != Format::Table {
        return ui.item(&StepView::from(step), String::new);
    }
    let text = shortened(plain(&step.text));
    let aside = match step.kind.as_str() {
        // On a terminal it would stand there twice once it is the result.
        "text" if says_all(ui) => return ui.line(plain(&step.text)),
        "text" => {
            ui.note(text);
            return Ok(());
        }
        "session" => format!("session {text}"),
        "tool" => format!("{}: {text}", Untrusted(&step.tool)),
        "tool_result" => format!("→ {}", text.trim_end().replace('\n', "\n  ")),
        "retry" => format!("tries again: {text}"),
        "asks" => {
            ui.note(format!("asks for {}: {text}", Untrusted(&step.tool)));
            ui.note("answer it: stratavore inbox, then approve or deny");
            return Ok(());
        }
        other => format!("{}: {text}", Untrusted(other)),
    };
    ui.note(Tone::Dim.paint(&aside));
    Ok(())
}

/// Whoever reads what is said as it is said is not told the end of it again.
fn says_all(ui: &Ui) -> bool {
    ui.format == Format::Table && !ui.quiet && std::io::stdout().is_terminal()
}

/// Text without anything that a terminal would obey.
fn plain(text: &str) -> String {
    let mut shown = String::new();
    let mut plain = PlainText::default();
    plain.push(text.as_bytes(), &mut shown);
    plain.finish(&mut shown);
    shown.trim_end().to_owned()
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// Prints the result. One that is not done makes the command fail.
fn report(
    context: &Context,
    result: &RunResult,
    interrupted: Option<Exit>,
) -> Result<Exit, Failure> {
    let ui = &context.ui;
    let runner = result.runner.clone().unwrap_or_default();
    let shown = plain(&result.text);
    if ui.format != Format::Table || !(shown.is_empty() || says_all(ui)) {
        ui.item(&RunResultView::from(result), || shown)?;
    }
    ui.note(Tone::Dim.paint(&summary(result, &runner)));
    let exit = match (interrupted, result.outcome.as_str()) {
        (_, "done") => return Ok(Exit::Ok),
        (Some(exit), "stopped") => exit,
        (_, "limit_reached") => Exit::Refused,
        (_, "rate_limited") => Exit::Unavailable,
        (_, "timed_out") => Exit::Timeout,
        (_, _) => Exit::RunnerFailed,
    };
    let code = format!("run_{}", result.outcome);
    let message = format!("the run of {} is not done: {}", runner.name, result.why);
    Err(Failure::new(exit, &code, message).next(format!("stratavore logs {}", runner.id)))
}

fn summary(result: &RunResult, runner: &Runner) -> String {
    let used = result.usage.unwrap_or_default();
    let mut parts = vec![result.outcome.replace('_', " ")];
    if used.messages > 0 {
        let read = used.input + used.cache_read + used.cache_write + used.cache_write_1h;
        parts.push(format!("{read} tokens in, {} out", used.output + used.reasoning));
        if used.unpriced == 0 {
            parts.push(money(used.cost));
        } else if used.reporting > 0 {
            parts.push(format!("{} as the assistant says", money(used.reported_cost)));
        }
    }
    if !runner.session_id.is_empty() {
        parts.push(runner.session_id.clone());
    }
    if !result.assistant_session.is_empty() {
        parts.push(Untrusted(&result.assistant_session).to_string());
    }
    parts.join(" · ")
}
