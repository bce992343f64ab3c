//! Between a client and a runner's agent, or what the runner has left.

use std::io;

use futures_util::{SinkExt, Stream, StreamExt, future, stream};
use stratavore_control::{Control, Error};
use stratavore_core::caller::Caller;
use stratavore_core::runner::Runner;
use stratavore_core::{NodeId, RunnerId, Timestamp};
use stratavore_proto::v1::{
    self, ConnectFrame, FromAgentSocket, Lagged, Output, OutputChunk, OutputWish, connect_frame,
    from_agent_socket, output_chunk, socket_hello, to_agent_socket,
};
use stratavore_runtime::output::offset_of_last_lines;
use stratavore_runtime::socket::{AgentStream, greeting};
use stratavore_runtime::{Chunk, OutputReader};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming as Incoming};

use super::forward::{forwarded, passed_back};
use super::problem::status;
use super::{Api, Streaming};

/// Frames that wait for a client that reads slowly. The agent tells the client what it missed.
const QUEUE: usize = 16;
/// Bytes of recorded output in one chunk.
const CHUNK: usize = 64 << 10;

/// Relays frames between the client and the agent's own socket until either ends.
pub(super) async fn connect(
    api: Api,
    caller: Caller,
    mut incoming: Incoming<ConnectFrame>,
    is_forwarded: bool,
) -> Result<Response<Streaming<FromAgentSocket>>, Status> {
    let wanted = match incoming.message().await?.and_then(|frame| frame.kind) {
        Some(connect_frame::Kind::Open(wanted)) => wanted,
        Some(connect_frame::Kind::Frame(_)) | None => {
            return Err(status(Error::invalid(
                "the first frame does not say which runner",
                "send `open` first",
            )));
        }
    };
    let runner = api.find(&wanted.runner, &wanted.project).await?;
    let control = api.control.clone();
    if runner.node != control.here() && !is_forwarded {
        return connect_elsewhere(&api, &caller, runner.node, wanted, incoming).await;
    }
    let (asked, by, on) = (control.clone(), caller.clone(), runner.clone());
    let attached = async move { asked.attach_asked(&by, &on).await };
    control.decided(&caller, "runners.connect", &wanted.runner, attached).await.map_err(status)?;
    let agent = control.runtime().connect(runner.id).map_err(|error| status(error.into()))?;
    let stopping = control.supervisor().stopping().clone();
    // The connection itself carries what comes: a task of its own would be one more to wake for each
    // key and each echo. It ends with the connection, or when the daemon stops.
    let relay = Relay { incoming, agent, caller };
    let frames = stream::unfold(Some((relay, stopping)), async |relaying| {
        let (mut relay, stopping) = relaying?;
        let frame = tokio::select! {
            biased;
            () = stopping.cancelled() => {
                Err(Status::unavailable("the daemon is stopping; the runner goes on"))
            }
            frame = relay.next() => frame?,
        };
        let goes_on = frame.is_ok().then_some((relay, stopping));
        Some((frame, goes_on))
    });
    Ok(Response::new(Box::pin(frames)))
}

/// Passes the client's frames on to the daemon of the runner's node, and that one's back. The first
/// is the one that was read to learn which node it is.
async fn connect_elsewhere(
    api: &Api,
    caller: &Caller,
    node: NodeId,
    wanted: v1::GetRunner,
    incoming: Incoming<ConnectFrame>,
) -> Result<Response<Streaming<FromAgentSocket>>, Status> {
    let client = api.peers.daemon_of(node).await.map_err(status)?;
    let first = ConnectFrame { kind: Some(connect_frame::Kind::Open(wanted)) };
    // The other daemon ends its side when this one ends.
    let rest = incoming
        .take_while(|frame| future::ready(frame.is_ok()))
        .filter_map(|frame| future::ready(frame.ok()));
    let frames = stream::once(future::ready(first)).chain(rest);
    let answer = client.runners().connect(forwarded(frames, caller)).await;
    let stream = api.answered(node, answer).await?.into_inner();
    Ok(Response::new(passed_back(node, stream)))
}

/// Between one client and one agent.
struct Relay {
    incoming: Incoming<ConnectFrame>,
    agent: AgentStream,
    caller: Caller,
}

