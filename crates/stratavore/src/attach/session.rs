//! The loop between a viewer's terminal and a runner's agent.
//!
//! Invariant: an attach ends in exactly one [`Ending`], and never ends the runner.

use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use stratavore_core::runner::Cause;
use stratavore_proto::v1::{
    self, Attach, Resize, ScreenWish, ToAgentSocket, from_agent_socket, socket_hello,
    to_agent_socket,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::canvas::{self, Canvas, Cells};
use super::keys::KeyReader;
use super::link::{Link, LinkError};
use super::tty::{self, Keyboard, RawMode};
use super::{Ending, Options, Summary, Target};
use crate::exit::{Exit, Failure};
use crate::local;

/// How long a connection that was cut may take to come back: an agent that upgrades itself in
/// place, or a daemon that is restarted.
const COMES_BACK: Duration = Duration::from_secs(5);
/// How long the runner's terminal is given to follow a resize of the viewer's.
const SETTLE: Duration = Duration::from_millis(100);
/// Frames handled before the terminal is written to.
const BATCH: usize = 64;

/// What a signal tells.
#[derive(Debug, Clone, Copy)]
enum Told {
    Resized,
    Continued,
    HangUp,
    Terminate,
    Interrupt,
}

/// All signals as one thing to wait for, of which only those are looked at that have come: it is
/// waited for anew after every key.
struct Signals {
    waiting: FuturesUnordered<LocalBoxFuture<'static, (Told, Signal)>>,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let signals = Self { waiting: FuturesUnordered::new() };
        for (kind, told) in [
            (SignalKind::window_change(), Told::Resized),
            (SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()), Told::Continued),
            (SignalKind::hangup(), Told::HangUp),
            (SignalKind::terminate(), Told::Terminate),
            (SignalKind::interrupt(), Told::Interrupt),
        ] {
            signals.wait(told, signal(kind)?);
        }
        Ok(signals)
    }

    fn wait(&self, told: Told, mut signal: Signal) {
        let come = async move {
            signal.recv().await;
            (told, signal)
        };
        self.waiting.push(come.boxed_local());
    }

    /// The next one. Safe to cancel.
    async fn next(&mut self) -> Told {
        let Some((told, signal)) = self.waiting.next().await else {
            return std::future::pending().await;
        };
        self.wait(told, signal);
        told
    }
}

struct Session<'t, 'a> {
    target: &'t Target<'a>,
    options: &'t Options,
    link: Link,
    canvas: Canvas,
    /// When to look whether the runner's terminal has followed a resize.
    settle_at: Option<Instant>,
    writer: bool,
    who_writes: String,
    viewers: u32,
    summary: Summary,
}

/// Attaches the terminal to the runner until something ends that.
pub(crate) async fn run(
    target: &Target<'_>,
    options: &Options,
) -> Result<(Ending, Summary), Failure> {
    let name = target.name();
    let viewer = tty::size();
    let (link, welcome) = open(target, attach_wish(options, options.steal, viewer))
        .await
        .map_err(|error| error.into_failure(name))?;
    let io = |error: std::io::Error| Failure::io("use the terminal", &error);
    let mut signals = Signals::new().map_err(io)?;

    let mut session = Session {
        target,
        options,
        link,
        canvas: Canvas::new(viewer),
        settle_at: None,
        writer: welcome.writer,
        who_writes: String::new(),
        viewers: 0,
        summary: Summary::default(),
    };
    let mut raw = RawMode::enter(session.canvas.farewell()).map_err(io)?;
    let mut keyboard = Keyboard::listen().map_err(io)?;
    session.tell_role();
    let mut result = session.converse(&mut signals, &raw, &mut keyboard).await;
    // What the runner printed last belongs on the screen.
    if session.canvas.flush().is_err() {
        result = result.map(|_| Ending::HungUp);
    }
    raw.set_farewell(session.canvas.farewell());
    let mut summary = session.summary;
    summary.withheld_clipboard = session.canvas.withheld_clipboard();
    drop(keyboard);
    drop(raw);
    result.map(|ending| (ending, summary))
}

