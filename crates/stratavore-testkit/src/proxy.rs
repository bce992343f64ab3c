//! A wire that can be made bad: it stands between a client and a server, on TCP or Unix sockets, and
//! delays, swallows, holds back, slows down, cuts, and resets what goes over it.
//!
//! It runs in the test's process, on one thread of its own. How bad the wire is can be changed at
//! any time and holds at once for connections that live; an [`Ambush`] waits for one exact byte.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

#[cfg(test)]
mod tests;

/// The most that is carried at once.
const CHUNK: usize = 16 << 10;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    Down,
}

/// What becomes of bytes that go one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    #[default]
    Pass,
    /// They are lost, and nobody is told.
    Drop,
    /// They wait until the flow is another one. Both ways, it is a peer that is gone without a word.
    Hold,
}

/// How bad the wire is one way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lane {
    pub flow: Flow,
    /// What each chunk waits for.
    pub delay: Duration,
    pub bytes_per_second: Option<u32>,
}

/// How bad the wire is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wire {
    pub up: Lane,
    pub down: Lane,
    /// Each growth ends all connections that there are.
    ends: u64,
    by_reset: bool,
}

impl Wire {
    fn lane(&self, way: Way) -> Lane {
        match way {
            Way::Up => self.up,
            Way::Down => self.down,
        }
    }
}

/// What an ambush does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// Both sides read the end of the stream.
    Cut,
    /// Both sides get an error, on TCP. A Unix socket knows no reset; it is cut.
    Reset,
    /// Nothing is told: what still goes that way is lost, and the connection stays.
    Silence,
}

/// A fault that strikes once, at one byte of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ambush {
    /// It waits for a chunk that goes up with these bytes in it; empty: for any.
    pub after: Vec<u8>,
    /// From that chunk on, so many bytes still go this way on the same connection.
    pub way: Way,
    pub bytes: usize,
    pub then: Strike,
}

#[derive(Debug)]
struct Shared {
    wire: watch::Sender<Wire>,
    ambush: Mutex<Option<Ambush>>,
    struck: watch::Sender<u64>,
    accepted: watch::Sender<u64>,
}

/// A running proxy. Dropping it ends its connections and closes its door.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    door: Door,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Clone)]
enum Door {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

enum Listening {
    Unix(std::os::unix::net::UnixListener),
    Tcp(std::net::TcpListener),
}

impl Proxy {
    /// Listens at `at`, which must not be there yet, and connects to `server` for each client.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn unix(at: &Path, server: &Path) -> Self {
        let listener = std::os::unix::net::UnixListener::bind(at).expect("the proxy can listen");
        Self::start(Listening::Unix(listener), Door::Unix(at.into()), Door::Unix(server.into()))
    }

