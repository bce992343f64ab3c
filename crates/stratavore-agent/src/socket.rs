//! The agent's own socket: whoever may, attaches here, also while no daemon runs.
//!
//! Invariant: only the agent's own user, and root, are let in.
//! Invariant: no program inside a runner types into one, attaches to one, or reads another one.
//! Invariant: what one connection sends, or does not read, harms no other one.
//! Invariant: whatever it lets somebody do, or not, is written down for the record before.

use std::rc::Rc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use stratavore_core::visit::Deed;
use stratavore_proto::frame::{FrameCodec, FrameError};
use stratavore_proto::v1::{
    AnswerHook, Done, FromAgentSocket, Screen, SendInput, SocketHello, SocketRefused,
    SocketWelcome, ToAgentSocket, from_agent_socket, socket_hello::Wish, to_agent_socket,
};
use stratavore_proto::{agent_protocol, common_version, unix};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::codec::Framed;

use crate::input::Text;
use crate::inside::Place;
use crate::runner::{Life, Runner};
use crate::screen::Picture;
use crate::visits::Visitor;
use crate::{attach, observe, replay};

/// How many connections there may be at a time.
const CONNECTIONS_MAX: usize = 64;
/// How many more are told that there are too many; the rest are closed without a word.
const REFUSED_MAX: usize = 16;
/// How long a greeting may take.
const GREETING: Duration = Duration::from_secs(5);
/// How long accepting rests after it failed, for want of files mostly.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// A connection of the agent's own socket.
pub(crate) type Connection = Framed<unix::Stream, FrameCodec<ToAgentSocket, FromAgentSocket>>;

