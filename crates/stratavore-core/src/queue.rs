//! What is to be done in a project, when its turn comes: items, and the rules of their life.
//!
//! ```text
//! queued ─▶ running ─▶ done
//!    ▲        │ │ └──▶ failed
//!    └────────┘ └────▶ cancelled
//! ```
//!
//! An attempt is one runner. It is written down together with the runner, in one transaction, so no attempt is
//! begun twice; how the runner ended settles the attempt, once.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::event::NewEvent;
use crate::name::Name;
use crate::run::RunOutcome;
use crate::runner::Headless;
use crate::{ItemId, ProjectId, RunnerId, SessionId};

/// The most runs of one project's queue at once.
pub const CONCURRENCY_MAX: u32 = 100;
/// The most attempts of an item.
pub const ATTEMPTS_MAX: u32 = 100;
/// The most characters of a result that an item keeps; the runner's output has all of it.
pub const KEPT_TEXT_MAX: usize = 4000;
/// The longest wait between two attempts that was not told by the assistant's maker.
pub const BACKOFF_MAX: Duration = Duration::from_secs(6 * 3600);

/// How a project's queue is worked off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSettings {
    /// How many of its items run at once.
    pub concurrency: u32,
    /// Nothing is begun; what runs goes on.
    pub paused: bool,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self { concurrency: 1, paused: false }
    }
}

/// What is asked for of one item, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemWish {
    pub assistant: Option<Name>,
    pub args: Vec<String>,
    pub prompt: Option<String>,
    /// KEY=VALUE each; a value may refer to a file or a variable of the daemon.
    pub env: Vec<String>,
    /// What its runners are called, with a number where that is taken.
    pub name: Option<Name>,
    /// Higher ones come first.
    pub priority: i32,
    /// How often it is begun at most. Waiting for a rate limit to end is no attempt.
    pub max_attempts: u32,
    /// The wait after the first attempt; each further one is twice as long.
    pub backoff_ms: u64,
    /// A rate limit is waited for; else it fails like anything else.
    pub waits_for_reset: bool,
    pub not_before: Option<Timestamp>,
    pub timeout_seconds: Option<u64>,
    #[serde(default)]
    pub headless: Headless,
    /// The conversation that it goes on with.
    pub session: Option<SessionId>,
}

/// Where an item stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ItemState {
    Queued {
        not_before: Option<Timestamp>,
    },
    Running {
        runner: RunnerId,
        since: Timestamp,
        /// Who wants it cancelled; it is, once its runner has ended.
        cancelled_by: Option<String>,
    },
    Done {
        text: String,
        at: Timestamp,
    },
    Failed {
        why: String,
        at: Timestamp,
    },
    Cancelled {
        by: String,
        at: Timestamp,
    },
}

