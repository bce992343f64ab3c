//! What is not kept for ever: the directories of runners that ended long ago.
//!
//! Their rows and events stay; it is the output that takes the space.
//!
//! Invariant: only what the store knows to have ended on this host, longer ago than is kept, is
//! removed. A directory that the store does not know is left alone, whatever its age.
//! Invariant: what is removed is recorded before it is gone.

use std::time::Duration;

use serde_json::json;
use stratavore_core::RunnerId;
use stratavore_core::caller::Caller;
use stratavore_core::event::NewEvent;
use stratavore_core::runner::Runner;
use stratavore_store::StoreError;

use crate::control::Control;
use crate::error::Error;

/// The most directories that one event tells of.
const BATCH: usize = 500;

impl Control {
    /// The periodic task: removes the directories of runners that ended too long ago.
    pub(crate) async fn remove_old(&self) -> Result<String, Error> {
        let (runtime, keep) = (self.inner.runtime.clone(), self.inner.settings.keep_ended);
        let untouched = tokio::task::spawn_blocking(move || runtime.untouched_for(keep));
        let untouched = untouched.await.map_err(Error::internal)?.map_err(Error::internal)?;
        let mut old = Vec::new();
        for id in untouched {
            if self.ended_long_ago(id).await? {
                old.push(id);
            }
        }
        let mut removed = 0;
        for batch in old.chunks(BATCH) {
            let data = json!({ "runners": batch, "kept_for_s": keep.as_secs() });
            let event = NewEvent::new("node.runners_removed", data);
            let by = self.by(&Caller::daemon(), None);
            self.inner.store.node_event(self.inner.node.id, &event, &by, self.now()).await?;
            self.inner.relay_wake.notify_one();
            for &id in batch {
                let runtime = self.inner.runtime.clone();
                let gone = tokio::task::spawn_blocking(move || runtime.remove(id)).await;
                match gone.map_err(Error::internal)? {
                    Ok(true) => removed += 1,
                    Ok(false) => {
                        tracing::warn!(runner = %id, "something of an ended runner lives; its directory stays")
                    }
                    Err(error) => {
                        tracing::warn!(runner = %id, %error, "could not remove the directory of an ended runner")
                    }
                }
            }
        }
        Ok(format!("{removed} directories of ended runners removed"))
    }

    /// Refuses if the runner's directory is no longer kept. One that is gone for another reason has
    /// no output.
    pub fn has_output(&self, runner: &Runner) -> Result<(), Error> {
        if !self.is_past_keeping(runner) || self.inner.runtime.dir(runner.id).exists() {
            return Ok(());
        }
        Err(Error::Absent {
            message: format!("the output of {} is no longer kept", runner.name),
            hint:
                "runner.keep_ended of the configuration says how long it is: stratavore config show"
                    .into(),
        })
    }

    async fn ended_long_ago(&self, id: RunnerId) -> Result<bool, Error> {
        match self.inner.store.runner_get(id).await {
            Ok(runner) => Ok(runner.node == self.inner.node.id && self.is_past_keeping(&runner)),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn is_past_keeping(&self, runner: &Runner) -> bool {
        let keep = self.inner.settings.keep_ended;
        let kept_for = |at| Duration::try_from(self.now().duration_since(at)).unwrap_or_default();
        runner.state.ended().is_some_and(|(_, at)| kept_for(at) >= keep)
    }
}
