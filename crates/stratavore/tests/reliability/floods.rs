//! Row 69 of the fault catalogue: floods of HTTP/2 frames at the API's socket. Streams that are opened and
//! reset at once, headers that never end, and data of no bytes cost bounded memory, and whoever else
//! asks is answered meanwhile.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stratavore_proto::client::Client;
use stratavore_proto::v1::StatusRequest;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::{World, of_process, signal, until};

use crate::matrix::is_stopped;

/// How soon anybody else is answered, on a busy machine.
const ANSWERED: Duration = Duration::from_secs(5);
/// What all floods together may cost.
const MEMORY: u64 = 48 << 20;
/// Whoever does not read what the daemon says is not written to for ever.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a test waits until a request is given up, on a busy machine.
const WAITS: Duration = Duration::from_secs(20);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `POST`, `http` and `/`, by their numbers in the static table of HPACK.
const REQUEST: [u8; 3] = [0x83, 0x86, 0x84];
const END_HEADERS: u8 = 0x4;
const END_STREAM: u8 = 0x1;

/// Kinds of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short one").to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [head, payload.to_vec()].concat()
}

#[derive(Debug, Clone, Copy)]
enum Flood {
    RapidReset,
    EndlessHeaders,
    EmptyData,
}

impl Flood {
    const ALL: [Flood; 3] = [Flood::RapidReset, Flood::EndlessHeaders, Flood::EmptyData];

    fn begin(self) -> Vec<u8> {
        let hello = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
        let first = match self {
            Flood::RapidReset => Vec::new(),
            Flood::EndlessHeaders => frame(HEADERS, 0, 1, &REQUEST),
            Flood::EmptyData => frame(HEADERS, END_HEADERS, 1, &REQUEST),
        };
        [hello, first].concat()
    }

    /// The n-th piece of it.
    fn piece(self, n: u32) -> Vec<u8> {
        match self {
            Flood::RapidReset => {
                let stream = 1 + 2 * n;
                let open = frame(HEADERS, END_HEADERS, stream, &REQUEST);
                // `CANCEL`.
                [open, frame(RESET, 0, stream, &8_u32.to_be_bytes())].concat()
            }
            // Headers `a: b`, and never the last one.
            Flood::EndlessHeaders => frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b'].repeat(3000)),
            Flood::EmptyData => frame(DATA, 0, 1, &[]).repeat(100),
        }
    }
}

/// Floods the daemon. True if that ended the connection before all was said.
fn flood(world: &World, flood: Flood, pieces: u32) -> bool {
    let mut stream = UnixStream::connect(world.path("run/d.sock")).expect("a daemon listens");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket has timeouts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket has timeouts");
    let mut hears = stream.try_clone().expect("a socket can be shared");
    // It reads as a polite client would, so that only the frames are the trouble.
    let hearing = std::thread::spawn(move || {
        let mut heard = [0; 4096];
        while hears.read(&mut heard).is_ok_and(|read| read > 0) {}
    });
    let pieces = (0..pieces).map(|n| flood.piece(n));
    let said =
        std::iter::once(flood.begin()).chain(pieces).try_for_each(|piece| stream.write_all(&piece));
    stream.shutdown(std::net::Shutdown::Both).ok();
    hearing.join().expect("it does not panic");
    said.is_err()
}

/// Resident memory of a process, in bytes.
fn memory(pid: u32) -> u64 {
    let status = of_process(pid, "status");
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") << 10
}

fn bounded(before: u64, after: u64) -> Result<(), String> {
    let grown = after.saturating_sub(before);
    if grown < MEMORY { Ok(()) } else { Err(format!("{grown} bytes more")) }
}

/// Whether somebody else is answered, and soon.
fn answered(world: &World) -> Result<Duration, String> {
    let began = Instant::now();
    let path = world.path("run/d.sock");
    let asked = on_runtime(async {
        let asked = async {
            let client = Client::connect(&path).await.map_err(|error| error.to_string())?;
            client.daemon().status(StatusRequest {}).await.map_err(|status| status.to_string())
        };
        tokio::time::timeout(ANSWERED, asked).await
    });
    match asked {
        Ok(Ok(_)) => Ok(began.elapsed()),
        Ok(Err(said)) => Err(said),
        Err(_) => Err(format!("no answer within {ANSWERED:?}")),
    }
}

