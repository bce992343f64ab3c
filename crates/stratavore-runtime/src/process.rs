//! Starting agents, and ending what is left of one.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use stratavore_agent::{identity, kill};
use stratavore_core::RunnerId;
use stratavore_core::runner::{AgentIdentity, Command, Runner};
use stratavore_proto::runner_dir::{Handover, Observe, Recording, Resize, RunnerDir, Spec};

use crate::find;

/// How long a start waits for the agent of the epoch before to let go of the lock.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// The most of an agent's last words that is told, in bytes.
const WORDS_MAX: u64 = 400;

/// What every agent of this host is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of runner directories.
    pub runners: PathBuf,
    pub agents_socket: PathBuf,
    /// Sockets of further daemons of this host.
    pub agents_sockets: Vec<PathBuf>,
    /// The program `stratavore-agent`.
    pub agent: PathBuf,
    pub heartbeat: Duration,
    pub launch_timeout: Duration,
    pub recording: Recording,
    pub resize: Resize,
    pub segment_bytes: u64,
    pub output_max_bytes: u64,
}

/// What an agent is started with besides the runner's own record.
pub struct Start {
    /// The project's name.
    pub project: String,
    /// What the runner inherits of the daemon's environment.
    pub env: BTreeMap<String, String>,
    /// 32 bytes, hex.
    pub join_token: String,
    pub join_token_sha256: String,
    /// The whole argument vector.
    pub argv: Vec<String>,
    pub observe: Option<Observe>,
    /// Files to be written into the runner's directory: name, content.
    pub files: Vec<(String, String)>,
}

/// Why an agent could not be started. Nothing runs then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("prepare the runner's directory {}: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("start {}: {source}{}", program.display(), remedy(source))]
    Spawn { program: PathBuf, source: io::Error },
    #[error("hand the join token over: {0}")]
    Handover(io::Error),
    #[error("put the command together: {0}")]
    Command(String),
    #[error("an earlier agent of this runner still holds its lock")]
    Locked,
}

impl StartError {
    /// True if the host had too little of something, or the program was just being replaced: the
    /// same start may succeed in a moment.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Spawn { source, .. }
            | Self::Directory { source, .. }
            | Self::Handover(source) => is_passing(source),
            Self::Locked | Self::Command(_) => false,
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let passing = [Errno::AGAIN, Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::TXTBSY];
    errno.is_some_and(|errno| passing.contains(&errno))
}

/// What to do about an error that did not pass.
fn remedy(error: &io::Error) -> &'static str {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::AGAIN) => ": end some processes, or raise the limit (ulimit -u, pids.max)",
        Some(Errno::MFILE | Errno::NFILE) => ": raise the limit of open files (ulimit -n)",
        Some(Errno::NOMEM) => ": end something, or add memory",
        Some(Errno::TXTBSY) => ": let whoever writes that file finish",
        Some(_) | None => "",
    }
}

/// An agent that was started and has not connected yet.
#[derive(Debug)]
pub struct Agent {
    process: tokio::process::Child,
    log: PathBuf,
    /// Where in its log its own words begin.
    said_from: u64,
}

impl Agent {
    /// Waits for its end. `None`: it ended as it should, with nothing to tell (another one has the
    /// runner, or it was never let go); else how it ended, with its last words if it had any.
    pub async fn failed(&mut self) -> Option<String> {
        let ended = match self.process.wait().await {
            Ok(status) if status.success() => return None,
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        match last_words(&self.log, self.said_from) {
            Ok(words) if !words.is_empty() => Some(format!("{ended}: {words}")),
            Ok(_) | Err(_) => Some(ended),
        }
    }
}

/// The end of what stands in a log after `from`, as one line.
fn last_words(log: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let end = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(from.max(end.saturating_sub(WORDS_MAX))))?;
    let mut words = Vec::new();
    file.take(WORDS_MAX).read_to_end(&mut words)?;
    let words = String::from_utf8_lossy(&words);
    let lines: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Ok(lines.join("; "))
}

/// Runs runners as processes of this host.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub(crate) settings: Settings,
    /// Prefix arguments that put an agent into a systemd scope of its own; empty without systemd.
    scope: Option<Scope>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    User,
    System,
}

impl Runtime {
    /// Looks, once, whether agents can have systemd scopes.
    pub async fn new(settings: Settings) -> Self {
        Self { settings, scope: find_scope().await }
    }

