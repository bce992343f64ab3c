//! Programs that do a part of the same: tmux, with a server of its own, and dtach.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::home::succeed;

/// A tmux server on a socket of its own and without the user's configuration.
pub(crate) struct Tmux {
    directory: tempfile::TempDir,
}

impl Tmux {
    /// Its server runs, with one session that nobody looks at.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let directory = temporary()?;
        let tmux = Self { directory };
        tmux.run(&["new-session", "-d", "-s", "first", "-x", "80", "-y", "24", "sleep", "100000"])?;
        tmux.run(&["set-option", "-g", "status", "off"])?;
        Ok(tmux)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-u").arg("-S").arg(self.directory.path().join("tmux"));
        command.args(["-f", "/dev/null"]).args(arguments);
        command.env_remove("TMUX").env("TERM", "xterm-256color");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        succeed(&mut self.command(arguments))
    }

    pub(crate) fn session(&self, name: &str, argv: &[&str]) -> anyhow::Result<()> {
        let mut arguments = vec!["new-session", "-d", "-s", name, "-x", "80", "-y", "24"];
        arguments.extend(argv);
        self.run(&arguments).map(drop)
    }

    pub(crate) fn server_pid(&self) -> anyhow::Result<u32> {
        Ok(self.run(&["display-message", "-p", "#{pid}"])?.trim().parse()?)
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        drop(self.run(&["kill-server"]));
    }
}

/// dtach sessions, a process each, below a directory of their own.
pub(crate) struct Dtach {
    directory: tempfile::TempDir,
}

impl Dtach {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { directory: temporary()? })
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts `argv` in a new session.
    pub(crate) fn start(&self, name: &str, argv: &[&str]) -> Command {
        let mut command = Command::new("dtach");
        command.arg("-n").arg(self.socket(name)).args(argv).env("TERM", "xterm-256color");
        command
    }

    /// Attaches, and has the program paint its screen again: dtach keeps none itself.
    pub(crate) fn attach(&self, name: &str) -> Command {
        let mut command = Command::new("dtach");
        command.arg("-a").arg(self.socket(name)).args(["-r", "ctrl_l"]);
        command.env("TERM", "xterm-256color");
        command
    }

    /// Ends the session, by its process, which has its socket among its arguments.
    pub(crate) fn end(&self, name: &str) {
        end_with_argument(&self.socket(name));
        // One that is killed leaves it, and another session of this name could not be made.
        let _gone = std::fs::remove_file(self.socket(name));
    }
}

impl Drop for Dtach {
    fn drop(&mut self) {
        end_with_argument(self.directory.path());
    }
}

/// Kills the dtach processes with an argument that begins with `path`; their programs are hung up.
fn end_with_argument(path: &Path) {
    let wanted = path.as_os_str().as_encoded_bytes();
    for pid in stratavore_testkit::world::processes() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|&byte| byte == 0);
        if words.next() == Some(b"dtach") && words.any(|word| word.starts_with(wanted)) {
            stratavore_testkit::world::signal(pid, rustix::process::Signal::KILL);
        }
    }
}

fn temporary() -> anyhow::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("peer-").tempdir().context("make a directory")
}
