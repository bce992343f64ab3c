//! `stratavore logs` and `stratavore screen`: what a runner printed, and what it shows.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use stratavore_core::clock::Clock;
use stratavore_core::terminal::{AttachFilter, PlainText};
use stratavore_proto::v1::{
    GetRunner, OutputChunk, ReadOutputRequest, Screen as ScreenFrame, ScreenWish,
    from_agent_socket, output_chunk, socket_hello,
};

use super::resolve;
use crate::api::{Api, failure, is_lost};
use crate::attach::link::ANSWER;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::units::{self, parse_duration};
use crate::view::ScreenView;

/// How long an agent that upgrades itself may be away.
const AGENT_RETURNS: Duration = Duration::from_millis(250);

/// Print what a runner has printed
#[derive(Debug, Args)]
#[command(after_help = "\
Without options it is everything that is kept, as plain text. --raw is byte for byte what the runner
printed; a terminal gets it without what would reach past its screen.

Examples:
  stratavore logs claude --lines 50
  stratavore logs claude --since 10m --follow
  stratavore logs claude --raw > session.log")]
pub(crate) struct Logs {
    /// The runner, by id, the beginning of one, or name
    runner: String,
    /// Go on with new output as it comes
    #[arg(long, short)]
    follow: bool,
    /// Only what was printed since then: 10m, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", conflicts_with = "lines")]
    since: Option<String>,
    /// Only the last so many lines
    #[arg(long, short = 'n', value_name = "N")]
    lines: Option<u64>,
    /// The bytes as they were printed
    #[arg(long)]
    raw: bool,
    /// Narrows a name to one project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
}

/// Print the screen of a runner as text
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  stratavore screen claude
  stratavore screen claude --format json | jq -r .title")]
pub(crate) struct Screen {
    /// The runner, by id, the beginning of one, or name
    runner: String,
    /// Narrows a name to one project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
}

pub(crate) fn screen(context: &Context, args: &Screen) -> Result<Exit, Failure> {
    context.block_on(async {
        let target = resolve::target(context, &args.runner, args.project.as_deref()).await?;
        let asked = async {
            let mut link = target.connect(socket_hello::Wish::Screen(ScreenWish {})).await?;
            loop {
                if let from_agent_socket::Kind::Screen(screen) = link.next().await? {
                    return Ok(screen);
                }
            }
        };
        let screen: ScreenFrame = match tokio::time::timeout(ANSWER, asked).await {
            Ok(screen) => screen.map_err(|error: crate::attach::link::LinkError| {
                error.into_failure(target.name())
            })?,
            Err(_) => {
                let message = format!(
                    "the agent of {} did not answer within {} s",
                    target.name(),
                    ANSWER.as_secs()
                );
                return Err(
                    Failure::new(Exit::Timeout, "timeout", message).next("stratavore doctor")
                );
            }
        };
        context.ui.show(&ScreenView::new(&target.id(), &screen), || {
            context.ui.line(as_text(&screen.text))
        })?;
        Ok(Exit::Ok)
    })
}

/// The screen's text without the blank end of rows and the blank rows at the end.
fn as_text(text: &str) -> String {
    let mut shown = String::new();
    let mut plain = PlainText::default();
    plain.push(text.as_bytes(), &mut shown);
    plain.finish(&mut shown);
    let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
    let end = lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
    lines[..end].join("\n")
}

pub(crate) fn logs(context: &Context, args: Logs) -> Result<Exit, Failure> {
    let since =
        args.since.as_deref().map(|text| parse_since(text, context.clock.now())).transpose()?;
    context.block_on(async {
        let mut api = Api::connect(context).await?;
        let mut request = ReadOutputRequest {
            runner: args.runner,
            project: args.project.unwrap_or_default(),
            from: None,
            lines: args.lines,
            since_us: since.map(|at| at.as_microsecond()),
            follow: args.follow,
        };
        let mut printer = Printer::new(context, args.raw);
        loop {
            let mut runners = api.client().runners();
            let ended = match runners.read_output(request.clone()).await {
                Ok(response) => {
                    let mut chunks = response.into_inner();
                    loop {
                        match chunks.message().await {
                            Ok(Some(chunk)) => printer.print(chunk)?,
                            Ok(None) => break Ok(()),
                            Err(status) => break Err(status),
                        }
                    }
                }
                Err(status) => Err(status),
            };
            // What was printed is not printed again.
            if let Some(offset) = printer.offset {
                (request.from, request.lines, request.since_us) = (Some(offset), None, None);
            }
            match ended {
                Ok(()) if !args.follow => break,
                Ok(()) => {
                    // The runner has ended, or its agent upgrades itself, or it is restarted.
                    if follow_on(context, &mut api, &request).await? == Follow::Over {
                        break;
                    }
                }
                Err(status) if !is_lost(&status) => return Err(failure(&status)),
                Err(_) if args.follow => {
                    context.ui.note("lost the daemon; going on when it is back");
                    api.wait_for_daemon().await?;
                }
                Err(_) => api.reconnect(&mut 1).await?,
            }
        }
        printer.finish()?;
        Ok(Exit::Ok)
    })
}

