//! `stratavore sessions`: conversations, exported, imported, searched and read.

mod export;
mod import;
mod tar;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use stratavore_core::Timestamp;
use stratavore_core::terminal::Untrusted;
use stratavore_proto::v1::{ListMessages, Message};

use super::search;
use crate::api::Api;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::Tone;
use crate::view::time;

/// Read, search, export and import conversations
#[derive(Debug, Args)]
pub(crate) struct Sessions {
    #[command(subcommand)]
    command: SessionsCommand,
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    Search(search::Search),
    Messages(Messages),
    Export(Export),
    Import(Import),
}

/// Show what was said in a conversation
#[derive(Debug, Args)]
pub(crate) struct Messages {
    /// The conversation: our id, the assistant's, or the beginning of either
    session: String,
    /// From this message on, by the id that a search shows
    #[arg(long, value_name = "MESSAGE")]
    from: Option<String>,
    /// At most so many [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
}

/// Write a conversation's files, as they were, into a directory
#[derive(Debug, Args)]
#[command(after_help = "\
The directory gets the transcripts byte for byte, the messages as lines of JSON, and manifest.json with
the size and SHA-256 of each file. With - a tar archive of the same goes to the standard output.

Examples:
  stratavore sessions export ses_7k3m9x2q4v8w1t6y0z5n handover/
  stratavore sessions export ses_7k3 - | ssh other 'tar x && stratavore sessions import .'")]
pub(crate) struct Export {
    /// The conversation: our id, the assistant's, or the beginning of either
    session: String,
    /// A directory that is not there yet, or is empty; - for a tar archive
    #[arg(value_name = "DIR", default_value = "-")]
    to: PathBuf,
}

/// Take in a conversation that was exported
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The directory with manifest.json
    #[arg(value_name = "DIR")]
    from: PathBuf,
    /// Whose it is to be [default: the project of the name that it had]
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
}

#[derive(Debug, Serialize)]
struct MessageView<'a> {
    id: &'a str,
    role: &'a str,
    at: Option<Timestamp>,
    model: &'a str,
    text: &'a str,
    file: &'a str,
    offset: u64,
}

pub(crate) fn run(context: &Context, args: Sessions) -> Result<Exit, Failure> {
    match args.command {
        SessionsCommand::Search(args) => search::run(context, args),
        SessionsCommand::Messages(args) => messages(context, args),
        SessionsCommand::Export(args) => export::run(context, &args),
        SessionsCommand::Import(args) => import::run(context, &args),
    }
}

fn messages(context: &Context, args: Messages) -> Result<Exit, Failure> {
    let request = ListMessages {
        session: args.session,
        from: args.from.unwrap_or_default(),
        limit: args.limit.unwrap_or(0),
        ..ListMessages::default()
    };
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let asked = api.call(async |client| client.search().messages(request.clone()).await);
        let list = asked.await?;
        let views: Vec<MessageView<'_>> = list.messages.iter().map(view).collect();
        context.ui.show(&views, || {
            for message in &list.messages {
                context.ui.text(shown(message))?;
            }
            if list.messages.is_empty() {
                context.ui.note("nothing was said in it, as far as is known");
            }
            Ok(())
        })?;
        Ok(Exit::Ok)
    })
}

fn view(message: &Message) -> MessageView<'_> {
    MessageView {
        id: &message.id,
        role: &message.role,
        at: time(message.at_us),
        model: &message.model,
        text: &message.text,
        file: &message.file,
        offset: message.offset,
    }
}

fn shown(message: &Message) -> String {
    let at = time(message.at_us).map(|at| at.to_string()).unwrap_or_default();
    let head = format!("{} {at}", Untrusted(&message.role));
    let lines = message.text.lines().map(|line| format!("  {}\n", Untrusted(line)));
    format!("{}\n{}", Tone::Good.paint(&head), lines.collect::<String>())
}
