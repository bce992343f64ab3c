//! Somebody on the agent's own socket.

use futures_util::{SinkExt, StreamExt};
use stratavore_proto::frame::FrameCodec;
use stratavore_proto::unix;
use stratavore_proto::v1::{
    AgentIdentity, Attach, FromAgentSocket, OutputWish, Poke, Screen, ScreenWish, SendInput,
    SocketHello, SocketWelcome, ToAgentSocket, Writer, from_agent_socket::Kind, socket_hello::Wish,
    to_agent_socket,
};
use tokio_util::codec::Framed;

use crate::daemon::World;
use crate::wait::{BOUND, soon};

/// A connection to an agent.
pub(crate) struct Viewer {
    pub(crate) frames: Framed<unix::Stream, FrameCodec<FromAgentSocket, ToAgentSocket>>,
    /// What the viewer's terminal shows.
    pub(crate) terminal: vt100::Parser,
    /// All output that came, and the offset after it.
    pub(crate) output: Vec<u8>,
    pub(crate) offset: u64,
    pub(crate) writer: Option<Writer>,
    pub(crate) ended: Option<String>,
    pub(crate) lagged: Vec<(u64, u64)>,
    pub(crate) screens: u32,
    /// How often it was told of another size.
    pub(crate) sizes: u32,
}

pub(crate) fn attach_wish(read_only: bool, steal: bool, columns: u32, rows: u32) -> Wish {
    Wish::Attach(Attach { read_only, steal, columns, rows })
}

impl Viewer {
    pub(crate) async fn connect(world: &World, who: &str, wish: Wish) -> Self {
        let stream = unix::connect(&world.dir.socket()).unwrap();
        let mut frames = Framed::new(stream, FrameCodec::default());
        let hello =
            SocketHello { version_min: 1, version_max: 1, who: who.into(), wish: Some(wish) };
        frames
            .send(ToAgentSocket { kind: Some(to_agent_socket::Kind::Hello(hello)) })
            .await
            .unwrap();
        Self {
            frames,
            terminal: vt100::Parser::default(),
            output: Vec::new(),
            offset: 0,
            writer: None,
            ended: None,
            lagged: Vec::new(),
            screens: 0,
            sizes: 0,
        }
    }

    /// Attaches, and reads the first picture.
    pub(crate) async fn attach(world: &World, who: &str, wish: Wish) -> Self {
        let mut viewer = Self::connect(world, who, wish).await;
        viewer.welcome().await;
        viewer.until("the first picture", |viewer| viewer.screens > 0).await;
        viewer
    }

    pub(crate) async fn welcome(&mut self) -> SocketWelcome {
        match self.next().await {
            Some(Kind::Welcome(welcome)) => welcome,
            other => panic!("no welcome but {other:?}"),
        }
    }

    pub(crate) async fn say(&mut self, kind: to_agent_socket::Kind) {
        self.frames.send(ToAgentSocket { kind: Some(kind) }).await.unwrap();
    }

    pub(crate) async fn type_in(&mut self, text: &str) {
        self.say(to_agent_socket::Kind::Input(text.to_owned().into())).await;
    }

    /// The next frame as it is; `None` once the connection is closed.
    pub(crate) async fn next(&mut self) -> Option<Kind> {
        soon("a frame of the agent", self.frames.next()).await?.ok()?.kind
    }

    /// Takes in the next frame of a replay, and shows nothing. False once it is over.
    pub(crate) async fn step_unseen(&mut self) -> bool {
        match self.next().await {
            Some(Kind::Output(output)) => {
                assert_eq!(output.offset, self.offset, "output goes on where it was");
                self.offset += output.data.len() as u64;
                self.output.extend_from_slice(&output.data);
                true
            }
            Some(Kind::Done(_)) | None => false,
            Some(other) => panic!("unexpected {other:?}"),
        }
    }

