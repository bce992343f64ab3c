//! Bringing the store and the host to agree.
//!
//! A connected agent needs no looking after: its connection proves that it lives. Every other
//! live runner has a watch, a task that looks (soon at first, then more and more rarely), asks
//! `stratavore_core::reconcile` what to do, does it, and ends when the agent is back or the runner
//! has ended.

use std::time::Duration;

use stratavore_core::RunnerId;
use stratavore_core::caller::Caller;
use stratavore_core::reconcile::{Action, Context, Found, decide};
use stratavore_core::runner::{Input, Runner, RunnerState, Stop};
use stratavore_runtime::Discovery;
use stratavore_runtime::socket::SocketError;
use stratavore_store::StoreError;

use crate::control::Control;
use crate::error::Error;
use crate::links::AgentCommand;
use crate::supervisor::chain;

const WATCH_FIRST: Duration = Duration::from_millis(10);
const WATCH_MAX: Duration = Duration::from_secs(5);
/// How long beyond its grace a stop may take before the agent is killed from outside.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// The same for a stop with force.
const FORCE_PATIENCE: Duration = Duration::from_secs(2);

/// How long an agent of an earlier run may hold the lock, beyond what a start waits for it.
const LEFT_BEHIND: Duration = Duration::from_secs(5);
/// How long an agent that was silent has to answer a last question.
const PROBE: Duration = Duration::from_millis(500);

/// What reconciling did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    pub looked_at: usize,
    /// One line for each thing that was done.
    pub actions: Vec<String>,
}

/// What a watch does after a look.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    LookAgain,
    Done,
}

impl Control {
    /// Looks at every runner of this host once, and says what it did about it.
    pub async fn reconcile(&self, caller: &Caller) -> Result<ReconcileReport, Error> {
        self.may_change(caller, "reconcile")?;
        self.record(caller, "request.reconcile", serde_json::json!({})).await?;
        let mut report = ReconcileReport::default();
        let mut wanted = self.inner.store.runner_live_ids(self.inner.node.id).await?;
        for id in self.strays().await? {
            if !wanted.contains(&id) {
                wanted.push(id);
            }
        }
        for id in wanted {
            report.looked_at += 1;
            if self.inner.links.is_connected(id) {
                continue;
            }
            match self.look(id, Duration::ZERO).await {
                Ok((Some(line), next)) => {
                    report.actions.push(format!("{id}: {line}"));
                    if next == Next::LookAgain {
                        self.watch(id);
                    }
                }
                Ok((None, Next::LookAgain)) => self.watch(id),
                Ok((None, Next::Done)) => {}
                Err(error) => report.actions.push(format!("{id}: {}", chain(&error))),
            }
        }
        Ok(report)
    }

    /// Runners that something is left of, whatever the store says: their lock is held, or
    /// processes carry their mark.
    pub(crate) async fn strays(&self) -> Result<Vec<RunnerId>, Error> {
        let runtime = self.inner.runtime.clone();
        let found = tokio::task::spawn_blocking(move || runtime.strays());
        found.await.map_err(Error::internal)?.map_err(Error::internal)
    }

    /// The periodic task: whatever lives and is not connected is being watched.
    pub(crate) async fn watch_all(&self) -> Result<String, Error> {
        let live = self.inner.store.runner_live_ids(self.inner.node.id).await?;
        let unconnected = live.iter().filter(|id| !self.inner.links.is_connected(**id));
        let watched = unconnected.map(|id| self.watch(*id)).count();
        Ok(format!("{} live, {watched} not connected", live.len()))
    }

    /// Looks after a runner whose agent is not connected, until it is or the runner has ended.
    pub(crate) fn watch(&self, id: RunnerId) {
        self.watch_silent(id, Duration::ZERO);
    }

    /// The same for a runner whose agent has not been heard of for `silent_for` already.
    pub(crate) fn watch_silent(&self, id: RunnerId, silent_for: Duration) {
        if self.inner.supervisor.stopping().is_cancelled() || !self.inner.links.begin_watch(id) {
            return;
        }
        let control = self.clone();
        self.inner.supervisor.spawn(async move {
            loop {
                control.watch_until_settled(id, silent_for).await;
                control.inner.links.end_watch(id);
                // Whoever wanted a watch between the last look and here found one, and went away.
                if !control.needs_watch(id).await || !control.inner.links.begin_watch(id) {
                    return;
                }
                tokio::time::sleep(WATCH_FIRST).await;
            }
        });
    }

