//! Talking to an agent on its own socket.

use std::io;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use stratavore_core::runner::AgentIdentity;
use stratavore_core::{PromptId, RunnerId};
use stratavore_proto::frame::{FrameCodec, FrameError};
use stratavore_proto::v1::{
    AnswerHook, FromAgentSocket, OutputWish, Poke, Screen, ScreenWish, SendInput, SocketHello,
    ToAgentSocket, from_agent_socket, socket_hello, to_agent_socket,
};
use stratavore_proto::{agent_protocol, unix};
use tokio_util::codec::Framed;

use crate::process::Runtime;

/// How long an agent may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// A connection to an agent's own socket.
pub type AgentStream = Framed<unix::Stream, FrameCodec<FromAgentSocket, ToAgentSocket>>;

/// Why an agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("reach the runner's agent")]
    Unreachable(#[source] io::Error),
    #[error("talk to the runner's agent")]
    Broken(#[from] FrameError),
    #[error("the runner's agent did not answer within {} s", ANSWER.as_secs())]
    Silent,
    #[error("{0}")]
    Refused(String),
    #[error("another program answers on the runner's socket")]
    Foreign,
}

impl Runtime {
    /// Connects to the agent of `runner`. The caller sends the greeting.
    pub fn connect(&self, runner: RunnerId) -> Result<AgentStream, SocketError> {
        let stream = unix::connect(&self.dir(runner).socket()).map_err(SocketError::Unreachable)?;
        Ok(Framed::new(stream, FrameCodec::default()))
    }

    /// Asks the agent to dial the daemon now, and checks that it is the one that is expected.
    pub async fn poke(
        &self,
        runner: RunnerId,
        expected: Option<&AgentIdentity>,
    ) -> Result<(), SocketError> {
        let identity = self.ask(runner, socket_hello::Wish::Poke(Poke {})).await?;
        match expected {
            Some(expected) if identity.as_ref() != Some(expected) => Err(SocketError::Foreign),
            Some(_) | None => Ok(()),
        }
    }

    /// Types `data` into the runner, as a paste if `paste`, and then enter if `enter`.
    pub async fn send(
        &self,
        runner: RunnerId,
        data: Vec<u8>,
        paste: bool,
        enter: bool,
    ) -> Result<(), SocketError> {
        let input = SendInput { data: data.into(), paste, enter, ..SendInput::default() };
        self.ask(runner, socket_hello::Wish::Send(input)).await.map(|_| ())
    }

    /// Types a prompt and enter. Of one prompt the agent types only the first that comes; `again`: one may
    /// have come before, and an agent that cannot tell refuses.
    pub async fn prompt(
        &self,
        runner: RunnerId,
        prompt: PromptId,
        text: &str,
        again: bool,
    ) -> Result<(), SocketError> {
        let data = text.as_bytes().to_vec().into();
        let input = SendInput { data, paste: true, enter: true, id: prompt.to_string() };
        let wish = match again {
            false => socket_hello::Wish::Send(input),
            true => socket_hello::Wish::Again(input),
        };
        self.ask(runner, wish).await.map(|_| ())
    }

    /// Gives a hook of the assistant that waits its answer: what it is to print. Refused if it no longer
    /// waits.
    pub async fn answer(
        &self,
        runner: RunnerId,
        call: String,
        output: String,
    ) -> Result<(), SocketError> {
        let wish = socket_hello::Wish::Answer(AnswerHook { call, output });
        self.ask(runner, wish).await.map(|_| ())
    }

    /// Hears what the runner prints, from an offset on.
    pub async fn hear_output(&self, runner: RunnerId, from: u64) -> Result<Hearing, SocketError> {
        let mut stream = self.connect(runner)?;
        let wish = OutputWish { from, follow: true };
        stream.send(greeting("daemon", socket_hello::Wish::Output(wish))).await?;
        Ok(Hearing { stream })
    }

    /// What stands on the runner's screen, and its title.
    pub async fn screen(&self, runner: RunnerId) -> Result<Screen, SocketError> {
        let look = async {
            let mut stream = self.connect(runner)?;
            stream.send(greeting("daemon", socket_hello::Wish::Screen(ScreenWish {}))).await?;
            while let Some(frame) = stream.next().await {
                if let Some(from_agent_socket::Kind::Screen(screen)) = frame?.kind {
                    return Ok(screen);
                }
            }
            Err(SocketError::Unreachable(io::ErrorKind::UnexpectedEof.into()))
        };
        tokio::time::timeout(ANSWER, look).await.unwrap_or(Err(SocketError::Silent))
    }

    async fn ask(
        &self,
        runner: RunnerId,
        wish: socket_hello::Wish,
    ) -> Result<Option<AgentIdentity>, SocketError> {
        let exchange = async {
            let mut stream = self.connect(runner)?;
            stream.send(greeting("daemon", wish)).await?;
            let mut identity = None;
            while let Some(frame) = stream.next().await {
                use from_agent_socket::Kind;
                match frame?.kind {
                    Some(Kind::Welcome(welcome)) => {
                        identity = welcome.identity.map(AgentIdentity::from)
                    }
                    Some(Kind::Refused(refused)) => return Err(SocketError::Refused(refused.why)),
                    Some(Kind::Done(_)) => return Ok(identity),
                    Some(
                        Kind::Screen(_)
                        | Kind::Output(_)
                        | Kind::Lagged(_)
                        | Kind::Writer(_)
                        | Kind::Size(_)
                        | Kind::Ended(_)
                        | Kind::HookAnswer(_),
                    )
                    | None => {}
                }
            }
            match identity {
                Some(identity) => Ok(Some(identity)),
                None => Err(SocketError::Unreachable(io::ErrorKind::UnexpectedEof.into())),
            }
        };
        tokio::time::timeout(ANSWER, exchange).await.unwrap_or(Err(SocketError::Silent))
    }
}

/// What a runner prints, as its agent tells it.
pub struct Hearing {
    stream: AgentStream,
}

/// A part of what a runner prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Output {
        offset: u64,
        data: Vec<u8>,
    },
    /// What is before this offset is not told.
    Gap {
        to: u64,
    },
}

impl Hearing {
    /// `None`: the agent tells no more. What it has not told stands in the files.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            use from_agent_socket::Kind;
            match self.stream.next().await?.ok()?.kind {
                Some(Kind::Output(output)) => {
                    return Some(Heard::Output { offset: output.offset, data: output.data.into() });
                }
                Some(Kind::Lagged(gap)) => return Some(Heard::Gap { to: gap.to }),
                Some(Kind::Ended(_) | Kind::Done(_) | Kind::Refused(_)) => return None,
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
    }
}

/// The first frame to an agent.
pub fn greeting(who: &str, wish: socket_hello::Wish) -> ToAgentSocket {
    let (version_min, version_max) = agent_protocol();
    let hello = SocketHello { version_min, version_max, who: who.into(), wish: Some(wish) };
    ToAgentSocket { kind: Some(to_agent_socket::Kind::Hello(hello)) }
}