    /// Where agents run, for people.
    pub fn placement(&self) -> &'static str {
        match self.scope {
            Some(Scope::User) => "a systemd user scope each",
            Some(Scope::System) => "a systemd scope each",
            None => "processes of their own session",
        }
    }

    pub fn dir(&self, runner: RunnerId) -> RunnerDir {
        RunnerDir::of(&self.settings.runners, runner)
    }

    /// The directory of this host's runners.
    pub fn runners(&self) -> &Path {
        &self.settings.runners
    }

    pub fn agents_socket(&self) -> &Path {
        &self.settings.agents_socket
    }

    pub fn agent_program(&self) -> &Path {
        &self.settings.agent
    }

    /// Starts an agent for the runner's current epoch and returns once its program runs.
    ///
    /// The agent takes the lock, dials the daemon and waits to be let go; the assistant does not
    /// run yet. The environment and the join token are handed over in memory.
    pub async fn start(&self, runner: &Runner, start: Start) -> Result<Agent, StartError> {
        let dir = self.dir(runner.id);
        let spec = self.spec(runner, &start);
        let Start { env, join_token, files, .. } = start;
        let (runner_id, epoch) = (runner.id, runner.epoch);
        // Before anything is written: a living agent reads its own files.
        self.wait_for_lock(runner_id).await?;
        let prepared = tokio::task::spawn_blocking(move || {
            prepare(&dir, &spec, &files, &Handover { join_token, env })
        });
        let (handover, log) =
            prepared.await.map_err(|error| StartError::Handover(io::Error::other(error)))??;
        self.wait_for_lock(runner_id).await?;

        let dir = self.dir(runner_id);
        let mut command = self.command(runner_id, epoch);
        command.arg("run").arg("--dir").arg(dir.path()).arg("--epoch").arg(epoch.to_string());
        command.env_clear();
        for key in PASSED_TO_AGENTS {
            if let Some(value) = std::env::var_os(key) {
                command.env(key, value);
            }
        }
        let said_from = log.metadata().map_err(StartError::Handover)?.len();
        let both = log.try_clone().map_err(StartError::Handover)?;
        command.stdin(Stdio::from(handover)).stdout(Stdio::from(log)).stderr(Stdio::from(both));
        command.current_dir("/");
        // The agent outlives us: when it ends while we live, tokio reaps it.
        command.kill_on_drop(false);
        match command.spawn() {
            Ok(process) => Ok(Agent { process, log: dir.log(), said_from }),
            Err(source) => Err(StartError::Spawn { program: self.settings.agent.clone(), source }),
        }
    }

    fn spec(&self, runner: &Runner, start: &Start) -> Spec {
        let settings = &self.settings;
        Spec {
            runner: runner.id,
            epoch: runner.epoch,
            project: start.project.clone(),
            name: runner.name.to_string(),
            command: Command { argv: start.argv.clone(), ..runner.command.clone() },
            limits: runner.limits,
            agents_socket: settings.agents_socket.clone(),
            agents_sockets: settings.agents_sockets.clone(),
            join_token_sha256: start.join_token_sha256.clone(),
            launch_timeout_ms: settings.launch_timeout.as_millis() as u64,
            heartbeat_ms: settings.heartbeat.as_millis() as u64,
            recording: settings.recording,
            resize: settings.resize,
            segment_bytes: settings.segment_bytes,
            output_max_bytes: settings.output_max_bytes,
            observe: start.observe.clone(),
        }
    }

    fn command(&self, runner: RunnerId, epoch: i64) -> tokio::process::Command {
        let Some(scope) = self.scope else {
            return tokio::process::Command::new(&self.settings.agent);
        };
        // With `--scope` systemd-run becomes the program itself: same pid, same standard input.
        let mut command = tokio::process::Command::new("systemd-run");
        if scope == Scope::User {
            command.arg("--user");
        }
        command.args(["--scope", "--quiet", "--collect", "--property=Delegate=yes"]);
        command
            .arg(format!("--unit=stratavore-{runner}-{epoch}.scope"))
            .arg("--")
            .arg(&self.settings.agent);
        command
    }

    async fn wait_for_lock(&self, runner: RunnerId) -> Result<(), StartError> {
        let dir = self.dir(runner);
        let mut waited = Duration::ZERO;
        let step = Duration::from_millis(20);
        while dir
            .is_locked()
            .map_err(|source| StartError::Directory { path: dir.lock(), source })?
        {
            if waited >= LOCK_WAIT {
                return Err(StartError::Locked);
            }
            tokio::time::sleep(step).await;
            waited += step;
        }
        Ok(())
    }

    /// Ends all that a dead agent left of `runner`: its cgroup, then every process that carries
    /// its mark. Returns how many processes are still there.
    ///
    /// The caller has seen that the lock is free. Refused where the runner has a living agent in
    /// another directory, of which this one is a copy.
    pub async fn clear(&self, runner: RunnerId) -> io::Result<usize> {
        // Without a record that can be read, the marks are what is left to find processes by.
        let record = self.dir(runner).agent().ok().flatten();
        if let Some(other) = find::lives_elsewhere(&self.dir(runner), record.as_ref()) {
            return Err(io::Error::other(format!(
                "the runner's agent lives in {}, of which {} is a copy",
                other.display(),
                self.dir(runner).path().display()
            )));
        }
        let cgroups = find::cgroups(record.as_ref());
        tokio::task::spawn_blocking(move || kill::clear_runner(runner, &cgroups))
            .await
            .map_err(io::Error::other)?
    }

    /// Kills an agent that does not answer, with all that it runs. Does nothing unless the
    /// process is the agent that `identity` names.
    pub async fn destroy(&self, runner: RunnerId, identity: &AgentIdentity) -> io::Result<usize> {
        identity::kill_agent(identity)?;
        self.clear(runner).await
    }
}

