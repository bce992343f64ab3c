//! `stratavore status --watch`: the status, repainted in place when something changes.
//!
//! Events say that something changed, and the status is then read again; what one runner uses is
//! not an event, so it is read again every two seconds too.
//!
//! Invariant: one frame is one write, and nothing is erased before it is drawn over.

use std::time::Duration;

use jiff::Timestamp;
use stratavore_core::clock::Clock;
use stratavore_proto::v1::{DaemonStatus, Event, Runner, SubscribeEvents};
use tokio::signal::unix::{SignalKind, signal};

use super::status;
use crate::api::Api;
use crate::attach::tty::{self, Keyboard, RawMode};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::table::Tone;
use crate::ui::Format;

const REFRESH: Duration = Duration::from_secs(2);
/// Changes within this time are shown together.
const SETTLE: Duration = Duration::from_millis(50);

const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &[u8] = b"\x1b[?7h\x1b[?25h\x1b[?1049l";

pub(crate) async fn run(
    context: &Context,
    mut api: Api<'_>,
    project: &str,
) -> Result<Exit, Failure> {
    if !tty::is_here() || context.ui.format != Format::Table {
        return Err(Failure::usage("--watch needs a terminal and the table format")
            .next("for programs: stratavore events subscribe --format json"));
    }
    let io = |error: std::io::Error| Failure::io("use the terminal", &error);
    let mut resized = signal(SignalKind::window_change()).map_err(io)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(io)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(io)?;
    let mut seen = status::look(&mut api, project).await?;

    let raw = RawMode::enter(LEAVE.to_vec()).map_err(io)?;
    let mut keyboard = Keyboard::listen().map_err(io)?;
    tty::write_all(ENTER).map_err(io)?;
    let mut events = subscribe(&api, &seen.0).await;
    let mut connected = true;
    let exit = loop {
        let frame = frame(&seen, connected, context.clock.now(), context.ui.has_colors());
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
            () = changed(&mut events) => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(REFRESH) => {}
        }
        // A daemon that is away is waited for, not started: whoever stopped it has a reason.
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
                if !connected || events.is_none() {
                    events = subscribe(&api, &seen.0).await;
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

async fn subscribe(api: &Api<'_>, seen: &DaemonStatus) -> Option<tonic::Streaming<Event>> {
    let request = SubscribeEvents { filter: None, after: Some(seen.last_event_position) };
    Some(api.client().events().subscribe(request).await.ok()?.into_inner())
}

/// Answers when something has changed. A stream that ended is dropped, and says nothing more.
async fn changed(events: &mut Option<tonic::Streaming<Event>>) {
    let Some(stream) = events else { return std::future::pending().await };
    match stream.message().await {
        Ok(Some(_)) => {}
        Ok(None) | Err(_) => *events = None,
    }
}

/// One frame: every line drawn over what was there, the rest of it and the rows below erased.
fn frame(
    (daemon, runners): &(DaemonStatus, Vec<Runner>),
    connected: bool,
    now: Timestamp,
    colors: bool,
) -> String {
    let (columns, rows) = tty::size();
    let (columns, rows) = (usize::from(columns), usize::from(rows));
    let mut lines = status::lines(daemon, runners, now, Some(columns));
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
