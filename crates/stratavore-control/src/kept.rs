//! Keeping the recorded output of all runners of this host within its limit. What goes first is for
//! `stratavore_core::kept` to say.
//!
//! Invariant: only output of runners that the store knows to be of this host is removed.
//! Invariant: what is removed is recorded before it is gone.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use stratavore_core::RunnerId;
use stratavore_core::caller::Caller;
use stratavore_core::event::NewEvent;
use stratavore_core::kept::{Kept, Removed, of_ended, of_live};
use stratavore_store::StoreError;

use crate::control::Control;
use crate::error::Error;

/// How often it is looked how much is kept. What is written in between may be too much for so long.
pub const OUTPUT_EVERY: Duration = Duration::from_secs(60);
/// The most runners that one event tells of.
const BATCH: usize = 500;

/// How much output is kept on this host, as it was seen last.
#[derive(Debug, Default)]
pub(crate) struct KeptOutput(AtomicU64);

impl Control {
    /// How much output is kept, as it was seen last, and of how much at most; `None` without a limit.
    pub(crate) fn kept_output(&self) -> Option<(u64, u64)> {
        let max = self.inner.settings.output_host_max?;
        Some((self.inner.kept_output.0.load(Ordering::Relaxed), max))
    }

    /// The task: removes what is too much of `max` bytes.
    pub(crate) async fn hold_output(&self, max: u64) -> Result<String, Error> {
        let runtime = self.inner.runtime.clone();
        let found = tokio::task::spawn_blocking(move || runtime.kept_output());
        let found = found.await.map_err(Error::internal)?.map_err(Error::internal)?;
        let before: u64 = found.iter().map(|(kept, _)| kept.bytes()).sum();
        let removed = match before.checked_sub(max) {
            Some(over) if over > 0 => self.too_much(found, over).await?,
            Some(_) | None => Vec::new(),
        };
        for batch in removed.chunks(BATCH) {
            self.remove_output(batch, max).await?;
        }
        let gone: u64 = removed.iter().map(|removed| removed.bytes).sum();
        self.inner.kept_output.0.store(before - gone, Ordering::Relaxed);
        Ok(format!("{} bytes kept of at most {max}, {gone} removed", before - gone))
    }

    /// Those that have ended give first, who ended longest ago before the others.
    async fn too_much(
        &self,
        found: Vec<(Kept, Duration)>,
        mut over: u64,
    ) -> Result<Vec<Removed>, Error> {
        let lives = self.inner.store.runner_live_ids(self.inner.node.id).await?;
        let lives: HashSet<RunnerId> = lives.into_iter().collect();
        let (live, mut ended): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(kept, _)| lives.contains(&kept.runner));
        ended.sort_by_key(|(_, age)| std::cmp::Reverse(*age));
        let mut removed = Vec::new();
        for (kept, _) in ended {
            if over == 0 {
                return Ok(removed);
            }
            let Some(goes) = of_ended(&kept, over) else { continue };
            if self.has_ended_here(kept.runner).await? {
                over = over.saturating_sub(goes.bytes);
                removed.push(goes);
            }
        }
        let live: Vec<Kept> = live.into_iter().map(|(kept, _)| kept).collect();
        removed.extend(of_live(&live, over));
        Ok(removed)
    }

    async fn has_ended_here(&self, id: RunnerId) -> Result<bool, Error> {
        match self.inner.store.runner_get(id).await {
            Ok(runner) => Ok(runner.node == self.inner.node.id && runner.is_terminal()),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn remove_output(&self, removed: &[Removed], max: u64) -> Result<(), Error> {
        let told = removed.iter().map(
            |removed| json!({ "runner": removed.runner, "from": removed.from, "to": removed.to }),
        );
        let data = json!({ "output": told.collect::<Vec<_>>(), "limit_bytes": max });
        let event = NewEvent::new("node.output_removed", data);
        let by = self.by(&Caller::daemon(), None);
        self.inner.store.node_event(self.inner.node.id, &event, &by, self.now()).await?;
        self.inner.relay_wake.notify_one();
        let (runtime, removed) = (self.inner.runtime.clone(), removed.to_vec());
        let gone = tokio::task::spawn_blocking(move || {
            removed.iter().try_for_each(|removed| runtime.remove_output(removed))
        });
        gone.await.map_err(Error::internal)?.map_err(Error::internal)
    }
}