fn attach_wish(options: &Options, steal: bool, (columns, rows): Cells) -> socket_hello::Wish {
    let (columns, rows) = (columns.into(), rows.into());
    socket_hello::Wish::Attach(Attach { read_only: options.read_only, steal, columns, rows })
}

async fn open(
    target: &Target<'_>,
    wish: socket_hello::Wish,
) -> Result<(Link, v1::SocketWelcome), LinkError> {
    let mut link = target.connect(wish).await?;
    let welcome = link.welcome().await?;
    Ok((link, welcome))
}

impl Session<'_, '_> {
    async fn converse(
        &mut self,
        signals: &mut Signals,
        raw: &RawMode,
        keyboard: &mut Keyboard,
    ) -> Result<Ending, Failure> {
        let mut keys = KeyReader::new(&self.options.detach_key);
        loop {
            if self.canvas.flush().is_err() {
                return Ok(Ending::HungUp);
            }
            let settle_at = self.settle_at;
            let settled = async {
                match settle_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                typed = keyboard.next() => {
                    let Some(typed) = typed else { return Ok(Ending::HungUp) };
                    let typed = keys.push(&typed);
                    let sent = self.type_in(typed.input).await;
                    if typed.detach {
                        return Ok(Ending::Detached);
                    }
                    if let Err(error) = sent
                        && let Some(ending) = self.come_back(error, keyboard, &mut keys).await?
                    {
                        return Ok(ending);
                    }
                }
                frame = self.link.next() => {
                    if let Some(ending) = self.take_frames(frame, keyboard, &mut keys).await? {
                        return Ok(ending);
                    }
                }
                () = settled => {
                    self.settle_at = None;
                    self.refresh_if_unfit().await;
                }
                told = signals.next() => match told {
                    Told::Resized => self.resized().await,
                    Told::Continued => {
                        // A shell has had the terminal; it left it cooked and drew over it.
                        if raw.enforce().is_err() {
                            return Ok(Ending::HungUp);
                        }
                        self.canvas.viewer = tty::size();
                        self.refresh().await;
                    }
                    Told::HangUp => return Ok(Ending::HungUp),
                    Told::Terminate => return Ok(Ending::Signalled(Exit::Terminated)),
                    Told::Interrupt => return Ok(Ending::Signalled(Exit::Interrupted)),
                }
            }
        }
    }

    /// Handles a frame, and those that are there already, before anything is written.
    async fn take_frames(
        &mut self,
        first: Result<from_agent_socket::Kind, LinkError>,
        keyboard: &mut Keyboard,
        keys: &mut KeyReader,
    ) -> Result<Option<Ending>, Failure> {
        let mut frame = first;
        for _ in 0..BATCH {
            match frame {
                Ok(kind) => {
                    if let Some(ending) = self.take(kind).await {
                        return Ok(Some(ending));
                    }
                }
                Err(error) => return self.come_back(error, keyboard, keys).await,
            }
            match self.link.next().now_or_never() {
                Some(next) => frame = next,
                None => break,
            }
        }
        Ok(None)
    }

    async fn take(&mut self, kind: from_agent_socket::Kind) -> Option<Ending> {
        use from_agent_socket::Kind;
        match kind {
            Kind::Screen(screen) => self.canvas.show(&screen),
            Kind::Output(output) => {
                if self.canvas.stale {
                    self.refresh().await;
                }
                self.canvas.print(output.offset, &output.data);
            }
            Kind::Lagged(lagged) => {
                self.summary.missed += lagged.to.saturating_sub(lagged.from);
                self.canvas.stale = true;
            }
            Kind::Writer(writer) => {
                self.writer = writer.you;
                self.who_writes = writer.who;
                self.viewers = writer.viewers;
                self.tell_role();
            }
            Kind::Size(size) => {
                self.canvas.runner = canvas::size(size.columns, size.rows);
                self.settle_at = None;
                self.refresh_if_unfit().await;
            }
            Kind::Ended(ended) => return Some(Ending::Ended(read_cause(&ended.cause))),
            Kind::Welcome(_) | Kind::Refused(_) | Kind::Done(_) | Kind::HookAnswer(_) => {}
        }
        None
    }

    /// Asks for a fresh screen where the way of showing it has changed.
    async fn refresh_if_unfit(&mut self) {
        if self.canvas.is_unfit() {
            self.refresh().await;
        }
    }

