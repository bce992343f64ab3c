//! Heartbeats: kept in memory as they come, written to the store in a batch now and then.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use stratavore_core::RunnerId;
use stratavore_core::liveness::Liveness;

use crate::control::Control;
use crate::error::Error;

/// The most heartbeats in one statement.
const BATCH: usize = 1000;

/// The latest heartbeat of a runner, and how fast it has printed since the one before, in bytes a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard {
    liveness: Liveness,
    output_rate: Option<u64>,
}

/// How fast it has printed in between; `None` if that cannot be said.
fn output_rate(before: &Liveness, now: &Liveness) -> Option<u64> {
    let passed = u64::try_from(now.at.duration_since(before.at).as_millis()).ok()?;
    let printed = now.output_bytes.checked_sub(before.output_bytes)?;
    printed.saturating_mul(1000).checked_div(passed)
}

impl Control {
    fn heard(&self) -> MutexGuard<'_, HashMap<RunnerId, Heard>> {
        self.inner.liveness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keep_liveness(&self, liveness: Liveness) {
        let mut heard = self.heard();
        let before = heard.get(&liveness.runner);
        let output_rate = before.and_then(|before| output_rate(&before.liveness, &liveness));
        heard.insert(liveness.runner, Heard { liveness, output_rate });
    }

    pub(crate) fn latest_liveness(&self, runner: RunnerId) -> Option<Liveness> {
        self.heard().get(&runner).map(|heard| heard.liveness)
    }

    /// How fast a runner of this host prints, in bytes a second.
    pub(crate) fn output_rate(&self, runner: RunnerId) -> Option<u64> {
        self.heard().get(&runner)?.output_rate
    }

    pub(crate) fn forget_liveness(&self, runner: RunnerId) {
        self.heard().remove(&runner);
    }

    /// The periodic task: the store gets what is known, also that this daemon lives.
    pub(crate) async fn flush_liveness(&self) -> Result<String, Error> {
        let latest: Vec<Liveness> = self.heard().values().map(|heard| heard.liveness).collect();
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

#[cfg(test)]
mod tests {
    use stratavore_core::Timestamp;

    use super::*;

    fn beat(second: i64, output_bytes: u64) -> Liveness {
        Liveness {
            runner: RunnerId::from_entropy([1; 16]),
            epoch: 1,
            at: Timestamp::from_second(second).unwrap(),
            cpu_ms: 0,
            memory: 0,
            processes: 1,
            output_bytes,
            output_at: None,
            viewers: 0,
        }
    }

    #[test]
    fn how_fast_it_prints_is_what_came_between_two_heartbeats() {
        assert_eq!(output_rate(&beat(10, 100), &beat(20, 100)), Some(0));
        assert_eq!(output_rate(&beat(10, 100), &beat(20, 50_100)), Some(5000));
        // A clock that was set back, no time in between, or a log that begins anew.
        for (before, now) in
            [(beat(20, 0), beat(10, 9)), (beat(9, 0), beat(9, 9)), (beat(1, 9), beat(2, 0))]
        {
            assert_eq!(output_rate(&before, &now), None);
        }
    }
}
