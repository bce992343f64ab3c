//! Heartbeats: kept in memory as they come, written to the store in a batch now and then.

use std::sync::PoisonError;

use stratavore_core::RunnerId;
use stratavore_core::liveness::Liveness;

use crate::control::Control;
use crate::error::Error;

/// The most heartbeats in one statement.
const BATCH: usize = 1000;

impl Control {
    pub(crate) fn keep_liveness(&self, liveness: Liveness) {
        let mut latest = self.inner.liveness.lock().unwrap_or_else(PoisonError::into_inner);
        latest.insert(liveness.runner, liveness);
    }

    pub(crate) fn latest_liveness(&self, runner: RunnerId) -> Option<Liveness> {
        self.inner.liveness.lock().unwrap_or_else(PoisonError::into_inner).get(&runner).copied()
    }

    pub(crate) fn forget_liveness(&self, runner: RunnerId) {
        self.inner.liveness.lock().unwrap_or_else(PoisonError::into_inner).remove(&runner);
    }

    /// The periodic task: the store gets what is known, also that this daemon lives.
    pub(crate) async fn flush_liveness(&self) -> Result<String, Error> {
        let latest: Vec<Liveness> = {
            let latest = self.inner.liveness.lock().unwrap_or_else(PoisonError::into_inner);
            latest.values().copied().collect()
        };
        for batch in latest.chunks(BATCH) {
            self.inner.store.liveness_record(batch).await?;
        }
        // What is known of an agent that is gone is in the store now.
        let gone = |liveness: &Liveness| !self.inner.links.is_connected(liveness.runner);
        let gone: Vec<_> = latest
            .iter()
            .filter(|liveness| gone(liveness))
            .map(|liveness| liveness.runner)
            .collect();
        for runner in gone {
            self.forget_liveness(runner);
        }
        self.inner.store.daemon_seen(self.inner.daemon.id, self.now()).await?;
        self.store_works();
        Ok(format!("{} heartbeats", latest.len()))
    }
}
