//! Destinations of events, as people ask for them.

pub(crate) mod duty;
mod pump;
mod queues;
mod rabbit;
mod rotation;
mod window;

use std::time::Duration;

use serde_json::json;
use stratavore_core::DeadLetterId;
use stratavore_core::alert::Alert;
use stratavore_core::caller::Caller;
use stratavore_core::destination::{Backlog, DeadLetter, Destination, Health};
use stratavore_core::event::Event;
use stratavore_core::notify::{Channel, Severity};
use stratavore_store::StoreError;

use crate::alert::of_cluster;
use crate::control::Control;
use crate::error::Error;
use crate::notify;

pub use rabbit::RabbitSettings;

const LIST_DEFAULT: u32 = 100;
const LIST_MAX: u32 = 1000;
/// How much longer than its time a lease is given before its holder is said to be gone.
const SLACK: Duration = Duration::from_secs(2);

/// The duty of delivering to a destination.
pub(crate) fn duty(destination: &str) -> String {
    format!("relay:{destination}")
}

impl Control {
    /// Every destination, how it is, and what it still has to get. What stands in the settings of one
    /// that people have defined is for them.
    pub async fn destinations(&self) -> Result<Vec<(Destination, Backlog)>, Error> {
        let mut found = self.destinations_as_they_are().await?;
        for (destination, _) in &mut found {
            if let Some(shown) = notify::shown(destination) {
                destination.settings = shown;
            }
        }
        Ok(found)
    }

    pub(crate) async fn destinations_as_they_are(
        &self,
    ) -> Result<Vec<(Destination, Backlog)>, Error> {
        let mut found = self.inner.store.destination_list().await?;
        for (destination, _) in &mut found {
            let lease = self.inner.store.lease_get(&duty(&destination.name)).await?;
            let alive = lease.is_some_and(|lease| lease.expires_at + SLACK > self.now());
            if !alive && destination.health != Health::Stopped && destination.enabled {
                // Who last wrote it down is gone without a word.
                destination.health = Health::Stopped;
                destination.problem = String::new();
            }
        }
        Ok(found)
    }

    /// What is wrong with destinations that are not well.
    pub(crate) async fn destination_problems(&self) -> Result<Vec<Alert>, Error> {
        let mut problems = Vec::new();
        for (destination, backlog) in self.destinations().await? {
            let Destination { name, kind, health, problem, enabled, .. } = destination;
            // Who turned it off knows.
            let is_meant = !enabled && problem.is_empty();
            if !is_meant && (health != Health::Connected || !problem.is_empty()) {
                let colon = if problem.is_empty() { "" } else { ": " };
                let (how, pending) = (health.as_str(), backlog.pending);
                let words =
                    format!("{name} is {how}{colon}{problem}; {pending} events wait for it");
                problems.push(of_cluster("destination", &name, Severity::Error, words));
            }
            if backlog.dead > 0 {
                let dead = backlog.dead;
                let words = match Channel::KINDS.contains(&kind.as_str()) {
                    true => format!(
                        "{dead} messages to {name} were given up: stratavore notify show {name}"
                    ),
                    false => format!("{name} does not take {dead} events: stratavore outbox dead"),
                };
                problems.push(of_cluster("destination_refuses", &name, Severity::Warning, words));
            }
        }
        Ok(problems)
    }

    /// Events that a destination (or any, if its name is empty) will not take, by position.
    pub async fn dead_letters(
        &self,
        destination: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(DeadLetter, Event)>, Error> {
        let limit = if limit == 0 { LIST_DEFAULT } else { limit.min(LIST_MAX) };
        Ok(self.inner.store.dead_letter_list(destination, after, limit).await?)
    }

    /// Has dead letters tried again: one, or all of a destination. Answers how many.
    pub async fn dead_letter_retry(&self, caller: &Caller, which: Retry) -> Result<u64, Error> {
        self.may_change(caller, "have events delivered again")?;
        let about = match &which {
            Retry::One(id) => json!({ "dead_letter": id }),
            Retry::All(destination) => json!({ "destination": destination }),
        };
        self.record(caller, "request.retry", about).await?;
        let now = self.now();
        let asked = match which {
            Retry::One(id) => {
                self.inner.store.dead_letter_retry(id, now).await?;
                1
            }
            Retry::All(destination) => {
                let known = self.inner.store.destination_list().await?;
                let mut asked = 0;
                for (found, _) in &known {
                    if destination.is_empty() || found.name == destination {
                        asked += self.inner.store.dead_letter_retry_all(&found.name, now).await?;
                    }
                }
                if !destination.is_empty() && !known.iter().any(|(d, _)| d.name == destination) {
                    let missing = StoreError::NotFound { noun: "destination", wanted: destination };
                    return Err(missing.into());
                }
                asked
            }
        };
        self.inner.outbox_wake.notify_one();
        Ok(asked)
    }
}

/// What is to be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retry {
    One(DeadLetterId),
    /// Of this destination, or of every one if the name is empty.
    All(String),
}
