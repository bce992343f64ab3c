//! The viewer's own terminal: raw while attached, and as it was afterwards.
//!
//! Invariant: however an attach ends, but for SIGKILL, the terminal is put back.
//! Invariant: waiting for a key keeps nothing else from being done.

use std::io::{self, IsTerminal};
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{
    OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use tokio::net::unix::pipe::Receiver;

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
        // A read takes what is there and waits for nothing, see [`Keyboard`].
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
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

/// What is typed.
///
/// A terminal's descriptor is shared with the shell, so it cannot be made non-blocking, and not every
/// terminal can be opened once more. So it is listened to, read only when something is there, and
/// raw mode sees to it that even then a read does not wait: somebody else may have been faster.
pub(crate) struct Keyboard {
    /// What the runtime calls the end of a pipe is any descriptor that is listened to so.
    terminal: Receiver,
}

impl Keyboard {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { terminal: Receiver::from_owned_fd_unchecked(stdin().try_clone_to_owned()?)? })
    }

    /// The next bytes typed; `None` once the terminal is gone. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            self.terminal.readable().await.ok()?;
            match self.terminal.try_io(read_keys) {
                Ok(keys) if keys.is_empty() => return None,
                Ok(keys) => return Some(keys),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }
}

/// What is there to be read now; nothing once the terminal is gone.
fn read_keys() -> io::Result<Vec<u8>> {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut buffer = [0; 4096];
    loop {
        let mut fds = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
        match poll(&mut fds, Some(&at_once)) {
            Ok(0) => return Err(io::ErrorKind::WouldBlock.into()),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let gone = fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
        match rustix::io::read(stdin(), &mut buffer) {
            Ok(0) if !gone => return Err(io::ErrorKind::WouldBlock.into()),
            Ok(n) => return Ok(buffer[..n].to_vec()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
