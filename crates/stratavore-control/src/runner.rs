//! Looking at runners, and wishing something of them.

use std::collections::hash_map::{Entry, HashMap};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use stratavore_core::caller::{Caller, Principal};
use stratavore_core::idempotency::Idempotency;
use stratavore_core::liveness::Liveness;
use stratavore_core::name::Reference;
use stratavore_core::runner::{After, Desired, EnvValue, Input, Runner, RunnerState, Stop};
use stratavore_core::{ProjectId, RunnerId, SessionId};
use stratavore_runtime::failpoint;
use stratavore_store::{NameWish, NewRunner, RunnerFilter, StoreError};
use tokio::time::Instant;

use crate::bounds;
use crate::control::Control;
use crate::error::Error;
use crate::launch::resolve_directory;
use crate::project::nearest;

/// The longest that a request waits for something to happen.
/// The most lost runners that are brought back at once.
const RECOVERED_MAX: u32 = 10_000;
const WAIT_MAX: Duration = Duration::from_secs(3600);
const WAIT_DEFAULT: Duration = Duration::from_secs(60);
const WAIT_LOOK: Duration = Duration::from_secs(5);
/// The same where other daemons write, who cannot wake this one.
const WAIT_LOOK_SHARED: Duration = Duration::from_secs(1);

/// A runner with what is known of it besides.
#[derive(Debug, Clone)]
pub struct RunnerView {
    pub runner: Runner,
    pub project: String,
    pub liveness: Option<Liveness>,
    /// How fast it prints, in bytes a second; known on its own host.
    pub output_rate: Option<u64>,
    pub connected: bool,
    /// Its assistant says when it has a prompt.
    pub tells_of_prompts: bool,
}

/// What to wait for.
#[derive(Debug, Clone, Default)]
pub struct WaitFor {
    /// Any of these states; an end always answers.
    pub states: Vec<String>,
    pub timeout: Option<Duration>,
    /// The epoch that the states are waited for in; a later one answers too. 0 is whichever.
    pub epoch: i64,
}

impl WaitFor {
    fn is_met(&self, runner: &Runner) -> bool {
        let in_state = self.states.iter().any(|state| state == runner.state.as_str());
        runner.is_terminal()
            || (in_state && runner.epoch >= self.epoch)
            || (self.epoch != 0 && runner.epoch > self.epoch)
    }
}