    /// Asks for the screen as it is, on a connection of its own, and shows it.
    async fn refresh(&mut self) {
        let asked = async {
            let mut link = self.target.connect(socket_hello::Wish::Screen(ScreenWish {})).await?;
            loop {
                if let from_agent_socket::Kind::Screen(screen) = link.next().await? {
                    return Ok::<_, LinkError>(screen);
                }
            }
        };
        // Without an answer the old screen stays; the main connection learns of it soon enough.
        if let Ok(Ok(screen)) = tokio::time::timeout(super::link::ANSWER, asked).await {
            self.canvas.show(&screen);
        }
    }

    async fn resized(&mut self) {
        let (columns, rows) = tty::size();
        self.canvas.viewer = (columns, rows);
        let (columns, rows) = (columns.into(), rows.into());
        let frame =
            ToAgentSocket { kind: Some(to_agent_socket::Kind::Resize(Resize { columns, rows })) };
        // If the connection is lost, the next read says so.
        let _ = self.link.send(frame).await;
        self.settle_at = Some(Instant::now() + SETTLE);
    }

    async fn type_in(&mut self, input: Vec<u8>) -> Result<(), LinkError> {
        if input.is_empty() || self.options.read_only {
            return Ok(());
        }
        if !self.writer {
            self.canvas.ring();
            return Ok(());
        }
        self.link
            .send(ToAgentSocket { kind: Some(to_agent_socket::Kind::Input(input.into())) })
            .await
    }

    /// After a cut: waits for the agent to come back, or finds out that it will not.
    async fn come_back(
        &mut self,
        error: LinkError,
        keyboard: &mut Keyboard,
        keys: &mut KeyReader,
    ) -> Result<Option<Ending>, Failure> {
        let why = match error {
            LinkError::Refused(failure) => return Err(failure),
            LinkError::Lost(why) => why,
        };
        let deadline = Instant::now() + COMES_BACK;
        let mut typed_meanwhile = Vec::new();
        let mut wait = Duration::from_millis(10);
        loop {
            if let Target::Local(runner) = self.target {
                if let Some(exit) = local::ended(&runner.dir) {
                    return Ok(Some(Ending::Ended(exit.cause.to_string())));
                }
                if !runner.dir.is_locked().unwrap_or(true) {
                    return Ok(Some(Ending::Ended(Cause::AgentDied.to_string())));
                }
            }
            let steal = self.writer && !self.options.read_only;
            match open(self.target, attach_wish(self.options, steal, self.canvas.viewer)).await {
                Ok((link, welcome)) => {
                    self.link = link;
                    self.writer = welcome.writer;
                    self.summary.reconnects += 1;
                    let _ = self.type_in(typed_meanwhile).await;
                    return Ok(None);
                }
                Err(LinkError::Refused(failure)) => return Err(failure),
                Err(LinkError::Lost(_)) if Instant::now() > deadline => {
                    return Ok(Some(Ending::Lost(why)));
                }
                Err(LinkError::Lost(_)) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_millis(200)),
                typed = keyboard.next() => {
                    let Some(typed) = typed else { return Ok(Some(Ending::HungUp)) };
                    let typed = keys.push(&typed);
                    typed_meanwhile.extend(typed.input);
                    if typed.detach {
                        return Ok(Some(Ending::Detached));
                    }
                }
            }
        }
    }

    /// Says in the window's title who types, and how to leave.
    fn tell_role(&mut self) {
        let role = if self.writer {
            String::new()
        } else if self.who_writes.is_empty() {
            "[watching] ".into()
        } else {
            format!("[watching, {} types] ", self.who_writes)
        };
        let others = match self.viewers {
            0 | 1 => String::new(),
            n => format!(" ({n} viewers)"),
        };
        let (label, key) = (self.target.label(), &self.options.detach_key);
        self.canvas.set_title(format!("{role}{label}{others} - {key} detaches"));
    }
}

/// An agent tells a cause as JSON, in the form of the core's, or in words.
fn read_cause(text: &str) -> String {
    serde_json::from_str::<Cause>(text).map_or_else(|_| text.to_owned(), |cause| cause.to_string())
}
