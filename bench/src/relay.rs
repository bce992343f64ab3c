//! Bare relays: what keys and output cost on their way through as many processes as ours, if these do
//! nothing but wait, read and write. What a chain of them takes is the limit of such a chain.
//!
//! `view SOCKET` is a person's end, `pass FROM TO` stands in the middle, and `hold SOCKET ARGV` has
//! the program on a terminal.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::play::{raw, words};
use crate::pty::Pty;

/// A program behind one relay or two, until this is dropped.
pub(crate) struct Relays {
    started: Vec<Child>,
    directory: tempfile::TempDir,
    socket: PathBuf,
}

impl Relays {
    /// `between`: a relay stands between the viewer and the one that has the program.
    pub(crate) fn start(argv: &[&str], between: bool) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("relay-").tempdir()?;
        let near = directory.path().join("near");
        let socket = if between { directory.path().join("far") } else { near.clone() };
        let mut relays = Self { started: Vec::new(), directory, socket };
        relays.relay("hold", &[&near], argv)?;
        if between {
            let far = relays.socket.clone();
            relays.relay("pass", &[&far, &near], &[])?;
        }
        Ok(relays)
    }

    /// Starts a relay and waits until it listens at the first of its sockets.
    fn relay(&mut self, play: &str, sockets: &[&Path], argv: &[&str]) -> anyhow::Result<()> {
        let words = words(&[play])?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(sockets).args(argv).current_dir(self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.started.push(command.spawn().context("start a relay")?);
        let began = Instant::now();
        while !sockets[0].exists() {
            ensure!(began.elapsed() < Duration::from_secs(20), "a relay never listened");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    pub(crate) fn attach(&self) -> anyhow::Result<Command> {
        let words = words(&["view"])?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(&self.socket);
        Ok(command)
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        for child in &mut self.started {
            // What could fail is that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn view(socket: &str) -> anyhow::Result<()> {
    raw()?;
    let socket = UnixStream::connect(socket)?;
    between(Ends { read: rustix::stdio::stdin(), write: rustix::stdio::stdout() }, both(&socket))
}

pub(crate) fn pass(from: &str, to: &str) -> anyhow::Result<()> {
    let (from, _) = UnixListener::bind(from)?.accept()?;
    let to = UnixStream::connect(to)?;
    between(both(&from), both(&to))
}

pub(crate) fn hold(socket: &str, argv: &[&str]) -> anyhow::Result<()> {
    let (program, arguments) = argv.split_first().context("there is no program")?;
    let listener = UnixListener::bind(socket)?;
    let program = Pty::spawn(Command::new(program).args(arguments))?;
    let (socket, _) = listener.accept()?;
    between(both(&socket), both(program.master()))
}

/// Where one side is read and written.
struct Ends<'f> {
    read: BorrowedFd<'f>,
    write: BorrowedFd<'f>,
}

fn both(file: &impl AsFd) -> Ends<'_> {
    Ends { read: file.as_fd(), write: file.as_fd() }
}

/// Carries what comes at either side to the other one, until a side ends.
fn between(one: Ends<'_>, other: Ends<'_>) -> anyhow::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut sides = [
            PollFd::from_borrowed_fd(one.read, PollFlags::IN),
            PollFd::from_borrowed_fd(other.read, PollFlags::IN),
        ];
        match poll(&mut sides, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let came = sides.map(|side| !side.revents().is_empty());
        for (come, from, to) in [(came[0], one.read, other.write), (came[1], other.read, one.write)]
        {
            if !come {
                continue;
            }
            // A terminal that has no program any more says so by an error.
            let read = rustix::io::read(from, &mut buffer).unwrap_or(0);
            if read == 0 {
                return Ok(());
            }
            let mut left = &buffer[..read];
            while !left.is_empty() {
                left = &left[rustix::io::write(to, left)?..];
            }
        }
    }
}
