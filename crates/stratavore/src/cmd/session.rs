//! `stratavore sessions`: what conversations there are. What is done with one is in files of its own.

mod export;
mod import;
mod messages;
mod resume;
mod tar;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use stratavore_core::clock::Clock;
use stratavore_proto::v1::{
    GetSession, ListSessions, RemoveSession, Session, SessionDetails, SessionHolder,
};

use super::search;
use super::usage::{group_table, tokens_text};
use crate::api::Api;
use crate::clock::{ago, fresh_key};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table, Tone};
use crate::units;
use crate::view::{SessionDetailsView, SessionView, time};

/// List, resume, search, export and forget sessions: the conversations of assistants
#[derive(Debug, Args)]
#[command(after_help = "\
A session is named by its id, the assistant's own id of it, or the beginning of either.

Examples:
  stratavore sessions
  stratavore sessions list --project api --text \"login page\"
  stratavore sessions show ses_7k3m
  stratavore sessions resume ses_7k3m --attach
  stratavore sessions search \"the flaky test\"
  stratavore sessions export ses_7k3m handover/
  stratavore sessions rm ses_7k3m")]
pub(crate) struct Sessions {
    #[command(subcommand)]
    command: Option<SessionsCommand>,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    /// List the sessions, the one that was used last first
    List(Filter),
    /// Show one session: where it came from, who held it, what it used
    Show {
        /// The session, by our id or the assistant's, or the beginning of one
        session: String,
    },
    /// Go on with a session in a runner of its own
    Resume(resume::Resume),
    /// Begin a new session that starts as this one is now
    Fork(resume::Resume),
    Search(search::Search),
    Messages(messages::Messages),
    Export(export::Export),
    Import(import::Import),
    /// Take sessions out of lists and forget what they are called; what they used stays counted
    Rm {
        /// The sessions, by our id or the assistant's, or the beginning of one
        #[arg(required = true, value_name = "SESSION")]
        sessions: Vec<String>,
    },
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
struct Filter {
    /// Only those of this project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
    /// Only those of this assistant
    #[arg(long, short, value_name = "NAME")]
    assistant: Option<String>,
    /// Only those whose title or first prompt has this in it
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// Only those that a runner carries now
    #[arg(long, conflicts_with = "ended")]
    live: bool,
    /// Only those that no runner carries
    #[arg(long)]
    ended: bool,
    /// At most so many [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
    /// Go on where the list before said
    #[arg(long, value_name = "PAGE")]
    page: Option<String>,
}

/// What is done here.
enum Own {
    List(Filter),
    Show { session: String },
    Rm { sessions: Vec<String> },
}

pub(crate) fn run(context: &Context, args: Sessions) -> Result<Exit, Failure> {
    let Sessions { command, filter } = args;
    if command.is_some() && filter != Filter::default() {
        return Err(Failure::usage("options of a list come after `list`")
            .next("stratavore sessions list --help"));
    }
    let command = match command.unwrap_or(SessionsCommand::List(filter)) {
        SessionsCommand::Resume(args) => return resume::run(context, args, false),
        SessionsCommand::Fork(args) => return resume::run(context, args, true),
        SessionsCommand::Search(args) => return search::run(context, args),
        SessionsCommand::Messages(args) => return messages::run(context, args),
        SessionsCommand::Export(args) => return export::run(context, &args),
        SessionsCommand::Import(args) => return import::run(context, &args),
        SessionsCommand::List(filter) => Own::List(filter),
        SessionsCommand::Show { session } => Own::Show { session },
        SessionsCommand::Rm { sessions } => Own::Rm { sessions },
    };
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        match command {
            Own::List(filter) => list(context, &mut api, filter).await?,
            Own::Show { session } => {
                let get = GetSession { session };
                let details =
                    api.call(async |client| client.sessions().get(get.clone()).await).await?;
                show(context, &details)?;
            }
            Own::Rm { sessions } => {
                let mut removed = Vec::new();
                for session in sessions {
                    let remove = RemoveSession { idempotency_key: fresh_key(), session };
                    let done = api
                        .call(async |client| client.sessions().remove(remove.clone()).await)
                        .await?;
                    removed.push(done);
                }
                let views: Vec<SessionView> = removed.iter().map(SessionView::from).collect();
                context.ui.show(&views, || {
                    for session in &removed {
                        context.ui.line(format!("removed {}", Cell::new(&session.id).text()))?;
                    }
                    Ok(())
                })?;
            } // Were carried out above.
        }
        Ok(Exit::Ok)
    })
}