/// Variables that agents get; their runners' environment is handed over apart from these.
const PASSED_TO_AGENTS: [&str; 7] = [
    "PATH",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "RUST_BACKTRACE",
    "STRATAVORE_FAILPOINTS",
    "STRATAVORE_TEST_HOOKS",
    "STRATAVORE_TEST_PROTOCOL",
];

/// Writes what the agent will read, and opens what it writes to.
fn prepare(
    dir: &RunnerDir,
    spec: &Spec,
    files: &[(String, String)],
    handover: &Handover,
) -> Result<(OwnedFd, File), StartError> {
    let failed = |source| StartError::Directory { path: dir.path().into(), source };
    dir.create().map_err(failed)?;
    // Of an earlier start of this epoch, which never came to run anything.
    dir.remove_exit().map_err(failed)?;
    for (name, content) in files {
        dir.write_file(name, content.as_bytes()).map_err(failed)?;
    }
    dir.write_spec(spec).map_err(failed)?;
    let log =
        OpenOptions::new().create(true).append(true).mode(0o600).open(dir.log()).map_err(failed)?;

    let memory = memfd_create("stratavore-handover", MemfdFlags::CLOEXEC)
        .map_err(|e| StartError::Handover(e.into()))?;
    let mut memory = File::from(memory);
    serde_json::to_writer(&mut memory, handover).map_err(|e| StartError::Handover(e.into()))?;
    memory.flush().and_then(|()| memory.rewind()).map_err(StartError::Handover)?;
    Ok((memory.into(), log))
}

async fn find_scope() -> Option<Scope> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let root = rustix::process::geteuid().is_root();
    let mut probe = tokio::process::Command::new("systemd-run");
    if !root {
        probe.arg("--user");
    }
    probe.args(["--scope", "--quiet", "--collect", "--", "true"]);
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = tokio::time::timeout(Duration::from_secs(5), probe.status()).await;
    let works = matches!(status, Ok(Ok(status)) if status.success());
    works.then_some(if root { Scope::System } else { Scope::User })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_those_of_this_agent_and_not_too_many() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("agent.log");
        std::fs::write(&log, "an earlier one\n").unwrap();
        assert_eq!(last_words(&log, 15).unwrap(), "");
        std::fs::write(&log, "an earlier one\nthread panicked:\n\n  \u{ff}why\n").unwrap();
        assert_eq!(last_words(&log, 15).unwrap(), "thread panicked:; \u{ff}why");
        std::fs::write(&log, "x".repeat(100_000)).unwrap();
        assert_eq!(last_words(&log, 15).unwrap().len() as u64, WORDS_MAX);
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        let spawn = |errno: i32| StartError::Spawn {
            program: "/agent".into(),
            source: io::Error::from_raw_os_error(errno),
        };
        for (errno, words) in [(11, "ulimit -u"), (24, "ulimit -n"), (12, "memory"), (26, "writes")]
        {
            let error = spawn(errno);
            assert!(error.is_passing() && error.to_string().contains(words), "{error}");
        }
        let error = spawn(2);
        assert!(!error.is_passing() && error.to_string().ends_with("(os error 2)"), "{error}");
        assert!(!StartError::Locked.is_passing());
    }
}
