//! The pseudo-terminal of a runner: its master side, which only the agent has.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{InputModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::screen::Size;

/// The master side, not blocking.
///
/// Listened to for output only. The kernel also tells of room for input, each time that the program
/// has read a key, and nobody waits for that but a writer that found none.
#[derive(Debug)]
pub(crate) struct Master {
    /// What the runtime calls the end of a pipe is any descriptor that is listened to so.
    fd: Receiver,
    /// Kept open, so that a program which closes its terminal and opens it again finds it there.
    slave: OwnedFd,
}

/// What came of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    Bytes(usize),
    /// Nothing now; more may come.
    Empty,
    /// The terminal is gone.
    Closed,
}

/// Opens a terminal of `size`.
pub(crate) fn open(size: Size) -> io::Result<Master> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    // Backspace in a line takes a whole character.
    let mut modes = tcgetattr(&slave)?;
    modes.input_modes |= InputModes::IUTF8;
    tcsetattr(&slave, OptionalActions::Now, &modes)?;
    let master = Master::adopt(master, slave)?;
    master.resize(size)?;
    Ok(master)
}

impl Master {
    /// Takes a terminal that is open already.
    pub(crate) fn adopt(master: OwnedFd, slave: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&master, fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
        let fd = Receiver::from_owned_fd_unchecked(master)?;
        Ok(Self { fd, slave })
    }

    /// The side of the runner's program.
    pub(crate) fn slave(&self) -> BorrowedFd<'_> {
        self.slave.as_fd()
    }

    /// Both sides, for an upgrade.
    pub(crate) fn both(&self) -> [BorrowedFd<'_>; 2] {
        [self.fd.as_fd(), self.slave.as_fd()]
    }

    /// Tells the program the new size.
    pub(crate) fn resize(&self, size: Size) -> io::Result<()> {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(&self.fd, size)?)
    }

    /// Waits until there is something, and reads as much as `buffer` takes.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<Read> {
        loop {
            self.fd.readable().await?;
            let mut read = Read::Empty;
            // All that was there fits: the runtime need not try again to learn that nothing is left.
            let tried = self.fd.try_io(|| {
                read = self.read_now(buffer)?;
                match read {
                    Read::Bytes(n) if n == buffer.len() => Ok(()),
                    Read::Bytes(_) | Read::Empty => Err(io::ErrorKind::WouldBlock.into()),
                    Read::Closed => Ok(()),
                }
            });
            match tried {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Ok(()) | Err(_) if read != Read::Empty => return Ok(read),
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Reads what is there now. A read gives at most 4 KiB, so one does not suffice.
    ///
    /// Asks the kernel and not the runtime, which may not know yet of what came last.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<Read> {
        let fd = &self.fd;
        let mut filled = 0;
        while filled < buffer.len() {
            match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut buffer[filled..])) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(_) if filled > 0 => break,
                Err(Errno::AGAIN) => return Ok(Read::Empty),
                // Linux says this where others say end of file.
                Err(Errno::IO) => return Ok(Read::Closed),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(if filled == 0 { Read::Closed } else { Read::Bytes(filled) })
    }

    /// Writes as much of `data` as the terminal takes, and waits until it takes something.
    pub(crate) async fn write(&self, data: &[u8]) -> io::Result<usize> {
        let write = || rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, data));
        match write() {
            Err(Errno::AGAIN) => {}
            written => return Ok(written?),
        }
        let room = Sender::from_owned_fd_unchecked(self.fd.as_fd().try_clone_to_owned()?)?;
        loop {
            room.writable().await?;
            match room.try_io(|| Ok(write()?)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }
}
