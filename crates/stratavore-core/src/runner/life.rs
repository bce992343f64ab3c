//! The rules of a runner's life.
//!
//! ```text
//! pending ─▶ starting ─▶ running ◀─▶ unresponsive ─▶ stopping ─▶ exited | failed | lost
//!    ▲                                                  │
//!    └──────────── restart: the next epoch ─────────────┘
//! ```
//!
//! An epoch is one incarnation of a runner: one agent, one process. Messages name the epoch that
//! they speak of, and one about an earlier epoch changes nothing.
//!
//! Invariant: a terminal state never changes.
//! Invariant: the epoch never shrinks, and a process exists only for the current one.
//! Invariant: every change raises the generation by one and makes exactly one event.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::event::NewEvent;
use crate::moving::MOVE_STOPPER;
use crate::restart::{Backoff, Restarts, Verdict};
use crate::runner::{
    Activity, After, AgentIdentity, Cause, Desired, Doing, Exit, ProcessIdentity, Runner,
    RunnerState, Stop,
};

/// Something that a runner's life has to take into account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// An agent has the lifetime lock and shows its key.
    AgentRegistered {
        epoch: i64,
        agent: AgentIdentity,
        key: String,
    },
    Started {
        epoch: i64,
        process: ProcessIdentity,
    },
    Exited {
        epoch: i64,
        exit: Exit,
    },
    /// The agent could not be started; nothing runs.
    SpawnFailed {
        epoch: i64,
        why: String,
    },
    /// No agent came in time, and none can come any more.
    LaunchInterrupted {
        epoch: i64,
    },
    /// The agent's lock is free, nothing of the runner is left, and it wrote no exit.
    AgentDied {
        epoch: i64,
    },
    /// The host has booted since.
    HostRebooted {
        epoch: i64,
    },
    /// The runner's directory is gone.
    StateMissing {
        epoch: i64,
    },
    /// The lock is held and the agent does not answer.
    Silent {
        epoch: i64,
    },
    Heard {
        epoch: i64,
    },
    /// One of the assistant's signals tells what it does.
    Activity {
        epoch: i64,
        doing: Doing,
    },
    /// Something worth an event that changes no state; `seq` tells a repeated one.
    Noted {
        epoch: i64,
        seq: u64,
        note: Note,
    },
    Stop(Stop),
    /// It is to be stopped if it has been idle for too long at `at`, and is so still.
    Idle {
        epoch: i64,
        at: Timestamp,
        stop: Stop,
    },
    /// It is to go on on another node, if it rests still.
    Move {
        epoch: i64,
        stop: Stop,
    },
    Pause,
    Unpause,
}

/// What an agent has to say besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    LimitsNotEnforced(String),
    /// Output from `from` to `to` could not be recorded.
    OutputGap {
        from: u64,
        to: u64,
        why: String,
    },
}

/// What came of an input.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Write this, with its event.
    Changed(Box<Runner>, NewEvent),
    /// Nothing to do: late, repeated, or already so.
    Unchanged,
}

