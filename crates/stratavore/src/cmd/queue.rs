//! `stratavore queue`: what is to be done in projects, when its turn comes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use stratavore_core::clock::Clock;
use stratavore_proto::client::Client;
use stratavore_proto::v1::{AddItem, ChangeItem, GetItem, ListItems, QueueItem, SetQueue};

use super::launch::check_variables;
use super::run::read_prompt;
use crate::api::Api;
use crate::clock::{ago, fresh_key};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table, Tone};
use crate::units::{self, money, parse_duration, parse_seconds, parse_usd};
use crate::view::{ItemView, QueueView, time};

/// Queue what is to be done, and see what became of it
#[derive(Debug, Args)]
#[command(after_help = "\
Each project has a queue. Its items run without a screen, as `stratavore run` does, so many at once as the
queue's concurrency says, highest priority first. Where the provider's rate limit is met, an item waits for
its end and goes on in its session. No item is begun twice, whatever becomes of the daemon (docs/run.md).

Examples:
  stratavore queue add api \"update the dependencies, one commit each\" --attempts 3
  stratavore queue add api --file task.md --not-before 2h --priority 5
  stratavore queue set api --concurrency 2
  stratavore queue list --all
  stratavore queue retry item_7k3m9")]
pub(crate) struct Queue {
    #[command(subcommand)]
    command: Option<QueueCommand>,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    List(List),
    Add(Box<Add>),
    Show(Show),
    /// Cancel items; what runs is stopped
    Cancel(Which),
    /// Queue what has failed or was cancelled again
    Retry(Which),
    Set(Set),
}

/// List what waits and runs
#[derive(Debug, Default, Args)]
struct List {
    /// Only of this project
    project: Option<String>,
    /// What has come to its end too
    #[arg(long, short)]
    all: bool,
}

/// Queue something to be done
#[derive(Debug, Args)]
struct Add {
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
    /// Higher ones come first
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true)]
    priority: i32,
    /// How often it is tried at most; waiting for the end of a rate limit does not count
    #[arg(long, value_name = "N", default_value_t = 1)]
    attempts: u32,
    /// The wait after the first attempt; each further one is twice as long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    backoff: Duration,
    /// Fail where the provider's rate limit is met
    #[arg(long)]
    no_wait_for_reset: bool,
    /// Do not begin before this: in 2h, or at a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN")]
    not_before: Option<String>,
    /// End an attempt after this time, such as 30m
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    timeout: Option<u64>,
    /// End an attempt after so many turns
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_turns: u32,
    /// End an attempt once it has cost so many US dollars
    #[arg(long, value_name = "USD", value_parser = parse_usd)]
    max_cost: Option<i64>,
    /// What its runners are called [default: numbered after the assistant]
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
    /// Set a variable; VALUE may be file:PATH or env:NAME (of the daemon)
    #[arg(long, short, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Arguments for the assistant; for `generic` the program and its arguments
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

/// Show all of an item
#[derive(Debug, Args)]
struct Show {
    /// The item, by id or the beginning of one
    item: String,
}

#[derive(Debug, Args)]
struct Which {
    /// The items, by id or the beginning of one
    #[arg(required = true, value_name = "ITEM")]
    items: Vec<String>,
}

/// Say how a project's queue is worked off; without options, show it
#[derive(Debug, Args)]
struct Set {
    /// The project
    project: String,
    /// How many of its items run at once
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Begin nothing from now on; what runs goes on
    #[arg(long, conflicts_with = "resume")]
    pause: bool,
    /// Begin what waits again
    #[arg(long)]
    resume: bool,
}

