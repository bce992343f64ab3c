//! A conversation with a runner's agent: on its own socket, or through the daemon.
//!
//! Both carry the same frames; nobody else needs to know which of the two it is.

use std::io;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use stratavore_proto::frame::FrameCodec;
use stratavore_proto::runner_dir::RunnerDir;
use stratavore_proto::v1::{
    self, ConnectFrame, FromAgentSocket, GetRunner, SocketHello, ToAgentSocket, connect_frame,
    from_agent_socket, socket_hello, to_agent_socket,
};
use stratavore_proto::{agent_protocol, unix};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::codec::Framed;

use crate::api::Api;
use crate::exit::{Exit, Failure, chain};

/// How long an agent may take to answer a greeting or a question.
///
/// Longer than the ten seconds of silence after which a daemon says that another one's host cannot be
/// reached: that says more than we could.
pub(crate) const ANSWER: Duration = Duration::from_secs(15);

/// An open conversation.
pub(crate) enum Link {
    Socket(Framed<unix::Stream, FrameCodec<FromAgentSocket, ToAgentSocket>>),
    Daemon { frames: mpsc::Sender<ConnectFrame>, answers: tonic::Streaming<FromAgentSocket> },
}

/// Why a conversation cannot go on.
#[derive(Debug)]
pub(crate) enum LinkError {
    /// The other side is gone; a new connection may help.
    Lost(String),
    /// The other side does not want it.
    Refused(Failure),
}

impl Link {
    /// Connects to the agent's own socket.
    pub(crate) async fn to_agent(
        dir: &RunnerDir,
        wish: socket_hello::Wish,
    ) -> Result<Self, LinkError> {
        let stream =
            unix::connect(&dir.socket()).map_err(|error| LinkError::Lost(error.to_string()))?;
        let mut link = Self::Socket(Framed::new(stream, FrameCodec::default()));
        link.send(greeting(wish)).await?;
        Ok(link)
    }

    /// Connects to the runner's agent through the daemon.
    pub(crate) async fn through_daemon(
        api: &Api<'_>,
        runner: GetRunner,
        wish: socket_hello::Wish,
    ) -> Result<Self, LinkError> {
        let (frames, stream) = mpsc::channel(64);
        let open = ConnectFrame { kind: Some(connect_frame::Kind::Open(runner)) };
        let hello = ConnectFrame { kind: Some(connect_frame::Kind::Frame(greeting(wish))) };
        for frame in [open, hello] {
            frames.try_send(frame).expect("a new channel has room for two frames");
        }
        let mut runners = api.client().runners();
        let connecting = runners.connect(ReceiverStream::new(stream));
        let answers = match tokio::time::timeout(ANSWER, connecting).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(broken(&status)),
            Err(_) => return Err(LinkError::Lost("the daemon does not answer".into())),
        };
        Ok(Self::Daemon { frames, answers })
    }

    pub(crate) async fn send(&mut self, frame: ToAgentSocket) -> Result<(), LinkError> {
        match self {
            Self::Socket(stream) => {
                stream.send(frame).await.map_err(|error| LinkError::Lost(chain(&error)))
            }
            Self::Daemon { frames, .. } => frames
                .send(ConnectFrame { kind: Some(connect_frame::Kind::Frame(frame)) })
                .await
                .map_err(|_| LinkError::Lost("the daemon has hung up".into())),
        }
    }

    /// The next frame. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Result<from_agent_socket::Kind, LinkError> {
        loop {
            let frame = match self {
                Self::Socket(stream) => match stream.next().await {
                    Some(Ok(frame)) => frame,
                    Some(Err(error)) => return Err(LinkError::Lost(chain(&error))),
                    None => return Err(LinkError::Lost("the agent has hung up".into())),
                },
                Self::Daemon { answers, .. } => match answers.message().await {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return Err(LinkError::Lost("the daemon has hung up".into())),
                    Err(status) => return Err(broken(&status)),
                },
            };
            // A frame of a kind that only a newer agent has is passed over.
            match frame.kind {
                Some(from_agent_socket::Kind::Refused(refused)) => {
                    return Err(LinkError::Refused(refusal(&refused.why)));
                }
                Some(kind) => return Ok(kind),
                None => {}
            }
        }
    }

    /// The answer to the greeting.
    pub(crate) async fn welcome(&mut self) -> Result<v1::SocketWelcome, LinkError> {
        let welcome = async {
            loop {
                if let from_agent_socket::Kind::Welcome(welcome) = self.next().await? {
                    return Ok(welcome);
                }
            }
        };
        tokio::time::timeout(ANSWER, welcome).await.unwrap_or_else(|_| {
            Err(LinkError::Lost(format!("no answer within {} s", ANSWER.as_secs())))
        })
    }
}

impl LinkError {
    /// The failure of a command that does not try again.
    pub(crate) fn into_failure(self, runner: &str) -> Failure {
        match self {
            Self::Refused(failure) => failure,
            Self::Lost(why) => Failure::new(
                Exit::Unavailable,
                "agent_unreachable",
                format!("cannot talk to runner {runner}: {why}"),
            )
            .next(format!("stratavore runners show {runner}; stratavore doctor")),
        }
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

fn broken(status: &tonic::Status) -> LinkError {
    if crate::api::is_lost(status) {
        LinkError::Lost(crate::api::failure(status).message)
    } else {
        LinkError::Refused(Failure::from_status(status))
    }
}

fn refusal(why: &str) -> Failure {
    Failure::new(Exit::Refused, "refused", format!("the runner's agent refused: {why}"))
}

fn greeting(wish: socket_hello::Wish) -> ToAgentSocket {
    let (version_min, version_max) = agent_protocol();
    let hello = SocketHello { version_min, version_max, who: who(), wish: Some(wish) };
    ToAgentSocket { kind: Some(to_agent_socket::Kind::Hello(hello)) }
}

/// Who this viewer is, for the other ones: a user's name and terminal, which they choose.
fn who() -> String {
    let user = std::env::var("USER")
        .unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()));
    let terminal = rustix::termios::ttyname(rustix::stdio::stdin(), Vec::new()).ok();
    match terminal.as_ref().and_then(|name| name.to_str().ok()?.strip_prefix("/dev/")) {
        Some(terminal) => format!("{user} on {terminal}"),
        None => user,
    }
}
