//! How the program ends: exit codes, and failures that become one.
//!
//! Invariant: the numbers never change their meaning; docs/errors.md lists them.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use stratavore_core::terminal::Untrusted;
use stratavore_proto::v1::Problem;

/// The exit codes of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Ok = 0,
    /// Something failed that has no code of its own.
    Failure = 1,
    /// The command line, or a value in it, is wrong.
    Usage = 2,
    NotFound = 3,
    /// A quota or a rule forbids it.
    Refused = 4,
    /// It does not go with the state of things, or names more than one thing.
    Conflict = 5,
    /// There is no daemon (or agent) that answers.
    Unavailable = 6,
    Config = 7,
    Permission = 8,
    Timeout = 9,
    /// The runner that was attached to, or waited for, ended in failure.
    RunnerFailed = 10,
    /// As after SIGINT.
    Interrupted = 130,
    /// As after SIGTERM.
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command was not carried out: one line, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub exit: Exit,
    /// Stable and machine-readable; docs/errors.md lists them.
    pub code: String,
    pub message: String,
    /// The next step; empty if there is none to name.
    pub next: String,
    pub related: Vec<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: code.into(),
            message: message.into(),
            next: String::new(),
            related: Vec::new(),
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failure, "failed", message)
    }

    /// Trying `what` met `error`, whose causes are told too.
    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let kind = error.kind();
        let (exit, code) = if kind == ErrorKind::PermissionDenied {
            (Exit::Permission, "permission")
        } else if kind == ErrorKind::NotFound {
            (Exit::NotFound, "not_found")
        } else if kind == ErrorKind::StorageFull {
            (Exit::Unavailable, "disk_full")
        } else if kind == ErrorKind::BrokenPipe {
            // Whoever read the output has had enough; there is nobody left to tell.
            (Exit::Ok, "broken_pipe")
        } else {
            (Exit::Failure, "io")
        };
        Self::new(exit, code, format!("{what}: {}", chain(error)))
    }

    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// What the daemon said.
    pub(crate) fn from_status(status: &tonic::Status) -> Self {
        let Problem { code, message, hint, related } = stratavore_proto::client::problem(status);
        let exit = exit_of(&code).unwrap_or_else(|| exit_of_grpc(status.code()));
        let message =
            if message.is_empty() { format!("the daemon answered: {code}") } else { message };
        Self { exit, code, message, next: hint, related }
    }

    /// True if there is nobody left to tell.
    pub(crate) fn is_silent(&self) -> bool {
        self.code == "broken_pipe"
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Untrusted(&self.message).fmt(f)
    }
}

impl Error for Failure {}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The exit code of a problem's code; `None` for a code that a newer daemon has.
pub(crate) fn exit_of(code: &str) -> Option<Exit> {
    Some(match code {
        "invalid" => Exit::Usage,
        "not_found" | "trimmed" => Exit::NotFound,
        "quota_exceeded" | "budget_exceeded" | "node_full" | "no_node" | "refused"
        | "project_archived" => Exit::Refused,
        "ambiguous"
        | "name_taken"
        | "live_runners"
        | "already_succeeded"
        | "session_busy"
        | "busy"
        | "ask_over"
        | "idempotency_key_reuse"
        | "conflict" => Exit::Conflict,
        "unavailable"
        | "agent_unreachable"
        | "node_unreachable"
        | "store_unavailable"
        | "vault_unavailable"
        | "disk_full"
        | "too_many_connections" => Exit::Unavailable,
        "forbidden" => Exit::Permission,
        "timeout" => Exit::Timeout,
        "cancelled" => Exit::Interrupted,
        "internal" | "version_mismatch" => Exit::Failure,
        _ => return None,
    })
}

fn exit_of_grpc(code: tonic::Code) -> Exit {
    use tonic::Code;
    match code {
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::ResourceExhausted => Exit::Refused,
        Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => Exit::Conflict,
        Code::Unavailable => Exit::Unavailable,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Permission,
        Code::DeadlineExceeded => Exit::Timeout,
        Code::Cancelled => Exit::Interrupted,
        Code::Ok | Code::Unknown | Code::Internal | Code::Unimplemented | Code::DataLoss => {
            Exit::Failure
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_problem_has_an_exit_code() {
        let page = include_str!("../../../docs/errors.md");
        let codes: Vec<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
            .filter(|(code, _)| code.parse::<u8>().is_err())
            .map(|(code, rest)| (code, rest.split(' ').next().unwrap_or_default()))
            .collect();
        assert!(codes.len() >= 15, "the page lists the codes: {codes:?}");
        for (code, exit) in codes {
            let known = exit_of(code).unwrap_or_else(|| panic!("{code} is documented and unknown"));
            assert_eq!((known as u8).to_string(), exit, "{code}");
        }
    }

    #[test]
    fn a_code_of_a_newer_daemon_falls_back_to_the_status() {
        let status = tonic::Status::not_found("no such thing");
        assert_eq!(
            Failure::from_status(&status).exit,
            Exit::Failure,
            "`internal` is what a bare status means"
        );
        assert_eq!(exit_of("something_new"), None);
        assert_eq!(exit_of_grpc(tonic::Code::NotFound), Exit::NotFound);
    }

    #[test]
    fn hostile_messages_cannot_reach_the_terminal() {
        let failure = Failure::failed("no \u{1b}]0;owned\u{7} thing\u{202e}");
        let shown = failure.to_string();
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{202e}'), "{shown}");
    }

    #[test]
    fn a_cause_is_told_once() {
        let inner = std::io::Error::other("disk full");
        let outer = std::io::Error::other(inner);
        assert_eq!(chain(&outer), "disk full");
    }
}
