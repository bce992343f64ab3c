//! A runner's directory: all that an agent keeps, and by which it is found again.
//!
//! ```text
//! runners/run_…/            0700
//!   spec.json     what to run; written by the daemon before it starts the agent
//!   lock          held (flock) by the agent for as long as it lives
//!   agent.sock    the agent's own socket
//!   agent.json    who the agent is, and its assistant's process
//!   exit.json     how it ended; written before it is told
//!   spool         reports that no daemon has acknowledged
//!   output/       the output: NNNNNNNNNNNNNNNNNNNN.log, named by the offset of its first byte,
//!                 with NNNNNNNNNNNNNNNNNNNN.idx beside it (16 bytes an entry, little-endian:
//!                 microseconds after 1970, offset)
//!   signals/      what the assistant tells of itself: NNNNNNNNNNNNNNNNNNNN.jsonl, a line each, named as
//!                 the output's; files of the assistant's that observing it takes lie beside it
//!   visits/       what was done at the agent's own socket: NNNNNNNNNNNNNNNNNNNN.jsonl, likewise; there once
//!                 something was
//!   agent.log     what the agent itself has to say
//! ```
//!
//! Invariant: a JSON file is replaced whole, or not at all.
//! Invariant: `exit.json` survives a crash of the host. The others need not: the agent that they
//! speak of does not survive it either, and the store says what was bound to which boot. Each sync
//! would be waited for by every launch.
//! Invariant: records name their epoch; one of another epoch is as if absent.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stratavore_core::RunnerId;
use stratavore_core::limits::Limits;
use stratavore_core::runner::{AgentIdentity, Command, Exit, ProcessIdentity};

/// The largest JSON file that is read. A spec with all the arguments that there may be is smaller.
const FILE_MAX: u64 = 4 << 20;

/// What to do with output that cannot be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recording {
    /// Go on, and leave a gap in the offsets that readers are told of.
    #[default]
    BestEffort,
    /// Stop reading from the runner until it can be recorded.
    Strict,
}

/// Whose size the runner's terminal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// The smallest of all viewers that may write: all of them see everything.
    #[default]
    Smallest,
    /// That of the viewer who writes.
    Latest,
}

/// `spec.json`: what an agent needs to know. No secret stands in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub runner: RunnerId,
    pub epoch: i64,
    /// For people who look for a runner while no daemon runs.
    pub project: String,
    pub name: String,
    pub command: Command,
    pub limits: Limits,
    /// Where the agent dials its daemon.
    pub agents_socket: PathBuf,
    /// Where it dials when nobody takes it in there, one after the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents_sockets: Vec<PathBuf>,
    /// SHA-256 of the join token, hex: another daemon than the one that started the agent can
    /// tell that it is the right one.
    pub join_token_sha256: String,
    /// How long it waits for a daemon that lets it start, in milliseconds.
    pub launch_timeout_ms: u64,
    pub heartbeat_ms: u64,
    pub recording: Recording,
    #[serde(default)]
    pub resize: Resize,
    pub segment_bytes: u64,
    /// Older segments are removed once the whole is larger.
    pub output_max_bytes: u64,
    /// How the assistant is observed; `None`: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observe: Option<Observe>,
}

impl Spec {
    /// Every daemon's socket, in the order in which they are dialled.
    pub fn daemons(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.agents_socket).chain(&self.agents_sockets).map(PathBuf::as_path)
    }
}

/// What an agent has to do to observe its assistant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Observe {
    /// Variables that the assistant has unless it has others of these names. [`OTLP`] in a value stands
    /// for the address of the receiver of telemetry, which is opened if a value has it.
    pub env: BTreeMap<String, String>,
    /// Which words of the command have [`OTLP`] in them for the same. In others it is a text like any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<usize>,
    /// The terminal's title tells something.
    pub title: bool,
    /// Records of telemetry that have none of these attributes are not taken down. Empty: all are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub telemetry: Vec<String>,
    /// A file that the assistant writes what it does to, besides those that it tells of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transcript: Option<PathBuf>,
    /// The file of the runner's directory that the assistant has as its standard input, if it is not the
    /// terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
}

impl Observe {
    /// True if it needs a receiver of telemetry.
    pub fn hears_telemetry(&self) -> bool {
        !self.words.is_empty() || self.env.values().any(|value| value.contains(OTLP))
    }
}

/// Stands for `http://127.0.0.1:PORT` in the variables and words of [`Observe`].
pub const OTLP: &str = "{stratavore:otlp}";

/// `agent.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    pub epoch: i64,
    pub identity: AgentIdentity,
    pub program_version: String,
    /// The assistant's process, once it was started.
    pub process: Option<ProcessIdentity>,
    /// The cgroup directories that hold the assistant and all that it started.
    pub cgroups: Vec<PathBuf>,
}

/// `exit.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub epoch: i64,
    pub exit: Exit,
}

/// What the daemon hands to a new agent on its standard input, an anonymous file in memory: the
/// things that may stand neither in its arguments nor on a disk.
#[derive(Serialize, Deserialize)]
pub struct Handover {
    /// 32 random bytes, hex.
    pub join_token: String,
    /// The environment that the runner inherits from the daemon, allow-listed, with the values
    /// of [`EnvValue::Daemon`](stratavore_core::runner::EnvValue::Daemon).
    pub env: BTreeMap<String, String>,
}

/// The directory of one runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerDir {
    path: PathBuf,
}