    /// Takes in the next frame. False once the connection is closed.
    pub(crate) async fn step(&mut self) -> bool {
        match self.next().await {
            Some(Kind::Screen(screen)) => self.show(&screen),
            Some(Kind::Output(output)) => {
                assert_eq!(output.offset, self.offset, "output goes on where it was");
                self.offset += output.data.len() as u64;
                self.terminal.process(&output.data);
                self.output.extend_from_slice(&output.data);
            }
            Some(Kind::Lagged(lagged)) => {
                assert_eq!(lagged.from, self.offset);
                self.lagged.push((lagged.from, lagged.to));
                self.offset = lagged.to;
            }
            Some(Kind::Writer(writer)) => self.writer = Some(writer),
            Some(Kind::Size(size)) => {
                self.sizes += 1;
                self.resize(size.rows, size.columns);
            }
            Some(Kind::Ended(ended)) => self.ended = Some(ended.cause),
            Some(Kind::Done(_)) | None => return false,
            Some(other @ (Kind::Welcome(_) | Kind::Refused(_) | Kind::HookAnswer(_))) => {
                panic!("unexpected {other:?}")
            }
        }
        true
    }

    fn resize(&mut self, rows: u32, columns: u32) {
        let number = |n: u32| std::num::NonZeroU16::new(u16::try_from(n).unwrap()).unwrap();
        self.terminal.set_size(number(rows), number(columns));
    }

    fn show(&mut self, screen: &Screen) {
        assert!(
            self.screens == 0 || screen.offset == self.offset,
            "a picture follows what was missed"
        );
        self.screens += 1;
        self.offset = screen.offset;
        self.resize(screen.rows, screen.columns);
        self.terminal.process(&screen.drawing);
    }

    pub(crate) async fn until(&mut self, what: &str, mut seen: impl FnMut(&mut Self) -> bool) {
        let waited = tokio::time::timeout(BOUND, async {
            while !seen(self) {
                if !self.step().await {
                    return false;
                }
            }
            true
        })
        .await;
        if waited != Ok(true) {
            panic!("waited in vain for {what}; the screen is\n{}", self.text());
        }
    }

    pub(crate) async fn until_shown(&mut self, text: &str) {
        self.until(text, |viewer| viewer.text().contains(text)).await;
    }

    pub(crate) fn text(&self) -> String {
        self.terminal.screen().contents()
    }

    pub(crate) fn size(&self) -> (u16, u16) {
        let (rows, columns) = self.terminal.screen().size();
        (columns.get(), rows.get())
    }
}

/// Types into the runner, and waits for the agent to say that it is done.
pub(crate) async fn send(
    world: &World,
    data: &[u8],
    paste: bool,
    enter: bool,
) -> Result<(), String> {
    let wish =
        Wish::Send(SendInput { data: data.to_vec().into(), paste, enter, ..SendInput::default() });
    let mut viewer = Viewer::connect(world, "sender", wish).await;
    viewer.welcome().await;
    match viewer.next().await {
        Some(Kind::Done(_)) => Ok(()),
        Some(Kind::Refused(refused)) => Err(refused.why),
        other => panic!("neither done nor refused but {other:?}"),
    }
}

pub(crate) async fn poke(world: &World) -> AgentIdentity {
    let mut viewer = Viewer::connect(world, "poker", Wish::Poke(Poke {})).await;
    let welcome = viewer.welcome().await;
    assert!(matches!(viewer.next().await, Some(Kind::Done(_))));
    welcome.identity.unwrap()
}

pub(crate) async fn screen(world: &World) -> Screen {
    let mut viewer = Viewer::connect(world, "looker", Wish::Screen(ScreenWish {})).await;
    viewer.welcome().await;
    match viewer.next().await {
        Some(Kind::Screen(screen)) => screen,
        other => panic!("no screen but {other:?}"),
    }
}

pub(crate) fn output_wish(from: u64, follow: bool) -> Wish {
    Wish::Output(OutputWish { from, follow })
}
