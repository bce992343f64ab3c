//! `stratavore status --watch`: the status, repainted in place when something changes.
//!
//! Events say that something changed, and the status is then read again; what one runner uses is
//! not an event, so it is read again every two seconds too. Events also say what has ended: a runner
//! that only vanished from the list would leave its person to wonder.
//!
//! Invariant: one frame is one write, and nothing is erased before it is drawn over.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;
use stratavore_core::clock::Clock;
use stratavore_proto::v1::{DaemonStatus, Event, EventFilter, Runner, SubscribeEvents};
use tokio::signal::unix::{SignalKind, signal};

use super::{resolve, runner, status};
use crate::api::Api;
use crate::attach::tty::{self, Keyboard, RawMode};
use crate::clock::ago;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Column, Table, Tone};
use crate::ui::Format;
use crate::view::time;

const REFRESH: Duration = Duration::from_secs(2);
/// Changes within this time are shown together.
const SETTLE: Duration = Duration::from_millis(50);
/// How many of those that ended are shown, the latest ones.
const ENDED: usize = 5;

const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &[u8] = b"\x1b[?7h\x1b[?25h\x1b[?1049l";

pub(crate) async fn run(context: &Context, api: Api<'_>, project: &str) -> Result<Exit, Failure> {
    if !tty::is_here() || context.ui.format != Format::Table {
        return Err(Failure::usage("--watch needs a terminal and the table format")
            .next("for programs: stratavore events subscribe --format json"));
    }
    let io = |error: std::io::Error| Failure::io("use the terminal", &error);
    let mut resized = signal(SignalKind::window_change()).map_err(io)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(io)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(io)?;
    // A daemon that is away is waited for, not started: whoever stopped it has a reason.
    let mut api = api.only_while_it_runs();
    let mut seen = status::look(&mut api, project).await?;

    let raw = RawMode::enter(LEAVE.to_vec()).map_err(io)?;
    let mut keyboard = Keyboard::listen().map_err(io)?;
    tty::write_all(ENTER).map_err(io)?;
    let mut changes = Changes::after(seen.0.last_event_position, project);
    changes.subscribe(&api).await;
    let mut connected = true;
    let exit = loop {
        let frame =
            frame(&seen, &changes.ended, connected, context.clock.now(), context.ui.has_colors());
        if tty::write_all(frame.as_bytes()).is_err() {
            break Exit::Ok;
        }
        tokio::select! {
            typed = keyboard.next() => match typed.as_deref() {
                None | Some(b"q" | b"Q" | b"\x03" | b"\x1b") => break Exit::Ok,
                Some(_) => {}
            },
            _ = resized.recv() => continue,
            _ = terminate.recv() => break Exit::Terminated,
            _ = hangup.recv() => break Exit::Ok,
            () = changes.next() => {}
            () = tokio::time::sleep(REFRESH) => {}
        }
        match Api::connect_if_running(context).await {
            Ok(Some(fresh)) if !connected => api = fresh,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                connected = false;
                continue;
            }
        }
        match status::look(&mut api, project).await {
            Ok(now) => {
                seen = now;
                if !connected || changes.events.is_none() {
                    changes.subscribe(&api).await;
                }
                connected = true;
            }
            Err(failure) if failure.exit == Exit::Unavailable => connected = false,
            Err(failure) => {
                drop(keyboard);
                drop(raw);
                return Err(failure);
            }
        }
    };
    drop(keyboard);
    drop(raw);
    Ok(exit)
}

/// What is told while somebody watches, over as many connections as it takes.
struct Changes {
    filter: EventFilter,
    /// The last event that was heard; the next connection goes on after it.
    position: i64,
    timeline: i64,
    /// `None`: there is no connection.
    events: Option<tonic::Streaming<Event>>,
    /// The runners that ended, the latest one first.
    ended: VecDeque<Event>,
}