impl ItemState {
    pub const NAMES: [&str; 5] = ["queued", "running", "done", "failed", "cancelled"];

    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Running { .. } => "running",
            Self::Done { .. } => "done",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
        }
    }

    /// When it came to its end, if it did.
    pub fn ended_at(&self) -> Option<Timestamp> {
        match self {
            Self::Queued { .. } | Self::Running { .. } => None,
            Self::Done { at, .. } | Self::Failed { at, .. } | Self::Cancelled { at, .. } => {
                Some(*at)
            }
        }
    }

    /// The runner of an attempt that is not settled.
    pub fn runner(&self) -> Option<RunnerId> {
        match self {
            Self::Running { runner, .. } => Some(*runner),
            Self::Queued { .. }
            | Self::Done { .. }
            | Self::Failed { .. }
            | Self::Cancelled { .. } => None,
        }
    }

    /// Before this it is not begun.
    pub fn not_before(&self) -> Option<Timestamp> {
        match self {
            Self::Queued { not_before } => *not_before,
            Self::Running { .. }
            | Self::Done { .. }
            | Self::Failed { .. }
            | Self::Cancelled { .. } => None,
        }
    }
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub id: ItemId,
    pub project: ProjectId,
    pub wish: ItemWish,
    pub by: String,
    pub state: ItemState,
    /// How often it was begun since it was last queued by a person, rate limits apart.
    pub attempts: u32,
    /// How often in a row a rate limit was met.
    pub waits: u32,
    /// The runner of the latest attempt.
    pub last_runner: Option<RunnerId>,
    /// How the attempt before came out, in words.
    pub last_why: Option<String>,
    /// The conversation of the attempts so far, which the next one goes on with.
    pub session: Option<SessionId>,
    /// Counts the changes.
    pub generation: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Why an item cannot be changed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemRefusal {
    #[error("{id} is {state} already")]
    Over { id: ItemId, state: &'static str },
    #[error("{id} is {state}: only what has failed or was cancelled can be queued again")]
    NotOver { id: ItemId, state: &'static str },
}

/// An item as it is to be, and the event that says so.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemChange {
    pub next: Item,
    pub event: NewEvent,
}

impl Item {
    pub fn new(
        id: ItemId,
        project: ProjectId,
        wish: ItemWish,
        by: String,
        now: Timestamp,
    ) -> (Item, NewEvent) {
        let item = Item {
            id,
            project,
            state: ItemState::Queued { not_before: wish.not_before },
            by,
            attempts: 0,
            waits: 0,
            last_runner: None,
            last_why: None,
            session: wish.session,
            generation: 1,
            created_at: now,
            updated_at: now,
            wish,
        };
        let event = NewEvent::new(
            "project.item_added",
            json!({ "item": id, "assistant": item.wish.assistant, "priority": item.wish.priority }),
        );
        (item, event)
    }

    fn to(&self, state: ItemState, now: Timestamp) -> Item {
        let (generation, updated_at) = (self.generation + 1, now.max(self.updated_at));
        Item { state, generation, updated_at, ..self.clone() }
    }

    /// The item once its next attempt is begun, by this runner.
    pub fn begun(&self, runner: RunnerId, session: SessionId, now: Timestamp) -> ItemChange {
        let state = ItemState::Running { runner, since: now, cancelled_by: None };
        let next = Item {
            attempts: self.attempts + 1,
            last_runner: Some(runner),
            session: Some(session),
            ..self.to(state, now)
        };
        let data = json!({ "item": self.id, "attempt": next.attempts, "runner": runner });
        ItemChange { next, event: NewEvent::new("project.item_started", data) }
    }

    /// The item after its attempt came out so. `dice` spreads waits, from 0 to 1.
    pub fn settled(&self, outcome: &RunOutcome, now: Timestamp, dice: f64) -> ItemChange {
        if let ItemState::Running { cancelled_by: Some(by), .. } = &self.state {
            return self.cancelled_for_good(by.clone(), now);
        }
        let why = match outcome {
            RunOutcome::Done { text } => {
                let next = self.to(ItemState::Done { text: kept(text), at: now }, now);
                let next = Item { waits: 0, last_why: None, ..next };
                let data = json!({ "item": self.id, "attempt": self.attempts, "runner": self.last_runner });
                return ItemChange { next, event: NewEvent::new("project.item_done", data) };
            }
            RunOutcome::RateLimited { why, resets_at } if self.wish.waits_for_reset => {
                let waits = self.waits + 1;
                let until = match resets_at {
                    Some(at) if *at > now => *at,
                    // It is over by now; if it is met again all the same, it was not told well.
                    Some(_) if waits == 1 => now,
                    Some(_) | None => self.after_backoff(waits, now, dice),
                };
                // It was let do nothing, so it was no attempt.
                let attempts = self.attempts.saturating_sub(1);
                let next = Item { waits, attempts, ..self.clone() };
                return next.again(format!("rate limit: {}", kept(why)), until, now);
            }
            RunOutcome::RateLimited { why, .. }
            | RunOutcome::Cut { why }
            | RunOutcome::Failed { why } => why.clone(),
            RunOutcome::TimedOut => outcome.why().to_owned(),
            // To try it again would meet the same limit, or go against somebody's wish.
            RunOutcome::LimitReached { what } => {
                return self.failed(format!("limit reached: {}", kept(what)), now);
            }
            RunOutcome::Stopped { why } => return self.failed(kept(why), now),
        };
        let why = format!("{}: {}", outcome.as_str().replace('_', " "), kept(&why));
        if self.attempts >= self.wish.max_attempts {
            return self.failed(why, now);
        }
        let next = Item { waits: 0, ..self.clone() };
        let until = self.after_backoff(self.attempts, now, dice);
        next.again(why, until, now)
    }

    /// It cannot be done, and trying it again would not help.
    pub fn failed(&self, why: String, now: Timestamp) -> ItemChange {
        let next = self.to(ItemState::Failed { why: why.clone(), at: now }, now);
        let data = json!({
            "item": self.id, "attempt": self.attempts, "runner": self.last_runner, "why": why,
        });
        ItemChange { next, event: NewEvent::new("project.item_failed", data) }
    }

    /// The item put off until later, for something that is not its own.
    pub fn put_off(&self, why: String, until: Timestamp, now: Timestamp) -> ItemChange {
        self.again(kept(&why), until, now)
    }

    fn again(&self, why: String, until: Timestamp, now: Timestamp) -> ItemChange {
        let data = json!({
            "item": self.id, "attempt": self.attempts, "runner": self.last_runner, "why": why,
            "not_before": until,
        });
        let next = self.to(ItemState::Queued { not_before: Some(until) }, now);
        let next = Item { last_why: Some(why), ..next };
        ItemChange { next, event: NewEvent::new("project.item_waits", data) }
    }

    /// The item after somebody has cancelled it. One that runs is cancelled once its runner has ended.
    pub fn cancel(&self, by: String, now: Timestamp) -> Result<ItemChange, ItemRefusal> {
        match &self.state {
            ItemState::Queued { .. } => Ok(self.cancelled_for_good(by, now)),
            ItemState::Running { runner, since, cancelled_by } => {
                let by = cancelled_by.clone().unwrap_or(by);
                let (runner, since) = (*runner, *since);
                let state = ItemState::Running { runner, since, cancelled_by: Some(by) };
                let data = json!({ "item": self.id, "runner": runner });
                let event = NewEvent::new("project.item_cancelling", data);
                Ok(ItemChange { next: self.to(state, now), event })
            }
            ItemState::Done { .. } | ItemState::Failed { .. } | ItemState::Cancelled { .. } => {
                Err(ItemRefusal::Over { id: self.id, state: self.state.as_str() })
            }
        }
    }

    fn cancelled_for_good(&self, by: String, now: Timestamp) -> ItemChange {
        let data = json!({ "item": self.id, "attempt": self.attempts, "runner": self.last_runner });
        let next = self.to(ItemState::Cancelled { by, at: now }, now);
        ItemChange { next, event: NewEvent::new("project.item_cancelled", data) }
    }

    /// The item once somebody has queued it again, with all its attempts before it.
    pub fn retried(&self, now: Timestamp) -> Result<ItemChange, ItemRefusal> {
        match &self.state {
            ItemState::Failed { .. } | ItemState::Cancelled { .. } => {
                let next = self.to(ItemState::Queued { not_before: None }, now);
                let next = Item { attempts: 0, waits: 0, ..next };
                let event = NewEvent::new("project.item_retried", json!({ "item": self.id }));
                Ok(ItemChange { next, event })
            }
            ItemState::Queued { .. } | ItemState::Running { .. } | ItemState::Done { .. } => {
                Err(ItemRefusal::NotOver { id: self.id, state: self.state.as_str() })
            }
        }
    }

    /// The wait after so many attempts, spread by up to a quarter.
    fn after_backoff(&self, times: u32, now: Timestamp, dice: f64) -> Timestamp {
        let doublings = times.saturating_sub(1).min(20);
        let wait = self.wish.backoff_ms.saturating_mul(1 << doublings);
        let wait = Duration::from_millis(wait).min(BACKOFF_MAX);
        now.checked_add(wait.mul_f64(1.0 + dice.clamp(0.0, 1.0) / 4.0)).unwrap_or(Timestamp::MAX)
    }
}

fn kept(text: &str) -> String {
    let text = if text.contains('\0') { text.replace('\0', "") } else { text.to_owned() };
    match text.char_indices().nth(KEPT_TEXT_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn item(max_attempts: u32) -> Item {
        let wish = ItemWish {
            assistant: None,
            args: Vec::new(),
            prompt: Some("do it".into()),
            env: Vec::new(),
            name: None,
            priority: 0,
            max_attempts,
            backoff_ms: 1000,
            waits_for_reset: true,
            not_before: None,
            timeout_seconds: None,
            headless: Headless::default(),
            session: None,
        };
        let id = ItemId::from_entropy([1; 16]);
        Item::new(id, ProjectId::from_entropy([2; 16]), wish, "ada".into(), at(0)).0
    }

    fn begun(item: &Item, number: u8) -> Item {
        let session = SessionId::from_entropy([number; 16]);
        item.begun(RunnerId::from_entropy([number; 16]), session, at(1)).next
    }

    fn failure() -> RunOutcome {
        RunOutcome::Failed { why: "exit 1".into() }
    }

    #[test]
    fn an_item_is_tried_as_often_as_it_may_with_longer_and_longer_waits() {
        let mut now = item(3);
        for (attempt, wait) in [(1, 1), (2, 2)] {
            now = begun(&now, attempt);
            now = now.settled(&failure(), at(10), 0.0).next;
            assert_eq!(now.state.not_before(), Some(at(10 + wait)), "attempt {attempt}");
        }
        let last = begun(&now, 3).settled(&failure(), at(10), 0.0);
        assert_eq!((last.next.state.as_str(), last.event.kind), ("failed", "project.item_failed"));
        let again = last.next.retried(at(11)).unwrap().next;
        assert_eq!((again.attempts, again.state.as_str()), (0, "queued"));
    }

    #[test]
    fn a_rate_limit_is_waited_for_and_is_no_attempt() {
        let one = begun(&item(1), 1);
        let limited = RunOutcome::RateLimited { why: "limit".into(), resets_at: Some(at(5000)) };
        let waits = one.settled(&limited, at(10), 0.5).next;
        assert_eq!((waits.state.not_before(), waits.attempts), (Some(at(5000)), 0));
        // What is told too late or not at all is waited for as after a failure.
        let untold = RunOutcome::RateLimited { why: "limit".into(), resets_at: Some(at(9)) };
        let twice = begun(&waits, 2).settled(&untold, at(10), 0.0).next;
        assert_eq!((twice.state.not_before(), twice.waits), (Some(at(12)), 2));
        let over = one.settled(&untold, at(10), 0.0).next;
        assert_eq!(over.state.not_before(), Some(at(10)), "it is over already");
        let session = twice.session;
        assert!(session.is_some(), "it goes on in its conversation");
        let wish = ItemWish { waits_for_reset: false, ..one.wish.clone() };
        let fails = Item { wish, ..one }.settled(&limited, at(10), 0.0).next;
        assert_eq!(fails.state.as_str(), "failed", "unless it is not to wait");
    }

    #[test]
    fn what_somebody_stopped_or_a_limit_ended_is_not_tried_again() {
        let one = begun(&item(9), 1);
        for outcome in [
            RunOutcome::Stopped { why: "stopped by ada".into() },
            RunOutcome::LimitReached { what: "max_turns".into() },
        ] {
            assert_eq!(one.settled(&outcome, at(10), 0.0).next.state.as_str(), "failed");
        }
    }

    #[test]
    fn what_runs_is_cancelled_once_its_runner_has_ended_however_it_did() {
        let asked = begun(&item(9), 1).cancel("bob".into(), at(5)).unwrap().next;
        assert_eq!(asked.state.as_str(), "running");
        for outcome in [RunOutcome::Done { text: "x".into() }, failure(), RunOutcome::TimedOut] {
            let over = asked.settled(&outcome, at(10), 0.0).next;
            assert_eq!(over.state, ItemState::Cancelled { by: "bob".into(), at: at(10) });
            assert!(over.cancel("eve".into(), at(11)).is_err());
        }
        let queued = item(1).cancel("bob".into(), at(5)).unwrap().next;
        assert_eq!(queued.state.as_str(), "cancelled");
        assert!(begun(&item(1), 1).retried(at(5)).is_err());
    }
}
