//! What some tests run inside a runner: this test program itself, told by a variable what to do.

use std::ffi::{c_long, c_void};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use futures_util::{SinkExt, StreamExt};
use stratavore_proto::frame::FrameCodec;
use stratavore_proto::unix;
use stratavore_proto::v1::socket_hello::Wish;
use stratavore_proto::v1::{
    AnswerHook, FromAgentSocket, Hook, Poke, ScreenWish, SendInput, SocketHello, ToAgentSocket,
    from_agent_socket::Kind, to_agent_socket,
};
use tokio::net::UnixStream;
use tokio_util::codec::Framed;

use crate::daemon::World;
use crate::viewer::{attach_wish, output_wish};
use crate::wait::until;

/// Names the part.
const PART: &str = "STRATAVORE_TEST_PART";
/// The socket that the part is about.
const SOCKET: &str = "STRATAVORE_TEST_SOCKET";
/// The process that has to be gone.
const MAKER: &str = "STRATAVORE_TEST_MAKER";

/// What a shell in a runner runs to have this program play a part.
pub(crate) const PLAY: &str =
    "\"$EXE\" --exact part::a_part_is_played_when_asked_for --nocapture --test-threads=1";

/// A runner with `script`, in which [`PLAY`] plays `part`, about the socket of `about`.
pub(crate) fn cast(world: World, part: &str, about: &Path) -> World {
    let mut world = world;
    let exe = std::env::current_exe().unwrap();
    let about = about.to_str().unwrap();
    for (key, value) in [("EXE", exe.to_str().unwrap()), (PART, part), (SOCKET, about)] {
        world.env.insert(key.into(), value.into());
    }
    world
}

#[tokio::test]
async fn a_part_is_played_when_asked_for() {
    let Ok(part) = std::env::var(PART) else { return };
    let socket = std::env::var(SOCKET).unwrap_or_default();
    match part.as_str() {
        "ask" => {
            let send = SendInput { data: b"typed\n".to_vec().into(), ..SendInput::default() };
            for (name, wish) in [
                ("attach", attach_wish(false, true, 80, 24)),
                ("send", Wish::Send(send)),
                ("output", output_wish(0, false)),
                ("screen", Wish::Screen(ScreenWish {})),
                ("poke", Wish::Poke(Poke {})),
                ("hook", Wish::Hook(Hook { call: String::new(), body: "{}".into() })),
                ("answer", Wish::Answer(AnswerHook { call: "x".into(), output: String::new() })),
            ] {
                let stream = unix::connect(Path::new(&socket)).unwrap();
                tell(name, ask(stream, wish).await);
            }
            tell("all", Some("asked".into()));
        }
        // Connects, hands the connection to another process, and ends.
        "hand over" => {
            let stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            let mut heir = Command::new(std::env::current_exe().unwrap());
            heir.args(std::env::args_os().skip(1)).stdin(Stdio::from(OwnedFd::from(stream)));
            heir.env(PART, "heir").env(MAKER, std::process::id().to_string());
            heir.spawn().unwrap();
            std::process::exit(0);
        }
        "heir" => {
            let maker = format!("/proc/{}", std::env::var(MAKER).unwrap());
            let is_gone = || if Path::new(&maker).exists() { Err("it is there") } else { Ok(()) };
            until("the maker to be gone", is_gone).await;
            let stream = std::io::stdin();
            let stream = rustix::io::dup(&stream).unwrap();
            let stream = std::os::unix::net::UnixStream::from(stream);
            stream.set_nonblocking(true).unwrap();
            let stream = UnixStream::from_std(stream).and_then(unix::Stream::new).unwrap();
            tell("heir", ask(stream, attach_wish(false, true, 80, 24)).await);
        }
        "vfork" => vfork(),
        other => panic!("there is no part {other}"),
    }
}

/// Tells the test, through the terminal: `None` is what is granted.
fn tell(what: &str, refused: Option<String>) {
    eprintln!("<{what}: {}>", refused.as_deref().unwrap_or("granted"));
}

/// Why the wish is refused.
async fn ask(stream: unix::Stream, wish: Wish) -> Option<String> {
    let mut frames: Framed<_, FrameCodec<FromAgentSocket, ToAgentSocket>> =
        Framed::new(stream, FrameCodec::default());
    let hello =
        SocketHello { version_min: 1, version_max: 1, who: "part".into(), wish: Some(wish) };
    frames.send(ToAgentSocket { kind: Some(to_agent_socket::Kind::Hello(hello)) }).await.unwrap();
    match frames.next().await.unwrap().unwrap().kind {
        Some(Kind::Welcome(_)) => None,
        Some(Kind::Refused(refused)) => Some(refused.why),
        other => panic!("neither welcome nor refused but {other:?}"),
    }
}

/// Waits for a child that never comes to execute anything, which no signal but KILL interrupts.
fn vfork() {
    #[expect(
        unsafe_code,
        reason = "declaration of the C library, which the standard library links"
    )]
    unsafe extern "C" {
        fn syscall(number: c_long, ...) -> c_long;
    }
    const CLONE3: c_long = 435;
    const CLONE_VFORK: u64 = 0x4000;
    const SIGCHLD: u64 = 17;
    std::fs::write("pid", format!("{}\n", std::process::id())).unwrap();
    // The kernel's `struct clone_args`: flags come first, the signal at the end is the fifth.
    let args: [u64; 8] = [CLONE_VFORK, 0, 0, 0, SIGCHLD, 0, 0, 0];
    // SAFETY: without CLONE_VM the child has a copy of our memory, as after a fork.
    #[expect(unsafe_code, reason = "no library offers it")]
    let pid = unsafe { syscall(CLONE3, args.as_ptr().cast::<c_void>(), size_of_val(&args)) };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    loop {
        std::thread::park();
    }
}
