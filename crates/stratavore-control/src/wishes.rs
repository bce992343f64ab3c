//! Wishes that another daemon has written down.
//!
//! Every daemon answers every request, and only a daemon of its own host may touch a runner. So
//! what was wished elsewhere is found here by its event, a little later.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stratavore_core::RunnerId;
use stratavore_core::event::EventFilter;
use stratavore_store::{RunnerFilter, StoreError};

use crate::control::Control;
use crate::error::Error;

/// How often other daemons' wishes are looked for.
pub(crate) const WISHES_EVERY: Duration = Duration::from_secs(1);
const KINDS: [&str; 4] =
    ["runner.stopping", "runner.restarting", "runner.paused", "runner.unpaused"];
const PAGE: u32 = 500;

impl Control {
    /// The periodic task of daemons that share a store: carries out what was wished for runners of
    /// this host since the last look, whoever wrote it down.
    pub(crate) async fn carry_out_wishes(&self) -> Result<String, Error> {
        let store = &self.inner.store;
        // Before the look: what comes meanwhile is found by the next one too.
        let upto = store.event_last_position().await?;
        let seen = self.inner.wishes_seen.load(Ordering::Relaxed);
        let wished = match seen {
            ..0 => self.stopping_here().await?,
            seen => match self.wished(seen).await {
                // It has not looked for longer than events are kept.
                Err(Error::Store(StoreError::Trimmed { .. })) => self.stopping_here().await?,
                wished => wished?,
            },
        };
        let mut of_this_host = 0;
        for id in wished {
            match store.runner_get(id).await {
                Ok(runner) if runner.node == self.inner.node.id => {
                    of_this_host += 1;
                    self.converge(&runner);
                }
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.inner.wishes_seen.store(upto, Ordering::Relaxed);
        Ok(format!("{of_this_host} wishes for runners of this host"))
    }

    /// Runners about which something was wished after this position.
    async fn wished(&self, mut after: i64) -> Result<BTreeSet<RunnerId>, Error> {
        let kinds = KINDS.map(str::to_owned).to_vec();
        let filter = EventFilter { kinds, ..EventFilter::default() };
        let mut wished = BTreeSet::new();
        loop {
            let events = self.inner.store.event_list(after, &filter, PAGE).await?;
            wished
                .extend(events.iter().filter_map(|event| event.entity_id.parse::<RunnerId>().ok()));
            match events.last().and_then(|event| event.position) {
                Some(position) if events.len() == PAGE as usize => after = position,
                Some(_) | None => return Ok(wished),
            }
        }
    }

    /// What was to stop before this daemon looked for the first time.
    async fn stopping_here(&self) -> Result<BTreeSet<RunnerId>, Error> {
        let filter = RunnerFilter {
            live_only: true,
            node: Some(self.inner.node.id),
            states: vec!["stopping".into()],
            ..RunnerFilter::default()
        };
        let stopping = self.inner.store.runner_list(&filter).await?;
        Ok(stopping.into_iter().map(|(runner, _)| runner.id).collect())
    }
}
