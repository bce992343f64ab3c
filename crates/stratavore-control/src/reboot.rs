//! After the host has booted: what ran on it before is lost, all of it at once.

use std::time::Duration;

use stratavore_core::caller::Caller;
use stratavore_core::reconcile::{Action, decide};
use stratavore_core::runner::{Input, Outcome};
use stratavore_store::{RunnerFilter, RunnerWrite};

use crate::control::Control;
use crate::error::Error;

impl Control {
    /// Writes off what ran before the host booted, in one transaction: nobody sees half of it, and
    /// quotas are free again before anything new is asked for. Answers how many runners it was.
    ///
    /// What this leaves, such as a runner whose end was noted just before, the watches look after.
    pub(crate) async fn write_off_before_boot(&self) -> Result<usize, Error> {
        let filter = RunnerFilter {
            live_only: true,
            node: Some(self.inner.node.id),
            ..RunnerFilter::default()
        };
        let live = self.inner.store.runner_list(&filter).await?;
        let runtime = self.inner.runtime.clone();
        let look = tokio::task::spawn_blocking(move || {
            let looked = live.into_iter().map(|(runner, _)| {
                let found = runtime.find(runner.id, Some(&runner));
                found.map(|discovery| (runner, discovery.found))
            });
            looked.collect::<Result<Vec<_>, _>>()
        });
        let looked = look.await.map_err(Error::internal)?.map_err(Error::internal)?;
        let now = self.now();
        let mut lost = Vec::new();
        for (runner, found) in looked {
            let context = self.context(Some(&runner), runner.id, Duration::ZERO);
            let Action::Apply(input @ Input::HostRebooted { .. }) =
                decide(Some(&runner), &found, &context)
            else {
                continue;
            };
            if let Outcome::Changed(next, event) = runner.apply(input, now, &self.backoff())? {
                lost.push((runner, *next, event));
            }
        }
        let writes: Vec<RunnerWrite<'_>> = lost
            .iter()
            .map(|(seen, next, event)| RunnerWrite { seen, next, event: event.clone() })
            .collect();
        self.inner.store.runners_write(&writes, &self.by(&Caller::daemon(), None)).await?;
        for (_, next, _) in &lost {
            self.changed(next);
        }
        Ok(lost.len())
    }
}
