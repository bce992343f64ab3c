//! A runner: what it is made of. The rules of its life are in `life.rs`.

mod env;
mod headless;
mod idle;
mod life;
mod state;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::name::Name;
use crate::node::Label;
use crate::restart::{RestartPolicy, Restarts};
use crate::window::AfterLimit;
use crate::{NodeId, ProjectId, RunnerId, SessionId};

pub use crate::activity::{Activity, Doing};
pub use env::{EnvError, EnvValue, parse_env};
pub use headless::{Headless, RunLimit};
pub use idle::IDLE_STOPPER;
pub use life::{Input, Note, Outcome, Refusal};

/// The identity of an agent: no other process, before or after, has the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentIdentity {
    pub boot_id: String,
    pub pid: u32,
    /// Clock ticks after boot, from `/proc/PID/stat`.
    pub start_time: u64,
    /// Random; the agent repeats it to prove that it is the one that was recorded.
    pub nonce: String,
}

/// The assistant's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    pub pid: u32,
    pub start_time: u64,
}

/// What its person wants of a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    Running,
    Paused,
    Stopped,
}

impl Desired {
    pub const ALL: [Desired; 3] = [Self::Running, Self::Paused, Self::Stopped];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.as_str() == text)
    }
}

/// The most characters of a cause's own text.
pub const CAUSE_TEXT_MAX: usize = 1000;

/// Why a runner ended. Its text is stable and part of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Exit(i32),
    Signal(i32),
    /// The kernel killed a process of it for want of memory.
    Oom,
    /// It ended in failure after it met its limit of processes.
    PidsLimit,
    /// Its wall time was over.
    WallTime,
    AgentDied,
    /// Someone ended the agent, as a host does that goes down.
    AgentTerminated,
    HostReboot,
    /// Its directory is gone.
    StateMissing,
    LaunchInterrupted,
    /// The agent could not be started.
    SpawnError(String),
    /// The assistant could not be started.
    ExecError(String),
    /// Restarting did not help; the text is the cause of the last end.
    CrashLoop(String),
    StoppedBy(String),
}

impl Cause {
    /// The same with at most [`CAUSE_TEXT_MAX`] characters of text: it comes from agents and files,
    /// and goes into every list.
    pub fn bounded(self) -> Self {
        let cut = |text: String| match text.char_indices().nth(CAUSE_TEXT_MAX) {
            Some((at, _)) => format!("{}…", &text[..at]),
            None => text,
        };
        match self {
            Self::SpawnError(why) => Self::SpawnError(cut(why)),
            Self::ExecError(why) => Self::ExecError(cut(why)),
            Self::CrashLoop(last) => Self::CrashLoop(cut(last)),
            Self::StoppedBy(who) => Self::StoppedBy(cut(who)),
            Self::Exit(_)
            | Self::Signal(_)
            | Self::Oom
            | Self::PidsLimit
            | Self::WallTime
            | Self::AgentDied
            | Self::AgentTerminated
            | Self::HostReboot
            | Self::StateMissing
            | Self::LaunchInterrupted => self,
        }
    }

    /// True for the one end that needs no explanation.
    pub fn is_success(&self) -> bool {
        *self == Cause::Exit(0)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit {code}"),
            Self::Signal(number) => write!(f, "signal {number}"),
            Self::Oom => f.write_str("oom"),
            Self::PidsLimit => f.write_str("pids_limit"),
            Self::WallTime => f.write_str("wall_time"),
            Self::AgentDied => f.write_str("agent_died"),
            Self::AgentTerminated => f.write_str("agent_terminated"),
            Self::HostReboot => f.write_str("host_reboot"),
            Self::StateMissing => f.write_str("state_missing"),
            Self::LaunchInterrupted => f.write_str("launch_interrupted"),
            Self::SpawnError(why) => write!(f, "spawn_error: {why}"),
            Self::ExecError(why) => write!(f, "exec_error: {why}"),
            Self::CrashLoop(last) => write!(f, "crash_loop: {last}"),
            Self::StoppedBy(who) => write!(f, "stopped by {who}"),
        }
    }
}

/// What is to come after the stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum After {
    End,
    Restart,
}

/// A wish to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub by: String,
    /// Milliseconds between the polite request and the kill.
    pub grace_ms: u64,
    /// Kill at once.
    pub force: bool,
    pub after: After,
}

