//! The windows of subscriptions, and going on once one that was used up has begun anew.
//!
//! Invariant: an assistant is told to go on once for each limit, whichever daemon dies meanwhile.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stratavore_core::activity::Activity;
use stratavore_core::caller::Caller;
use stratavore_core::idempotency::Idempotency;
use stratavore_core::observation::{Observation, RateWindow};
use stratavore_core::runner::Runner;
use stratavore_core::window::{AfterLimit, Window};
use stratavore_core::{NodeId, RunnerId, Timestamp};
use stratavore_store::{Observed, RunnerFilter, StoreError};

use crate::control::Control;
use crate::error::Error;
use crate::prompt::Delivery;
use crate::session::inside;
use crate::supervisor::chain;

/// How often it is looked whether a limit is over.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// So long after the time that was told: clocks differ, and a request that comes early is refused for
/// another while.
const GRACE: Duration = Duration::from_secs(5);
/// What an assistant is told.
const GO_ON: &str = "The limit that stopped you is over. Go on from where you were.";

/// The runners of this host that go on by themselves, and from when on.
#[derive(Debug, Default)]
pub(crate) struct Limited(Mutex<BTreeMap<RunnerId, Timestamp>>);

impl Limited {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunnerId, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A window, and what its host is called.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowView {
    pub window: Window,
    pub host: String,
    pub is_over: bool,
}

/// When it is to go on, if it is to.
fn goes_on_at(runner: &Runner) -> Option<Timestamp> {
    let wanted = runner.command.after_limit == AfterLimit::Continue && !runner.is_terminal();
    let doing = runner.doing.as_ref().filter(|_| wanted && runner.command.headless.is_none())?;
    match doing.activity {
        Activity::RateLimited => doing.resets_at?.checked_add(GRACE).ok(),
        Activity::Unknown
        | Activity::Working
        | Activity::Idle
        | Activity::NeedsInput
        | Activity::NeedsPermission => None,
    }
}

impl Control {
    /// The windows that are known, by assistant and host. A program inside a runner sees what its own
    /// assistant was told.
    pub async fn window_list(
        &self,
        caller: &Caller,
        assistant: Option<&str>,
    ) -> Result<Vec<WindowView>, Error> {
        let inside = inside(caller);
        let now = self.now();
        let nodes: BTreeMap<NodeId, String> =
            self.nodes().await?.into_iter().map(|node| (node.id, node.hostname)).collect();
        let mut windows = self.inner.store.window_list().await?;
        windows.retain(|window| {
            assistant.is_none_or(|name| window.assistant.as_str() == name)
                && inside.is_none_or(|runner| window.runner == runner)
        });
        let view = |window: Window| WindowView {
            host: nodes.get(&window.node).cloned().unwrap_or_default(),
            is_over: window.is_over(now),
            window,
        };
        Ok(windows.into_iter().map(view).collect())
    }

    /// Keeps what an ended run has told of windows.
    pub(crate) async fn windows_told(
        &self,
        runner: &Runner,
        windows: Vec<RateWindow>,
    ) -> Result<(), Error> {
        if windows.is_empty() {
            return Ok(());
        }
        let observations: Vec<_> = windows.into_iter().map(Observation::Window).collect();
        let batch = Observed {
            assistant: &runner.command.assistant,
            node: self.inner.node.id,
            project: Some(runner.project),
            runner: Some(runner.id),
            epoch: Some(runner.epoch),
            follow: None,
            observations: &observations,
            price: &|_, _, _| None,
            now: self.now(),
        };
        let by = self.by(&Caller::agent(runner.id), None);
        self.inner.store.observed(&batch, by).await?;
        Ok(())
    }

    /// Remembers a runner that is to go on, or forgets one that is not.
    pub(crate) fn keep_limited(&self, runner: &Runner) {
        let mut limited = self.inner.limited.lock();
        match goes_on_at(runner) {
            Some(at) => drop(limited.insert(runner.id, at)),
            None => drop(limited.remove(&runner.id)),
        }
    }

    /// Remembers those that were limited, or idle, when the daemon before this one ended.
    pub(crate) async fn find_limited(&self) -> Result<(), Error> {
        let here = RunnerFilter {
            node: Some(self.inner.node.id),
            live_only: true,
            ..RunnerFilter::default()
        };
        for (runner, _) in self.inner.store.runner_list(&here).await? {
            self.keep_limited(&runner);
            self.keep_idle(&runner);
        }
        Ok(())
    }

    /// The task: tells those to go on whose limit is over.
    pub(crate) async fn go_on_after_limits(&self) -> Result<String, Error> {
        let now = self.now();
        let due: Vec<RunnerId> = {
            let limited = self.inner.limited.lock();
            limited.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect()
        };
        let mut told = 0;
        for id in due {
            match self.go_on(id, now).await {
                Ok(done) => told += usize::from(done),
                Err(error) => {
                    tracing::warn!(runner = %id, error = %chain(&error), "could not tell an assistant to go on after its limit; will try again")
                }
            }
        }
        Ok(format!("{told} told to go on"))
    }

    async fn go_on(&self, id: RunnerId, now: Timestamp) -> Result<bool, Error> {
        let runner = match self.inner.store.runner_get(id).await {
            Ok(runner) => runner,
            Err(StoreError::NotFound { .. }) => {
                self.inner.limited.lock().remove(&id);
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let Some(at) = goes_on_at(&runner).filter(|at| *at <= now) else {
            self.keep_limited(&runner);
            return Ok(false);
        };
        // Of one limit there is one prompt.
        let name = format!("after-limit-{id}-{}-{}", runner.epoch, at.as_microsecond());
        let key = Idempotency::new(name, [0; 32]).map_err(Error::internal)?;
        let delivery = Delivery { into_turn: true, ..Delivery::default() };
        self.prompt(&Caller::daemon(), id, GO_ON.into(), delivery, Some(key)).await?;
        let mut limited = self.inner.limited.lock();
        // It may have met the next limit by now.
        if limited.get(&id) == Some(&at) {
            limited.remove(&id);
        }
        Ok(true)
    }
}