    /// Listens on a free port of the loopback and connects to `server` for each client.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn tcp(server: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("the proxy can listen");
        let at = listener.local_addr().expect("it has an address");
        Self::start(Listening::Tcp(listener), Door::Tcp(at), Door::Tcp(server))
    }

    /// Takes clients at a listener of TCP, of whichever network, and connects to the Unix socket
    /// `server` for each.
    ///
    /// # Panics
    /// If the listener has no address.
    pub fn before(listener: std::net::TcpListener, server: &Path) -> Self {
        let at = listener.local_addr().expect("it has an address");
        Self::start(Listening::Tcp(listener), Door::Tcp(at), Door::Unix(server.into()))
    }

    fn start(listening: Listening, door: Door, server: Door) -> Self {
        let shared = Arc::new(Shared {
            wire: watch::Sender::new(Wire::default()),
            ambush: Mutex::default(),
            struck: watch::Sender::new(0),
            accepted: watch::Sender::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let serving = shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(async move {
                tokio::select! {
                    _ = stopped => {}
                    () = serve(listening, server, &serving) => {}
                }
            });
        });
        Self { shared, door, stop: Some(stop), thread: Some(thread) }
    }

    /// Where a proxy for TCP listens.
    ///
    /// # Panics
    /// If it is one for Unix sockets.
    pub fn address(&self) -> SocketAddr {
        match &self.door {
            Door::Tcp(address) => *address,
            Door::Unix(path) => panic!("it listens at {}", path.display()),
        }
    }

    /// Changes how bad the wire is, from now on and for all connections.
    pub fn set(&self, change: impl FnOnce(&mut Wire)) {
        self.shared.wire.send_modify(change);
    }

    /// A perfect wire again.
    pub fn heal(&self) {
        self.set(|wire| (wire.up, wire.down) = Default::default());
    }

    /// Both sides of every connection read its end. New ones can be made.
    pub fn cut_all(&self) {
        self.set(|wire| (wire.ends, wire.by_reset) = (wire.ends + 1, false));
    }

    /// Resets every connection; see [`Strike::Reset`].
    pub fn reset_all(&self) {
        self.set(|wire| (wire.ends, wire.by_reset) = (wire.ends + 1, true));
    }

    /// Lays an ambush, in place of one that waits still.
    pub fn lay(&self, ambush: Ambush) {
        *self.shared.ambush() = Some(ambush);
    }

    /// Takes back an ambush that has met nobody. True if there was one.
    pub fn lift(&self) -> bool {
        self.shared.ambush().take().is_some()
    }

    /// How many ambushes have struck.
    pub fn struck(&self) -> u64 {
        *self.shared.struck.borrow()
    }

    /// How many clients have connected.
    pub fn accepted(&self) -> u64 {
        *self.shared.accepted.borrow()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell, and a failing test has something better to say.
            thread.join().ok();
        }
        if let Door::Unix(path) = &self.door {
            std::fs::remove_file(path).ok();
        }
    }
}

