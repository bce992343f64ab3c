//! `stratavore sessions messages`.

use clap::Args;
use serde::Serialize;
use stratavore_core::Timestamp;
use stratavore_core::terminal::Untrusted;
use stratavore_proto::v1::{ListMessages, Message};

use crate::api::Api;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::Tone;
use crate::view::time;

/// As many as are shown.
const MESSAGES: u32 = 100;

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

pub(super) fn run(context: &Context, args: Messages) -> Result<Exit, Failure> {
    let mut request = ListMessages {
        session: args.session,
        from: args.from.unwrap_or_default(),
        ..ListMessages::default()
    };
    let wanted = args.limit.unwrap_or(MESSAGES) as usize;
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let mut messages: Vec<Message> = Vec::new();
        // Long ones come a few at a time.
        while messages.len() < wanted {
            request.limit = u32::try_from(wanted - messages.len()).unwrap_or(MESSAGES);
            let asked = api.call(async |client| client.search().messages(request.clone()).await);
            let page = asked.await?.messages;
            let Some(last) = page.last() else { break };
            request.from.clear();
            (request.after_us, request.after_number) = (last.at_us, last.number);
            messages.extend(page);
        }
        let views: Vec<MessageView<'_>> = messages.iter().map(view).collect();
        context.ui.show(&views, || {
            for message in &messages {
                context.ui.text(shown(message))?;
            }
            if messages.is_empty() {
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
