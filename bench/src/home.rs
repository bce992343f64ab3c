//! A Stratavore of its own: a private home, a daemon, and all of it gone when dropped.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use stratavore_proto::client::Client;
use stratavore_proto::v1::{LaunchRunners, Runner, WaitRunner};
use stratavore_testkit::postgres::TestPostgres;

use crate::Lab;

/// The project in which everything runs.
pub(crate) const PROJECT: &str = "bench";

pub(crate) struct Home<'l> {
    lab: &'l Lab,
    directory: tempfile::TempDir,
    _work: tempfile::TempDir,
}

impl<'l> Home<'l> {
    /// A home whose daemon runs.
    pub(crate) fn new(lab: &'l Lab) -> anyhow::Result<Self> {
        Self::with_config(lab, "")
    }

    pub(crate) fn with_config(lab: &'l Lab, yaml: &str) -> anyhow::Result<Self> {
        let home = Self::without_daemon(lab, yaml)?;
        let work = home._work.path().display().to_string();
        let limit = "--quota-runners=100000";
        succeed(&mut home.cli(["new", PROJECT, "--directory", &work, limit]))?;
        Ok(home)
    }

    pub(crate) fn without_daemon(lab: &'l Lab, yaml: &str) -> anyhow::Result<Self> {
        let temporary = |prefix| tempfile::Builder::new().prefix(prefix).tempdir();
        let directory = temporary("stratavore-bench-").context("make a directory")?;
        let work = temporary("stratavore-bench-work-").context("make a directory")?;
        if !yaml.is_empty() {
            let path = directory.path().join("stratavore.yaml");
            let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
            file.and_then(|mut file| file.write_all(yaml.as_bytes()))
                .context("write its settings")?;
        }
        Ok(Self { lab, directory, _work: work })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// `stratavore` with these arguments, not yet started.
    pub(crate) fn cli<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        self.program("stratavore", arguments)
    }

    pub(crate) fn program<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = Command::new(self.lab.bin.join(program));
        without_settings(&mut command);
        command.args(arguments);
        command.env("STRATAVORE_HOME", self.path()).env("TERM", "xterm-256color");
        command
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("run/d.sock")
    }

    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let socket = self.socket();
        self.lab.runtime.block_on(Client::connect(&socket)).context("connect to the daemon")
    }

    /// Launches `count` runners over an open connection. Answers before they run.
    pub(crate) fn launch(
        &self,
        client: &Client,
        count: u32,
        argv: &[&str],
    ) -> anyhow::Result<Vec<Runner>> {
        let request = LaunchRunners {
            project: PROJECT.into(),
            assistant: "generic".into(),
            args: argv.iter().map(|&argument| argument.into()).collect(),
            count,
            ..LaunchRunners::default()
        };
        let launched = async { client.runners().launch(request).await };
        Ok(self.lab.runtime.block_on(launched)?.into_inner().runners)
    }

    /// Waits until the runner is in one of these states, or has ended.
    pub(crate) fn wait(
        &self,
        client: &Client,
        runner: &str,
        states: &[&str],
    ) -> anyhow::Result<Runner> {
        let wait = WaitRunner {
            runner: runner.into(),
            states: states.iter().map(|&state| state.into()).collect(),
            timeout_ms: 120_000,
            ..WaitRunner::default()
        };
        let waited = async { client.runners().wait(wait).await };
        Ok(self.lab.runtime.block_on(waited)?.into_inner())
    }

    /// Launches a runner and waits until it runs.
    pub(crate) fn run(&self, client: &Client, argv: &[&str]) -> anyhow::Result<Runner> {
        let launched = self.launch(client, 1, argv)?;
        let runner = launched.first().context("no runner was launched")?;
        self.wait(client, &runner.id, &["running"])
    }

    pub(crate) fn kill(&self, runner: &str) -> anyhow::Result<()> {
        succeed(&mut self.cli(["kill", "--force", runner])).map(drop)
    }

    /// Stops the daemon and no runner: enough where those that are written down were never started.
    pub(crate) fn stop(&self) -> anyhow::Result<()> {
        succeed(&mut self.cli(["daemon", "stop"])).map(drop)
    }

    pub(crate) fn daemon_pid(&self) -> anyhow::Result<u32> {
        let text = std::fs::read_to_string(self.path().join("state/daemon.lock"))?;
        text.trim().parse().with_context(|| format!("the daemon's lock says `{text}`"))
    }
}

impl Drop for Home<'_> {
    fn drop(&mut self) {
        if self.socket().exists() {
            // What went wrong before is the better thing to report.
            drop(succeed(&mut self.cli(["kill", "--all", "--force"])));
            drop(self.stop());
        }
    }
}

/// Nothing of the caller's settings.
fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("STRATAVORE_") {
            command.env_remove(name);
        }
    }
    command.env_remove("TMUX");
}

/// The part of a daemon's settings that names this database.
pub(crate) fn on_postgres(server: &TestPostgres) -> String {
    format!(
        "store:\n  url: postgres\n  postgres:\n    host: {}\n    port: {}\n    database: {}\n    user: {}\n",
        server.socket_dir.display(),
        server.port,
        server.database,
        server.user
    )
}

/// Runs a command to its end for what it prints.
pub(crate) fn succeed(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "`{command:?}` ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
