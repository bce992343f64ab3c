//! Queues: what is to be done in projects, when its turn comes.
//!
//! One task works them all off. It looks at what is, not at what has happened: attempts whose runners have
//! ended are settled, and then what is due and has a place is begun. Whatever dies where, the next look goes
//! on from the store.
//!
//! Any daemon begins items, on its own host; how an attempt came out is said by the daemon of its host, which
//! has the output.

use std::time::Duration;

use serde_json::json;
use stratavore_core::caller::{Caller, Principal};
use stratavore_core::event::NewEvent;
use stratavore_core::idempotency::Idempotency;
use stratavore_core::limits::Limits;
use stratavore_core::name::Reference;
use stratavore_core::project::Project;
use stratavore_core::queue::{
    ATTEMPTS_MAX, CONCURRENCY_MAX, Item, ItemChange, ItemRefusal, ItemState, ItemWish,
    QueueSettings,
};
use stratavore_core::restart::RestartPolicy;
use stratavore_core::run::RunOutcome;
use stratavore_core::runner::{Headless, Runner, RunnerState};
use stratavore_core::{ItemId, ProjectId, RunnerId, SessionId};
use stratavore_runtime::failpoint;
use stratavore_store::{ItemFilter, NameWish, NewRunner, StoreError};

use crate::bounds;
use crate::command::has_begun;
use crate::control::{CONFLICTS, Control};
use crate::error::Error;
use crate::launch::{Launch, usual_name};
use crate::resume::Resume;
use crate::supervisor::chain;

/// How often it is looked what is due: nobody wakes anybody when a time has come.
pub(crate) const QUEUE_EVERY: Duration = Duration::from_secs(2);
/// After this time an end is settled by whichever daemon: that of its host may never come back.
const ORPHANED: Duration = Duration::from_secs(600);
/// How long an item waits whose session is open elsewhere.
const SESSION_AGAIN: Duration = Duration::from_secs(60);

/// What is to be changed of how a queue is worked off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueEdit {
    pub concurrency: Option<u32>,
    pub paused: Option<bool>,
}

impl Control {
    /// Queues something to be done.
    pub async fn item_add(
        &self,
        caller: &Caller,
        project: &str,
        wish: ItemWish,
        key: Option<Idempotency>,
    ) -> Result<Item, Error> {
        self.may_change(caller, "queue anything")?;
        if let Some(answer) = self.answered(key.as_ref()).await? {
            return Ok(answer);
        }
        let project = self.project(project).await?;
        if wish.max_attempts == 0 || wish.max_attempts > ATTEMPTS_MAX {
            let message = format!(
                "{} attempts are none, or over the limit of {ATTEMPTS_MAX}",
                wish.max_attempts
            );
            return Err(Error::invalid(message, format!("give a number from 1 to {ATTEMPTS_MAX}")));
        }
        bounds::command(&wish.args, &wish.env)?;
        // What is wrong is said now, and not in the middle of the night.
        let mut launch = launch_of(&wish, wish.prompt.clone());
        if let Some(session) = wish.session {
            launch.resume =
                Some(self.session_to_resume(caller, &session.to_string(), false).await?);
        }
        self.command(&project, &launch)?;
        let id = ItemId::from_entropy(self.entropy());
        let (item, event) = Item::new(id, project.id, wish, caller.to_string(), self.now());
        let by = self.by(caller, key.as_ref());
        let item = self.inner.store.item_add(&item, event, &by, key.as_ref()).await?;
        failpoint("item_added");
        self.queue_changed();
        Ok(item)
    }

    /// The item that a person means.
    pub async fn item(&self, caller: &Caller, wanted: &str) -> Result<Item, Error> {
        let item = self.inner.store.item_find(&Reference::parse(wanted, ItemId::PREFIX)).await?;
        Ok(seen_by(caller, item))
    }

    pub async fn items(&self, caller: &Caller, filter: &ItemFilter) -> Result<Vec<Item>, Error> {
        let items = self.inner.store.item_list(filter).await?;
        Ok(items.into_iter().map(|item| seen_by(caller, item)).collect())
    }

