//! Destinations of events, as people ask for them.

pub(crate) mod duty;
mod pump;
mod queues;
mod rabbit;
mod rotation;
mod window;

use std::time::Duration;

use stratavore_core::alert::Alert;
use stratavore_core::caller::Caller;
use stratavore_core::destination::{Backlog, DeadLetter, Destination, Health, Retry};
use stratavore_core::event::Event;
use stratavore_core::notify::{Channel, Severity};

use crate::alert::of_cluster;
use crate::control::Control;
use crate::error::Error;
use crate::notify;
use crate::project::nearest;

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
        let (here, by) = (self.here(), self.by(caller, None));
        let asked = self.inner.store.dead_letter_retry(&which, here, &by, self.now()).await?;
        self.inner.relay_wake.notify_one();
        self.inner.outbox_wake.notify_one();
        Ok(asked)
    }

    /// Forgets a destination that no daemon delivers to, with what was set aside for it. Answers what it
    /// has not got.
    pub async fn destination_forget(&self, caller: &Caller, name: &str) -> Result<Backlog, Error> {
        self.may_change(caller, "forget destinations")?;
        let known = self.destinations_as_they_are().await?;
        let Some((found, _)) = known.iter().find(|(found, _)| found.name == name) else {
            let names = known.into_iter().map(|(found, _)| found.name).collect();
            let nearest = nearest(name, names);
            return Err(Error::NotFound { noun: "destination", wanted: name.into(), nearest });
        };
        if Channel::KINDS.contains(&found.kind.as_str()) {
            return Err(Error::invalid(
                format!("{name} was defined by people"),
                format!("remove it as it was added: stratavore notify remove {name}"),
            ));
        }
        // Not the seat, by which this daemon delivers: what it has itself it does not get here.
        let (store, me) = (&self.inner.store, self.inner.daemon.id);
        let Some(lease) = store.lease_acquire(&duty(name), me, rabbit::TERM.ttl).await? else {
            return Err(Error::invalid(
                format!("a daemon delivers to {name}, or did some seconds ago"),
                "take `bus.url` out of the configuration of every daemon, restart them, and try again",
            ));
        };
        let by = self.by(caller, None);
        let left = store.destination_forget(name, Some(&lease), self.here(), &by, self.now()).await;
        store.lease_release(&lease).await?;
        self.inner.relay_wake.notify_one();
        Ok(left?)
    }
}
