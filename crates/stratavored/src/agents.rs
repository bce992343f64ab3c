//! The socket that agents dial: frames in, use cases called, frames out.
//!
//! One task for each connection, which sleeps while nothing is said. A broken or hostile peer
//! costs its own connection only.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use stratavore_control::{AgentCommand, AgentGreeting, Control, Note};
use stratavore_core::liveness::Liveness;
use stratavore_core::runner::Exit;
use stratavore_core::{RunnerId, Timestamp};
use stratavore_proto::frame::FrameCodec;
use stratavore_proto::v1::{
    self, AgentHeartbeat, AgentHello, AgentReport, FromAgent, ToAgent, agent_report, from_agent,
    to_agent,
};
use stratavore_proto::{common_version, unix};
use tokio::net::UnixListener;
use tokio::time::Instant;
use tokio_util::codec::Framed;

use crate::peer::Peer;

/// The largest frame of an agent's: greetings, reports and heartbeats are all small.
const FRAME_MAX: usize = 64 << 10;
/// What most frames fit into. An agent's connection lasts for days, and its buffers with it.
const FRAME_USUAL: usize = 512;
/// The largest heartbeat. They come all the time, and of every agent.
const BEAT_MAX: usize = 4 << 10;
/// The most of anything that a heartbeat may tell of; more is a fault of the teller.
const USAGE_MAX: u64 = 1 << 53;
/// The most heartbeats in a second, of all agents together.
const BEATS_MAX: u32 = 50;
/// How long a connection may take to say who it is.
const HELLO: Duration = Duration::from_secs(5);
/// How long a frame may take to be written before the agent counts as gone.
const WRITE: Duration = Duration::from_secs(10);

type Stream = Framed<unix::Stream, FrameCodec<FromAgent, ToAgent>>;

/// How often agents report, and how long one may say nothing before its line counts as dead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub heartbeat: Duration,
    pub silence: Duration,
}

impl Pace {
    /// The pace of one agent among so many: stretched so that all of them together stay below
    /// [`BEATS_MAX`].
    fn among(self, agents: usize) -> Self {
        let agents = u32::try_from(agents).unwrap_or(u32::MAX);
        let heartbeat = self.heartbeat.max(Duration::from_secs(1) * agents / BEATS_MAX);
        Self { heartbeat, silence: self.silence.max(heartbeat * 3) }
    }

    /// Whether an agent that was told this pace has to be told another one.
    fn is_far_from(self, wanted: Self) -> bool {
        wanted.heartbeat.abs_diff(self.heartbeat) > self.heartbeat / 4
    }
}

/// Serves agents until the daemon stops.
pub(crate) async fn serve(control: Control, listener: UnixListener, pace: Pace) {
    let stopping = control.supervisor().stopping().clone();
    loop {
        let (stream, cred) = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            accepted = Peer::accept(&listener) => accepted,
        };
        let serving = control.clone();
        let peer_pid = cred.pid().map(|pid| pid as u32);
        control.supervisor().spawn(async move {
            let stream = Framed::with_capacity(stream, FrameCodec::limited(FRAME_MAX), FRAME_USUAL);
            if let Err(why) = converse(serving, stream, peer_pid, pace).await {
                tracing::debug!(why, "an agent's connection ended");
            }
        });
    }
}

async fn converse(
    control: Control,
    mut stream: Stream,
    peer_pid: Option<u32>,
    pace: Pace,
) -> Result<(), String> {
    let first =
        tokio::time::timeout(HELLO, stream.next()).await.map_err(|_| "no greeting in time")?;
    let hello =
        match first.ok_or("closed before a greeting")?.map_err(|error| error.to_string())?.kind {
            Some(from_agent::Kind::Hello(hello)) => hello,
            Some(
                from_agent::Kind::Report(_)
                | from_agent::Kind::Heartbeat(_)
                | from_agent::Kind::UpgradeFailed(_)
                | from_agent::Kind::Signals(_)
                | from_agent::Kind::Visits(_),
            )
            | None => {
                return Err("the first frame is no greeting".into());
            }
        };
    let Some(version) = common_version(hello.version_min, hello.version_max) else {
        // It goes on supervising and asks again later, perhaps a daemon that it understands.
        return reject(&mut stream, "no common version of the protocol", false).await;
    };
    let (runner, epoch, greeting) = match read_greeting(hello, peer_pid) {
        Ok(read) => read,
        Err(why) => return reject(&mut stream, &why, false).await,
    };
    // Apart: a task is as large as the largest of what it ever waits for, for as long as it lives.
    let welcome = match Box::pin(control.agent_greeted(greeting)).await {
        Ok(welcome) => welcome,
        Err(refusal) => return reject(&mut stream, &refusal.why, refusal.is_final).await,
    };
    let connection = welcome.connection;
    let first = pace.among(control.agents_connected());
    let ended = match send(&mut stream, welcome_at(version, first)).await {
        Ok(()) => {
            let commands = welcome.commands;
            exchange(&control, &mut stream, runner, epoch, commands, version, pace, first).await
        }
        Err(why) => Err(Ended::Broken(why)),
    };
    match ended {
        Ok(()) => {
            control.agent_left(runner, connection);
            Ok(())
        }
        Err(Ended::Broken(why)) => {
            control.agent_left(runner, connection);
            Err(why)
        }
        Err(Ended::Silent) => {
            control.agent_fell_silent(runner, connection, pace.silence);
            Err("the agent says nothing".into())
        }
    }
}

