//! `stratavore runners`.

use std::time::Duration;

use clap::{Args, Subcommand, builder::PossibleValuesParser};
use jiff::Timestamp;
use stratavore_core::clock::Clock;
use stratavore_core::runner::RunnerState;
use stratavore_proto::v1::{GetRunner, ListRunners, Runner};

use super::limits::limits_text;
use super::resolve;
use crate::api::Api;
use crate::clock::ago;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table, Tone};
use crate::units;
use crate::view::{RunnerView, time};

/// List and show runners
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  stratavore runners                        Those that live
  stratavore runners --all --project api    Ended ones too
  stratavore runners --state failed
  stratavore runners show claude
  stratavore runners --format json | jq -r '.[].name'")]
pub(crate) struct Runners {
    #[command(subcommand)]
    command: Option<RunnersCommand>,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, Subcommand)]
enum RunnersCommand {
    /// List the runners
    List(Filter),
    /// Show one runner
    Show {
        /// The runner, by id, the beginning of one, or name
        runner: String,
        /// Narrows a name to one project
        #[arg(long, short, value_name = "PROJECT")]
        project: Option<String>,
    },
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
struct Filter {
    /// Ended ones too
    #[arg(long)]
    all: bool,
    /// Only those of this project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
    /// Only those in this state; may be given more than once
    #[arg(long, value_name = "STATE", value_parser = PossibleValuesParser::new(RunnerState::NAMES))]
    state: Vec<String>,
    /// At most so many, the newest [default: 500]
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
}

pub(crate) fn run(context: &Context, args: Runners) -> Result<Exit, Failure> {
    if args.command.is_some() && args.filter != Filter::default() {
        return Err(Failure::usage("options of a list come after `list`")
            .next("stratavore runners list --help"));
    }
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        match args.command.unwrap_or(RunnersCommand::List(args.filter)) {
            RunnersCommand::List(filter) => list(context, &mut api, filter).await?,
            RunnersCommand::Show { runner, project } => {
                let get = GetRunner { runner, project: project.unwrap_or_default() };
                let runner =
                    api.call(async |client| client.runners().get(get.clone()).await).await?;
                show(context, &runner)?;
            }
        }
        Ok(Exit::Ok)
    })
}

async fn list(context: &Context, api: &mut Api<'_>, filter: Filter) -> Result<(), Failure> {
    // Who asks for ended ones by their state means them.
    let ended = filter.state.iter().any(|state| resolve::ENDED.contains(&state.as_str()));
    let list = ListRunners {
        project: filter.project.unwrap_or_default(),
        all: filter.all || ended,
        states: filter.state,
        limit: filter.limit.unwrap_or(0),
        before: String::new(),
    };
    let all = list.all;
    let runners = resolve::runner_list(api, list).await?;
    let views: Vec<RunnerView> = runners.iter().map(RunnerView::from).collect();
    context.ui.show(&views, || {
        if runners.is_empty() {
            let what = if all { "no runner" } else { "no runner lives" };
            context.ui.note(format!("{what}; launch one: stratavore launch"));
            return Ok(());
        }
        context.ui.table(&table(&runners, context.clock.now()))
    })
}

/// The table of runners, also that of `status`.
pub(crate) fn table(runners: &[Runner], now: Timestamp) -> Table {
    let mut table = Table::new([
        Column::new("NAME").shrinks(),
        Column::new("PROJECT").shrinks(),
        Column::new("STATE").shrinks(),
        Column::new("ACTIVITY"),
        Column::new("AGE").right(),
        Column::new("MEMORY").right(),
        Column::new("CPU").right(),
        Column::new("VIEWERS").right(),
        Column::new("ID"),
    ]);
    for runner in runners {
        let live = !resolve::has_ended(runner);
        let usage = runner.usage.as_ref().filter(|_| live);
        let since = if live {
            time(runner.started_at_us).or(time(runner.created_at_us))
        } else {
            time(runner.ended_at_us)
        };
        let activity =
            if live && runner.activity != "unknown" { runner.activity.as_str() } else { "-" };
        let activity_tone =
            if activity.starts_with("needs_") { Tone::Warning } else { Tone::Plain };
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        table.row([
            Cell::toned(&runner.name, Tone::Strong),
            Cell::new(&runner.project),
            Cell::toned(shortened(&state_text(runner, now)), state_tone(runner)),
            Cell::toned(activity, activity_tone),
            Cell::new(ago(now, since)),
            Cell::new(or_dash(usage.map(|u| units::bytes(u.memory)))),
            Cell::new(or_dash(usage.map(|u| units::span(Duration::from_millis(u.cpu_ms))))),
            Cell::new(or_dash(usage.map(|u| u.viewers.to_string()))),
            Cell::toned(short_id(&runner.id), Tone::Dim),
        ]);
    }
    table
}

/// Enough of a state to know what it is about; a cause may be a whole sentence.
pub(crate) fn shortened(state: &str) -> String {
    const MOST: usize = 48;
    match state.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &state[..end]),
        None => state.to_owned(),
    }
}

/// Enough of an id to name one of many thousands.
fn short_id(id: &str) -> &str {
    id.get(..10).unwrap_or(id)
}

