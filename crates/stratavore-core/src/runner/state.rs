//! How the state of a runner is read from JSON.
//!
//! All variants' fields are read side by side. What serde makes of a tagged enum copies every field
//! until it has seen the tag, and a list reads ten thousand of them.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

use super::{AgentIdentity, Cause, ProcessIdentity, RunnerState, Stop};

#[derive(Deserialize)]
pub(super) struct Record<'r> {
    #[serde(borrow)]
    state: Cow<'r, str>,
    not_before: Option<Timestamp>,
    agent: Option<AgentIdentity>,
    process: Option<ProcessIdentity>,
    since: Option<Timestamp>,
    stop: Option<Stop>,
    cause: Option<Cause>,
    at: Option<Timestamp>,
}

fn there<T>(field: Option<T>, name: &str, state: &str) -> Result<T, String> {
    field.ok_or_else(|| format!("a runner that is {state} has no `{name}`"))
}

impl TryFrom<Record<'_>> for RunnerState {
    type Error = String;

    fn try_from(record: Record<'_>) -> Result<Self, String> {
        let Record { state, not_before, agent, process, since, stop, cause, at } = record;
        let state = state.as_ref();
        Ok(match state {
            "pending" => Self::Pending { not_before },
            "starting" => Self::Starting { agent: there(agent, "agent", state)? },
            "running" => Self::Running {
                agent: there(agent, "agent", state)?,
                process: there(process, "process", state)?,
                since: there(since, "since", state)?,
            },
            "unresponsive" => Self::Unresponsive {
                agent: there(agent, "agent", state)?,
                process: there(process, "process", state)?,
                since: there(since, "since", state)?,
            },
            "stopping" => Self::Stopping {
                agent: there(agent, "agent", state)?,
                process,
                stop: there(stop, "stop", state)?,
            },
            "exited" => {
                Self::Exited { cause: there(cause, "cause", state)?, at: there(at, "at", state)? }
            }
            "failed" => {
                Self::Failed { cause: there(cause, "cause", state)?, at: there(at, "at", state)? }
            }
            "lost" => {
                Self::Lost { cause: there(cause, "cause", state)?, at: there(at, "at", state)? }
            }
            other => return Err(format!("`{}` is no state of a runner", other.escape_debug())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::After;

    #[test]
    fn every_state_reads_back_as_it_was_written_and_no_half_of_one_is_read() {
        let agent = || AgentIdentity {
            boot_id: "b".into(),
            pid: 1,
            start_time: 2,
            nonce: "a \" and a \\ in it".into(),
        };
        let process = ProcessIdentity { pid: 3, start_time: 4 };
        let (at, since) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        let stop = Stop { by: "ada".into(), grace_ms: 5, force: false, after: After::End };
        let states = [
            RunnerState::Pending { not_before: None },
            RunnerState::Pending { not_before: Some(at) },
            RunnerState::Starting { agent: agent() },
            RunnerState::Running { agent: agent(), process, since },
            RunnerState::Unresponsive { agent: agent(), process, since },
            RunnerState::Stopping { agent: agent(), process: Some(process), stop: stop.clone() },
            RunnerState::Stopping { agent: agent(), process: None, stop },
            RunnerState::Exited { cause: Cause::Exit(0), at },
            RunnerState::Failed { cause: Cause::SpawnError("no \"sh\"".into()), at },
            RunnerState::Lost { cause: Cause::HostReboot, at },
        ];
        let seen: std::collections::BTreeSet<_> = states.iter().map(RunnerState::as_str).collect();
        assert_eq!(seen.len(), RunnerState::NAMES.len(), "each of them is here");
        for state in states {
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<RunnerState>(&text).unwrap(), state);
            assert_eq!(serde_json::from_slice::<RunnerState>(text.as_bytes()).unwrap(), state);
            if state.as_str() != "pending" {
                let half = format!(r#"{{"state":"{}"}}"#, state.as_str());
                let why = serde_json::from_str::<RunnerState>(&half).unwrap_err().to_string();
                assert!(why.contains("has no `"), "{why}");
            }
        }
        let why = serde_json::from_str::<RunnerState>(r#"{"state":"gone"}"#).unwrap_err();
        assert!(why.to_string().contains("`gone` is no state"), "{why}");
    }
}
