//! Stopping runners that have been idle for longer than their limit. What is idle is for
//! `stratavore_core::runner` to say.
//!
//! Invariant: a runner that somebody is attached to is not stopped for being idle.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stratavore_core::caller::Caller;
use stratavore_core::runner::{After, IDLE_STOPPER, Input, Runner, RunnerState, Stop};
use stratavore_core::{RunnerId, Timestamp};
use stratavore_store::StoreError;

use crate::control::Control;
use crate::error::Error;
use crate::supervisor::chain;

/// How often it is looked whose time is over. Nothing is asked of the store while nobody's is.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The runners of this host that are idle and have a limit, and when it is over.
#[derive(Debug, Default)]
pub(crate) struct Idle(Mutex<BTreeMap<RunnerId, Timestamp>>);

impl Idle {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunnerId, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control {
    /// Remembers a runner that is idle and may not be so for ever, or forgets one that is not.
    pub(crate) fn keep_idle(&self, runner: &Runner) {
        let mut idle = self.inner.idle.lock();
        match runner.idle_until() {
            Some(until) => drop(idle.insert(runner.id, until)),
            None => drop(idle.remove(&runner.id)),
        }
    }

    /// The task: stops those whose time is over.
    pub(crate) async fn stop_idle(&self) -> Result<String, Error> {
        // A clock that is set forward makes nobody idle for longer.
        let now = self.now_for_expiry();
        let due: Vec<RunnerId> = {
            let idle = self.inner.idle.lock();
            idle.iter().filter(|(_, until)| **until <= now).map(|(id, _)| *id).collect()
        };
        let mut stopped = 0;
        for id in due {
            match self.stop_if_idle(id, now).await {
                Ok(done) => stopped += usize::from(done),
                Err(error) => {
                    tracing::warn!(runner = %id, error = %chain(&error), "could not stop a runner that is idle; will try again")
                }
            }
        }
        Ok(format!("{stopped} stopped that were idle for too long"))
    }

    /// Whether somebody is attached to a runner of this host; `None`: its agent has not told yet.
    pub(crate) fn is_watched(&self, id: RunnerId) -> Option<bool> {
        Some(self.latest_liveness(id)?.viewers > 0)
    }

    async fn stop_if_idle(&self, id: RunnerId, now: Timestamp) -> Result<bool, Error> {
        if self.is_watched(id) != Some(false) {
            return Ok(false);
        }
        let runner = match self.inner.store.runner_get(id).await {
            Ok(runner) => runner,
            Err(StoreError::NotFound { .. }) => {
                self.inner.idle.lock().remove(&id);
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let grace_ms = self.inner.settings.grace.as_millis() as u64;
        let stop = Stop { by: IDLE_STOPPER.into(), grace_ms, force: false, after: After::End };
        let input = Input::Idle { epoch: runner.epoch, at: now, stop };
        let after = self.apply(id, input, &Caller::daemon(), None).await?;
        self.keep_idle(&after);
        Ok(matches!(after.state, RunnerState::Stopping { .. }))
    }
}
