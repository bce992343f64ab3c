//! Moves: runners that go on on another node, since theirs is drained.
//!
//! A move is a conversation that is put down on one node and taken up on another one. Nodes agree on it by
//! what stands in the store: the one that a runner leaves says whether it may go, another one says that it
//! can take it, then it is stopped and read to its end, and then it is carried on.
//!
//! Invariant: a runner is stopped for a move only while it rests, and only once a node has said that it
//! can take it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::activity::Activity;
use crate::name::Name;
use crate::runner::{Cause, Desired, Runner, RunnerState};
use crate::{NodeId, RunnerId};

/// By whom a runner was stopped that goes on on another node.
pub const MOVE_STOPPER: &str = "the drain of its node";

/// A runner of a node that is drained, and what stands in the way of its move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub runner: RunnerId,
    /// The node that it leaves.
    pub from: NodeId,
    /// Who drains the node.
    pub asked_by: String,
    /// Why it stays for now; `None`: it may go.
    pub stays: Option<String>,
    /// The node that has looked and can take it.
    pub to: Option<NodeId>,
    /// Why others cannot, each with its host name.
    pub refused: BTreeMap<NodeId, String>,
    /// It has ended, and all that it told and wrote is read and kept.
    pub is_read: bool,
    pub since: Timestamp,
}

/// A move as people are shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveView {
    pub of: Move,
    pub name: Name,
    pub has_ended: bool,
    /// The runner that carries it on, and where.
    pub successor: Option<(RunnerId, NodeId)>,
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is waited for; why, is told.
    Stays,
    /// It may go, and no node can take it yet.
    Sought,
    /// A node takes it; it is being stopped.
    Leaves,
    /// It was stopped, and does not run anywhere else yet.
    Between,
    Moved,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stays => "stays",
            Self::Sought => "sought",
            Self::Leaves => "leaves",
            Self::Between => "between",
            Self::Moved => "moved",
        }
    }
}

impl MoveView {
    pub fn stage(&self) -> Stage {
        match (&self.successor, self.has_ended, &self.of.stays, self.of.to) {
            (Some(_), ..) => Stage::Moved,
            (None, true, ..) => Stage::Between,
            (None, false, Some(_), _) => Stage::Stays,
            (None, false, None, None) => Stage::Sought,
            (None, false, None, Some(_)) => Stage::Leaves,
        }
    }

    /// Why it is not further; empty if nothing is in the way.
    pub fn why(&self) -> String {
        let refused = || {
            let all: Vec<&str> = self.of.refused.values().map(String::as_str).collect();
            match all.as_slice() {
                [] => "no other node has looked yet".to_owned(),
                some => some.join(", "),
            }
        };
        match self.stage() {
            Stage::Stays => self.of.stays.clone().unwrap_or_default(),
            Stage::Sought => refused(),
            Stage::Between if !self.of.is_read => "its node has to read it to its end".into(),
            Stage::Between if self.of.to.is_none() => refused(),
            Stage::Between | Stage::Leaves | Stage::Moved => String::new(),
        }
    }
}

impl Runner {
    /// Why it is not stopped for a move as it is now, in words; `None`: it rests, and may be.
    pub fn is_busy_because(&self) -> Option<String> {
        if self.command.headless.is_some() {
            return Some("it runs without a screen, and ends by itself".into());
        }
        if !matches!(self.state, RunnerState::Running { .. }) {
            return Some(format!("it is {}", self.state.as_str()));
        }
        if self.desired == Desired::Paused {
            return Some("it is paused".into());
        }
        if self.resting_since().is_some() {
            return None;
        }
        let why = match self.activity {
            Activity::Working => "it works",
            Activity::NeedsInput => "it waits for a person",
            Activity::NeedsPermission => "it waits for a permission",
            Activity::RateLimited => "it waits until a limit of its maker's is over",
            Activity::Idle | Activity::Unknown => "it does not say that it is idle",
        };
        Some(why.into())
    }

    /// True if it was stopped to go on on another node.
    pub fn has_left(&self) -> bool {
        let RunnerState::Exited { cause: Cause::StoppedBy(by), .. } = &self.state else {
            return false;
        };
        by == MOVE_STOPPER && self.desired != Desired::Stopped
    }
}