fn welcome_at(version: u32, pace: Pace) -> to_agent::Kind {
    to_agent::Kind::Welcome(v1::Welcome {
        version,
        // Reports are taken in so that a repeated one changes nothing; none needs to be skipped.
        acked: 0,
        heartbeat_ms: u32::try_from(pace.heartbeat.as_millis()).unwrap_or(u32::MAX),
    })
}

/// Why an exchange ended, other than by the daemon's own end.
enum Ended {
    Broken(String),
    /// The line is there, and nothing has come over it for too long.
    Silent,
}

impl From<String> for Ended {
    fn from(why: String) -> Self {
        Self::Broken(why)
    }
}

fn read_greeting(
    hello: AgentHello,
    peer_pid: Option<u32>,
) -> Result<(RunnerId, i64, AgentGreeting), String> {
    let runner: RunnerId =
        hello.runner_id.parse().map_err(|error: stratavore_core::id::IdError| error.to_string())?;
    let identity = hello.identity.ok_or("the greeting names no identity")?.into();
    let (key, join_token) = (hello.key.to_vec(), hello.join_token.to_vec());
    if key.len() < 32 {
        return Err("the greeting's key is too short".into());
    }
    let (epoch, started) = (hello.epoch, hello.started);
    let version = hello.program_version.chars().take(100).collect();
    Ok((
        runner,
        epoch,
        AgentGreeting { runner, epoch, identity, key, join_token, version, started, peer_pid },
    ))
}

#[expect(clippy::too_many_arguments, reason = "one conversation, and nobody else has it")]
async fn exchange(
    control: &Control,
    stream: &mut Stream,
    runner: RunnerId,
    epoch: i64,
    mut commands: tokio::sync::mpsc::Receiver<AgentCommand>,
    version: u32,
    pace: Pace,
    mut told: Pace,
) -> Result<(), Ended> {
    let stopping = control.supervisor().stopping().clone();
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            command = commands.recv() => match command {
                Some(command) => send(stream, translate(command)).await?,
                None => return Err("replaced by a later connection".to_owned().into()),
            },
            () = tokio::time::sleep_until(heard + told.silence) => return Err(Ended::Silent),
            frame = stream.next() => {
                let frame = frame.ok_or_else(|| "closed by the agent".to_owned())?;
                let frame = frame.map_err(|error| error.to_string())?;
                heard = Instant::now();
                match frame.kind {
                    Some(from_agent::Kind::Report(report)) => {
                        let seq = report.seq;
                        if let Some(note) = read_report(report)? {
                            // Not acknowledged, it comes again with the next connection.
                            let noted = Box::pin(control.agent_noted(runner, epoch, seq, note));
                            noted.await.map_err(|error| error.to_string())?;
                        }
                        send(stream, to_agent::Kind::Ack(seq)).await?;
                    }
                    Some(from_agent::Kind::Heartbeat(beat)) => {
                        let length = stream.codec().last_length();
                        if length > BEAT_MAX {
                            let why = format!("a heartbeat of {length} bytes is over the limit of {BEAT_MAX}");
                            return Err(why.into());
                        }
                        control.agent_beat(read_heartbeat(control, runner, epoch, &beat));
                        // The fleet has grown or shrunk since.
                        let wanted = pace.among(control.agents_connected());
                        if told.is_far_from(wanted) {
                            send(stream, welcome_at(version, wanted)).await?;
                            told = wanted;
                        }
                    }
                    Some(from_agent::Kind::UpgradeFailed(why)) => {
                        control.agent_not_upgraded(runner, bounded(why));
                    }
                    // How far it goes is seen when it is read.
                    Some(from_agent::Kind::Signals(_) | from_agent::Kind::Visits(_)) => {
                        control.signals_grown(runner);
                    }
                    Some(from_agent::Kind::Hello(_)) => return Err("a second greeting".to_owned().into()),
                    // Something that a newer agent says.
                    None => {}
                }
            }
        }
    }
}

