//! `stratavore inbox`, `approve` and `deny`: who waits for a person, and answers.

use clap::Args;
use stratavore_core::terminal::Untrusted;
use stratavore_proto::v1::{AnswerAsk, Ask, ListInbox, Waiting};

use crate::api::Api;
use crate::clock::ago;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table, Tone};
use crate::view::{AskView, WaitingView, time};
use stratavore_core::clock::Clock;

/// Show which runners wait for you, and what they ask
#[derive(Debug, Args)]
#[command(after_help = "\
Who has waited longest comes first. A question with an id can be answered from here; the others on
their own screen, with `stratavore attach`. What is sent to a runner that asks one such question is its
answer. A runner that a budget holds is let go on by `approve RUNNER`.

Examples:
  stratavore inbox
  stratavore approve ask_7k3m9
  stratavore deny claude-2 --message \"use the staging database\"
  stratavore approve claude-2 --message \"the second one\"
  stratavore send claude-2 \"yes, both files\"")]
pub(crate) struct Inbox {
    /// Only those of this project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
}

/// Let an assistant do what it asks for
#[derive(Debug, Args)]
pub(crate) struct Approve {
    #[command(flatten)]
    which: Which,
    /// The answer to its question: one line for each, if it asks several
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
}

/// Do not let an assistant do what it asks for
#[derive(Debug, Args)]
pub(crate) struct Deny {
    #[command(flatten)]
    which: Which,
    /// What the assistant is told
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
}

#[derive(Debug, Args)]
struct Which {
    /// The ask that `inbox` shows, or a runner that asks one thing
    #[arg(value_name = "ASK|RUNNER")]
    ask: String,
    /// Narrows a runner's name to one project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
}

pub(crate) fn run(context: &Context, args: Inbox) -> Result<Exit, Failure> {
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let list = ListInbox { project: args.project.unwrap_or_default() };
        let asked = api.call(async |client| client.inbox().list(list.clone()).await);
        show(context, &asked.await?.waiting)?;
        Ok(Exit::Ok)
    })
}

fn show(context: &Context, waiting: &[Waiting]) -> Result<(), Failure> {
    let views: Vec<WaitingView> = waiting.iter().map(WaitingView::from).collect();
    context.ui.show(&views, || {
        if waiting.is_empty() {
            context.ui.note("nobody waits for you");
            return Ok(());
        }
        let now = context.clock.now();
        let mut table = Table::new([
            Column::new("SINCE"),
            Column::new("RUNNER"),
            Column::new("PROJECT"),
            Column::new("ASK"),
            Column::new("WHAT").shrinks(),
        ]);
        for one in waiting {
            let runner = one.runner.clone().unwrap_or_default();
            let question = runner.doing.as_ref().map_or("", |doing| doing.question.as_str());
            let (id, what) = match &one.ask {
                Some(ask) => (id(ask, &runner.name), what(ask)),
                None if question.is_empty() => ("-".into(), runner.activity.replace('_', " ")),
                None => ("-".into(), question.to_owned()),
            };
            table.row([
                Cell::new(ago(now, time(one.since_us))),
                Cell::new(&runner.name),
                Cell::new(&runner.project),
                Cell::toned(id, Tone::Warning),
                Cell::new(what.replace('\n', " ")),
            ]);
        }
        context.ui.table(&table)
    })?;
    let answerable = waiting.iter().find(|one| one.ask.as_ref().is_some_and(|ask| ask.answerable));
    if let Some((ask, one)) = answerable.and_then(|one| Some((one.ask.as_ref()?, one))) {
        let runner = one.runner.as_ref().map_or("", |runner| &runner.name);
        let id = id(ask, runner);
        context.ui.note(match ask.kind.as_str() {
            "budget" => format!("next: stratavore approve {id}, or: stratavore kill {id}"),
            _ => format!("next: stratavore approve {id}, or: stratavore deny {id}"),
        });
    }
    Ok(())
}

/// What one that can be answered from here is answered by.
fn id(ask: &Ask, runner: &str) -> String {
    match (ask.answerable, ask.id.as_str()) {
        (true, "") => runner.into(),
        (true, id) => id.into(),
        (false, _) => "-".into(),
    }
}

fn what(ask: &Ask) -> String {
    format!("{}: {}", ask.tool, ask.text)
}

pub(crate) fn approve(context: &Context, args: Approve) -> Result<Exit, Failure> {
    answer(context, args.which, true, args.message.unwrap_or_default())
}

pub(crate) fn deny(context: &Context, args: Deny) -> Result<Exit, Failure> {
    answer(context, args.which, false, args.message.unwrap_or_default())
}

fn answer(context: &Context, which: Which, allow: bool, message: String) -> Result<Exit, Failure> {
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let answer = AnswerAsk {
            ask: which.ask,
            project: which.project.unwrap_or_default(),
            allow,
            message,
        };
        // Asked again after a lost answer it finds that somebody has answered: that was this.
        let ask = api.call(async |client| client.inbox().answer(answer.clone()).await).await?;
        context.ui.show(&AskView::from(&ask), || {
            let done = if allow { "approved" } else { "denied" };
            context.ui.line(format!("{done} {}", Untrusted(&what(&ask))))
        })?;
        Ok(Exit::Ok)
    })
}