/// Prints all that is kept of a runner's output.
pub(crate) async fn print_recorded(
    context: &Context,
    api: &mut Api<'_>,
    runner: &str,
) -> Result<(), Failure> {
    let request = ReadOutputRequest { runner: runner.into(), ..ReadOutputRequest::default() };
    let read = api.call(async |client| client.runners().read_output(request.clone()).await);
    let mut chunks = read.await?;
    let mut printer = Printer::new(context, false);
    while let Some(chunk) = chunks.message().await.map_err(|status| failure(&status))? {
        printer.print(chunk)?;
    }
    printer.finish()
}

#[derive(PartialEq, Eq)]
enum Follow {
    On,
    Over,
}

/// Whether more output may come after a stream has ended.
async fn follow_on(
    context: &Context,
    api: &mut Api<'_>,
    request: &ReadOutputRequest,
) -> Result<Follow, Failure> {
    let get = GetRunner { runner: request.runner.clone(), project: request.project.clone() };
    let mut runner = api.call(async |client| client.runners().get(get.clone()).await).await?;
    if runner.state == "running" {
        // The daemon hears of an end a little later than the agent's viewers.
        let other = ["pending", "starting", "stopping"];
        runner = resolve::wait_for(api, &runner.id, &other, AGENT_RETURNS).await?;
    }
    if resolve::has_ended(&runner) {
        return Ok(Follow::Over);
    }
    if runner.state != "running" {
        context.ui.note(format!("runner {} is {}", runner.name, runner.state));
        resolve::wait_for(api, &runner.id, &["running"], resolve::LAUNCH).await?;
    }
    Ok(Follow::On)
}

/// Prints output in the form that was asked for.
struct Printer<'c> {
    context: &'c Context,
    form: Form,
    /// Up to where output was printed.
    offset: Option<u64>,
}

enum Form {
    Plain(PlainText),
    /// To a terminal.
    Filtered(Box<AttachFilter>),
    Exact,
}

impl<'c> Printer<'c> {
    fn new(context: &'c Context, raw: bool) -> Self {
        let form = match raw {
            false => Form::Plain(PlainText::default()),
            true if std::io::stdout().is_terminal() => Form::Filtered(Box::default()),
            true => Form::Exact,
        };
        Self { context, form, offset: None }
    }

    fn print(&mut self, chunk: OutputChunk) -> Result<(), Failure> {
        match chunk.kind {
            Some(output_chunk::Kind::Output(output)) => {
                self.offset = Some(output.offset + output.data.len() as u64);
                match &mut self.form {
                    Form::Plain(plain) => {
                        let mut text = String::new();
                        plain.push(&output.data, &mut text);
                        if text.is_empty() { Ok(()) } else { self.context.ui.text(text) }
                    }
                    Form::Filtered(filter) => {
                        let mut bytes = Vec::new();
                        filter.push(&output.data, &mut bytes);
                        self.context.ui.raw(&bytes)
                    }
                    Form::Exact => self.context.ui.raw(&output.data),
                }
            }
            Some(output_chunk::Kind::Gap(gap)) => {
                self.offset = Some(gap.to);
                let missing = units::bytes(gap.to.saturating_sub(gap.from));
                self.context.ui.note(format!("({missing} of output are not kept)"));
                Ok(())
            }
            Some(output_chunk::Kind::CaughtUp(_)) | None => Ok(()),
        }
    }

    fn finish(self) -> Result<(), Failure> {
        match self.form {
            Form::Plain(plain) => {
                let mut rest = String::new();
                plain.finish(&mut rest);
                if rest.is_empty() { Ok(()) } else { self.context.ui.line(rest) }
            }
            Form::Filtered(filter) => self.context.ui.raw(&filter.reset()),
            Form::Exact => Ok(()),
        }
    }
}

pub(crate) fn parse_since(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let before = parse_duration(text).ok().and_then(|d: Duration| now.checked_sub(d).ok());
    before.ok_or_else(|| {
        let text = text.escape_debug();
        Failure::usage(format!("`{text}` is neither a duration nor a time"))
            .next("write --since 10m, or --since 2026-01-31T12:00:00Z")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_duration_or_a_time() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        assert_eq!(parse_since("10m", now).unwrap().to_string(), "2026-01-31T11:50:00Z");
        assert_eq!(
            parse_since("2026-01-30T12:00:00+01:00", now).unwrap().to_string(),
            "2026-01-30T11:00:00Z"
        );
        assert_eq!(parse_since("yesterday", now).unwrap_err().exit, Exit::Usage);
        assert_eq!(parse_since("99999999999d", now).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_screen_is_shown_without_its_blank_end() {
        assert_eq!(as_text("$ ls   \n\nfile\n   \n\n"), "$ ls\n\nfile");
        assert!(!as_text("a\u{1b}[31mb").contains('\u{1b}'));
    }
}