async fn list(context: &Context, api: &mut Api<'_>, filter: Filter) -> Result<(), Failure> {
    let state = match (filter.live, filter.ended) {
        (true, _) => "live",
        (false, true) => "ended",
        (false, false) => "",
    };
    let request = ListSessions {
        project: filter.project.unwrap_or_default(),
        assistant: filter.assistant.unwrap_or_default(),
        text: filter.text.unwrap_or_default(),
        state: state.into(),
        limit: filter.limit.unwrap_or(0),
        page: filter.page.unwrap_or_default(),
    };
    let list = api.call(async |client| client.sessions().list(request.clone()).await).await?;
    let views: Vec<SessionView> = list.sessions.iter().map(SessionView::from).collect();
    context.ui.show(&views, || {
        if list.sessions.is_empty() {
            context.ui.note("no session");
            return Ok(());
        }
        context.ui.table(&table(&list.sessions, context.clock.now()))
    })?;
    if !list.next.is_empty() {
        context.ui.note(format!("there may be more: --page {}", list.next));
    }
    Ok(())
}

fn table(sessions: &[Session], now: Timestamp) -> Table {
    let mut table = Table::new([
        Column::new("TITLE").shrinks(),
        Column::new("PROJECT").shrinks(),
        Column::new("ASSISTANT"),
        Column::new("RUNNER").shrinks(),
        Column::new("MESSAGES").right(),
        Column::new("MODELS").shrinks(),
        Column::new("USED").right(),
        Column::new("ID"),
    ]);
    for session in sessions {
        let runner = if session.runner_id.is_empty() { "-" } else { &*session.runner };
        table.row([
            Cell::toned(label(session), Tone::Strong),
            Cell::new(&session.project),
            Cell::new(&session.assistant),
            Cell::toned(runner, if runner == "-" { Tone::Dim } else { Tone::Good }),
            Cell::new(units::grouped(messages(session))),
            Cell::new(session.models.join(", ")),
            Cell::new(ago(now, time(session.updated_at_us))),
            Cell::toned(session.id.get(..10).unwrap_or(&session.id), Tone::Dim),
        ]);
    }
    table
}

/// What it is called: its title, else how it began, else the assistant's id of it.
fn label(session: &Session) -> &str {
    const MOST: usize = 60;
    let texts = [&session.title, &session.first_prompt, &session.external_id];
    let text = texts.into_iter().find(|text| !text.is_empty()).map_or("-", |text| text);
    let line = text.lines().next().unwrap_or(text);
    line.char_indices().nth(MOST).map_or(line, |(end, _)| &line[..end])
}

fn messages(session: &Session) -> i64 {
    let all = [session.user_messages, session.assistant_messages, session.tool_messages];
    i64::try_from(all.into_iter().fold(0, u64::saturating_add)).unwrap_or(i64::MAX)
}

fn show(context: &Context, details: &SessionDetails) -> Result<(), Failure> {
    context.ui.show(&SessionDetailsView::from(details), || {
        let session = details.session.clone().unwrap_or_default();
        let now = context.clock.now();
        let at = |us: i64| match time(us) {
            Some(at) => format!("{at} ({} ago)", ago(now, Some(at))),
            None => String::new(),
        };
        let related = |other: &Session| format!("{} {}", other.id, label(other));
        let parent = details.parent.as_ref().map(related).unwrap_or_default();
        let parent = match &*session.lineage {
            "" => parent,
            lineage => format!("{lineage} of {parent}"),
        };
        let children: Vec<String> = details.children.iter().map(related).collect();
        let used = details.usage.unwrap_or_default();
        context.ui.fields(&[
            ("title", session.title.clone()),
            ("id", session.id.clone()),
            ("its assistant's id", session.external_id.clone()),
            ("project", session.project.clone()),
            ("assistant", session.assistant.clone()),
            ("runner", session.runner.clone()),
            ("first prompt", session.first_prompt.clone()),
            ("directory", session.directory.clone()),
            ("transcript", session.transcript.clone()),
            ("node", session.node_id.clone()),
            ("came from", parent),
            ("led to", children.join("; ")),
            ("models", session.models.join(", ")),
            (
                "messages",
                format!(
                    "{} of people, {} of the assistant, {} of tools",
                    session.user_messages, session.assistant_messages, session.tool_messages
                ),
            ),
            ("used", tokens_text(&used)),
            ("started", at(session.started_at_us)),
            ("last", at(session.ended_at_us)),
        ])?;
        if !details.held.is_empty() {
            context.ui.line("")?;
            context.ui.table(&held_table(&details.held, now))?;
        }
        if !details.by_model.is_empty() {
            context.ui.line("")?;
            let lines = group_table("MODEL", &details.by_model, None, context.ui.width());
            context.ui.line(lines.join("\n"))?;
        }
        Ok(())
    })
}

fn held_table(held: &[SessionHolder], now: Timestamp) -> Table {
    let mut table = Table::new([
        Column::new("HELD BY").shrinks(),
        Column::new("START").right(),
        Column::new("FROM"),
        Column::new("LAST").right(),
        Column::new("RUNNER"),
    ]);
    for held in held {
        table.row([
            Cell::toned(&held.runner, Tone::Strong),
            Cell::new(held.epoch.to_string()),
            Cell::new(time(held.first_at_us).map_or_else(String::new, |at| format!("{at:.0}"))),
            Cell::new(ago(now, time(held.last_at_us))),
            Cell::toned(held.runner_id.get(..10).unwrap_or(&held.runner_id), Tone::Dim),
        ]);
    }
    table
}
