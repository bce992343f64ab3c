//! A program on a terminal, seen by its bytes: parsing them would be part of what is measured.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// The longest that something is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Pty {
    master: OwnedFd,
    child: Child,
    buffer: Vec<u8>,
    /// What was read and not yet looked for, with the end of what was.
    seen: Vec<u8>,
    /// All bytes that came.
    pub total: u64,
}

impl Pty {
    /// Starts `command` as the leader of a session on a terminal of 80 by 24.
    pub(crate) fn spawn(command: &mut Command) -> anyhow::Result<Pty> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        unlockpt(&master)?;
        tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 })?;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(Stdio::from(slave));
        let lead_session = || {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        };
        #[expect(unsafe_code, reason = "a new session needs a call between fork and exec")]
        // SAFETY: both calls are plain system calls; nothing is allocated and no lock is taken.
        unsafe {
            command.pre_exec(lead_session)
        };
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        // The command holds the other side of the terminal until then.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Pty { master, child, buffer: vec![0; 64 << 10], seen: Vec::new(), total: 0 })
    }

    pub(crate) fn master(&self) -> &OwnedFd {
        &self.master
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> anyhow::Result<()> {
        ensure!(rustix::io::write(&self.master, bytes)? == bytes.len(), "a key was not taken");
        Ok(())
    }

    /// Reads until `wanted` has come. What came after it is looked through the next time.
    pub(crate) fn until(&mut self, wanted: &[u8]) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = find(&self.seen, wanted) {
                self.seen.drain(..at + wanted.len());
                return Ok(());
            }
            let kept = self.seen.len().min(wanted.len() - 1);
            self.seen.drain(..self.seen.len() - kept);
            let left = deadline.saturating_duration_since(Instant::now());
            let came = self.read(left)?;
            ensure!(came > 0, "{:?} never came", String::from_utf8_lossy(wanted));
            self.seen.extend_from_slice(&self.buffer[..came]);
        }
    }

    /// Reads and forgets all that comes until the program has ended: nothing but reads.
    pub(crate) fn until_end(&mut self) -> anyhow::Result<()> {
        while self.read(PATIENCE)? > 0 {}
        ensure!(self.child.wait()?.success(), "the program failed");
        Ok(())
    }

    /// Reads and forgets until nothing has come for `quiet`.
    pub(crate) fn settle(&mut self, quiet: Duration) -> anyhow::Result<()> {
        while self.read(quiet)? > 0 {}
        self.seen.clear();
        Ok(())
    }

    /// How many bytes came; 0 at the end or if nothing came in time.
    fn read(&mut self, patience: Duration) -> anyhow::Result<usize> {
        loop {
            let timeout = Timespec::try_from(patience)?;
            match poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Ok(0),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => bail!("wait for the terminal: {error}"),
            }
            match rustix::io::read(&self.master, &mut self.buffer) {
                Ok(n) => {
                    self.total += n as u64;
                    return Ok(n);
                }
                Err(Errno::INTR) => {}
                // Linux says so when the last process has closed the terminal.
                Err(Errno::IO) => return Ok(0),
                Err(error) => bail!("read the terminal: {error}"),
            }
        }
    }
}

/// Where `wanted` begins. Looks for its first byte, which costs the one who reads a flood little.
fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = text[from..].iter().position(|byte| wanted.first() == Some(byte)) {
        from += at;
        if text[from..].starts_with(wanted) {
            return Some(from);
        }
        from += 1;
    }
    None
}

impl Drop for Pty {
    fn drop(&mut self) {
        // What could fail is that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