fn translate(command: AgentCommand) -> to_agent::Kind {
    match command {
        AgentCommand::Go => to_agent::Kind::Go(v1::Go {}),
        AgentCommand::Stop { grace, force, quit } => {
            let quit = quit.unwrap_or_default().to_owned();
            to_agent::Kind::Stop(v1::StopAssistant {
                grace_ms: grace.as_millis() as u64,
                force,
                quit,
            })
        }
        AgentCommand::SetPaused(paused) => to_agent::Kind::SetPaused(v1::SetPaused { paused }),
        AgentCommand::Upgrade { program } => to_agent::Kind::Upgrade(v1::Upgrade { program }),
    }
}

/// `None`: something that a newer agent reports; it is acknowledged and passed over.
fn read_report(report: AgentReport) -> Result<Option<Note>, String> {
    use agent_report::What;
    Ok(match report.what {
        Some(What::Started(process)) => Some(Note::Started(process.into())),
        Some(What::Exited(exit)) => {
            let cause = serde_json::from_str(&exit.cause)
                .map_err(|error| format!("an exit's cause: {error}"))?;
            Some(Note::Exited(Exit { cause, at: timestamp(exit.at_us)? }))
        }
        Some(What::LimitsNotEnforced(why)) => Some(Note::LimitsNotEnforced(bounded(why))),
        Some(What::Gap(gap)) => {
            Some(Note::OutputGap { from: gap.from, to: gap.to, why: bounded(gap.why) })
        }
        None => None,
    })
}

fn read_heartbeat(
    control: &Control,
    runner: RunnerId,
    epoch: i64,
    beat: &AgentHeartbeat,
) -> Liveness {
    Liveness {
        runner,
        epoch,
        at: control.now(),
        cpu_ms: beat.cpu_ms.min(USAGE_MAX),
        memory: beat.memory.min(USAGE_MAX),
        processes: beat.processes,
        output_bytes: beat.output_bytes.min(USAGE_MAX),
        output_at: timestamp(beat.output_at_us).ok().filter(|_| beat.output_at_us > 0),
        viewers: beat.viewers,
    }
}

fn timestamp(micros: i64) -> Result<Timestamp, String> {
    Timestamp::from_microsecond(micros).map_err(|error| error.to_string())
}

fn bounded(text: String) -> String {
    text.chars().take(1000).collect()
}

async fn reject(stream: &mut Stream, why: &str, is_final: bool) -> Result<(), String> {
    send(stream, to_agent::Kind::Rejected(v1::Rejected { why: why.into(), r#final: is_final }))
        .await?;
    Err(why.into())
}

async fn send(stream: &mut Stream, kind: to_agent::Kind) -> Result<(), String> {
    match tokio::time::timeout(WRITE, stream.send(ToAgent { kind: Some(kind) })).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the agent does not read".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleet_stays_below_fifty_heartbeats_a_second() {
        let pace = Pace { heartbeat: Duration::from_secs(10), silence: Duration::from_secs(30) };
        for agents in [0, 1, 499, 500, 501, 5_000, 100_000] {
            let stretched = pace.among(agents);
            let per_second = agents as f64 / stretched.heartbeat.as_secs_f64();
            assert!(per_second <= 50.0 + 1e-6, "{agents}: {per_second}");
            assert!(stretched.heartbeat >= pace.heartbeat && stretched.silence >= pace.silence);
            assert!(stretched.silence >= stretched.heartbeat * 2, "{stretched:?}");
        }
        assert_eq!(pace.among(500).heartbeat, pace.heartbeat);
        // The control: without stretching a fleet of this size would not.
        assert!(5_000.0 / pace.heartbeat.as_secs_f64() > 50.0);
        assert!(pace.is_far_from(pace.among(1_000)) && !pace.is_far_from(pace.among(550)));
    }
}