pub(crate) fn run(context: &Context, args: Queue) -> Result<Exit, Failure> {
    match args.command.unwrap_or_else(|| QueueCommand::List(List::default())) {
        QueueCommand::List(list) => context.block_on(async {
            let mut api = Api::connect(context).await?;
            let items = listed(&mut api, list).await?;
            show_list(context, &items)?;
            Ok(Exit::Ok)
        }),
        QueueCommand::Add(add) => self::add(context, *add),
        QueueCommand::Show(show) => context.block_on(async {
            let mut api = Api::connect(context).await?;
            let get = GetItem { item: show.item };
            let item = api.call(async |client| client.queue().get(get.clone()).await).await?;
            show_one(context, &item)?;
            Ok(Exit::Ok)
        }),
        QueueCommand::Cancel(which) => {
            let ask = async |client: Client, change| client.queue().cancel(change).await;
            change(context, which, "cancelled", ask)
        }
        QueueCommand::Retry(which) => {
            let ask = async |client: Client, change| client.queue().retry(change).await;
            change(context, which, "queued again", ask)
        }
        QueueCommand::Set(set) => self::set(context, set),
    }
}

async fn listed(api: &mut Api<'_>, list: List) -> Result<Vec<QueueItem>, Failure> {
    let project = list.project.unwrap_or_default();
    let mut request = ListItems { project, all: list.all, ..ListItems::default() };
    let mut items = Vec::new();
    loop {
        let asked = async |client: Client| client.queue().list(request.clone()).await;
        let page = api.call(asked).await?;
        items.extend(page.items);
        if page.next.is_empty() {
            return Ok(items);
        }
        request.before = page.next;
    }
}

fn show_list(context: &Context, items: &[QueueItem]) -> Result<(), Failure> {
    let views: Vec<ItemView> = items.iter().map(ItemView::from).collect();
    context.ui.show(&views, || {
        if items.is_empty() {
            context.ui.note("nothing is queued; what is over: stratavore queue list --all");
            return Ok(());
        }
        let now = context.clock.now();
        let mut table = Table::new([
            Column::new("ITEM"),
            Column::new("PROJECT"),
            Column::new("STATE"),
            Column::new("PRIORITY").right(),
            Column::new("ATTEMPT").right(),
            Column::new("AGE").right(),
            Column::new("WHAT").shrinks(),
        ]);
        for item in items {
            table.row([
                Cell::new(&item.id),
                Cell::new(&item.project),
                Cell::toned(state(item, now), tone(item)),
                Cell::new(item.priority.to_string()),
                Cell::new(format!("{}/{}", item.attempts, item.max_attempts)),
                Cell::new(ago(now, time(item.created_at_us))),
                Cell::new(what(item)),
            ]);
        }
        context.ui.table(&table)
    })
}

/// The state, with what it waits for.
fn state(item: &QueueItem, now: Timestamp) -> String {
    let until = time(item.not_before_us).filter(|at| *at > now && item.state == "queued");
    match until {
        Some(at) => {
            let left = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            format!("queued (in {})", units::span(left))
        }
        None if item.state == "running" && !item.cancelled_by.is_empty() => "cancelling".into(),
        None => item.state.clone(),
    }
}

fn tone(item: &QueueItem) -> Tone {
    match item.state.as_str() {
        "running" => Tone::Good,
        "failed" => Tone::Bad,
        "cancelled" => Tone::Warning,
        "done" => Tone::Dim,
        _ => Tone::Plain,
    }
}

fn what(item: &QueueItem) -> String {
    let text = if item.prompt.is_empty() { item.args.join(" ") } else { item.prompt.clone() };
    text.replace(['\n', '\r'], " ")
}

fn show_one(context: &Context, item: &QueueItem) -> Result<(), Failure> {
    context.ui.show(&ItemView::from(item), || {
        let at = |us: i64| time(us).map_or_else(String::new, |at| at.to_string());
        let cost = if item.max_cost != 0 { money(item.max_cost) } else { String::new() };
        let timeout = match item.timeout_seconds {
            0 => String::new(),
            seconds => units::span(Duration::from_secs(seconds)),
        };
        context.ui.fields(&[
            ("item", item.id.clone()),
            ("project", item.project.clone()),
            ("state", state(item, context.clock.now())),
            ("why", item.why.clone()),
            ("cancelled by", item.cancelled_by.clone()),
            ("assistant", item.assistant.clone()),
            ("prompt", item.prompt.clone()),
            ("arguments", item.args.join(" ")),
            ("priority", item.priority.to_string()),
            ("attempts", format!("{} of {}", item.attempts, item.max_attempts)),
            ("not before", at(item.not_before_us)),
            ("timeout", timeout),
            ("max cost", cost),
            ("runner", item.runner_id.clone()),
            ("session", item.session_id.clone()),
            ("queued by", item.by.clone()),
            ("queued at", at(item.created_at_us)),
            ("runs since", at(item.started_at_us)),
            ("ended at", at(item.ended_at_us)),
            ("result", item.text.clone()),
        ])
    })
}

