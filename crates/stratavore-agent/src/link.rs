//! The agent's line to its daemon: greeting, reports, heartbeats, and what the daemon wants.
//!
//! The agent dials, whichever daemon listens there now, and further ones where that has no daemon that
//! takes it in. A line that breaks is dialled again, its own daemon first, and every report that was not
//! acknowledged is sent again, in order and with its number.
//!
//! Invariant: while nothing happens, this wakes once a heartbeat.

use std::path::Path;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use stratavore_core::runner::Cause;
use stratavore_proto::frame::{FrameCodec, FrameError};
use stratavore_proto::v1::{
    AgentHeartbeat, AgentHello, FromAgent, Rejected, ToAgent, Welcome, from_agent, to_agent,
};
use stratavore_proto::{agent_protocol, common_version, unix, version};
use tokio::time::{Instant, timeout};
use tokio_util::codec::Framed;

use crate::entropy;
use crate::failpoint::failpoint;
use crate::runner::{Life, Runner, Wish};
use crate::usage;

/// How long a daemon may take to answer the greeting.
const ANSWER: Duration = Duration::from_secs(10);
/// The first wait before dialling again.
const BACKOFF: Duration = Duration::from_millis(100);
/// Heartbeats are never closer than this, whatever a daemon asks for.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
const HEARTBEAT_MAX: Duration = Duration::from_secs(3600);

type Line = Framed<unix::Stream, FrameCodec<ToAgent, FromAgent>>;