pub(crate) fn state_text(runner: &Runner, now: Timestamp) -> String {
    let Runner { state, cause, desired, .. } = runner;
    if !cause.is_empty() {
        return format!("{state} ({cause})");
    }
    match time(runner.not_before_us).filter(|at| *at > now && state == "pending") {
        Some(at) => {
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            let after = match runner.last_cause.as_str() {
                "" => String::new(),
                cause => format!(" after {cause}"),
            };
            format!("{state} (restart in {}{after})", units::span(wait))
        }
        None if desired == "paused" && !resolve::has_ended(runner) => format!("{state} (paused)"),
        None => state.clone(),
    }
}

pub(crate) fn state_tone(runner: &Runner) -> Tone {
    match runner.state.as_str() {
        "running" if runner.desired == "paused" => Tone::Warning,
        "running" => Tone::Good,
        "pending" | "starting" | "stopping" | "unresponsive" => Tone::Warning,
        "failed" | "lost" => Tone::Bad,
        _ => Tone::Dim,
    }
}

fn show(context: &Context, runner: &Runner) -> Result<(), Failure> {
    context.ui.show(&RunnerView::from(runner), || {
        let now = context.clock.now();
        let at = |us: i64| match time(us) {
            Some(at) => format!("{at} ({} ago)", ago(now, Some(at))),
            None => String::new(),
        };
        let env = runner
            .env
            .iter()
            .map(|v| format!("{}={}", v.key, v.value))
            .collect::<Vec<_>>()
            .join(" ");
        let number = |n: u32| if n == 0 { String::new() } else { n.to_string() };
        let usage = runner.usage.as_ref().map_or_else(String::new, |usage| {
            let rate = usage
                .output_rate
                .map_or_else(String::new, |rate| format!(" ({}/s)", units::bytes(rate)));
            format!(
                "memory {}, CPU time {}, processes {}, output {}{rate}, viewers {}",
                units::bytes(usage.memory),
                units::span(Duration::from_millis(usage.cpu_ms)),
                usage.processes,
                units::bytes(usage.output_bytes),
                usage.viewers
            )
        });
        let restarts = if runner.restarts == 0 {
            String::new()
        } else {
            format!(", {} so far", runner.restarts)
        };
        context.ui.fields(&[
            ("name", runner.name.clone()),
            ("id", runner.id.clone()),
            ("project", runner.project.clone()),
            ("state", state_text(runner, now)),
            (
                "activity",
                if resolve::has_ended(runner) { String::new() } else { runner.activity.clone() },
            ),
            ("assistant", runner.assistant.clone()),
            ("command", shell_words(&runner.argv)),
            ("environment", env),
            ("directory", runner.directory.clone()),
            ("limits", limits_text(&runner.limits.unwrap_or_default())),
            ("not enforced", runner.limits_not_enforced.clone()),
            ("restart", format!("{}{restarts}", runner.restart)),
            ("usage", usage),
            ("process", number(runner.pid)),
            ("agent", number(runner.agent_pid)),
            ("session", runner.session_id.clone()),
            ("successor of", runner.successor_of.clone()),
            ("node", runner.node_id.clone()),
            ("last end", runner.last_cause.clone()),
            ("created", at(runner.created_at_us)),
            ("started", at(runner.started_at_us)),
            ("ended", at(runner.ended_at_us)),
        ])
    })
}

/// Arguments as a shell would take them, for people to read.
fn shell_words(argv: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    let word = |text: &String| {
        if !text.is_empty() && text.chars().all(plain) {
            text.clone()
        } else {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
    };
    argv.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_says_why_and_what_next() {
        let now = Timestamp::from_second(1000).unwrap();
        let runner = |state: &str, cause: &str, desired: &str, not_before_us| Runner {
            state: state.into(),
            cause: cause.into(),
            desired: desired.into(),
            not_before_us,
            ..Runner::default()
        };
        assert_eq!(state_text(&runner("failed", "exit 1", "running", 0), now), "failed (exit 1)");
        assert_eq!(state_text(&runner("running", "", "paused", 0), now), "running (paused)");
        assert_eq!(
            state_text(&runner("pending", "", "running", 1_005_000_000), now),
            "pending (restart in 5s)"
        );
        assert_eq!(state_text(&runner("pending", "", "running", 1_000_000), now), "pending");
    }

    #[test]
    fn a_command_reads_as_a_shell_takes_it() {
        let argv = ["sh", "-c", "echo it's", ""].map(String::from);
        assert_eq!(shell_words(&argv), r"sh -c 'echo it'\''s' ''");
    }

    #[test]
    fn the_table_of_runners_is_stable() {
        let now = Timestamp::from_second(10_000).unwrap();
        let usage = stratavore_proto::v1::Usage {
            memory: 180 << 20,
            cpu_ms: 61_000,
            viewers: 1,
            ..Default::default()
        };
        let runners = [
            Runner {
                id: "run_7k3m9x0000000000000a".into(),
                name: "claude-1".into(),
                project: "api".into(),
                state: "running".into(),
                desired: "running".into(),
                activity: "needs_input".into(),
                started_at_us: 9_000_000_000,
                usage: Some(usage),
                ..Runner::default()
            },
            Runner {
                id: "run_abc0000000000000000b".into(),
                name: "tests".into(),
                project: "web".into(),
                state: "failed".into(),
                cause: "exec_error: no such program\u{1b}[31m".into(),
                activity: "unknown".into(),
                ended_at_us: 9_990_000_000,
                ..Runner::default()
            },
        ];
        let lines = table(&runners, now).lines(Some(100)).join("\n");
        insta::assert_snapshot!(anstream::adapter::strip_str(&lines).to_string());
    }
}