/// Where a runner stands in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", try_from = "state::Record")]
pub enum RunnerState {
    /// Admitted, and no agent is known. Started again not before `not_before`.
    Pending {
        not_before: Option<Timestamp>,
    },
    /// The agent is known; it may start the assistant.
    Starting {
        agent: AgentIdentity,
    },
    Running {
        agent: AgentIdentity,
        process: ProcessIdentity,
        since: Timestamp,
    },
    /// The agent lives and does not answer.
    Unresponsive {
        agent: AgentIdentity,
        process: ProcessIdentity,
        since: Timestamp,
    },
    Stopping {
        agent: AgentIdentity,
        process: Option<ProcessIdentity>,
        stop: Stop,
    },
    Exited {
        cause: Cause,
        at: Timestamp,
    },
    Failed {
        cause: Cause,
        at: Timestamp,
    },
    Lost {
        cause: Cause,
        at: Timestamp,
    },
}

impl RunnerState {
    pub const NAMES: [&str; 8] =
        ["pending", "starting", "running", "unresponsive", "stopping", "exited", "failed", "lost"];

    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "pending",
            Self::Starting { .. } => "starting",
            Self::Running { .. } => "running",
            Self::Unresponsive { .. } => "unresponsive",
            Self::Stopping { .. } => "stopping",
            Self::Exited { .. } => "exited",
            Self::Failed { .. } => "failed",
            Self::Lost { .. } => "lost",
        }
    }

    /// True once nothing can change any more.
    pub fn is_terminal(&self) -> bool {
        self.ended().is_some()
    }

    /// Why and when it ended, if it did.
    pub fn ended(&self) -> Option<(&Cause, Timestamp)> {
        match self {
            Self::Exited { cause, at } | Self::Failed { cause, at } | Self::Lost { cause, at } => {
                Some((cause, *at))
            }
            Self::Pending { .. }
            | Self::Starting { .. }
            | Self::Running { .. }
            | Self::Unresponsive { .. }
            | Self::Stopping { .. } => None,
        }
    }

    pub fn agent(&self) -> Option<&AgentIdentity> {
        match self {
            Self::Starting { agent }
            | Self::Running { agent, .. }
            | Self::Unresponsive { agent, .. }
            | Self::Stopping { agent, .. } => Some(agent),
            Self::Pending { .. }
            | Self::Exited { .. }
            | Self::Failed { .. }
            | Self::Lost { .. } => None,
        }
    }

    pub fn process(&self) -> Option<ProcessIdentity> {
        match self {
            Self::Running { process, .. } | Self::Unresponsive { process, .. } => Some(*process),
            Self::Stopping { process, .. } => *process,
            Self::Pending { .. }
            | Self::Starting { .. }
            | Self::Exited { .. }
            | Self::Failed { .. }
            | Self::Lost { .. } => None,
        }
    }
}

/// What a runner runs, as it was asked for. It stays the same through restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub assistant: Name,
    /// The program and all that it is given but for what starting it anew adds; the first is the program.
    pub argv: Vec<String>,
    /// Where in `argv` begins what the caller gave. 0: after the program.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub given: usize,
    /// The first prompt of its conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// It is not observed, and given nothing of ours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bare: bool,
    /// It runs without a screen: it takes the prompt, works, and ends with a result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headless: Option<Headless>,
    /// What is done once a limit of its maker's is over.
    #[serde(default, skip_serializing_if = "AfterLimit::is_wait")]
    pub after_limit: AfterLimit,
    pub env: BTreeMap<String, EnvValue>,
    /// What its node has to be labelled with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Label>,
    /// Absolute and resolved.
    pub directory: String,
    /// The size of the terminal until a viewer says otherwise.
    pub columns: u16,
    pub rows: u16,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// One supervised run of an assistant in a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runner {
    pub id: RunnerId,
    pub project: ProjectId,
    /// Unique among the project's live runners.
    pub name: Name,
    pub node: NodeId,
    pub command: Command,
    pub limits: Limits,
    pub restart: RestartPolicy,
    pub desired: Desired,
    pub state: RunnerState,
    pub activity: Activity,
    /// Since when it does that, and how it is known; `None` while nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doing: Option<Doing>,
    pub epoch: i64,
    /// Counts the changes; equals the sequence number of the runner's latest event.
    pub generation: i64,
    pub restarts: Restarts,
    /// How the epoch before this one ended.
    #[serde(default)]
    pub last_end: Option<Exit>,
    pub session: Option<SessionId>,
    /// The ended runner that this one carries on. At most one runner carries on another.
    pub successor_of: Option<RunnerId>,
    /// SHA-256 of the agent's key, hex; set when the agent registers.
    pub agent_key: Option<String>,
    /// The number of the latest note of the agent's that was taken in, within the epoch.
    pub noted: u64,
    /// Limits that this host could not enforce, in words.
    pub limits_not_enforced: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub started_at: Option<Timestamp>,
}

/// How a process ended, as the agent wrote it down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub cause: Cause,
    pub at: Timestamp,
}

impl FromStr for Desired {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| format!("`{}` is no desired state", text.escape_debug()))
    }
}
