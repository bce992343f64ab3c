//! `stratavore search`: what was said in conversations.

use clap::{Args, ValueEnum};
use serde::Serialize;
use stratavore_core::Timestamp;
use stratavore_core::clock::Clock;
use stratavore_core::terminal::Untrusted;
use stratavore_proto::v1::{FindRequest, FoundMessage};

use super::output::parse_since;
use crate::api::Api;
use crate::clock::ago;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::Tone;
use crate::view::time;

/// Find what was said in conversations, by words and by meaning
#[derive(Debug, Args)]
#[command(after_help = "\
All words have to be there; \"quotes\" keep words together, -word leaves out what has it, and begin* is
the beginning of a word. What means the same in other words is found too, after that.

Examples:
  stratavore search race condition outbox
  stratavore search 'timeout \"connection refused\" -flaky' --project shop --since 30d
  stratavore search 'retry*' --role user --assistant claude --format json")]
pub(crate) struct Search {
    /// What to look for
    #[arg(required = true, value_name = "TEXT")]
    text: Vec<String>,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only in this project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
    /// Only in this conversation
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
    /// Only conversations with this assistant
    #[arg(long, short, value_name = "NAME")]
    assistant: Option<String>,
    /// Only what was said by this side
    #[arg(long)]
    role: Option<Role>,
    /// Only what was said since then: 30d, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only what was said before then
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// How to find
    #[arg(long, default_value = "both")]
    by: By,
    /// At most so many [default: 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: Option<u32>,
    /// Pass by so many, to see the next page
    #[arg(long, value_name = "N", default_value_t = 0)]
    offset: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    User,
    Assistant,
    Tool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    Both,
    Words,
    Meaning,
}

/// A result as programs read it.
#[derive(Debug, Serialize)]
struct HitView<'a> {
    session: &'a str,
    external_id: &'a str,
    project: &'a str,
    assistant: &'a str,
    message: &'a str,
    role: &'a str,
    at: Option<Timestamp>,
    model: &'a str,
    text: String,
    /// The pieces of the text; those that were looked for are marked.
    snippet: Vec<PieceView<'a>>,
    file: &'a str,
    offset: u64,
    score: f64,
    found_by: &'a str,
    open: String,
    resume: String,
}

#[derive(Debug, Serialize)]
struct PieceView<'a> {
    text: &'a str,
    r#match: bool,
}

pub(crate) fn run(context: &Context, args: Search) -> Result<Exit, Failure> {
    let Search { text, filter } = args;
    let now = context.clock.now();
    let at = |when: &Option<String>| {
        let at = when.as_deref().map(|text| parse_since(text, now)).transpose()?;
        Ok::<i64, Failure>(at.map_or(0, Timestamp::as_microsecond))
    };
    let request = FindRequest {
        text: text.join(" "),
        since_us: at(&filter.since)?,
        until_us: at(&filter.until)?,
        project: filter.project.unwrap_or_default(),
        session: filter.session.unwrap_or_default(),
        assistant: filter.assistant.unwrap_or_default(),
        role: match filter.role {
            None => "",
            Some(Role::User) => "user",
            Some(Role::Assistant) => "assistant",
            Some(Role::Tool) => "tool",
        }
        .into(),
        by: match filter.by {
            By::Both => "both",
            By::Words => "words",
            By::Meaning => "meaning",
        }
        .into(),
        limit: filter.limit.unwrap_or(0),
        offset: filter.offset,
    };
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let asked = api.call(async |client| client.search().find(request.clone()).await);
        let answer = asked.await?;
        let views: Vec<HitView<'_>> = answer.found.iter().map(view).collect();
        context.ui.show(&views, || {
            for found in &answer.found {
                context.ui.text(shown(found, now))?;
            }
            if answer.found.is_empty() {
                context.ui.note("nothing was found; conversations of before: stratavore import");
            }
            if answer.has_more {
                let next = filter.offset as usize + answer.found.len();
                context.ui.note(format!("there is more: --offset {next}"));
            }
            Ok(())
        })?;
        if !answer.note.is_empty() {
            context.ui.warn(&answer.note);
        }
        Ok(Exit::Ok)
    })
}

fn view(found: &FoundMessage) -> HitView<'_> {
    let pieces = found.snippet.iter();
    HitView {
        session: &found.session_id,
        external_id: &found.external_id,
        project: &found.project,
        assistant: &found.assistant,
        message: &found.message_id,
        role: &found.role,
        at: time(found.at_us),
        model: &found.model,
        text: pieces.clone().map(|piece| &*piece.text).collect(),
        snippet: pieces
            .map(|piece| PieceView { text: &piece.text, r#match: piece.is_match })
            .collect(),
        file: &found.file,
        offset: found.offset,
        score: found.score,
        found_by: &found.found_by,
        open: open(found),
        resume: resume(found),
    }
}

fn resume(found: &FoundMessage) -> String {
    format!("stratavore sessions resume {}", found.session_id)
}

/// The command that shows a message where it stands.
fn open(found: &FoundMessage) -> String {
    let message = word(&found.message_id);
    format!("stratavore sessions messages {} --from {message}", found.session_id)
}

/// A text as one word of a shell: a message's name is what its transcript says, and may be anything.
fn word(text: &str) -> String {
    let is_plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b':');
    if text.bytes().all(is_plain) && !text.is_empty() && !text.starts_with('-') {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Four lines for each: where it was said, what, how to read on from there, and how to go on with it.
fn shown(found: &FoundMessage, now: Timestamp) -> String {
    let text: String = found
        .snippet
        .iter()
        .map(|piece| {
            let text = Untrusted(&piece.text).to_string();
            if piece.is_match { Tone::Strong.paint(&text) } else { text }
        })
        .collect();
    let head = format!(
        "{} {} {} {}",
        Untrusted(&found.project),
        Untrusted(&found.assistant),
        Untrusted(&found.role),
        ago(now, time(found.at_us)),
    );
    let alike = if found.found_by == "meaning" { " (means something like it)" } else { "" };
    format!(
        "{}{alike}\n  {text}\n  {}\n  {}\n",
        Tone::Good.paint(&head),
        // A message's name is its assistant's.
        Tone::Dim.paint(&Untrusted(&open(found)).to_string()),
        Tone::Dim.paint(&resume(found)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_transcript_says_is_one_word_of_a_shell() {
        for (text, shown) in [
            ("msg_01-a.b:c/7", "msg_01-a.b:c/7"),
            ("x; rm -rf ~", "'x; rm -rf ~'"),
            ("a'b", r"'a'\''b'"),
            ("", "''"),
            ("-f", "'-f'"),
        ] {
            assert_eq!(word(text), shown);
        }
    }
}