impl Relay {
    /// Passes on what the client says until the agent says something; `None` once either side has
    /// ended. What waits in here then is dropped.
    async fn next(&mut self) -> Option<Result<FromAgentSocket, Status>> {
        loop {
            tokio::select! {
                frame = self.incoming.message() => match frame {
                    Ok(Some(ConnectFrame { kind: Some(connect_frame::Kind::Frame(mut frame)) })) => {
                        name_viewer(&mut frame, &self.caller);
                        self.agent.send(frame).await.ok()?;
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return None,
                },
                frame = self.agent.next() => {
                    return Some(frame?.map_err(|error| Status::unavailable(error.to_string())));
                }
            }
        }
    }
}

/// Other viewers are told who it is by the daemon, not by the client.
fn name_viewer(frame: &mut v1::ToAgentSocket, caller: &Caller) {
    if let Some(to_agent_socket::Kind::Hello(hello)) = &mut frame.kind {
        hello.who = caller.to_string();
    }
}

/// Where to begin.
pub(super) struct Start {
    pub(super) from: Option<u64>,
    pub(super) lines: Option<u64>,
    pub(super) since: Option<Timestamp>,
}

/// Recorded output, and then, if `follow`, what the runner goes on to print.
pub(super) fn read_output(
    control: Control,
    runner: Runner,
    start: Start,
    follow: bool,
) -> impl Stream<Item = Result<OutputChunk, Status>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let supervisor = control.supervisor().clone();
    supervisor.spawn(async move {
        let stopping = control.supervisor().stopping().clone();
        let reading = send_output(&control, &runner, start, follow, &sender);
        let result = tokio::select! {
            biased;
            () = stopping.cancelled() => Err(Some(Status::unavailable("the daemon is stopping; the runner goes on"))),
            // A reader that has gone away ends the work, even while nothing is printed.
            () = sender.closed() => Err(None),
            result = reading => result,
        };
        if let Err(Some(failure)) = result {
            sender.try_send(Err(failure)).ok();
        }
    });
    ReceiverStream::new(receiver)
}

type Sender = mpsc::Sender<Result<OutputChunk, Status>>;

/// `Err(None)`: the reader has gone away.
async fn send_output(
    control: &Control,
    runner: &Runner,
    start: Start,
    follow: bool,
    sender: &Sender,
) -> Result<(), Option<Status>> {
    let directory = control.runtime().dir(runner.id).output();
    let mut reader = OutputReader::new(directory);
    let mut offset;
    (reader, offset) = blocking(move || {
        let offset = match (start.from, start.lines, start.since) {
            (Some(from), _, _) => from,
            (None, Some(lines), _) => offset_of_last_lines(&mut reader, lines)?,
            (None, None, Some(since)) => reader.offset_at(since)?.unwrap_or(0),
            // What of it is no longer kept is told as a gap.
            (None, None, None) => 0,
        };
        Ok((reader, offset))
    })
    .await?;
    loop {
        let chunk;
        (reader, chunk) = blocking(move || {
            let chunk = reader.read(offset, CHUNK)?;
            Ok((reader, chunk))
        })
        .await?;
        match chunk {
            Chunk::Data { offset: at, data } => {
                offset = at + data.len() as u64;
                let output = Output { offset: at, data: data.into() };
                pass(sender, output_chunk::Kind::Output(output)).await?;
            }
            Chunk::Gap { from, to } => {
                offset = to;
                pass(sender, output_chunk::Kind::Gap(Lagged { from, to })).await?;
            }
            Chunk::End => break,
        }
    }
    pass(sender, output_chunk::Kind::CaughtUp(true)).await?;
    if follow && live(control, runner.id).await {
        follow_output(control, runner.id, offset, sender).await?;
    }
    Ok(())
}

/// In a task of its own: a reader that goes away cuts no question to the store in half.
async fn live(control: &Control, id: RunnerId) -> bool {
    let (supervisor, control) = (control.supervisor().clone(), control.clone());
    supervisor.spawn(async move { control.live(id).await.is_ok() }).await.unwrap_or(false)
}

async fn follow_output(
    control: &Control,
    id: RunnerId,
    from: u64,
    sender: &Sender,
) -> Result<(), Option<Status>> {
    let unreachable = |error: Error| Some(status(error));
    let mut agent = control.runtime().connect(id).map_err(|error| unreachable(error.into()))?;
    let wish = socket_hello::Wish::Output(OutputWish { from, follow: true });
    agent
        .send(greeting("logs", wish))
        .await
        .map_err(|error| Some(Status::unavailable(error.to_string())))?;
    while let Some(frame) = agent.next().await {
        use from_agent_socket::Kind;
        let frame = frame.map_err(|error| Some(Status::unavailable(error.to_string())))?;
        match frame.kind {
            Some(Kind::Output(output)) => pass(sender, output_chunk::Kind::Output(output)).await?,
            Some(Kind::Lagged(gap)) => pass(sender, output_chunk::Kind::Gap(gap)).await?,
            Some(Kind::Ended(_) | Kind::Done(_)) => return Ok(()),
            Some(Kind::Refused(refused)) => return Err(Some(Status::unavailable(refused.why))),
            Some(
                Kind::Welcome(_)
                | Kind::Screen(_)
                | Kind::Writer(_)
                | Kind::Size(_)
                | Kind::HookAnswer(_),
            )
            | None => {}
        }
    }
    Ok(())
}

async fn pass(sender: &Sender, kind: output_chunk::Kind) -> Result<(), Option<Status>> {
    sender.send(Ok(OutputChunk { kind: Some(kind) })).await.map_err(|_| None)
}

async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Option<Status>> {
    let result =
        tokio::task::spawn_blocking(act).await.map_err(io::Error::other).and_then(|result| result);
    result.map_err(|error| Some(status(Error::internal(error))))
}