fn add(context: &Context, args: Add) -> Result<Exit, Failure> {
    check_variables(&args.env, &context.config.runner.env_allow)?;
    let prompt = read_prompt(args.text.or(args.prompt), args.file.as_deref())?;
    if prompt.is_none() && args.args.is_empty() {
        return Err(Failure::usage("there is nothing to do")
            .next("say what: stratavore queue add PROJECT \"PROMPT\", or --file FILE"));
    }
    let now = context.clock.now();
    let not_before = args.not_before.as_deref().map(|text| parse_when(text, now)).transpose()?;
    let request = AddItem {
        idempotency_key: fresh_key(),
        project: args.project,
        assistant: args.assistant,
        args: args.args,
        prompt: prompt.unwrap_or_default(),
        env: args.env,
        name: args.name,
        priority: args.priority,
        max_attempts: args.attempts,
        backoff_ms: u64::try_from(args.backoff.as_millis()).unwrap_or(u64::MAX).max(1),
        fails_at_rate_limit: args.no_wait_for_reset,
        not_before_us: not_before.map_or(0, |at| at.as_microsecond()),
        timeout_seconds: args.timeout.unwrap_or(0),
        max_turns: args.max_turns,
        max_cost: args.max_cost.unwrap_or(0),
        session: args.resume,
    };
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let item = api.call(async |client| client.queue().add(request.clone()).await).await?;
        context.ui.show(&ItemView::from(&item), || {
            let (id, project) = (Cell::new(&item.id), Cell::new(&item.project));
            context.ui.line(format!("queued {} in {}", id.text(), project.text()))
        })?;
        Ok(Exit::Ok)
    })
}

/// A moment from now on: `2h`, or a time.
fn parse_when(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    if let Ok(wait) = parse_duration(text) {
        return Ok(now.checked_add(wait).unwrap_or(Timestamp::MAX));
    }
    text.parse().map_err(|_| {
        let message = format!("`{}` is neither a time nor how long from now", text.escape_debug());
        Failure::usage(message).next("write 2h, or 2026-01-31T12:00:00Z")
    })
}

fn change(
    context: &Context,
    which: Which,
    done: &str,
    ask: impl AsyncFn(Client, ChangeItem) -> Result<tonic::Response<QueueItem>, tonic::Status>,
) -> Result<Exit, Failure> {
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let mut changed = Vec::new();
        for item in which.items {
            let change = ChangeItem { idempotency_key: fresh_key(), item };
            changed.push(api.call(async |client| ask(client, change.clone()).await).await?);
        }
        let views: Vec<ItemView> = changed.iter().map(ItemView::from).collect();
        context.ui.show(&views, || {
            changed.iter().try_for_each(|item| {
                let done = if item.state == "running" { "cancelling" } else { done };
                context.ui.line(format!("{done} {}", Cell::new(&item.id).text()))
            })
        })?;
        Ok(Exit::Ok)
    })
}

fn set(context: &Context, args: Set) -> Result<Exit, Failure> {
    let request = SetQueue {
        idempotency_key: fresh_key(),
        project: args.project,
        concurrency: args.concurrency,
        paused: (args.pause || args.resume).then_some(args.pause),
    };
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let queue = api.call(async |client| client.queue().set(request.clone()).await).await?;
        context.ui.show(&QueueView::from(&queue), || {
            let paused = if queue.paused { ", paused" } else { "" };
            let name = Cell::new(&queue.project);
            context.ui.line(format!("{}: {} at once{paused}", name.text(), queue.concurrency))
        })?;
        Ok(Exit::Ok)
    })
}