#[test]
fn row_69_floods_of_frames_cost_little_and_nobody_else_anything() {
    let mut trial =
        Trial::new("row 69", "floods of HTTP/2 frames: bounded memory, and others are answered");
    let world = World::new();
    world.project("demo");
    let daemon = world.daemon_pid().expect("a daemon runs");
    let files = || std::fs::read_dir(format!("/proc/{daemon}/fd")).map_or(0, Iterator::count);
    // Whatever is made once is made by now.
    answered(&world).expect("it answers");
    let (before, open) = (memory(daemon), files());
    for _ in 0..scale(1, 20) {
        for kind in Flood::ALL {
            let pieces = match kind {
                Flood::RapidReset => scale(5_000, 500_000),
                // 15 KB each.
                Flood::EndlessHeaders | Flood::EmptyData => scale(2_000, 50_000),
            };
            let pieces = u32::try_from(pieces).expect("a number of frames");
            std::thread::scope(|scope| {
                let floods = [(); 2].map(|()| scope.spawn(|| flood(&world, kind, pieces)));
                loop {
                    let others = answered(&world);
                    if let Ok(took) = others {
                        trial.measured("another one's answer", took);
                    }
                    trial.tried(others.map(drop).map_err(|said| format!("{kind:?}: {said}")));
                    trial.most("memory grown, bytes", memory(daemon).saturating_sub(before));
                    trial.tried(bounded(before, memory(daemon)));
                    if floods.iter().all(|flood| flood.is_finished()) {
                        break;
                    }
                }
                let ended = floods.map(|flood| flood.join().expect("it does not panic"));
                let ended = ended.into_iter().filter(|ended| *ended).count();
                trial
                    .counted(&format!("{kind:?}: connections that the daemon ended"), ended as u64);
            });
        }
    }
    assert_eq!(world.daemon_pid(), Some(daemon), "it is the same daemon");
    until("it has closed what the floods had open", || match files() {
        now if now <= open + 2 => Ok(()),
        now => Err((open, now)),
    });
    // The controls: a process that keeps what it is given, and a daemon that answers nobody.
    let own = std::process::id();
    let lean = memory(own);
    let kept = vec![1_u8; 2 * MEMORY as usize];
    trial.control("a process that keeps it all", bounded(lean, memory(own)).is_err());
    assert_eq!(kept.last(), Some(&1));
    signal(daemon, Signal::STOP);
    until("all of it stands still", || if is_stopped(daemon) { Ok(()) } else { Err(daemon) });
    trial.control("a daemon that is too busy", answered(&world).is_err());
    signal(daemon, Signal::CONT);
    trial.end();
}

/// Asks for the list of projects, and says so much of the message. True if an answer came.
fn is_answered(world: &World, pieces: &[Vec<u8>], gap: Duration) -> bool {
    let mut stream = UnixStream::connect(world.path("run/d.sock")).expect("a daemon listens");
    stream.set_read_timeout(Some(WAITS)).expect("a socket has timeouts");
    // `POST`, `http`, the path, and what the message is, by name or by number in the static table.
    let path = b"/stratavore.v1.Projects/List";
    let length = [path.len() as u8];
    let headers: [&[u8]; 5] =
        [&[0x83, 0x86, 0x04], &length, path, &[0x0f, 0x10, 16], b"application/grpc"];
    let hello = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
    stream.write_all(&hello).expect("it is heard");
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &headers.concat())).expect("it is heard");
    let mut says = stream.try_clone().expect("a socket can be shared");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for piece in pieces {
                if says.write_all(piece).is_err() {
                    return;
                }
                std::thread::sleep(gap);
            }
        });
        let answered = has_answer(&mut stream);
        stream.shutdown(std::net::Shutdown::Both).ok();
        answered
    })
}

/// Reads until the stream has its end. True if a message came before.
fn has_answer(stream: &mut UnixStream) -> bool {
    let mut told = false;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).expect("the request is not waited for");
        let [a, b, c, kind, flags, _, _, _, id] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).expect("a whole frame");
        told |= kind == DATA && !payload.is_empty();
        if id == 1 && (kind == RESET || (kind == HEADERS && flags & END_STREAM != 0)) {
            return told;
        }
    }
}

/// Row 70: the message of a request is waited for a while, and no longer.
#[test]
fn a_request_whose_message_never_comes_is_not_waited_for() {
    let mut world = World::new();
    world.set_env("STRATAVORE_TEST_TIMES", "alerts_every=1h,body_idle=1s,body_whole=3s");
    world.project("demo");
    let nothing: [Vec<u8>; 0] = [];
    assert!(!is_answered(&world, &nothing, Duration::ZERO));
    // A message of a megabyte, of which a byte comes now and then.
    let mut slow = vec![frame(DATA, 0, 1, &[0, 0, 16, 0, 0])];
    slow.resize(1 << 20, frame(DATA, 0, 1, b"a"));
    assert!(!is_answered(&world, &slow, Duration::from_millis(100)));
    // The control: one that comes whole is answered.
    let whole = [frame(DATA, END_STREAM, 1, &[0; 5])];
    assert!(is_answered(&world, &whole, Duration::ZERO));
}
