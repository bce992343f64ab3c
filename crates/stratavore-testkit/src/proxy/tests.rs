use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use super::*;
use crate::world::until;

/// What is read and written like a socket of either kind.
trait Socket: Read + Write + Send {
    fn no_longer_than(&self, limit: Duration);
}

impl Socket for TcpStream {
    fn no_longer_than(&self, limit: Duration) {
        self.set_read_timeout(Some(limit)).unwrap();
    }
}

impl Socket for UnixStream {
    fn no_longer_than(&self, limit: Duration) {
        self.set_read_timeout(Some(limit)).unwrap();
    }
}

/// A client, its server's end, and the proxy between them.
struct Pair {
    client: Box<dyn Socket>,
    server: Box<dyn Socket>,
    proxy: Proxy,
    _directory: tempfile::TempDir,
}

fn tcp() -> Pair {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::tcp(listener.local_addr().unwrap());
    let client = TcpStream::connect(proxy.address()).unwrap();
    client.set_nodelay(true).unwrap();
    let server = listener.accept().unwrap().0;
    let directory = tempfile::tempdir().unwrap();
    Pair { client: Box::new(client), server: Box::new(server), proxy, _directory: directory }
}

fn unix() -> Pair {
    let directory = tempfile::tempdir().unwrap();
    let (near, far) = (directory.path().join("near"), directory.path().join("far"));
    let listener = UnixListener::bind(&far).unwrap();
    let proxy = Proxy::unix(&near, &far);
    let client = UnixStream::connect(&near).unwrap();
    let server = listener.accept().unwrap().0;
    Pair { client: Box::new(client), server: Box::new(server), proxy, _directory: directory }
}

fn both(check: impl Fn(Pair)) {
    check(tcp());
    check(unix());
}

#[track_caller]
fn reads(socket: &mut Box<dyn Socket>, wanted: &[u8]) {
    socket.no_longer_than(crate::world::PATIENCE);
    let mut found = vec![0; wanted.len()];
    socket.read_exact(&mut found).unwrap();
    assert_eq!(found, wanted);
}

/// Nothing comes for a while, and no end either.
#[track_caller]
fn is_silent(socket: &mut Box<dyn Socket>) {
    socket.no_longer_than(Duration::from_millis(50));
    let read = socket.read(&mut [0; 8]);
    let kind = read.as_ref().map_err(io::Error::kind);
    assert!(matches!(kind, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{read:?}");
}

#[track_caller]
fn reads_the_end(socket: &mut Box<dyn Socket>) {
    socket.no_longer_than(crate::world::PATIENCE);
    assert_eq!(socket.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn a_good_wire_carries_everything_both_ways_and_half_closes() {
    both(|mut pair| {
        let much: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| pair.client.write_all(&much).unwrap());
            reads(&mut pair.server, &much);
        });
        pair.server.write_all(b"answer").unwrap();
        reads(&mut pair.client, b"answer");
        drop(pair.server);
        reads_the_end(&mut pair.client);
        assert_eq!(pair.proxy.accepted(), 1);
    });
}

#[test]
fn what_is_held_comes_later_and_what_is_dropped_never() {
    both(|mut pair| {
        pair.client.write_all(b"before").unwrap();
        reads(&mut pair.server, b"before");
        pair.proxy.set(|wire| (wire.up.flow, wire.down.flow) = (Flow::Hold, Flow::Hold));
        pair.client.write_all(b"held").unwrap();
        pair.server.write_all(b"held").unwrap();
        is_silent(&mut pair.server);
        is_silent(&mut pair.client);
        pair.proxy.heal();
        reads(&mut pair.server, b"held");
        reads(&mut pair.client, b"held");

        pair.proxy.set(|wire| wire.down.flow = Flow::Drop);
        pair.server.write_all(b"lost").unwrap();
        pair.client.write_all(b"up").unwrap();
        reads(&mut pair.server, b"up");
        is_silent(&mut pair.client);
        pair.proxy.heal();
        pair.server.write_all(b"kept").unwrap();
        reads(&mut pair.client, b"kept");
    });
}

#[test]
fn delay_and_throttle_take_their_time() {
    both(|mut pair| {
        pair.proxy.set(|wire| wire.up.delay = Duration::from_millis(60));
        let began = Instant::now();
        pair.client.write_all(b"late").unwrap();
        reads(&mut pair.server, b"late");
        assert!(began.elapsed() >= Duration::from_millis(60));

        pair.proxy.heal();
        pair.proxy.set(|wire| wire.down.bytes_per_second = Some(10_000));
        let began = Instant::now();
        pair.server.write_all(&[7; 2_000]).unwrap();
        reads(&mut pair.client, &[7; 2_000]);
        assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    });
}

#[test]
fn a_cut_is_an_end_and_a_reset_an_error() {
    both(|mut pair| {
        pair.proxy.cut_all();
        reads_the_end(&mut pair.client);
        reads_the_end(&mut pair.server);
    });
    let mut pair = tcp();
    pair.proxy.reset_all();
    for socket in [&mut pair.client, &mut pair.server] {
        socket.no_longer_than(crate::world::PATIENCE);
        assert_eq!(socket.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn an_ambush_strikes_once_and_at_its_byte() {
    for (way, then) in [
        (Way::Down, Strike::Cut),
        (Way::Up, Strike::Cut),
        (Way::Down, Strike::Reset),
        (Way::Down, Strike::Silence),
    ] {
        let mut pair = tcp();
        pair.proxy.lay(Ambush { after: b"COMMIT".into(), way, bytes: 3, then });
        pair.client.write_all(b"BEGIN").unwrap();
        reads(&mut pair.server, b"BEGIN");
        pair.server.write_all(b"begun").unwrap();
        reads(&mut pair.client, b"begun");
        assert_eq!(pair.proxy.struck(), 0);
        pair.client.write_all(b"COMMIT").unwrap();
        match (way, then) {
            (Way::Up, _) => {
                reads(&mut pair.server, b"COM");
                reads_the_end(&mut pair.server);
            }
            (Way::Down, strike) => {
                reads(&mut pair.server, b"COMMIT");
                pair.server.write_all(b"done").unwrap();
                match strike {
                    Strike::Cut => {
                        reads(&mut pair.client, b"don");
                        reads_the_end(&mut pair.client);
                    }
                    // A reset may overtake what came before it.
                    Strike::Reset => {
                        pair.client.no_longer_than(crate::world::PATIENCE);
                        let mut all = Vec::new();
                        let kind = pair.client.read_to_end(&mut all).unwrap_err().kind();
                        assert_eq!(kind, ErrorKind::ConnectionReset);
                        assert!(b"don".starts_with(&all), "{all:?}");
                    }
                    Strike::Silence => {
                        reads(&mut pair.client, b"don");
                        is_silent(&mut pair.client);
                        pair.client.write_all(b"more").unwrap();
                        reads(&mut pair.server, b"more");
                    }
                }
            }
        }
        until("it is counted", || match pair.proxy.struck() {
            1 => Ok(()),
            other => Err(other),
        });
        assert!(!pair.proxy.lift(), "it strikes once");
    }
}

#[test]
fn its_end_closes_the_door() {
    let Pair { mut client, server, proxy, _directory: directory } = unix();
    drop(proxy);
    reads_the_end(&mut client);
    assert!(!directory.path().join("near").exists());
    drop(server);
}