impl Shared {
    fn ambush(&self) -> MutexGuard<'_, Option<Ambush>> {
        self.ambush.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(listening: Listening, server: Door, shared: &Arc<Shared>) {
    let listener = Listener::new(listening).expect("a listener can be used");
    let mut connections = JoinSet::new();
    loop {
        // A client that was gone again before it was let in.
        let Ok(client) = listener.accept().await else { continue };
        shared.accepted.send_modify(|count| *count += 1);
        // From here on it is one of all that there are.
        let ends = shared.wire.borrow().ends;
        let (server, shared) = (server.clone(), shared.clone());
        connections.spawn(async move {
            // Without a server the client reads the end at once.
            if let Ok(server) = Stream::connect(&server).await {
                let connection = Connection { client, server, shared, met: Mutex::default() };
                connection.carry(ends).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// One client and the connection that was made for it. Dropping it closes both.
struct Connection {
    client: Stream,
    server: Stream,
    shared: Arc<Shared>,
    /// The ambush that it has walked into.
    met: Mutex<Option<Ambush>>,
}

/// Why a connection ends that neither side has ended.
enum Broken {
    Struck(Strike),
    /// One side is gone, and the other is to notice.
    Gone,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl Connection {
    /// Carries both ways until both have ended, or there are more `ends` than so many.
    async fn carry(&self, ends: u64) {
        let mut told = self.shared.wire.subscribe();
        let by_reset = tokio::select! {
            ended = async { tokio::try_join!(self.pump(Way::Up), self.pump(Way::Down)) } => {
                matches!(ended, Err(Broken::Struck(Strike::Reset)))
            }
            told = told.wait_for(|wire| wire.ends > ends) => told.is_ok_and(|wire| wire.by_reset),
        };
        if by_reset {
            for stream in [&self.client, &self.server] {
                // Closing then throws away what is queued, and resets a connection of TCP.
                sockopt::set_socket_linger(stream.descriptor(), Some(Duration::ZERO)).ok();
            }
        }
    }

    /// Carries what goes one way, until it ends.
    async fn pump(&self, way: Way) -> Result<(), Broken> {
        let (from, to) = match way {
            Way::Up => (&self.client, &self.server),
            Way::Down => (&self.server, &self.client),
        };
        let mut wire = self.shared.wire.subscribe();
        let mut chunk = vec![0; CHUNK];
        let mut silent = false;
        loop {
            let read = from.read(&mut chunk).await?;
            if read == 0 {
                shutdown(to.descriptor(), Shutdown::Write).ok();
                return Ok(());
            }
            let mut bytes = &chunk[..read];
            if way == Way::Up {
                self.walk_into(bytes);
            }
            wire.wait_for(|wire| wire.lane(way).flow != Flow::Hold).await.ok();
            let delay = wire.borrow().lane(way).delay;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            // Looked at again: it may have changed while the bytes waited.
            let lane = wire.borrow().lane(way);
            if silent || lane.flow == Flow::Drop {
                continue;
            }
            let strike = self.strike(way, &mut bytes);
            match lane.bytes_per_second {
                None => to.write_all(bytes).await?,
                Some(rate) => to.write_slowly(bytes, rate).await?,
            }
            match strike {
                None => {}
                Some(Strike::Silence) => silent = true,
                Some(strike) => return Err(Broken::Struck(strike)),
            }
        }
    }

    /// Takes the ambush that was laid if it waits for these bytes.
    fn walk_into(&self, bytes: &[u8]) {
        let mut laid = self.shared.ambush();
        let is_awaited = |ambush: &mut Ambush| {
            let after = &ambush.after;
            after.is_empty() || bytes.windows(after.len()).any(|window| window == after)
        };
        if let Some(ambush) = laid.take_if(is_awaited) {
            *self.met.lock().unwrap_or_else(PoisonError::into_inner) = Some(ambush);
        }
    }

    /// What strikes within `bytes`, if anything: they are cut down to what still goes through.
    fn strike(&self, way: Way, bytes: &mut &[u8]) -> Option<Strike> {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let ambush = met.as_mut().filter(|ambush| ambush.way == way)?;
        if let Some(left) = ambush.bytes.checked_sub(bytes.len()).filter(|left| *left > 0) {
            ambush.bytes = left;
            return None;
        }
        *bytes = &bytes[..ambush.bytes];
        let then = ambush.then;
        *met = None;
        self.shared.struck.send_modify(|count| *count += 1);
        Some(then)
    }
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    fn new(listening: Listening) -> io::Result<Self> {
        Ok(match listening {
            Listening::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Self::Unix(UnixListener::from_std(listener)?)
            }
            Listening::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Self::Tcp(TcpListener::from_std(listener)?)
            }
        })
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
            Self::Tcp(listener) => Stream::tcp(listener.accept().await?.0),
        }
    }
}

/// Either kind, used through shared references so that both ways go on at once.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    async fn connect(to: &Door) -> io::Result<Self> {
        match to {
            Door::Unix(path) => UnixStream::connect(path).await.map(Self::Unix),
            Door::Tcp(address) => Self::tcp(TcpStream::connect(address).await?),
        }
    }

    fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match self {
                Self::Unix(unix) => unix.readable().await.and_then(|()| unix.try_read(into)),
                Self::Tcp(tcp) => tcp.readable().await.and_then(|()| tcp.try_read(into)),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match self {
                Self::Unix(unix) => unix.writable().await.and_then(|()| unix.try_write(bytes)),
                Self::Tcp(tcp) => tcp.writable().await.and_then(|()| tcp.try_write(bytes)),
            };
            match written {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// At most `rate` bytes a second, in small pieces.
    async fn write_slowly(&self, bytes: &[u8], rate: u32) -> io::Result<()> {
        for piece in bytes.chunks((rate as usize / 20).max(1)) {
            self.write_all(piece).await?;
            let share = piece.len() as f64 / f64::from(rate.max(1));
            tokio::time::sleep(Duration::from_secs_f64(share)).await;
        }
        Ok(())
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(unix) => unix.as_fd(),
            Self::Tcp(tcp) => tcp.as_fd(),
        }
    }
}
