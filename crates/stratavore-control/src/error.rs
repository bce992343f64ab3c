//! Why a use case was not carried out, in words for people and a code for programs.

use std::fmt;

use stratavore_assistants::AssistantError;
use stratavore_core::idempotency::IdempotencyError;
use stratavore_core::node::NoNode;
use stratavore_core::queue::ItemRefusal;
use stratavore_core::runner::Refusal;
use stratavore_runtime::program::ProgramError;
use stratavore_runtime::socket::SocketError;
use stratavore_store::StoreError;
use stratavore_vault::VaultError;

/// A failure of a use case. Its text is for whoever asked; causes stand in `source`.
#[derive(Debug)]
pub enum Error {
    /// What was asked for cannot be: a wrong value, with what to do instead.
    Invalid {
        message: String,
        hint: String,
    },
    NotFound {
        noun: &'static str,
        wanted: String,
        nearest: Vec<String>,
    },
    Forbidden {
        message: String,
    },
    /// Something of the host is not there: a directory, a program.
    Absent {
        message: String,
        hint: String,
    },
    /// The host does not let the daemon's user do it.
    Denied {
        message: String,
        hint: String,
    },
    /// The disk of the state directory is nearly full; sizes in bytes.
    DiskLow {
        path: String,
        free: u64,
        needed: u64,
    },
    /// Too many connections of the caller's are open.
    TooMany {
        limit: usize,
    },
    Refused(Refusal),
    /// An item of a queue is not in a state for it.
    Item(ItemRefusal),
    Store(StoreError),
    Agent(SocketError),
    Vault(VaultError),
    /// No node fits what was asked for.
    NoNode(NoNode),
    /// The daemon of a runner's node does not answer.
    NodeUnreachable {
        node: String,
        why: String,
    },
    /// The daemon is going down.
    /// The assistant works, and was not to be disturbed.
    Busy {
        message: String,
        hint: String,
    },
    Stopping,
    Timeout {
        waited_for: String,
    },
    /// A fault of ours. Outsiders learn that it happened, and the log says what it was.
    Internal(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    pub fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), hint: hint.into() }
    }

    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(source.into())
    }

    /// Stable and machine-readable; documented in docs/errors.md.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "invalid",
            Self::NotFound { .. } | Self::Absent { .. } => "not_found",
            Self::Forbidden { .. } | Self::Denied { .. } => "forbidden",
            Self::DiskLow { .. } => "disk_full",
            Self::TooMany { .. } => "too_many_connections",
            Self::Refused(_) | Self::Item(_) => "refused",
            Self::Agent(_) => "agent_unreachable",
            Self::Vault(VaultError::Full { .. }) => "disk_full",
            Self::Vault(VaultError::TooLong(_)) => "invalid",
            Self::Vault(
                VaultError::Missing(_)
                | VaultError::Damaged { .. }
                | VaultError::Disk { .. }
                | VaultError::Bucket { .. }
                | VaultError::CutOff(_),
            ) => "vault_unavailable",
            Self::NoNode(_) => "no_node",
            Self::NodeUnreachable { .. } => "node_unreachable",
            Self::Busy { .. } => "busy",
            Self::Stopping => "unavailable",
            Self::Timeout { .. } => "timeout",
            Self::Internal(_) => "internal",
            Self::Store(error) => match error {
                StoreError::NotFound { .. } => "not_found",
                StoreError::Ambiguous { .. } => "ambiguous",
                StoreError::NameTaken { .. } => "name_taken",
                StoreError::ProjectArchived(_) => "project_archived",
                StoreError::LiveRunners(_) => "live_runners",
                StoreError::NodeFull { .. } => "node_full",
                StoreError::Quota(_) => "quota_exceeded",
                StoreError::Budget(_) => "budget_exceeded",
                StoreError::AlreadySucceeded { .. } => "already_succeeded",
                StoreError::SessionBusy { .. } => "session_busy",
                StoreError::IdempotencyReuse { .. } => "idempotency_key_reuse",
                StoreError::AskOver { .. } => "ask_over",
                StoreError::Conflict { .. } => "conflict",
                StoreError::Full { .. } => "disk_full",
                StoreError::Trimmed { .. } => "trimmed",
                StoreError::StaleLease { .. }
                | StoreError::Busy { .. }
                | StoreError::Unavailable { .. }
                | StoreError::WrongServer { .. }
                | StoreError::SchemaNewer { .. }
                | StoreError::Failed { .. }
                | StoreError::Corrupt { .. } => "store_unavailable",
                StoreError::Invalid { .. } => "invalid",
            },
        }
    }

    /// What to do next; empty where the message says it all.
    pub fn hint(&self) -> String {
        match self {
            Self::Invalid { hint, .. }
            | Self::Absent { hint, .. }
            | Self::Denied { hint, .. }
            | Self::Busy { hint, .. } => hint.clone(),
            Self::NotFound { noun, nearest, .. } => match nearest.as_slice() {
                [] if *noun == "runner" => {
                    "list what there is: stratavore runners list --all".into()
                }
                [] if *noun == "destination" => "list what there is: stratavore notify".into(),
                [] if *noun == "budget" => "list what there is: stratavore budget".into(),
                [] => format!("list what there is: stratavore {noun}s list"),
                [one] => format!("did you mean {one}?"),
                several => format!("did you mean one of {}?", several.join(", ")),
            },
            Self::Refused(Refusal::Ended { .. }) => {
                "carry it on first: stratavore restart RUNNER".into()
            }
            Self::Refused(Refusal::NotRunning { .. }) => {
                "see how it is: stratavore runners show RUNNER".into()
            }
            Self::Item(_) => "see what there is: stratavore queue list".into(),
            Self::DiskLow { .. } => {
                "free some space, then try again; runners that live go on meanwhile".into()
            }
            Self::TooMany { .. } => "close some, or end the programs that opened them".into(),
            Self::Forbidden { .. } => "ask from outside of the runner".into(),
            Self::Timeout { .. } => "look again later: stratavore runners".into(),
            Self::Agent(_) => {
                "see how it is: stratavore runners show; then stratavore doctor".into()
            }
            Self::Vault(VaultError::Full { .. }) => {
                "free some space, then try again; what is in the vault is whole".into()
            }
            Self::Vault(VaultError::Bucket { .. }) => {
                "look at vault.url and vault.s3 in the configuration, and at the service".into()
            }
            Self::Vault(_) => {
                "look at the disk of the state directory; the vault is below it".into()
            }
            Self::NoNode(_) => "see how they are: stratavore nodes".into(),
            Self::NodeUnreachable { .. } => {
                "its runners go on if the host does; see how it is: stratavore nodes, or look there".into()
            }
            Self::Stopping => "try again when the daemon is back".into(),
            Self::Internal(_) => {
                "the daemon's log says more: stratavore daemon status shows where it is".into()
            }
            Self::Store(error) => match error {
                StoreError::NotFound { .. } => "list what there is: stratavore status".into(),
                StoreError::Ambiguous { .. } => "give more of the id".into(),
                StoreError::NameTaken { .. } => "choose another name".into(),
                StoreError::ProjectArchived(name) => {
                    format!("bring it back: stratavore projects archive --restore {name}")
                }
                StoreError::LiveRunners(_) => {
                    "stop them first: stratavore kill --project PROJECT".into()
                }
                StoreError::NodeFull { .. } => {
                    "stop a runner there, or choose another node: stratavore nodes".into()
                }
                StoreError::Quota(_) => {
                    "stop a runner, or raise the quota: stratavore projects edit PROJECT --quota-…"
                        .into()
                }
                StoreError::Budget(exceeded) => exceeded.hint(),
                StoreError::AlreadySucceeded { by, .. } => format!("use {by}"),
                StoreError::SessionBusy { runner, .. } => {
                    format!("attach to it: stratavore attach {runner}")
                }
                StoreError::IdempotencyReuse { .. } => "use a new key for a new request".into(),
                StoreError::AskOver { .. } => "see what else waits: stratavore inbox".into(),
                StoreError::Conflict { .. } => "look at it again, then repeat".into(),
                StoreError::Trimmed { upto, .. } => format!(
                    "go on after position {upto}; what was before is in `audit/segments` of the host that seals"
                ),
                StoreError::Full { .. } => {
                    "free some space, then try again; runners that live go on meanwhile".into()
                }
                StoreError::Corrupt { .. } => {
                    "if it is damaged (stratavore status), stop the daemon and restore it from a backup"
                        .into()
                }
                StoreError::WrongServer { .. } => {
                    "see that store.postgres.host leads to the primary, then try again".into()
                }
                StoreError::StaleLease { .. }
                | StoreError::Busy { .. }
                | StoreError::Unavailable { .. }
                | StoreError::SchemaNewer { .. }
                | StoreError::Failed { .. }
                | StoreError::Invalid { .. } => {
                    "try again; if it goes on: stratavore doctor".into()
                }
            },
        }
    }

    /// Names or ids that were perhaps meant, or that stand in the way.
    pub fn related(&self) -> Vec<String> {
        match self {
            Self::NotFound { nearest, .. } => nearest.clone(),
            Self::Store(StoreError::Ambiguous { candidates, .. }) => candidates.clone(),
            Self::Store(StoreError::Quota(exceeded)) => {
                exceeded.holders.iter().map(|holder| holder.runner.to_string()).collect()
            }
            Self::Store(StoreError::Budget(exceeded)) => {
                exceeded.holders.iter().map(|holder| holder.runner.to_string()).collect()
            }
            Self::Store(StoreError::LiveRunners(holders)) => {
                holders.iter().map(|holder| holder.runner.to_string()).collect()
            }
            Self::Store(_)
            | Self::Invalid { .. }
            | Self::Absent { .. }
            | Self::Denied { .. }
            | Self::Forbidden { .. }
            | Self::DiskLow { .. }
            | Self::TooMany { .. }
            | Self::Refused(_)
            | Self::Item(_)
            | Self::Agent(_)
            | Self::Vault(_)
            | Self::NoNode(_)
            | Self::NodeUnreachable { .. }
            | Self::Busy { .. }
            | Self::Stopping
            | Self::Timeout { .. }
            | Self::Internal(_) => Vec::new(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { message, .. }
            | Self::Busy { message, .. }
            | Self::Absent { message, .. }
            | Self::Denied { message, .. }
            | Self::Forbidden { message } => f.write_str(message),
            Self::NotFound { noun, wanted, .. } => {
                write!(f, "there is no {noun} `{}`", wanted.escape_debug())
            }
            Self::DiskLow { path, free, needed } => write!(
                f,
                "no space is left for a launch: {free} bytes are free in {path}, and {needed} are needed"
            ),
            Self::TooMany { limit } => {
                write!(f, "{limit} connections to the daemon are open already")
            }
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Item(refusal) => refusal.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Agent(error) => error.fmt(f),
            Self::Vault(error) => error.fmt(f),
            Self::NoNode(none) => none.fmt(f),
            Self::NodeUnreachable { node, why } => write!(f, "{node} cannot be reached: {why}"),
            Self::Stopping => f.write_str("the daemon is stopping"),
            Self::Timeout { waited_for } => write!(f, "the time is over before {waited_for}"),
            Self::Internal(_) => f.write_str("something went wrong inside the daemon"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => std::error::Error::source(error),
            Self::Agent(error) => std::error::Error::source(error),
            Self::Vault(error) => std::error::Error::source(error),
            Self::Internal(source) => Some(source.as_ref()),
            Self::Invalid { .. }
            | Self::NotFound { .. }
            | Self::Absent { .. }
            | Self::Denied { .. }
            | Self::Forbidden { .. }
            | Self::DiskLow { .. }
            | Self::TooMany { .. }
            | Self::Refused(_)
            | Self::Item(_)
            | Self::NoNode(_)
            | Self::NodeUnreachable { .. }
            | Self::Busy { .. }
            | Self::Stopping
            | Self::Timeout { .. } => None,
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<VaultError> for Error {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

impl From<NoNode> for Error {
    fn from(none: NoNode) -> Self {
        Self::NoNode(none)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<SocketError> for Error {
    fn from(error: SocketError) -> Self {
        Self::Agent(error)
    }
}

impl From<IdempotencyError> for Error {
    fn from(error: IdempotencyError) -> Self {
        Self::invalid(error.to_string(), "send a fresh random key with each new request")
    }
}

impl From<AssistantError> for Error {
    fn from(error: AssistantError) -> Self {
        let hint = error.remedy();
        Self::invalid(error.to_string(), hint)
    }
}

impl From<ProgramError> for Error {
    fn from(error: ProgramError) -> Self {
        let (message, hint) = (error.to_string(), error.remedy().into());
        match error {
            ProgramError::NotInPath(_) | ProgramError::Absent(_) => Self::Absent { message, hint },
            ProgramError::Forbidden(_) => Self::Denied { message, hint },
        }
    }
}