impl RunnerDir {
    /// The directory of `runner` below `runners`.
    pub fn of(runners: &Path, runner: RunnerId) -> Self {
        Self { path: runners.join(runner.to_string()) }
    }

    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// All directories below `runners` whose name is a runner's id.
    pub fn all(runners: &Path) -> io::Result<Vec<(RunnerId, RunnerDir)>> {
        let entries = match fs::read_dir(runners) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let id = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
            if let Some(id) = id {
                found.push((id, Self::at(path)));
            }
        }
        Ok(found)
    }

    /// Makes the directory, and `output` in it, for its owner only. It may be there already.
    pub fn create(&self) -> io::Result<()> {
        for path in [self.path.clone(), self.output()] {
            fs::DirBuilder::new().mode(0o700).recursive(true).create(path)?;
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }
    pub fn socket(&self) -> PathBuf {
        self.path.join("agent.sock")
    }
    pub fn output(&self) -> PathBuf {
        self.path.join("output")
    }
    pub fn spool(&self) -> PathBuf {
        self.path.join("spool")
    }
    pub fn signals(&self) -> PathBuf {
        self.path.join("signals")
    }
    pub fn visits(&self) -> PathBuf {
        self.path.join("visits")
    }
    pub fn log(&self) -> PathBuf {
        self.path.join("agent.log")
    }
    pub fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Replaces a file of the assistant's, whole. `name` is that of a file, and no path.
    pub fn write_file(&self, name: &str, content: &[u8]) -> io::Result<()> {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(io::Error::other(format!(
                "`{}` is no name of a file",
                name.escape_debug()
            )));
        }
        let path = self.path.join(name);
        let (temporary, _file) = write_beside(&path, content)?;
        fs::rename(temporary, path)
    }

    pub fn write_spec(&self, spec: &Spec) -> io::Result<()> {
        write_json(&self.path.join("spec.json"), spec)
    }
    pub fn spec(&self) -> io::Result<Option<Spec>> {
        read_json(&self.path.join("spec.json"))
    }
    pub fn write_agent(&self, record: &AgentRecord) -> io::Result<()> {
        write_json(&self.path.join("agent.json"), record)
    }
    pub fn agent(&self) -> io::Result<Option<AgentRecord>> {
        read_json(&self.path.join("agent.json"))
    }
    pub fn write_exit(&self, record: &ExitRecord) -> io::Result<()> {
        write_durably(&self.path.join("exit.json"), &json(record)?)?;
        // Nobody has made the directory itself durable before.
        self.path.parent().map_or(Ok(()), sync_dir)
    }
    pub fn exit(&self) -> io::Result<Option<ExitRecord>> {
        read_json(&self.path.join("exit.json"))
    }

    /// Removes `exit.json`, if it is there.
    pub fn remove_exit(&self) -> io::Result<()> {
        match fs::remove_file(self.path.join("exit.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Takes the lifetime lock, for as long as the file stays open. `None`: someone has it.
    ///
    /// The file is close-on-exec: a child that inherited it would keep the lock after the agent
    /// has died.
    pub fn take_lock(&self) -> io::Result<Option<File>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.lock())?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// True if an agent holds the lifetime lock.
    ///
    /// Looks by taking it shared for an instant, so an agent that wants it has to try more than
    /// once.
    pub fn is_locked(&self) -> io::Result<bool> {
        let file = match File::open(self.lock()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(io::Error::other)
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let (temporary, _file) = write_beside(path, &json(value)?)?;
    fs::rename(temporary, path)
}

/// `None` if the file is absent; an error if it cannot be read or is not what it should be.
fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let text = match read_bounded(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A runner directory that is itself gone.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        other => other?,
    };
    let value = serde_json::from_slice(&text)
        .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    Ok(Some(value))
}

/// What a file has, unless that is more than any of ours.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(4096);
    File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_MAX {
        let why = format!("{} is over the limit of {FILE_MAX} bytes", path.display());
        return Err(io::Error::other(why));
    }
    Ok(text)
}

/// Replaces a file by `content`, whole, such that it survives a crash of the host.
pub fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let (temporary, file) = write_beside(path, content)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// A new file with `content` that only has to take the place of `path`.
fn write_beside(path: &Path, content: &[u8]) -> io::Result<(PathBuf, File)> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    Ok((temporary, file))
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_large_is_refused_with_the_limit() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let dir = RunnerDir::at(home.path().into());
        fs::write(home.path().join("exit.json"), vec![b' '; FILE_MAX as usize + 1])
            .expect("it can be written");
        let error = dir.exit().expect_err("it is too large");
        assert!(error.to_string().contains(&format!("the limit of {FILE_MAX} bytes")), "{error}");
    }

    #[test]
    fn a_file_that_says_a_thing_twice_or_no_record_at_all_is_refused() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let dir = RunnerDir::at(home.path().into());
        let exit = r#""exit":{"cause":{"exit":0},"at":"2024-01-01T00:00:00Z"}"#;
        let read = |text: &[u8]| {
            fs::write(home.path().join("exit.json"), text).expect("it can be written");
            dir.exit()
        };
        let twice = format!(r#"{{"epoch":1,"epoch":2,{exit}}}"#);
        let huge = format!(r#"{{"epoch":99999999999999999999999,{exit}}}"#);
        let deep = "[".repeat(200_000);
        for text in [&twice, &huge, &deep] {
            read(text.as_bytes()).expect_err(text);
        }
        read(b"{\"epoch\":1,\"\xff\":0}").expect_err("it is no UTF-8");
        // The control: the same without what is wrong with it.
        read(format!(r#"{{"epoch":1,{exit}}}"#).as_bytes()).expect("a record").expect("a file");
    }
}