/// Lets in whoever may come in. Never ends.
pub(crate) async fn serve(runner: Rc<Runner>, listener: &UnixListener) {
    let mut connections = JoinSet::new();
    let mut failing = false;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    failing = false;
                    let open = connections.len();
                    if open < CONNECTIONS_MAX + REFUSED_MAX {
                        let crowded = open >= CONNECTIONS_MAX;
                        connections.spawn_local(connection(Rc::clone(&runner), stream, crowded));
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        crate::log::note(format_args!("let somebody in: {error}"));
                    }
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

pub(crate) fn frame(kind: from_agent_socket::Kind) -> FromAgentSocket {
    FromAgentSocket { kind: Some(kind) }
}

pub(crate) async fn refuse(
    connection: &mut Connection,
    why: impl Into<String>,
) -> Result<(), FrameError> {
    connection
        .send(frame(from_agent_socket::Kind::Refused(SocketRefused { why: why.into() })))
        .await
}

/// Whoever is at the other end, and where. To be asked at once: it is known by the process that connected,
/// which may hand the connection to another one and end. `None`: the kernel does not say.
fn other_end(runner: &Runner, stream: &UnixStream) -> Option<(Visitor, Place, bool)> {
    let peer = stream.peer_cred().ok()?;
    let own = rustix::process::geteuid().as_raw();
    let allowed = peer.uid() == own || peer.uid() == 0;
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
    let place = match (pid, runner.dir.path().parent()) {
        (Some(pid), Some(runners)) => Place::of(pid, runners),
        (None, _) | (_, None) => Place::Unknown,
    };
    Some((Visitor::of(runner, peer.uid(), pid, place), place, allowed))
}

/// What somebody wishes for, as the record has it.
fn deed(wish: &Wish) -> Deed {
    match wish {
        Wish::Attach(_) => Deed::Attach,
        Wish::Send(_) | Wish::Again(_) => Deed::Send,
        Wish::Output(_) | Wish::Screen(_) => Deed::Read,
        Wish::Hook(_) => Deed::Hook,
        Wish::Answer(_) => Deed::Answer,
        Wish::Poke(_) => Deed::Poke,
    }
}

/// Sends somebody away who may not, and writes that down first.
async fn turn_away(
    runner: &Runner,
    connection: &mut Connection,
    visitor: &Visitor,
    first: &ToAgentSocket,
    why: &str,
) -> Result<(), FrameError> {
    if let Some(to_agent_socket::Kind::Hello(hello)) = &first.kind
        && let Some(wish) = &hello.wish
    {
        runner.turned_away(visitor, deed(wish), why);
    }
    refuse(connection, why).await
}

/// Why somebody at `place` is not granted `wish`; `None`: it is granted.
fn refusal(runner: &Runner, place: Place, wish: Option<&Wish>) -> Option<String> {
    let own = place == Place::Inside(runner.spec.runner);
    let deed = match wish? {
        Wish::Attach(_) | Wish::Send(_) | Wish::Again(_) => "attach to runners or type into them",
        Wish::Output(_) | Wish::Screen(_) if !own => "read what other runners print",
        Wish::Output(_) | Wish::Screen(_) => return None,
        // The assistant of this runner tells of itself, and of no other.
        Wish::Hook(_) if own => return None,
        Wish::Hook(_) => {
            return Some("only what runs inside of this runner may call its hook".into());
        }
        Wish::Answer(_) => "answer what assistants ask",
        // It cuts the agent's line to its daemon.
        Wish::Poke(_) => "make agents dial anew",
    };
    match place {
        Place::Outside => None,
        Place::Inside(around) => Some(format!("a program inside {around} may not {deed}")),
        Place::Unknown => Some(format!(
            "whoever connected is gone, and might have been inside a runner; those may not {deed}: connect and stay"
        )),
    }
}

/// Counts a connection for as long as it lasts.
struct Counted(Rc<Runner>);

impl Counted {
    fn new(runner: &Rc<Runner>) -> Self {
        runner.connections.set(runner.connections.get() + 1);
        Self(Rc::clone(runner))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.told.send_replace(());
    }
}

async fn connection(runner: Rc<Runner>, stream: UnixStream, crowded: bool) {
    let _counted = Counted::new(&runner);
    let Some((visitor, place, allowed)) = other_end(&runner, &stream) else { return };
    let Ok(stream) = unix::Stream::new(stream) else { return };
    let mut connection: Connection = Framed::new(stream, FrameCodec::default());
    // Whatever breaks a connection concerns nobody else. A greeting is read before it is refused, or
    // whoever sends it may not come to read why.
    let _ended = match timeout(GREETING, connection.next()).await {
        Ok(Some(Ok(first))) if allowed && !crowded => {
            converse(&runner, connection, visitor, place, first).await
        }
        Ok(Some(Ok(first))) => {
            let crowded =
                format!("{CONNECTIONS_MAX} connections to this runner are open: close some");
            let why = if allowed { &crowded } else { "this runner belongs to another user" };
            turn_away(&runner, &mut connection, &visitor, &first, why).await
        }
        Ok(Some(Err(error))) => Err(error),
        Ok(None) | Err(_) => Ok(()),
    };
}

async fn converse(
    runner: &Rc<Runner>,
    mut connection: Connection,
    visitor: Visitor,
    place: Place,
    first: ToAgentSocket,
) -> Result<(), FrameError> {
    let Some(to_agent_socket::Kind::Hello(hello)) = &first.kind else {
        return refuse(&mut connection, "a connection begins with a greeting").await;
    };
    if let Some(why) = refusal(runner, place, hello.wish.as_ref()) {
        return turn_away(runner, &mut connection, &visitor, &first, &why).await;
    }
    let SocketHello { version_min, version_max, who, wish } = hello.clone();
    let Some(version) = common_version(version_min, version_max) else {
        let (min, max) = agent_protocol();
        let why = format!(
            "this agent speaks version {min} to {max} of the protocol, and you {version_min} to {version_max}: use programs of one version"
        );
        return refuse(&mut connection, why).await;
    };
    let welcome = |writer: bool| {
        frame(from_agent_socket::Kind::Welcome(SocketWelcome {
            version,
            runner_id: runner.spec.runner.to_string(),
            identity: Some(runner.identity.clone().into()),
            writer,
        }))
    };
    match wish {
        Some(Wish::Attach(wish)) => {
            attach::run(runner, connection, visitor, who, wish, welcome).await
        }
        Some(Wish::Output(wish)) => {
            connection.send(welcome(false)).await?;
            replay::run(runner, connection, wish).await
        }
        Some(Wish::Send(wish)) => {
            send(runner, connection, &visitor, welcome(false), wish, false).await
        }
        Some(Wish::Again(wish)) => {
            send(runner, connection, &visitor, welcome(false), wish, true).await
        }
        Some(Wish::Screen(_)) => {
            connection.feed(welcome(false)).await?;
            let (offset, picture) = runner.terminal.borrow_mut().picture();
            connection.feed(screen(offset, picture)).await?;
            connection.send(done()).await
        }
        Some(Wish::Hook(hook)) => observe::hooked(runner, connection, welcome(false), hook).await,
        Some(Wish::Answer(AnswerHook { call, output })) => {
            runner.visited(&visitor, Deed::Answer);
            if let Err(why) = observe::answer(runner, &call, output) {
                return refuse(&mut connection, why).await;
            }
            connection.feed(welcome(false)).await?;
            connection.send(done()).await
        }
        Some(Wish::Poke(_)) => {
            runner.visited(&visitor, Deed::Poke);
            runner.poked.notify_one();
            connection.feed(welcome(false)).await?;
            connection.send(done()).await
        }
        None => {
            refuse(
                &mut connection,
                "this agent does not know what is wished for: use programs of one version",
            )
            .await
        }
    }
}

async fn send(
    runner: &Runner,
    mut connection: Connection,
    visitor: &Visitor,
    welcome: FromAgentSocket,
    SendInput { data, paste, enter, id }: SendInput,
    again: bool,
) -> Result<(), FrameError> {
    if matches!(*runner.life.borrow(), Life::Waiting) {
        return refuse(&mut connection, "the runner has not started yet: send again once it runs")
            .await;
    }
    runner.types(visitor, data.len(), &id);
    connection.send(welcome).await?;
    let bracketed = paste && runner.terminal.borrow_mut().screen().bracketed_paste();
    let text = Text { data: &data, bracketed, enter, id: &id, again };
    match runner.input.send(text).await {
        Ok(typed) => {
            if typed && enter {
                runner.note_sent(data.len());
            }
            connection.send(done()).await
        }
        Err(refused) => refuse(&mut connection, refused.to_string()).await,
    }
}

pub(crate) fn done() -> FromAgentSocket {
    frame(from_agent_socket::Kind::Done(Done {}))
}

/// The frame that shows a screen.
pub(crate) fn screen(offset: u64, picture: Picture) -> FromAgentSocket {
    let Picture { size, drawing, text, title, cursor, alternate } = picture;
    frame(from_agent_socket::Kind::Screen(Screen {
        offset,
        columns: size.columns.into(),
        rows: size.rows.into(),
        drawing: drawing.into(),
        text,
        title,
        cursor_row: cursor.0.into(),
        cursor_column: cursor.1.into(),
        alternate,
    }))
}
