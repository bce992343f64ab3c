//! The viewer's own terminal: raw while attached, and as it was afterwards.
//!
//! Invariant: however an attach ends, but for SIGKILL, the terminal is put back.
//! Invariant: the thread that reads the keyboard is joined before its owner is gone.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// True if there is a person to attach: a terminal to type on and one to see.
pub(crate) fn is_here() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Columns and rows of the terminal; 80 by 24 if it does not know.
pub(crate) fn size() -> (u16, u16) {
    match tcgetwinsize(stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
        Ok(_) | Err(_) => (80, 24),
    }
}

/// The terminal in raw mode.
pub(crate) struct RawMode {
    before: Termios,
    /// What is written last.
    farewell: Vec<u8>,
}

impl RawMode {
    /// Makes the terminal raw. `farewell` is written when it is put back.
    pub(crate) fn enter(farewell: Vec<u8>) -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let guard = Self { before, farewell };
        guard.enforce()?;
        Ok(guard)
    }

    /// Makes it raw again, after a shell took it over while we were stopped.
    pub(crate) fn enforce(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        Ok(tcsetattr(stdin(), OptionalActions::Now, &raw)?)
    }

    pub(crate) fn set_farewell(&mut self, farewell: Vec<u8>) {
        self.farewell = farewell;
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone (SIGHUP); then there is nothing to put back.
        let _ = write_all(&self.farewell);
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// Writes to the terminal, all of it. Blocks while the terminal takes nothing.
pub(crate) fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(stdout(), bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            // Someone else made it non-blocking.
            Err(Errno::AGAIN) => wait(stdout(), PollFlags::OUT)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What is typed, read by a thread of its own: a terminal's descriptor is shared with the shell,
/// so it cannot be made non-blocking, and not every terminal can be opened once more.
pub(crate) struct Keyboard {
    chunks: mpsc::Receiver<Vec<u8>>,
    /// Closed to end the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Keyboard {
    pub(crate) fn listen() -> io::Result<Self> {
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (sender, chunks) = mpsc::channel(16);
        let thread = std::thread::Builder::new()
            .name("keyboard".into())
            .spawn(move || read_keys(&stopped, &sender))?;
        Ok(Self { chunks, stop: Some(stop), thread: Some(thread) })
    }

    /// The next bytes typed; `None` once the terminal is gone. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        self.chunks.recv().await
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        // A thread that waits for room in the queue is let go by this, one that waits for a key
        // by the pipe.
        self.chunks.close();
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_keys(stopped: &OwnedFd, chunks: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = [0; 4096];
    loop {
        let keyboard = stdin();
        let mut fds = [
            PollFd::from_borrowed_fd(keyboard, PollFlags::IN),
            PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        match rustix::io::read(keyboard, &mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                if chunks.blocking_send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return,
        }
    }
}