    /// True for a live runner that nobody looks after.
    async fn needs_watch(&self, id: RunnerId) -> bool {
        let looked_after =
            || self.inner.links.is_connected(id) || self.inner.links.is_launching(id);
        if self.inner.supervisor.stopping().is_cancelled() || looked_after() {
            return false;
        }
        match self.inner.store.runner_get(id).await {
            Ok(runner) => !runner.is_terminal() && !looked_after(),
            // The periodic look at all runners comes back to it.
            Err(_) => false,
        }
    }

    async fn watch_until_settled(&self, id: RunnerId, silent_for: Duration) {
        let stopping = self.inner.supervisor.stopping();
        let began = self.inner.clock.monotonic();
        let mut wait = WATCH_FIRST;
        while !stopping.is_cancelled()
            && !self.inner.links.is_connected(id)
            && !self.inner.links.is_launching(id)
        {
            let disconnected_for = silent_for + self.inner.clock.monotonic().saturating_sub(began);
            match self.look(id, disconnected_for).await {
                Ok((line, next)) => {
                    if let Some(line) = line {
                        tracing::info!(runner = %id, "{line}");
                    }
                    if next == Next::Done {
                        return;
                    }
                }
                Err(error) => self.not_done(id, "could not look after a runner", &error),
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(WATCH_MAX);
        }
    }

    /// Looks at a runner once and does what the truth table says. Answers what was done, if
    /// anything worth telling was.
    async fn look(
        &self,
        id: RunnerId,
        disconnected_for: Duration,
    ) -> Result<(Option<String>, Next), Error> {
        if !self.has_host() {
            return Ok((None, Next::LookAgain));
        }
        let row = match self.inner.store.runner_get(id).await {
            Ok(runner) => Some(runner),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if row.as_ref().is_some_and(|runner| runner.node != self.inner.node.id) {
            return Ok((None, Next::Done));
        }
        let (runtime, seen) = (self.inner.runtime.clone(), row.clone());
        let discovery = tokio::task::spawn_blocking(move || runtime.find(id, seen.as_ref()));
        let mut discovery = discovery.await.map_err(Error::internal)?.map_err(Error::internal)?;
        if row.is_none() {
            // Counted from when this daemon first missed it: the directory may be old, and the
            // database another one than yesterday.
            let now = self.inner.clock.monotonic();
            let missed_for = now.saturating_sub(self.inner.links.seen_since(id, 0, now));
            discovery.found.age = discovery.found.age.min(missed_for);
        }
        let context = self.context(row.as_ref(), id, disconnected_for);
        let action = decide(row.as_ref(), &discovery.found, &context);
        tracing::debug!(runner = %id, state = ?row.as_ref().map(|r| r.state.as_str()), ?action, "looked at a runner");
        self.act(id, row.as_ref(), &discovery, action, disconnected_for).await
    }

    pub(crate) fn context(
        &self,
        row: Option<&Runner>,
        id: RunnerId,
        disconnected_for: Duration,
    ) -> Context {
        let now = self.now();
        Context {
            connected: self.inner.links.is_connected(id),
            launching: self.inner.links.is_launching(id),
            due: row.is_none_or(|row| row.due_in(now).is_zero()),
            unchanged_for: row.map_or(Duration::ZERO, |row| self.unstarted_for(row)),
            disconnected_for,
            launch_timeout: self.inner.settings.launch_timeout,
            unresponsive_after: self.inner.settings.unresponsive_after,
        }
    }

    /// For how long this daemon has seen the runner wait for an agent, on the monotonic clock.
    fn unstarted_for(&self, row: &Runner) -> Duration {
        match row.state {
            RunnerState::Pending { .. } => self.seen_for(row),
            RunnerState::Starting { .. }
            | RunnerState::Running { .. }
            | RunnerState::Unresponsive { .. }
            | RunnerState::Stopping { .. }
            | RunnerState::Exited { .. }
            | RunnerState::Failed { .. }
            | RunnerState::Lost { .. } => Duration::ZERO,
        }
    }

    /// For how long this daemon has seen the runner at its generation.
    fn seen_for(&self, row: &Runner) -> Duration {
        let now = self.inner.clock.monotonic();
        now.saturating_sub(self.inner.links.seen_since(row.id, row.generation, now))
    }

    async fn act(
        &self,
        id: RunnerId,
        row: Option<&Runner>,
        discovery: &Discovery,
        action: Action,
        disconnected_for: Duration,
    ) -> Result<(Option<String>, Next), Error> {
        let Found { lock_held, .. } = discovery.found;
        match action {
            Action::Nothing => match row {
                Some(row) if matches!(row.state, RunnerState::Pending { .. }) => {
                    self.start_when_due(row);
                    Ok((None, Next::Done))
                }
                Some(row) if !row.is_terminal() => Ok((None, Next::LookAgain)),
                Some(_) | None => Ok((None, Next::Done)),
            },
            Action::Start => {
                if let Some(row) = row {
                    self.start_when_due(row);
                }
                Ok((Some("starting its agent".into()), Next::Done))
            }
            Action::Poke => {
                let expected = row.and_then(|row| row.state.agent());
                let poke = self.inner.runtime.poke(id, expected);
                // One that does not answer is not waited for beyond the time when that is told.
                let silent_in =
                    self.inner.settings.unresponsive_after.saturating_sub(disconnected_for);
                let poked = match silent_in.is_zero() {
                    true => poke.await,
                    false => tokio::time::timeout(silent_in, poke)
                        .await
                        .unwrap_or(Err(SocketError::Silent)),
                };
                let Err(error) = poked else { return Ok((None, Next::LookAgain)) };
                tracing::debug!(runner = %id, error = %chain(&error), "an agent does not answer yet");
                let line = self.end_stubborn(id, row, discovery).await?;
                Ok((line, Next::LookAgain))
            }
            Action::CallUnresponsive(input) => {
                let expected = row.and_then(|row| row.state.agent());
                let probe = self.inner.runtime.poke(id, expected);
                if let Ok(Ok(())) = tokio::time::timeout(PROBE, probe).await {
                    return Ok((None, Next::LookAgain));
                }
                let silent = self.apply(id, input, &Caller::daemon(), None).await?;
                // It may have come back just then, when there was nothing to take back yet.
                if self.inner.links.is_connected(id) {
                    let heard = Input::Heard { epoch: silent.epoch };
                    self.apply(id, heard, &Caller::daemon(), None).await?;
                }
                Ok((Some("its agent lives and does not answer".into()), Next::LookAgain))
            }
            Action::RepeatStop => {
                if let Some(RunnerState::Stopping { stop, .. }) = row.map(|row| &row.state) {
                    let grace = Duration::from_millis(stop.grace_ms);
                    self.inner
                        .links
                        .tell(id, AgentCommand::Stop { grace, force: stop.force, quit: None });
                }
                Ok((None, Next::Done))
            }
            Action::StopAgent => {
                let unknown = row.is_none();
                if (unknown || disconnected_for >= STOP_PATIENCE)
                    && let Some((epoch, agent)) = &discovery.agent
                    && row.is_none_or(|row| *epoch <= row.epoch)
                {
                    self.inner.runtime.destroy(id, agent).await.map_err(Error::internal)?;
                    return Ok((Some("killed an agent whose run is over".into()), Next::LookAgain));
                }
                // It dials, and is told that its run is over. A busy or dead socket: next look.
                let poked = self.inner.runtime.poke(id, None).await;
                let line = poked.is_ok().then(|| "told an agent that its run is over".to_owned());
                Ok((line, if lock_held { Next::LookAgain } else { Next::Done }))
            }
            Action::Clear(input) => {
                let left = self.inner.runtime.clear(id).await.map_err(Error::internal)?;
                if left > 0 {
                    return Ok((
                        Some(format!("{left} processes of a dead agent resist")),
                        Next::LookAgain,
                    ));
                }
                if let Some(input) = input {
                    self.apply(id, input, &Caller::daemon(), None).await?;
                }
                Ok((Some("cleared what a dead agent left".into()), Next::Done))
            }
            Action::Apply(input) => {
                let line = describe(&input);
                self.apply(id, input, &Caller::daemon(), None).await?;
                Ok((Some(line), Next::Done))
            }
            Action::Quarantine => Ok((
                Some("its directory is here and the store does not know it; left alone".into()),
                Next::Done,
            )),
        }
    }

    /// Sees to it that an agent that is connected, and was told to stop, is not waited for for
    /// ever: when its patience is over the connection is given up, and the watch does the rest.
    pub(crate) fn give_up_after(&self, runner: &Runner, stop: &Stop) {
        let (control, runner, patience) = (self.clone(), runner.clone(), patience(stop));
        self.inner.supervisor.spawn(async move {
            tokio::select! {
                biased;
                () = control.inner.supervisor.stopping().cancelled() => return,
                () = tokio::time::sleep(patience) => {}
            }
            let unchanged = control.inner.store.runner_get(runner.id).await;
            if unchanged.is_ok_and(|now| now.generation == runner.generation) {
                control.inner.links.sever(runner.id);
                control.watch(runner.id);
            }
        });
    }

    /// Kills an agent that should have let go of the lock long ago and does not answer.
    async fn end_stubborn(
        &self,
        id: RunnerId,
        row: Option<&Runner>,
        discovery: &Discovery,
    ) -> Result<Option<String>, Error> {
        let (Some(row), Some((epoch, agent))) = (row, &discovery.agent) else { return Ok(None) };
        let (patience, line) = match &row.state {
            RunnerState::Stopping { agent: bound, stop, .. } if bound == agent => {
                (patience(stop), "killed an agent that did not answer the wish to stop")
            }
            // That run is over, and the next one needs the lock.
            RunnerState::Pending { .. } if *epoch < row.epoch => {
                (LEFT_BEHIND, "killed an agent of an earlier run that did not let go")
            }
            // It was never let go, so it runs nothing.
            RunnerState::Pending { .. } if *epoch == row.epoch => {
                (self.inner.settings.launch_timeout, "killed an agent that did not connect in time")
            }
            RunnerState::Pending { .. }
            | RunnerState::Starting { .. }
            | RunnerState::Running { .. }
            | RunnerState::Unresponsive { .. }
            | RunnerState::Stopping { .. }
            | RunnerState::Exited { .. }
            | RunnerState::Failed { .. }
            | RunnerState::Lost { .. } => return Ok(None),
        };
        // Since the wish, and not since the agent went away.
        if self.seen_for(row) < patience {
            return Ok(None);
        }
        self.inner.runtime.destroy(id, agent).await.map_err(Error::internal)?;
        if *epoch < row.epoch {
            // Only now can its own agent come; it has the whole time for that.
            self.inner.links.forget_seen(id);
        }
        Ok(Some(line.into()))
    }
}

/// How long a stop may take before the agent is killed from outside.
fn patience(stop: &Stop) -> Duration {
    match stop.force {
        true => FORCE_PATIENCE,
        false => Duration::from_millis(stop.grace_ms).saturating_add(STOP_PATIENCE),
    }
}

fn describe(input: &Input) -> String {
    match input {
        Input::Exited { exit, .. } => format!("it ended while nobody listened: {}", exit.cause),
        Input::AgentDied { .. } => "its agent died".into(),
        Input::HostRebooted { .. } => "the host has booted since".into(),
        Input::StateMissing { .. } => "its directory is gone".into(),
        Input::LaunchInterrupted { .. } => "its launch was interrupted".into(),
        Input::Heard { .. } => "its agent answers again".into(),
        Input::Idle { .. } => "it was idle for too long".into(),
        Input::Move { .. } => "its node is drained".into(),
        Input::Silent { .. } => "its agent does not answer".into(),
        Input::AgentRegistered { .. }
        | Input::Started { .. }
        | Input::SpawnFailed { .. }
        | Input::Activity { .. }
        | Input::Noted { .. }
        | Input::Stop(_)
        | Input::Pause
        | Input::Unpause => "changed".into(),
    }
}