impl Changes {
    fn after(position: i64, project: &str) -> Self {
        let filter = EventFilter { project: project.into(), ..EventFilter::default() };
        Self { filter, position, timeline: 0, events: None, ended: VecDeque::new() }
    }

    async fn subscribe(&mut self, api: &Api<'_>) {
        let (filter, after) = (Some(self.filter.clone()), Some(self.position));
        let request = SubscribeEvents { filter, after, timeline: self.timeline };
        let answer = api.client().events().subscribe(request).await;
        self.events = answer.ok().map(tonic::Response::into_inner);
    }

    /// Answers when something has changed, with all that follows at once. May be given up at any
    /// time: what was heard is kept.
    async fn next(&mut self) {
        self.hear().await;
        let settled = tokio::time::sleep(SETTLE);
        tokio::pin!(settled);
        while self.events.is_some() {
            tokio::select! {
                () = self.hear() => {}
                () = &mut settled => return,
            }
        }
    }

    /// Takes one event in. A stream that ended is dropped, and says nothing more.
    async fn hear(&mut self) {
        let Some(events) = &mut self.events else { return std::future::pending().await };
        let Ok(Some(event)) = events.message().await else {
            self.events = None;
            return;
        };
        (self.position, self.timeline) = (event.position, event.timeline);
        if matches!(event.kind.as_str(), "runner.exited" | "runner.failed" | "runner.lost") {
            self.ended.push_front(event);
            self.ended.truncate(ENDED);
        }
    }
}

/// Those that ended, for people.
fn ended_table(ended: &VecDeque<Event>, now: Timestamp) -> Table {
    let mut table = Table::new([
        Column::new("ENDED").shrinks(),
        Column::new("STATE").shrinks(),
        Column::new("AGE").right(),
    ]);
    for event in ended {
        let data: serde_json::Value = serde_json::from_str(&event.data).unwrap_or_default();
        let cause = data["cause"].as_str().unwrap_or("unknown");
        let state = event.kind.rsplit('.').next().unwrap_or_default();
        let tone = if resolve::ended_well(cause) { Tone::Dim } else { Tone::Bad };
        table.row([
            Cell::toned(&event.name, Tone::Strong),
            Cell::toned(runner::shortened(&format!("{state} ({cause})")), tone),
            Cell::new(ago(now, time(event.at_us))),
        ]);
    }
    table
}

/// One frame: every line drawn over what was there, the rest of it and the rows below erased.
fn frame(
    (daemon, runners): &(DaemonStatus, Vec<Runner>),
    ended: &VecDeque<Event>,
    connected: bool,
    now: Timestamp,
    colors: bool,
) -> String {
    let (columns, rows) = tty::size();
    let (columns, rows) = (usize::from(columns), usize::from(rows));
    let mut lines = status::lines(daemon, runners, now, Some(columns));
    if !ended.is_empty() {
        lines.push(String::new());
        lines.extend(ended_table(ended, now).lines(Some(columns)));
    }
    if !connected {
        lines[0] =
            Tone::Bad.paint("no daemon answers; runners go on without it; this was the last");
    }
    let hidden = lines.len().saturating_sub(rows.saturating_sub(1));
    lines.truncate(rows.saturating_sub(1));
    let footer = match hidden {
        0 => "q leaves".into(),
        n => format!("q leaves ({n} more lines do not fit)"),
    };
    let blank = rows.saturating_sub(lines.len() + 1);
    let mut frame = String::from("\x1b[?2026h\x1b[H");
    for line in lines.iter().map(String::as_str).chain(std::iter::repeat_n("", blank)) {
        if colors {
            frame.push_str(line);
        } else {
            frame.push_str(&anstream::adapter::strip_str(line).to_string());
        }
        frame.push_str("\x1b[K\r\n");
    }
    frame.push_str(&if colors { Tone::Dim.paint(&footer) } else { footer });
    frame.push_str("\x1b[K\x1b[?2026l");
    frame
}