/// A wish that cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the runner has ended: {state} ({cause})")]
    Ended { state: &'static str, cause: String },
    #[error("the runner is {state}; it can be paused only while it runs")]
    NotRunning { state: &'static str },
}

impl Runner {
    /// Takes `input` into account at `now`; `backoff` spaces restarts.
    ///
    /// Inputs from agents and from reconciling are never refused: what is late or repeated is
    /// [`Outcome::Unchanged`]. Wishes of people can be refused.
    pub fn apply(
        &self,
        input: Input,
        now: Timestamp,
        backoff: &Backoff,
    ) -> Result<Outcome, Refusal> {
        if let Some((cause, _)) = self.state.ended() {
            return match input {
                Input::Pause | Input::Unpause => {
                    Err(Refusal::Ended { state: self.state.as_str(), cause: cause.to_string() })
                }
                // To stop what has ended is no mistake: the wish is fulfilled.
                Input::Stop(_)
                | Input::AgentRegistered { .. }
                | Input::Started { .. }
                | Input::Exited { .. }
                | Input::SpawnFailed { .. }
                | Input::LaunchInterrupted { .. }
                | Input::AgentDied { .. }
                | Input::HostRebooted { .. }
                | Input::StateMissing { .. }
                | Input::Silent { .. }
                | Input::Heard { .. }
                | Input::Idle { .. }
                | Input::Move { .. }
                | Input::Noted { .. }
                | Input::Activity { .. } => Ok(Outcome::Unchanged),
            };
        }
        if input.epoch().is_some_and(|epoch| epoch != self.epoch) {
            return Ok(Outcome::Unchanged);
        }
        Ok(match input {
            Input::AgentRegistered { agent, key, .. } => self.agent_registered(agent, key, now),
            Input::Started { process, .. } => self.started(process, now),
            Input::Exited { exit, .. } => self.ended(exit.cause, exit.at, now, backoff),
            Input::SpawnFailed { why, .. } => match self.state {
                RunnerState::Pending { .. } => {
                    self.ended(Cause::SpawnError(why), now, now, backoff)
                }
                RunnerState::Starting { .. }
                | RunnerState::Running { .. }
                | RunnerState::Unresponsive { .. }
                | RunnerState::Stopping { .. }
                | RunnerState::Exited { .. }
                | RunnerState::Failed { .. }
                | RunnerState::Lost { .. } => Outcome::Unchanged,
            },
            Input::LaunchInterrupted { .. } => {
                self.ended(Cause::LaunchInterrupted, now, now, backoff)
            }
            Input::AgentDied { .. } => self.ended(Cause::AgentDied, now, now, backoff),
            Input::StateMissing { .. } => self.ended(Cause::StateMissing, now, now, backoff),
            Input::HostRebooted { .. } => self.ended(Cause::HostReboot, now, now, backoff),
            Input::Silent { .. } => self.silent(now),
            Input::Heard { .. } => self.heard(now),
            Input::Activity { doing, .. } => self.activity_changed(doing, now),
            Input::Noted { seq, note, .. } => self.noted(seq, note, now),
            Input::Stop(stop) => self.stop(stop, now),
            Input::Idle { at, stop, .. } => match self.idle_until() {
                Some(until) if until <= at => self.stop(stop, now),
                Some(_) | None => Outcome::Unchanged,
            },
            Input::Move { stop, .. } => self.leave(stop, now),
            Input::Pause => return self.pause(now),
            Input::Unpause => self.unpause(now),
        })
    }

    /// True once there is nothing to be done for it any more.
    pub fn is_terminal(&self) -> bool {
        self.state.is_terminal()
    }

    /// How long it is until an agent may be started for it: nothing but for a planned restart.
    ///
    /// Never longer than was planned, wherever the clock has been set since.
    pub fn due_in(&self, now: Timestamp) -> Duration {
        let RunnerState::Pending { not_before: Some(at) } = self.state else {
            return Duration::ZERO;
        };
        let left = at.duration_since(now).min(at.duration_since(self.updated_at));
        Duration::try_from(left).unwrap_or_default()
    }

    fn changed(
        &self,
        next: Runner,
        now: Timestamp,
        kind: &'static str,
        data: serde_json::Value,
    ) -> Outcome {
        let next = Runner { generation: self.generation + 1, updated_at: now, ..next };
        let mut data = data;
        if let Some(fields) = data.as_object_mut() {
            fields.insert("state".into(), json!(next.state.as_str()));
            fields.insert("epoch".into(), json!(next.epoch));
        }
        Outcome::Changed(Box::new(next), NewEvent::new(kind, data))
    }

    fn agent_registered(&self, agent: AgentIdentity, key: String, now: Timestamp) -> Outcome {
        match &self.state {
            RunnerState::Pending { .. } => {
                let data = json!({ "agent_pid": agent.pid });
                let next = Runner {
                    state: RunnerState::Starting { agent },
                    agent_key: Some(key),
                    ..self.clone()
                };
                self.changed(next, now, "runner.starting", data)
            }
            RunnerState::Starting { .. }
            | RunnerState::Running { .. }
            | RunnerState::Unresponsive { .. }
            | RunnerState::Stopping { .. }
            | RunnerState::Exited { .. }
            | RunnerState::Failed { .. }
            | RunnerState::Lost { .. } => Outcome::Unchanged,
        }
    }

    fn started(&self, process: ProcessIdentity, now: Timestamp) -> Outcome {
        let state = match &self.state {
            RunnerState::Starting { agent } => {
                RunnerState::Running { agent: agent.clone(), process, since: now }
            }
            RunnerState::Stopping { agent, process: None, stop } => RunnerState::Stopping {
                agent: agent.clone(),
                process: Some(process),
                stop: stop.clone(),
            },
            RunnerState::Pending { .. }
            | RunnerState::Running { .. }
            | RunnerState::Unresponsive { .. }
            | RunnerState::Stopping { .. }
            | RunnerState::Exited { .. }
            | RunnerState::Failed { .. }
            | RunnerState::Lost { .. } => return Outcome::Unchanged,
        };
        let next = Runner { state, started_at: Some(now), ..self.clone() };
        self.changed(next, now, "runner.started", json!({ "pid": process.pid }))
    }

    /// The one way out of life: an end, or the next epoch.
    fn ended(&self, cause: Cause, at: Timestamp, now: Timestamp, backoff: &Backoff) -> Outcome {
        let cause = cause.bounded();
        if let RunnerState::Stopping { stop, .. } = &self.state {
            // After a reboot nothing is started unasked, not even what was to be restarted.
            let host_ends = matches!(cause, Cause::HostReboot | Cause::AgentTerminated);
            if stop.after == After::Restart && !host_ends {
                return self.again(self.restarts.clone(), now, now, cause, at);
            }
            let state = match cause {
                Cause::HostReboot | Cause::StateMissing => RunnerState::Lost { cause, at },
                Cause::Exit(_)
                | Cause::Signal(_)
                | Cause::Oom
                | Cause::PidsLimit
                | Cause::WallTime
                | Cause::AgentDied
                | Cause::AgentTerminated
                | Cause::LaunchInterrupted
                | Cause::SpawnError(_)
                | Cause::ExecError(_)
                | Cause::CrashLoop(_)
                | Cause::StoppedBy(_) => {
                    RunnerState::Exited { cause: Cause::StoppedBy(stop.by.clone()), at }
                }
            };
            return self.terminal(state, now);
        }
        let restartable = match &cause {
            Cause::HostReboot
            | Cause::AgentTerminated
            | Cause::StateMissing
            | Cause::StoppedBy(_)
            | Cause::CrashLoop(_)
            | Cause::WallTime => false,
            // What could not even start will not start a second later; but a launch that a crash
            // of ours interrupted deserves another try.
            Cause::SpawnError(_) | Cause::ExecError(_) => false,
            Cause::Exit(_)
            | Cause::Signal(_)
            | Cause::Oom
            | Cause::PidsLimit
            | Cause::AgentDied
            | Cause::LaunchInterrupted => self.restart.wants_restart(cause.is_success()),
        };
        if restartable && self.desired != Desired::Stopped {
            return match self.restarts.next(now, backoff) {
                Verdict::Again(restarts, not_before) => {
                    self.again(restarts, not_before, now, cause, at)
                }
                Verdict::CrashLoop => self.terminal(
                    RunnerState::Failed { cause: Cause::CrashLoop(cause.to_string()), at },
                    now,
                ),
            };
        }
        let state = match cause {
            Cause::Exit(0) | Cause::StoppedBy(_) => RunnerState::Exited { cause, at },
            Cause::AgentDied | Cause::AgentTerminated | Cause::HostReboot | Cause::StateMissing => {
                RunnerState::Lost { cause, at }
            }
            Cause::Exit(_)
            | Cause::Signal(_)
            | Cause::Oom
            | Cause::PidsLimit
            | Cause::WallTime
            | Cause::LaunchInterrupted
            | Cause::SpawnError(_)
            | Cause::ExecError(_)
            | Cause::CrashLoop(_) => RunnerState::Failed { cause, at },
        };
        self.terminal(state, now)
    }

    fn again(
        &self,
        restarts: Restarts,
        not_before: Timestamp,
        now: Timestamp,
        cause: Cause,
        at: Timestamp,
    ) -> Outcome {
        let data = json!({ "cause": cause.to_string(), "not_before": not_before, "restarts": restarts.total });
        let next = Runner {
            state: RunnerState::Pending { not_before: Some(not_before) },
            // One that was paused is paused again as soon as it runs: nobody has let it go on.
            last_end: Some(Exit { cause, at }),
            activity: Activity::Unknown,
            doing: None,
            epoch: self.epoch + 1,
            restarts,
            agent_key: None,
            noted: 0,
            limits_not_enforced: None,
            started_at: None,
            ..self.clone()
        };
        self.changed(next, now, "runner.restarting", data)
    }

    fn terminal(&self, state: RunnerState, now: Timestamp) -> Outcome {
        let (kind, cause) = match &state {
            RunnerState::Failed { cause, .. } => ("runner.failed", cause.to_string()),
            RunnerState::Lost { cause, .. } => ("runner.lost", cause.to_string()),
            RunnerState::Exited { cause, .. } => ("runner.exited", cause.to_string()),
            RunnerState::Pending { .. }
            | RunnerState::Starting { .. }
            | RunnerState::Running { .. }
            | RunnerState::Unresponsive { .. }
            | RunnerState::Stopping { .. } => unreachable!("only ends come here"),
        };
        let next = Runner { state, activity: Activity::Unknown, doing: None, ..self.clone() };
        self.changed(next, now, kind, json!({ "cause": cause }))
    }

    fn silent(&self, now: Timestamp) -> Outcome {
        let RunnerState::Running { agent, process, .. } = &self.state else {
            return Outcome::Unchanged;
        };
        let state =
            RunnerState::Unresponsive { agent: agent.clone(), process: *process, since: now };
        self.changed(Runner { state, ..self.clone() }, now, "runner.unresponsive", json!({}))
    }

    fn heard(&self, now: Timestamp) -> Outcome {
        let RunnerState::Unresponsive { agent, process, .. } = &self.state else {
            return Outcome::Unchanged;
        };
        let state = RunnerState::Running { agent: agent.clone(), process: *process, since: now };
        self.changed(Runner { state, ..self.clone() }, now, "runner.responsive", json!({}))
    }

    fn activity_changed(&self, told: Doing, now: Timestamp) -> Outcome {
        let doing = match self.doing.clone() {
            Some(before) => before.followed_by(told, now),
            None => told,
        };
        if self.doing.as_ref() == Some(&doing) {
            return Outcome::Unchanged;
        }
        let mut data = json!({
            "activity": doing.activity.as_str(),
            "since": doing.since,
            "source": doing.source.as_str(),
            "confidence": doing.confidence.as_str(),
        });
        if let Some(question) = &doing.question {
            data["question"] = json!(question);
        }
        if let Some(resets_at) = &doing.resets_at {
            data["resets_at"] = json!(resets_at);
        }
        let next = Runner { activity: doing.activity, doing: Some(doing), ..self.clone() };
        self.changed(next, now, "runner.activity", data)
    }

    fn noted(&self, seq: u64, note: Note, now: Timestamp) -> Outcome {
        if seq <= self.noted {
            return Outcome::Unchanged;
        }
        let next = Runner { noted: seq, ..self.clone() };
        match note {
            Note::LimitsNotEnforced(why) => {
                let data = json!({ "why": why });
                let next = Runner { limits_not_enforced: Some(why), ..next };
                self.changed(next, now, "runner.limits_not_enforced", data)
            }
            Note::OutputGap { from, to, why } => self.changed(
                next,
                now,
                "runner.output_gap",
                json!({ "from": from, "to": to, "why": why }),
            ),
        }
    }

    fn stop(&self, stop: Stop, now: Timestamp) -> Outcome {
        let (agent, process) = match &self.state {
            // No agent is bound yet. One that comes later finds this state and goes away.
            // Whoever asks for a restart does not want to wait for the one that is planned.
            RunnerState::Pending { not_before: Some(at) }
                if stop.after == After::Restart && *at > now =>
            {
                let data =
                    json!({ "by": stop.by, "not_before": now, "restarts": self.restarts.total });
                let state = RunnerState::Pending { not_before: None };
                let next = Runner { state, desired: Desired::Running, ..self.clone() };
                return self.changed(next, now, "runner.restarting", data);
            }
            RunnerState::Pending { .. } if stop.after == After::Restart => {
                return Outcome::Unchanged;
            }
            RunnerState::Pending { .. } => {
                let cause = Cause::StoppedBy(stop.by);
                let stopped = Runner { desired: Desired::Stopped, ..self.clone() };
                return stopped.terminal(RunnerState::Exited { cause, at: now }, now);
            }
            RunnerState::Stopping { stop: earlier, .. }
                if earlier.after == stop.after
                    // Who wants it to end does not want it to go on elsewhere.
                    && (earlier.by != MOVE_STOPPER || stop.by == MOVE_STOPPER)
                    && (earlier.force || !stop.force)
                    && earlier.grace_ms <= stop.grace_ms =>
            {
                return Outcome::Unchanged;
            }
            RunnerState::Starting { agent } => (agent, None),
            RunnerState::Running { agent, process, .. }
            | RunnerState::Unresponsive { agent, process, .. } => (agent, Some(*process)),
            RunnerState::Stopping { agent, process, .. } => (agent, *process),
            RunnerState::Exited { .. } | RunnerState::Failed { .. } | RunnerState::Lost { .. } => {
                return Outcome::Unchanged;
            }
        };
        let desired = match stop.after {
            After::End => Desired::Stopped,
            After::Restart => Desired::Running,
        };
        let data =
            json!({ "by": stop.by, "force": stop.force, "restart": stop.after == After::Restart });
        let state = RunnerState::Stopping { agent: agent.clone(), process, stop };
        self.changed(Runner { state, desired, ..self.clone() }, now, "runner.stopping", data)
    }

    /// Stops it as its person would not: it is to run still, on another node.
    fn leave(&self, stop: Stop, now: Timestamp) -> Outcome {
        if self.resting_since().is_none() {
            return Outcome::Unchanged;
        }
        match self.stop(stop, now) {
            Outcome::Changed(next, event) => {
                Outcome::Changed(Box::new(Runner { desired: self.desired, ..*next }), event)
            }
            Outcome::Unchanged => Outcome::Unchanged,
        }
    }

    fn pause(&self, now: Timestamp) -> Result<Outcome, Refusal> {
        match self.state {
            RunnerState::Running { .. } | RunnerState::Unresponsive { .. } => {}
            RunnerState::Pending { .. }
            | RunnerState::Starting { .. }
            | RunnerState::Stopping { .. }
            | RunnerState::Exited { .. }
            | RunnerState::Failed { .. }
            | RunnerState::Lost { .. } => {
                return Err(Refusal::NotRunning { state: self.state.as_str() });
            }
        }
        if self.desired == Desired::Paused {
            return Ok(Outcome::Unchanged);
        }
        Ok(self.changed(
            Runner { desired: Desired::Paused, ..self.clone() },
            now,
            "runner.paused",
            json!({}),
        ))
    }

    fn unpause(&self, now: Timestamp) -> Outcome {
        if self.desired != Desired::Paused {
            return Outcome::Unchanged;
        }
        self.changed(
            Runner { desired: Desired::Running, ..self.clone() },
            now,
            "runner.unpaused",
            json!({}),
        )
    }
}

impl Input {
    /// The epoch that the input speaks of; wishes speak of the runner, whatever its epoch.
    pub fn epoch(&self) -> Option<i64> {
        match self {
            Self::AgentRegistered { epoch, .. }
            | Self::Started { epoch, .. }
            | Self::Exited { epoch, .. }
            | Self::SpawnFailed { epoch, .. }
            | Self::LaunchInterrupted { epoch }
            | Self::AgentDied { epoch }
            | Self::HostRebooted { epoch }
            | Self::StateMissing { epoch }
            | Self::Silent { epoch }
            | Self::Heard { epoch }
            | Self::Activity { epoch, .. }
            | Self::Idle { epoch, .. }
            | Self::Move { epoch, .. }
            | Self::Noted { epoch, .. } => Some(*epoch),
            Self::Stop(_) | Self::Pause | Self::Unpause => None,
        }
    }
}
