//! What to do about a runner, given what the store says and what was found on the host.
//!
//! The table is total: every combination has an answer. It decides nothing on heartbeats or on the
//! clock of another host; a local agent is alive if, and only if, its lock is held.
//!
//! After a reboot the exit record, where there is one, is the truth: the runner had ended before the
//! host did, and its restart policy holds. Without one it was cut off: lost, until someone recovers
//! it. A pending runner had nothing running, so a reboot takes nothing from it.
//!
//! Invariant: nothing is signalled that belongs to another boot.
//! Invariant: no agent is started while the lock is held.
//! Invariant: a runner is never called dead while the lock is held, nor before what is left of it
//! was cleared.

use std::time::Duration;

use crate::runner::{Exit, Input, Runner, RunnerState};

/// How long a runner directory without a row is left alone: the database may be restored.
pub const QUARANTINE: Duration = Duration::from_secs(600);

/// What was found of a runner on its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its directory is there.
    pub directory: bool,
    /// Its agent's lifetime lock is held.
    pub lock_held: bool,
    /// The agent of the row's epoch is bound to this boot or to none, and wrote down this boot or
    /// nothing. What an earlier epoch wrote says nothing of this one.
    pub same_boot: bool,
    /// The end that the agent wrote down for the row's epoch.
    pub exit: Option<Exit>,
    /// Processes of it exist, or cgroups that may hold some.
    pub populated: bool,
    /// How long ago the directory was last changed.
    pub age: Duration,
}

/// What this daemon knows besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The agent is connected to this daemon.
    pub connected: bool,
    /// This daemon is starting an agent for it just now.
    pub launching: bool,
    /// The time of a planned restart has come (true where none is planned).
    pub due: bool,
    /// How long the row has been as it is.
    pub unchanged_for: Duration,
    /// For how long the agent has not been connected.
    pub disconnected_for: Duration,
    pub launch_timeout: Duration,
    pub unresponsive_after: Duration,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Nothing,
    /// Start an agent for the row's epoch.
    Start,
    /// Ask the agent, on its own socket, to connect to this daemon.
    Poke,
    /// Ask the agent to connect, and show that it does not answer.
    CallUnresponsive(Input),
    /// Repeat the wish to stop to the agent.
    RepeatStop,
    /// The row has ended, or there is none: stop what the agent runs, and the agent.
    StopAgent,
    /// Clear what a dead agent left, then apply the input.
    Clear(Option<Input>),
    /// Only apply the input.
    Apply(Input),
    /// A directory without a row: leave it, and say so.
    Quarantine,
}

/// The truth table.
pub fn decide(row: Option<&Runner>, found: &Found, context: &Context) -> Action {
    let Some(row) = row else {
        return match found {
            Found { directory: false, .. } => Action::Nothing,
            Found { age, .. } if *age < QUARANTINE => Action::Quarantine,
            Found { same_boot: true, lock_held: true, .. } => Action::StopAgent,
            Found { same_boot: true, populated: true, .. } => Action::Clear(None),
            Found { .. } => Action::Quarantine,
        };
    };
    let epoch = row.epoch;
    let has_run = !matches!(row.state, RunnerState::Pending { .. });
    if !found.same_boot && has_run {
        return match (&row.state, &found.exit) {
            (state, _) if state.is_terminal() => Action::Nothing,
            // It had ended before the reboot, and nobody was there to hear of it.
            (_, Some(exit)) => Action::Apply(Input::Exited { epoch, exit: exit.clone() }),
            (_, None) => Action::Apply(Input::HostRebooted { epoch }),
        };
    }
    let after_clearing = |input| match found.populated {
        true => Action::Clear(Some(input)),
        false => Action::Apply(input),
    };
    let gone = || {
        let input = match &found.exit {
            Some(exit) => Input::Exited { epoch, exit: exit.clone() },
            None if found.directory => Input::AgentDied { epoch },
            None => Input::StateMissing { epoch },
        };
        after_clearing(input)
    };
    match &row.state {
        RunnerState::Exited { .. } | RunnerState::Failed { .. } | RunnerState::Lost { .. } => {
            if found.lock_held {
                Action::StopAgent
            } else if found.populated {
                Action::Clear(None)
            } else {
                Action::Nothing
            }
        }
        RunnerState::Pending { .. } => {
            if context.launching || context.connected {
                Action::Nothing
            } else if found.lock_held {
                Action::Poke
            } else if !context.due {
                Action::Nothing
            } else if context.unchanged_for < context.launch_timeout {
                // An exit of this epoch is that of an agent that was never let go: nothing ran.
                Action::Start
            } else {
                after_clearing(Input::LaunchInterrupted { epoch })
            }
        }
        RunnerState::Starting { .. } => match (found.lock_held, context.connected) {
            (true, true) => Action::Nothing,
            (true, false) => Action::Poke,
            (false, _) => gone(),
        },
        RunnerState::Running { .. } => match (found.lock_held, context.connected) {
            (true, true) => Action::Nothing,
            (true, false) if context.disconnected_for >= context.unresponsive_after => {
                Action::CallUnresponsive(Input::Silent { epoch })
            }
            (true, false) => Action::Poke,
            (false, _) => gone(),
        },
        RunnerState::Unresponsive { .. } => match (found.lock_held, context.connected) {
            (true, true) => Action::Apply(Input::Heard { epoch }),
            (true, false) => Action::Poke,
            (false, _) => gone(),
        },
        RunnerState::Stopping { .. } => match (found.lock_held, context.connected) {
            (true, true) => Action::RepeatStop,
            (true, false) => Action::Poke,
            (false, _) => gone(),
        },
    }
}
