//! The pseudo-terminal of a runner: its master side, which only the agent has.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{InputModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use tokio::io::unix::AsyncFd;

use crate::screen::Size;

/// The master side, not blocking.
#[derive(Debug)]
pub(crate) struct Master {
    fd: AsyncFd<OwnedFd>,
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
        // SAFETY: an owned descriptor stays open and the same until it is dropped, with the rest.
        #[expect(unsafe_code, reason = "registering a descriptor relies on its owner")]
        let fd = unsafe { AsyncFd::register(master)? };
        Ok(Self { fd, slave })
    }

    /// The side of the runner's program.
    pub(crate) fn slave(&self) -> BorrowedFd<'_> {
        self.slave.as_fd()
    }

    /// Both sides, for an upgrade.
    pub(crate) fn both(&self) -> [BorrowedFd<'_>; 2] {
        [self.fd.get_ref().as_fd(), self.slave.as_fd()]
    }

    /// Tells the program the new size.
    pub(crate) fn resize(&self, size: Size) -> io::Result<()> {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(self.fd.get_ref(), size)?)
    }

    /// Waits until there is something, and reads as much as `buffer` takes.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<Read> {
        loop {
            let mut guard = self.fd.readable().await?;
            match self.read_now(buffer)? {
                Read::Empty => guard.clear_ready(),
                read @ (Read::Bytes(_) | Read::Closed) => return Ok(read),
            }
        }
    }

    /// Reads what is there now. A read gives at most 4 KiB, so one does not suffice.
    ///
    /// Asks the kernel and not the runtime, which may not know yet of what came last.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<Read> {
        let fd = self.fd.get_ref();
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
        let write = |fd: &OwnedFd| Ok(rustix::io::retry_on_intr(|| rustix::io::write(fd, data))?);
        self.fd.async_io(tokio::io::Interest::WRITABLE, write).await
    }
}
