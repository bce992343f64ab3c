//! Checkpoints as events, so that they reach whoever is given events: the broker and every other destination
//! are places outside of the database.
//!
//! Invariant: the event of a checkpoint is no reason to tell of another one. A record in which nothing
//! else happens comes to rest.
//! Invariant: a daemon tells of at most one checkpoint in the time between two that are due.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use stratavore_core::caller::Caller;
use stratavore_core::event::NewEvent;
use stratavore_core::lease::Lease;

use crate::control::Control;
use crate::error::Error;

/// The kind of their events.
const KIND: &str = "system.checkpoint";

/// What a sealer still has to tell of.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Telling {
    /// Something besides such events was sealed since the last checkpoint.
    sealed: bool,
    /// A checkpoint covers such, and nobody was told of it.
    signed: bool,
}

impl Telling {
    /// After whoever has sealed before, of whom nobody knows what they have told.
    pub(crate) fn unknown() -> Self {
        Self { sealed: true, signed: true }
    }

    pub(crate) fn sealed(&mut self, kind: Option<&str>) {
        self.sealed |= kind != Some(KIND);
    }

    pub(crate) fn signed(&mut self) {
        self.signed |= self.sealed;
        self.sealed = false;
    }

    fn told(&mut self) {
        self.signed = false;
    }
}

impl Control {
    /// Whether a checkpoint is to be told of now.
    pub(crate) fn is_to_tell(&self, telling: Telling) -> bool {
        let now = self.inner.clock.monotonic();
        telling.signed
            && now.saturating_sub(*self.told_at()) >= self.inner.settings.checkpoint_every
    }

    /// Tells of the checkpoint that covers most, if that is to be now.
    pub(crate) async fn tell_checkpoint(
        &self,
        lease: &Lease,
        telling: &mut Telling,
    ) -> Result<(), Error> {
        if !self.is_to_tell(*telling) {
            return Ok(());
        }
        if let Some(latest) = self.inner.store.audit_checkpoint_latest().await? {
            let event = NewEvent::new(KIND, json!({ "size": latest.size, "note": latest.note }));
            let by = self.by(&Caller::daemon(), None);
            self.inner.store.audit_tell(lease, self.here(), &event, &by, self.now()).await?;
            self.inner.relay_wake.notify_one();
        }
        telling.told();
        *self.told_at() = self.inner.clock.monotonic();
        Ok(())
    }

    fn told_at(&self) -> MutexGuard<'_, Duration> {
        self.inner.checkpoint_told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are told of if one thing happens, and so much time is given.
    fn told_of(rounds: usize, is_news: impl Fn(&str) -> bool) -> usize {
        let (mut telling, mut told) = (Telling::default(), 0);
        let mut published = vec!["runner.started"];
        for _ in 0..rounds {
            for kind in published.drain(..) {
                telling.sealed(if is_news(kind) { Some("runner.started") } else { Some(kind) });
            }
            telling.signed();
            if telling.signed {
                told += 1;
                telling.told();
                published.push(KIND);
            }
        }
        told
    }

    #[test]
    fn a_record_in_which_nothing_happens_comes_to_rest() {
        assert_eq!(told_of(1000, |_| false), 1);
        // The control: one that takes its own events for something that happened.
        assert_eq!(told_of(1000, |_| true), 1000);
    }

    #[test]
    fn who_takes_over_tells_once_more() {
        let mut telling = Telling::unknown();
        assert!(telling.signed);
        telling.told();
        telling.sealed(Some(KIND));
        // What was sealed before is not known.
        telling.signed();
        assert!(telling.signed);
        telling.told();
        telling.sealed(Some(KIND));
        telling.signed();
        assert!(!telling.signed);
    }
}
