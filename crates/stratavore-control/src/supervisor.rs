//! Everything that runs in the background, waited for at the end.
//!
//! Invariant: nothing is spawned that nobody waits for; a stop has a deadline.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use stratavore_core::clock::Clock;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::daemon::TaskStatus;
use crate::error::Error;

/// When a task runs.
#[derive(Debug)]
pub(crate) struct Pace {
    period: Duration,
    wake: Arc<Notify>,
    first: Duration,
}

impl Pace {
    /// At once, and then this often.
    pub(crate) fn every(period: Duration) -> Self {
        Self { period, wake: Arc::default(), first: Duration::ZERO }
    }

    /// Also whenever this is notified.
    pub(crate) fn or_when(self, wake: &Arc<Notify>) -> Self {
        Self { wake: wake.clone(), ..self }
    }

    /// The first time so much later: what tidies up need not keep from answering who asks.
    pub(crate) fn first_after(self, first: Duration) -> Self {
        Self { first, ..self }
    }
}

/// Spawns tasks and ends them.
#[derive(Clone)]
pub struct Supervisor {
    tasks: TaskTracker,
    stop: CancellationToken,
    status: Arc<Mutex<BTreeMap<&'static str, TaskStatus>>>,
    clock: Arc<dyn Clock>,
}

impl Supervisor {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            status: Arc::default(),
            clock,
        }
    }

    /// Is cancelled when the daemon is to stop.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Runs `future` to its end, whoever loses interest in it. It watches [`Self::stopping`]
    /// itself if it could take long.
    pub fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(future)
    }

    /// Runs a write in a task of its own: a client that goes away does not cut it in half.
    pub async fn detached<T, F>(&self, future: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        if self.stop.is_cancelled() {
            return Err(Error::Stopping);
        }
        self.tasks.spawn(future).await.map_err(Error::internal)?
    }

    /// Runs `activate` at the pace.
    ///
    /// An activation takes no input and does no retries: the next one is the retry. A wake during
    /// a run is not lost, because a `Notify` keeps one permit.
    pub(crate) fn spawn_task<R, F>(&self, name: &'static str, pace: Pace, mut activate: R)
    where
        R: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<String, Error>> + Send + 'static,
    {
        let this = self.clone();
        let Pace { period, wake, first } = pace;
        self.tasks.spawn(async move {
            let mut ticks = tokio::time::interval_at(Instant::now() + first, period);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    biased;
                    () = this.stop.cancelled() => return,
                    _ = ticks.tick() => {}
                    () = wake.notified() => {}
                }
                let result = activate().await;
                this.ran(name, result);
            }
        });
    }

    fn ran(&self, name: &'static str, result: Result<String, Error>) {
        let now: Timestamp = self.clock.now();
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = status.entry(name).or_insert_with(|| TaskStatus::new(name));
        entry.runs += 1;
        entry.ran_at = Some(now);
        match result {
            Ok(report) => {
                entry.report = report;
                entry.error = None;
            }
            Err(error) => {
                let text = chain(&error);
                // Said once when it begins, not at every repetition.
                if entry.error.as_ref() != Some(&text) {
                    tracing::error!(task = name, error = %text, "background task failed");
                }
                entry.error = Some(text);
            }
        }
    }

    pub fn status(&self) -> Vec<TaskStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Stops all tasks and waits for them, up to `grace`. True if all ended.
    pub async fn stop(&self, grace: Duration) -> bool {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(grace, self.tasks.wait()).await.is_ok()
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