/// Why a line ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("dial the daemon")]
    Dial(#[source] std::io::Error),
    #[error("speak with the daemon")]
    Frame(#[from] FrameError),
    #[error("the daemon closed the line")]
    Closed,
    #[error("the daemon did not answer the greeting")]
    Silent,
    #[error("the daemon refused: {0}")]
    Refused(String),
    #[error("the daemon speaks version {0} of the protocol, and this agent {min} to {max}", min = agent_protocol().0, max = agent_protocol().1)]
    Version(u32),
    #[error("somebody wants a new line")]
    Poked,
    #[error("the agent is ending")]
    Ending,
}

/// Keeps the line for as long as the agent lives. Ends only when the main loop has.
pub(crate) async fn run(runner: &Runner) {
    let mut backoff = BACKOFF;
    let mut told = String::new();
    let mut heartbeat = heartbeat_of(runner.spec.heartbeat_ms);
    loop {
        let error = match dial_in_turn(runner).await {
            Ok((line, welcome)) => {
                backoff = BACKOFF;
                told.clear();
                heartbeat = match welcome.heartbeat_ms {
                    0 => heartbeat,
                    ms => heartbeat_of(u64::from(ms)),
                };
                taken_in(runner, &welcome);
                let ended = speak(runner, line, heartbeat).await;
                set_linked(runner, false);
                runner.daemon_pid.set(None);
                match ended {
                    Ok(never) => match never {},
                    Err(error) => error,
                }
            }
            Err(error) => {
                runner.daemon_pid.set(None);
                error
            }
        };
        match error {
            LinkError::Ending => return,
            LinkError::Poked => continue,
            LinkError::Dial(_)
            | LinkError::Frame(_)
            | LinkError::Closed
            | LinkError::Silent
            | LinkError::Refused(_)
            | LinkError::Version(_) => {}
        }
        // Said once, and not again with every try.
        let text = error.to_string();
        if text != told {
            crate::log::note(format_args!("{}", chain(&error)));
            told = text;
        }
        let wait = backoff.mul_f64(0.75 + 0.5 * entropy::fraction());
        backoff = (backoff * 2).min(heartbeat);
        let poked = runner.poked.notified();
        if timeout(wait, poked).await.is_ok() {
            backoff = BACKOFF;
        }
    }
}

fn heartbeat_of(ms: u64) -> Duration {
    Duration::from_millis(ms).clamp(HEARTBEAT_MIN, HEARTBEAT_MAX)
}

fn chain(error: &LinkError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// The line of the first daemon that takes this agent in. If none does, what its own one answered.
async fn dial_in_turn(runner: &Runner) -> Result<(Line, Welcome), LinkError> {
    let mut first = None;
    for socket in runner.spec.daemons() {
        match dial(runner, socket).await {
            Err(LinkError::Ending) => return Err(LinkError::Ending),
            Err(error) => first = first.or(Some(error)),
            taken_in => return taken_in,
        }
    }
    Err(first.unwrap_or(LinkError::Closed))
}

async fn dial(runner: &Runner, socket: &Path) -> Result<(Line, Welcome), LinkError> {
    let stream = unix::connect(socket).map_err(LinkError::Dial)?;
    // It may come to our socket before it has answered.
    runner.daemon_pid.set(unix::peer_pid(&stream));
    let mut line: Line = Framed::new(stream, FrameCodec::default());
    failpoint("before_hello");
    line.send(FromAgent { kind: Some(from_agent::Kind::Hello(hello(runner))) }).await?;
    let answer = timeout(ANSWER, line.next()).await.map_err(|_| LinkError::Silent)?;
    match answer.ok_or(LinkError::Closed)??.kind {
        Some(to_agent::Kind::Welcome(welcome)) => {
            match common_version(welcome.version, welcome.version) {
                Some(_) => Ok((line, welcome)),
                None => Err(LinkError::Version(welcome.version)),
            }
        }
        Some(to_agent::Kind::Rejected(rejected)) => Err(refused(runner, rejected).await),
        Some(_) | None => Err(LinkError::Silent),
    }
}

async fn refused(runner: &Runner, Rejected { why, r#final }: Rejected) -> LinkError {
    if r#final && runner.wishes.send(Wish::Fenced(why.clone())).await.is_err() {
        return LinkError::Ending;
    }
    LinkError::Refused(why)
}

fn hello(runner: &Runner) -> AgentHello {
    let (version_min, version_max) = agent_protocol();
    AgentHello {
        version_min,
        version_max,
        runner_id: runner.spec.runner.to_string(),
        epoch: runner.spec.epoch,
        identity: Some(runner.identity.clone().into()),
        key: runner.key.to_vec().into(),
        join_token: runner.join_token.borrow().clone().into(),
        program_version: version::VERSION.into(),
        started: !matches!(*runner.life.borrow(), Life::Waiting),
    }
}

fn taken_in(runner: &Runner, welcome: &Welcome) {
    // The key is recorded now; the token has done its work.
    runner.join_token.borrow_mut().clear();
    runner.spool.borrow_mut().ack(welcome.acked);
    set_linked(runner, true);
}

fn set_linked(runner: &Runner, linked: bool) {
    runner.unlinked_since.set((!linked).then(|| runner.clock.monotonic()));
    runner.told.send_replace(());
}

/// Speaks with a daemon that has taken this agent in, until the line breaks.
async fn speak(
    runner: &Runner,
    mut line: Line,
    mut heartbeat: Duration,
) -> Result<std::convert::Infallible, LinkError> {
    // A poke that came while this line was made has what it wanted.
    let _fulfilled = futures_util::FutureExt::now_or_never(runner.poked.notified());
    let mut told = runner.told.subscribe();
    let (mut sent, mut signals, mut visits) = (0, 0, 0);
    let mut beat = Instant::now();
    loop {
        told.mark_unchanged();
        while let Some(report) = next_report(runner, sent) {
            sent = report.seq;
            line.feed(FromAgent { kind: Some(from_agent::Kind::Report(report)) }).await?;
        }
        let failed = runner.upgrade_failed.borrow_mut().take();
        if let Some(why) = failed {
            line.feed(FromAgent { kind: Some(from_agent::Kind::UpgradeFailed(why)) }).await?;
        }
        let end = runner.observing.end();
        if end > signals {
            signals = end;
            line.feed(FromAgent { kind: Some(from_agent::Kind::Signals(end)) }).await?;
        }
        let end = runner.visits.end();
        if end > visits {
            visits = end;
            line.feed(FromAgent { kind: Some(from_agent::Kind::Visits(end)) }).await?;
        }
        line.flush().await?;
        tokio::select! {
            frame = line.next() => {
                let frame = frame.ok_or(LinkError::Closed)??;
                if let Some(to_agent::Kind::Welcome(welcome)) = &frame.kind && welcome.heartbeat_ms != 0 {
                    // The daemon has more agents to hear than before, or fewer.
                    heartbeat = heartbeat_of(welcome.heartbeat_ms.into());
                    beat = Instant::now() + heartbeat;
                }
                heed(runner, frame).await?;
            }
            _ = told.changed() => {}
            () = tokio::time::sleep_until(beat) => {
                line.feed(FromAgent { kind: Some(from_agent::Kind::Heartbeat(measure(runner))) }).await?;
                beat = Instant::now() + heartbeat;
            }
            // Whoever pokes has no line to us, whatever we believe.
            () = runner.poked.notified() => return Err(LinkError::Poked),
        }
    }
}

fn next_report(runner: &Runner, sent: u64) -> Option<stratavore_proto::v1::AgentReport> {
    runner.spool.borrow().after(sent).cloned()
}

async fn heed(runner: &Runner, frame: ToAgent) -> Result<(), LinkError> {
    let wish = match frame.kind {
        Some(to_agent::Kind::Ack(seq)) => {
            runner.spool.borrow_mut().ack(seq);
            runner.told.send_replace(());
            return Ok(());
        }
        Some(to_agent::Kind::Go(_)) => Wish::Go,
        Some(to_agent::Kind::Stop(stop)) => Wish::Stop {
            cause: None,
            grace: Duration::from_millis(stop.grace_ms),
            force: stop.force,
            quit: stop.quit,
        },
        Some(to_agent::Kind::SetPaused(wish)) => Wish::Pause(wish.paused),
        Some(to_agent::Kind::Upgrade(upgrade)) => Wish::Upgrade(upgrade.program),
        Some(to_agent::Kind::Rejected(rejected)) => return Err(refused(runner, rejected).await),
        // Something that a newer daemon says, or a second welcome, which only has an interval.
        Some(to_agent::Kind::Welcome(_)) | None => return Ok(()),
    };
    runner.wishes.send(wish).await.map_err(|_| LinkError::Ending)
}

fn measure(runner: &Runner) -> AgentHeartbeat {
    let usage = usage::sample(&runner.cgroups, runner.identity.pid);
    let mut terminal = runner.terminal.borrow_mut();
    // A flood that is over keeps no memory for ever.
    terminal.screen().settle();
    AgentHeartbeat {
        cpu_ms: usage.cpu_ms,
        memory: usage.memory,
        processes: usage.processes,
        output_bytes: terminal.end(),
        output_at_us: terminal.printed_at().map_or(0, |at| at.as_microsecond()),
        viewers: u32::try_from(runner.viewers.borrow().count()).unwrap_or(u32::MAX),
    }
}

/// The cause of a stop that was asked for before anything ran.
pub(crate) fn stopped_before_start() -> Cause {
    Cause::StoppedBy("daemon".into())
}