impl Control {
    /// The runner that a person means.
    pub async fn runner(&self, wanted: &str, project: Option<&str>) -> Result<Runner, Error> {
        let project = match project.filter(|project| !project.is_empty()) {
            Some(project) => Some(self.project(project).await?.id),
            None => None,
        };
        match self.inner.store.runner_find(&Reference::parse(wanted, "run"), project).await {
            Ok(runner) => Ok(runner),
            Err(StoreError::NotFound { .. }) => {
                let filter = RunnerFilter { project, limit: Some(500), ..RunnerFilter::default() };
                let known = self.inner.store.runner_list(&filter).await?;
                let names = known.iter().map(|(runner, _)| runner.name.to_string()).collect();
                Err(Error::NotFound {
                    noun: "runner",
                    wanted: wanted.into(),
                    nearest: nearest(wanted, names),
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    pub async fn runner_view(&self, caller: &Caller, runner: Runner) -> Result<RunnerView, Error> {
        let project = self.project_name(runner.project).await;
        Ok(self.view(caller, runner, project, None))
    }

    /// The same for many, mostly of one project, which is asked for its name once.
    pub async fn runner_views(
        &self,
        caller: &Caller,
        runners: Vec<Runner>,
    ) -> Result<Vec<RunnerView>, Error> {
        let (mut names, mut views) = (HashMap::new(), Vec::with_capacity(runners.len()));
        for runner in runners {
            if let Entry::Vacant(unknown) = names.entry(runner.project) {
                unknown.insert(self.project_name(runner.project).await);
            }
            let name = names[&runner.project].clone();
            views.push(self.view(caller, runner, name, None));
        }
        Ok(views)
    }

    /// `stored` is the heartbeat that the store has; a fresher one may be here.
    fn view(
        &self,
        caller: &Caller,
        runner: Runner,
        project: String,
        stored: Option<Liveness>,
    ) -> RunnerView {
        let runner = seen_by(caller, runner);
        // What an earlier epoch used says nothing of this one.
        let liveness = self.latest_liveness(runner.id).or(stored);
        let liveness = liveness.filter(|liveness| liveness.epoch == runner.epoch);
        let connected = self.inner.links.is_connected(runner.id);
        let tells_of_prompts = self.tells_of_prompts(&runner);
        let output_rate = self.output_rate(runner.id);
        RunnerView { runner, project, liveness, output_rate, connected, tells_of_prompts }
    }

    pub async fn runner_list(
        &self,
        caller: &Caller,
        filter: &RunnerFilter,
    ) -> Result<Vec<RunnerView>, Error> {
        let listed = self.inner.store.runner_list(filter).await?;
        let projects = listed.iter().map(|(runner, _)| runner.project).collect();
        let names = self.inner.store.project_names(&projects).await?;
        let name = |id: ProjectId| names.get(&id).cloned().unwrap_or_default();
        Ok(listed
            .into_iter()
            .map(|(runner, stored)| {
                let project = name(runner.project);
                self.view(caller, runner, project, stored)
            })
            .collect())
    }

    /// Asks a runner to stop. Answers once the wish is durable, which is before it has stopped.
    pub async fn stop(
        &self,
        caller: &Caller,
        id: RunnerId,
        force: bool,
        grace: Option<Duration>,
        key: Option<Idempotency>,
    ) -> Result<Runner, Error> {
        self.may_change(caller, "stop runners")?;
        let grace = grace.unwrap_or(self.inner.settings.grace);
        let wish = self.stop_wish(caller, force, grace, After::End);
        let stopped = self.apply(id, Input::Stop(wish), caller, key.as_ref()).await?;
        failpoint("stop_committed");
        Ok(stopped)
    }

    fn stop_wish(&self, caller: &Caller, force: bool, grace: Duration, after: After) -> Stop {
        Stop { by: caller.to_string(), grace_ms: grace.as_millis() as u64, force, after }
    }

    /// Stops a live runner and starts it again; gives an ended one a successor.
    pub async fn restart(
        &self,
        caller: &Caller,
        id: RunnerId,
        force: bool,
        key: Option<Idempotency>,
    ) -> Result<Runner, Error> {
        self.may_change(caller, "restart runners")?;
        // The first run stopped a live runner or admitted a successor; which one it was can no
        // longer be told from how the runner is now.
        match self.answered(key.as_ref()).await? {
            Some(Kept::Stopped(runner)) => {
                self.look_again(std::slice::from_ref(&*runner)).await?;
                return Ok(*runner);
            }
            Some(Kept::Admitted(runners)) => {
                self.look_again(&runners).await?;
                return one(runners);
            }
            None => {}
        }
        let runner = self.inner.store.runner_get(id).await?;
        // A runner that could not start again is not stopped for it.
        resolve_directory(Path::new(&runner.command.directory))?;
        self.check_variables(&runner.command)?;
        if runner.is_terminal() {
            return self.succeed(caller, &runner, key).await;
        }
        let wish = self.stop_wish(caller, force, self.inner.settings.grace, After::Restart);
        self.apply(id, Input::Stop(wish), caller, key.as_ref()).await
    }

    /// Launches a runner that carries on an ended one: same command, name and session.
    async fn succeed(
        &self,
        caller: &Caller,
        ended: &Runner,
        key: Option<Idempotency>,
    ) -> Result<Runner, Error> {
        let new = NewRunner {
            id: RunnerId::from_entropy(self.entropy()),
            project: ended.project,
            name: NameWish::Numbered(ended.name.clone()),
            node: self.inner.node.id,
            bounded: self.inner.settings.profile.capacity.is_some(),
            command: ended.command.clone(),
            limits: ended.limits,
            restart: ended.restart,
            session: ended.session.unwrap_or_else(|| SessionId::from_entropy(self.entropy())),
            continues: ended.session.is_some(),
            forks: None,
            successor_of: Some(ended.id),
        };
        match self.answered::<Vec<Runner>>(key.as_ref()).await? {
            Some(admitted) => {
                self.look_again(&admitted).await?;
                one(admitted)
            }
            None => one(self.admit(vec![new], caller, key.as_ref()).await?),
        }
    }

    pub async fn pause(
        &self,
        caller: &Caller,
        id: RunnerId,
        paused: bool,
        key: Option<Idempotency>,
    ) -> Result<Runner, Error> {
        self.may_change(caller, "pause runners")?;
        let input = if paused { Input::Pause } else { Input::Unpause };
        self.apply(id, input, caller, key.as_ref()).await
    }

    /// Brings back the runners that were lost and should run: those named, or all of them.
    ///
    /// Answers the successors (with `dry_run`: those that would get one) and why others got none.
    pub async fn recover(
        &self,
        caller: &Caller,
        wanted: &[String],
        project: Option<&str>,
        dry_run: bool,
        key: Option<Idempotency>,
    ) -> Result<(Vec<Runner>, Vec<String>), Error> {
        self.may_change(caller, "recover runners")?;
        bounds::named(wanted)?;
        let mut lost = Vec::new();
        let mut remarks = Vec::new();
        if wanted.is_empty() {
            let project = match project.filter(|project| !project.is_empty()) {
                Some(project) => Some(self.project(project).await?.id),
                None => None,
            };
            let node = self.inner.node.id;
            let found = self.inner.store.runner_lost(node, project, RECOVERED_MAX).await?;
            // What becomes of an attempt of a queue's is the queue's business.
            let is_queues =
                |runner: &Runner| runner.command.headless.is_some_and(|h| h.item.is_some());
            let should_run = |r: &Runner| r.desired != Desired::Stopped && !is_queues(r);
            lost.extend(found.into_iter().filter(should_run));
        } else {
            for text in wanted {
                let runner = self.runner(text, project).await?;
                if runner.is_terminal() {
                    lost.push(runner);
                } else {
                    remarks.push(format!(
                        "{} is {}: there is nothing to recover",
                        runner.name,
                        runner.state.as_str()
                    ));
                }
            }
        }
        let mut recovered = Vec::new();
        for runner in lost {
            // It would be admitted, and fail when it is started.
            if let Err(error) = resolve_directory(Path::new(&runner.command.directory)) {
                remarks.push(format!("{}: {error}", runner.name));
                continue;
            }
            if dry_run {
                if let Some(by) = self.inner.store.runner_successor(runner.id).await? {
                    if !wanted.is_empty() {
                        remarks.push(format!("{} was carried on as {by} before", runner.name));
                    }
                } else {
                    recovered.push(runner);
                }
                continue;
            }
            // One key for many: each runner gets one of its own, derived from it.
            let key = key.as_ref().map(|key| key.derive(&runner.id.to_string()));
            match self.succeed(caller, &runner, key).await {
                Ok(successor) => recovered.push(successor),
                // Recovered before: nothing to say unless it was asked for by name.
                Err(Error::Store(StoreError::AlreadySucceeded { by, .. })) => {
                    if !wanted.is_empty() {
                        remarks.push(format!("{} was carried on as {by} before", runner.name));
                    }
                }
                Err(error) => remarks.push(format!("{}: {error}", runner.name)),
            }
        }
        Ok((recovered, remarks))
    }

    /// Types into a running runner.
    pub async fn send(
        &self,
        caller: &Caller,
        id: RunnerId,
        data: Vec<u8>,
        paste: bool,
        enter: bool,
    ) -> Result<(), Error> {
        self.may_change(caller, "type into runners")?;
        let runner = self.live(id).await?;
        let about = json!({ "runner": id, "name": runner.name, "bytes": data.len() });
        self.record(caller, "request.sent", about).await?;
        failpoint("send");
        Ok(self.inner.runtime.send(id, data, paste, enter).await?)
    }

    /// The runner, if it has not ended.
    pub async fn live(&self, id: RunnerId) -> Result<Runner, Error> {
        let runner = self.inner.store.runner_get(id).await?;
        match runner.state.ended() {
            None => Ok(runner),
            Some((cause, _)) => Err(Error::Refused(stratavore_core::runner::Refusal::Ended {
                state: runner.state.as_str(),
                cause: cause.to_string(),
            })),
        }
    }

    /// Waits until the runner is as wished, has ended, or the time is over; answers how it is then.
    pub async fn wait(&self, id: RunnerId, wait: WaitFor) -> Result<Runner, Error> {
        known_states(&wait.states)?;
        let limit = wait.timeout.unwrap_or(WAIT_DEFAULT).min(WAIT_MAX);
        let until = Instant::now() + limit;
        let shared = self.inner.store.is_shared();
        let look = if shared { self.look_every(WAIT_LOOK_SHARED) } else { WAIT_LOOK };
        // Interest is registered before the question, so that no change falls in between.
        let mut subscription = self.inner.bus.subscribe();
        loop {
            // Asked to the end: only the waiting for a change is cut short.
            let runner = self.inner.store.runner_get(id).await?;
            if wait.is_met(&runner) || Instant::now() >= until {
                return Ok(runner);
            }
            let stopping = self.inner.supervisor.stopping();
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Err(Error::Stopping),
                () = tokio::time::sleep_until(until) => {}
                () = of_interest(&mut subscription, id) => {}
                // Another daemon may have published, and its word been lost.
                () = tokio::time::sleep(look) => {}
            }
        }
    }
}

/// The runner as `caller` may see it. A program inside another runner sees that it is there, and
/// nothing that it was given: values of variables and arguments hold what people confide to it.
fn seen_by(caller: &Caller, mut runner: Runner) -> Runner {
    const HIDDEN: &str = "(hidden)";
    match &caller.principal {
        Principal::Inside(inside) if *inside != runner.id => {
            for value in runner.command.env.values_mut() {
                *value = EnvValue::Literal(HIDDEN.into());
            }
            runner.command.argv.iter_mut().skip(1).for_each(|argument| *argument = HIDDEN.into());
            runner.command.prompt = runner.command.prompt.map(|_| HIDDEN.into());
            if let Some(doing) = &mut runner.doing {
                doing.question = doing.question.take().map(|_| HIDDEN.into());
            }
            runner
        }
        Principal::Inside(_)
        | Principal::User { .. }
        | Principal::Daemon
        | Principal::Agent(_)
        | Principal::Node(_) => runner,
    }
}

/// Refuses what is no state of a runner.
pub fn known_states(states: &[String]) -> Result<(), Error> {
    match states.iter().find(|state| !RunnerState::NAMES.contains(&state.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(Error::invalid(
            format!("`{}` is no state of a runner", unknown.escape_debug()),
            format!("use one of {}", RunnerState::NAMES.join(", ")),
        )),
    }
}

/// What is kept for the key of a restart.
#[derive(Deserialize)]
#[serde(untagged)]
enum Kept {
    Stopped(Box<Runner>),
    Admitted(Vec<Runner>),
}

fn one(mut admitted: Vec<Runner>) -> Result<Runner, Error> {
    admitted.pop().ok_or_else(|| Error::internal("an admission without a runner"))
}

/// Returns when something was published about the runner, or may have been.
async fn of_interest(subscription: &mut stratavore_bus::Subscription, id: RunnerId) {
    let id = id.to_string();
    loop {
        match subscription.recv().await {
            stratavore_bus::Received::Events(events)
                if events.iter().all(|event| event.entity_id != id) => {}
            stratavore_bus::Received::Events(_)
            | stratavore_bus::Received::Lagged
            | stratavore_bus::Received::Closed => return,
        }
    }
}