    /// Cancels an item; its runner, if it has one, is stopped.
    pub async fn item_cancel(
        &self,
        caller: &Caller,
        wanted: &str,
        key: Option<Idempotency>,
    ) -> Result<Item, Error> {
        let who = caller.to_string();
        let now = self.now();
        self.item_change(caller, wanted, key, "cancel anything", |item| {
            item.cancel(who.clone(), now)
        })
        .await
    }

    /// Queues an item again that has failed or was cancelled.
    pub async fn item_retry(
        &self,
        caller: &Caller,
        wanted: &str,
        key: Option<Idempotency>,
    ) -> Result<Item, Error> {
        let now = self.now();
        self.item_change(caller, wanted, key, "queue anything", |item| item.retried(now)).await
    }

    async fn item_change(
        &self,
        caller: &Caller,
        wanted: &str,
        key: Option<Idempotency>,
        what: &str,
        change: impl Fn(&Item) -> Result<ItemChange, ItemRefusal>,
    ) -> Result<Item, Error> {
        self.may_change(caller, what)?;
        if let Some(answer) = self.answered(key.as_ref()).await? {
            return Ok(answer);
        }
        let by = self.by(caller, key.as_ref());
        let id = self.item(caller, wanted).await?.id;
        let mut last = None;
        for _ in 0..CONFLICTS {
            let seen = self.inner.store.item_get(id).await?;
            let ItemChange { next, event } = change(&seen).map_err(Error::Item)?;
            match self.inner.store.item_write(&seen, &next, event, &by, key.as_ref()).await {
                Ok(written) => {
                    failpoint("item_changed");
                    self.queue_changed();
                    return Ok(written);
                }
                Err(error @ StoreError::Conflict { .. }) => last = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.map_or_else(|| Error::internal("no attempt was made"), Error::from))
    }

    pub async fn queue_settings(&self, project: ProjectId) -> Result<QueueSettings, Error> {
        Ok(self.inner.store.queue_settings(project).await?)
    }

    /// Changes how a project's queue is worked off.
    pub async fn queue_set(
        &self,
        caller: &Caller,
        project: &str,
        edit: QueueEdit,
        key: Option<Idempotency>,
    ) -> Result<QueueSettings, Error> {
        self.may_change(caller, "change queues")?;
        if let Some(answer) = self.answered(key.as_ref()).await? {
            return Ok(answer);
        }
        if let Some(wanted) = edit.concurrency
            && (wanted == 0 || wanted > CONCURRENCY_MAX)
        {
            let message =
                format!("{wanted} runs at once are none, or over the limit of {CONCURRENCY_MAX}");
            let hint = format!("give a number from 1 to {CONCURRENCY_MAX}, or pause the queue");
            return Err(Error::invalid(message, hint));
        }
        let project = self.project(project).await?;
        let by = self.by(caller, key.as_ref());
        let change = |seen: QueueSettings| {
            let next = QueueSettings {
                concurrency: edit.concurrency.unwrap_or(seen.concurrency),
                paused: edit.paused.unwrap_or(seen.paused),
            };
            let data = json!({ "concurrency": next.concurrency, "paused": next.paused });
            (next, NewEvent::new("project.queue_set", data))
        };
        let store = &self.inner.store;
        let set = store.queue_set(project.id, change, &by, self.now(), key.as_ref()).await?;
        self.queue_changed();
        Ok(set)
    }

    fn queue_changed(&self) {
        self.inner.relay_wake.notify_one();
        self.inner.queue_wake.notify_one();
    }

    /// The task: settles what has ended, and begins what is due.
    pub(crate) async fn work_off_queues(&self) -> Result<String, Error> {
        let (mut settled, mut begun, mut failed) = (0, 0, None);
        for item in self.inner.store.items_running().await? {
            match self.settle_item(&item).await {
                Ok(done) => settled += usize::from(done),
                Err(error) => {
                    tracing::warn!(item = %item.id, error = %chain(&error), "could not say how an attempt came out; will try again");
                    failed = Some(error);
                }
            }
        }
        let due = match self.begins_items() {
            true => self.inner.store.queues_due(self.now()).await?,
            false => Vec::new(),
        };
        for project in due {
            match self.begin_due(project).await {
                Ok(count) => begun += count,
                Err(error) => {
                    tracing::warn!(%project, error = %chain(&error), "could not begin what is due; will try again");
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(format!("{settled} settled, {begun} begun")),
        }
    }

    /// A host that is not to get anything new, or that another daemon holds, begins nothing.
    fn begins_items(&self) -> bool {
        self.takes_new() && self.has_host()
    }

    /// Draws the consequences of an attempt's end; false: it has not ended, or another daemon does.
    async fn settle_item(&self, item: &Item) -> Result<bool, Error> {
        let ItemState::Running { runner, cancelled_by, .. } = &item.state else { return Ok(false) };
        let runner = self.inner.store.runner_get(*runner).await?;
        if !runner.is_terminal() {
            let is_stopping = matches!(runner.state, RunnerState::Stopping { .. });
            if cancelled_by.is_some() && !is_stopping {
                self.stop(&Caller::daemon(), runner.id, false, None, None).await?;
            }
            return Ok(false);
        }
        let Some(outcome) = self.attempt_outcome(&runner).await? else { return Ok(false) };
        let [dice, ..] = self.entropy();
        let change = item.settled(&outcome, self.now(), f64::from(dice) / 255.0);
        let by = self.by(&Caller::daemon(), None);
        failpoint("item_settle");
        let ItemChange { next, event } = change;
        match self.inner.store.item_write(item, &next, event, &by, None).await {
            Ok(_) => {
                failpoint("item_settled");
                self.inner.relay_wake.notify_one();
                Ok(true)
            }
            // Somebody was faster: it is looked at again.
            Err(StoreError::Conflict { .. }) => {
                self.inner.queue_wake.notify_one();
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// How an ended runner's run came out; `None`: the daemon of its host will say.
    async fn attempt_outcome(&self, runner: &Runner) -> Result<Option<RunOutcome>, Error> {
        if runner.node == self.inner.node.id {
            // What it told last: the next attempt goes on with its conversation.
            self.follow_one(runner.id).await?;
            return self.run_outcome(runner).await.map(Some);
        }
        let Some((cause, at)) = runner.state.ended() else { return Ok(None) };
        let lost = matches!(runner.state, RunnerState::Lost { .. });
        let long_ago = self.now().duration_since(at).unsigned_abs() > ORPHANED;
        let why = format!("its host has not said how it came out ({cause})");
        Ok((lost || long_ago).then_some(RunOutcome::Cut { why }))
    }

    /// Begins what is due in a project, as far as there is a place. Answers how many.
    async fn begin_due(&self, id: ProjectId) -> Result<usize, Error> {
        let mut begun = 0;
        let mut conflicts = 0;
        while conflicts < CONFLICTS && !self.inner.supervisor.stopping().is_cancelled() {
            let Some(item) = self.inner.store.item_next(id, self.now()).await? else { break };
            let project = self.project(&id.to_string()).await?;
            match self.begin(&project, &item).await {
                Ok(true) => begun += 1,
                Ok(false) => break,
                Err(Error::Store(StoreError::Conflict { .. })) => conflicts += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(begun)
    }

    /// The conversation that the next attempt goes on with. What runs an assistant that cannot go on with one
    /// begins anew.
    async fn session_of(&self, item: &Item) -> Result<Option<Resume>, Error> {
        let Some(session) = item.session else { return Ok(None) };
        match self.session_to_resume(&Caller::daemon(), &session.to_string(), false).await {
            Ok(resume) => Ok(Some(resume)),
            Err(Error::Invalid { .. }) if item.wish.session.is_none() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins the next attempt of an item; false: there is no place for it now.
    async fn begin(&self, project: &Project, item: &Item) -> Result<bool, Error> {
        let by = self.by(&Caller::daemon(), None);
        let store = &self.inner.store;
        let resume = self.session_of(item).await?;
        let begun = match resume.as_ref().filter(|_| item.last_runner.is_some()) {
            Some(resume) => has_begun(&store.session_get(resume.session).await?),
            None => false,
        };
        let prompt = item.wish.prompt.as_deref();
        let prompt = prompt.map(|prompt| if begun { going_on(prompt) } else { prompt.into() });
        let mut launch = launch_of(&item.wish, prompt);
        launch.resume = resume.clone();
        launch.headless = Some(Headless { item: Some(item.id), ..item.wish.headless });
        let command = match self.command(project, &launch) {
            Ok(command) => command,
            // Another host may have what is missing here.
            Err(Error::Absent { .. } | Error::Denied { .. }) if self.is_shared() => {
                return Ok(false);
            }
            Err(error @ (Error::Invalid { .. } | Error::Absent { .. } | Error::Denied { .. })) => {
                let ItemChange { next, event } = item.failed(error.to_string(), self.now());
                store.item_write(item, &next, event, &by, None).await?;
                self.inner.relay_wake.notify_one();
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        self.room_to_launch()?;
        let runner = RunnerId::from_entropy(self.entropy());
        let session = resume.as_ref().map(|resume| resume.session);
        let continues = session.is_some();
        let session = session.unwrap_or_else(|| SessionId::from_entropy(self.entropy()));
        let new = NewRunner {
            id: runner,
            project: project.id,
            name: NameWish::Numbered(
                item.wish.name.clone().unwrap_or_else(|| usual_name(&command)),
            ),
            node: self.inner.node.id,
            bounded: self.inner.settings.profile.capacity.is_some(),
            command,
            limits: Limits { wall_seconds: item.wish.timeout_seconds, ..Limits::default() },
            // An item is tried again by its own rules.
            restart: RestartPolicy::Never,
            session,
            continues,
            forks: None,
            successor_of: None,
        };
        let ItemChange { next, event } = item.begun(runner, session, self.now());
        match store.item_begin(item, &next, event, new, &by).await {
            Ok(Some(runner)) => {
                failpoint("item_begun");
                self.changed(&runner);
                Ok(true)
            }
            Ok(None) => Ok(false),
            // It waits in the queue for whatever is in the way.
            Err(error) if error.is_for_want_of_a_place() => {
                tracing::debug!(item = %item.id, %error, "an item has to wait");
                Ok(false)
            }
            // What comes after it need not wait for that.
            Err(error @ StoreError::SessionBusy { .. }) => {
                let until = self.now() + SESSION_AGAIN;
                let ItemChange { next, event } = item.put_off(error.to_string(), until, self.now());
                store.item_write(item, &next, event, &by, None).await?;
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What an assistant is told that has begun and did not come to its end.
fn going_on(prompt: &str) -> String {
    format!(
        "You were interrupted while you did what follows. Go on from where you were, and do nothing \
         again that is done.\n\n{prompt}"
    )
}

fn launch_of(wish: &ItemWish, prompt: Option<String>) -> Launch {
    Launch {
        assistant: wish.assistant.as_ref().map(ToString::to_string),
        args: wish.args.clone(),
        env: wish.env.clone(),
        prompt,
        headless: Some(wish.headless),
        ..Launch::default()
    }
}

/// An item as `caller` may see it: a program inside a runner sees that it is there.
fn seen_by(caller: &Caller, item: Item) -> Item {
    match &caller.principal {
        Principal::Inside(_) => {
            const HIDDEN: &str = "(hidden)";
            let hidden = |text: String| if text.is_empty() { text } else { HIDDEN.into() };
            let wish = ItemWish {
                prompt: item.wish.prompt.map(hidden),
                args: Vec::new(),
                env: Vec::new(),
                ..item.wish
            };
            let state = match item.state {
                ItemState::Done { text, at } => ItemState::Done { text: hidden(text), at },
                state @ (ItemState::Queued { .. }
                | ItemState::Running { .. }
                | ItemState::Failed { .. }
                | ItemState::Cancelled { .. }) => state,
            };
            Item { wish, state, ..item }
        }
        Principal::User { .. } | Principal::Daemon | Principal::Agent(_) | Principal::Node(_) => {
            item
        }
    }
}
