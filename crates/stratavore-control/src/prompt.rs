//! Prompts: what is typed into an assistant, and told as delivered only once the assistant has it.
//!
//! ```text
//! queued ─▶ written ─▶ taken
//!    └─────▶ failed
//! ```
//!
//! It leaves the queue before a key is typed. Whoever is asked about it once more, after a daemon has died,
//! sends it once more, and the runner's agent types the first that comes and no other: so it is typed once,
//! whatever dies. That the assistant has it is told by its hook or its transcript; where neither comes, the
//! enter key is pressed again, for assistants take a fast one for a part of the text.
//!
//! A prompt to an assistant that asks one question, which it takes words for an answer to, is that answer.
//!
//! Nor is it typed while its screen still shows a turn whose end was told, for a few seconds at most. Claude Code
//! tells the end before it is through with it: what is entered in between it takes, and leaves in its box, and
//! the next prompt is then put behind it.
//!
//! Invariant: nothing is typed into a turn unless that was asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use sha2::{Digest, Sha256};
use stratavore_assistants as assistants;
use stratavore_core::activity::{Activity, Source};
use stratavore_core::ask::{Prompt, PromptState};
use stratavore_core::caller::Caller;
use stratavore_core::idempotency::Idempotency;
use stratavore_core::runner::{Desired, Runner};
use stratavore_core::{PromptId, RunnerId};
use stratavore_runtime::failpoint;
use stratavore_runtime::socket::SocketError;
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::time::{Instant, timeout};

use crate::bounds;
use crate::control::Control;
use crate::error::Error;
use crate::outage::of_the_store;

/// How long an assistant may take to say that it has a prompt, before the enter key is pressed again.
const TAKEN_AFTER: Duration = Duration::from_secs(3);
/// How often that is done.
const ENTERS: u32 = 3;
/// How old a prompt may be that is sent again: an agent knows the latest only.
const AGAIN_MAX: Duration = Duration::from_secs(600);
/// The longest that is waited for the end of a turn.
const WAIT_MAX: Duration = Duration::from_secs(3600);
const LOOK: Duration = Duration::from_millis(500);
/// How long the screen of one that is idle may go on to show that it works: what it does in the background may
/// be shown so as well.
const SCREEN_WAIT: Duration = Duration::from_secs(5);
const SCREEN_LOOK: Duration = Duration::from_millis(50);

/// How a prompt is to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivery {
    /// Type it although the assistant works.
    pub into_turn: bool,
    /// How long the end of a turn is waited for.
    pub wait: Duration,
}

impl Control {
    /// True if the runner's assistant tells that it has a prompt.
    pub fn tells_of_prompts(&self, runner: &Runner) -> bool {
        let proves = assistants::adapter(&runner.command.assistant).proves();
        !runner.command.bare && runner.command.headless.is_none() && proves.prompts
    }

    /// Delivers a prompt. Answers once the assistant has it, or says how far it came.
    ///
    /// With a key that was used before nothing is typed again: it answers what has become of it.
    pub async fn prompt(
        &self,
        caller: &Caller,
        id: RunnerId,
        text: String,
        delivery: Delivery,
        key: Option<Idempotency>,
    ) -> Result<Prompt, Error> {
        self.may_change(caller, "send prompts")?;
        bounds::prompt(&text)?;
        if text.trim().is_empty() {
            return Err(Error::invalid("the prompt is empty", "say what is to be done"));
        }
        let runner = self.live(id).await?;
        if !self.tells_of_prompts(&runner) {
            return Err(Error::invalid(
                format!("{} does not tell that it has a prompt", runner.command.assistant),
                "type it without a proof: stratavore send --raw",
            ));
        }
        let prompt = Prompt {
            id: self.prompt_id(id, key.as_ref()),
            runner: id,
            epoch: runner.epoch,
            text,
            by: caller.to_string(),
            made_at: self.now(),
            state: PromptState::Queued,
        };
        let kept = self.inner.store.prompt_queue(&prompt).await?;
        let turn = self.inner.prompting.turn(id);
        // Held until the assistant has it: the next one must not be typed into its turn.
        let _turn = match kept.state {
            PromptState::Queued => turn.await,
            PromptState::Written { .. } => match timeout(TAKEN_AFTER, turn).await {
                Ok(turn) => turn,
                Err(_) => return Ok(self.inner.store.prompt_get(kept.id).await?),
            },
            PromptState::Taken { .. } | PromptState::Failed { .. } => return Ok(kept),
        };
        let kept = self.inner.store.prompt_get(kept.id).await?;
        match kept.state {
            PromptState::Queued => self.deliver(caller, &kept, delivery).await?,
            PromptState::Written { at, epoch } => {
                let is_young = self.now().duration_since(at).unsigned_abs() < AGAIN_MAX;
                if !is_young || !self.deliver_again(&kept, epoch, delivery).await? {
                    return self.until_taken(&kept).await;
                }
            }
            PromptState::Taken { .. } | PromptState::Failed { .. } => return Ok(kept),
        }
        for _ in 0..ENTERS {
            let now = self.until_taken(&kept).await?;
            if !matches!(now.state, PromptState::Written { .. }) {
                return Ok(now);
            }
            // One that works may tell a while later what on.
            if self.may_press_enter(id).await? {
                self.inner.runtime.send(id, Vec::new(), false, true).await?;
            }
        }
        self.until_taken(&kept).await
    }

    /// Enter may be pressed once more only where it answers no question.
    async fn may_press_enter(&self, id: RunnerId) -> Result<bool, Error> {
        let runner = self.inner.store.runner_get(id).await?;
        let is_idle = !runner.is_terminal() && runner.activity == Activity::Idle;
        Ok(is_idle && !self.shows_work(&runner).await)
    }

    /// True if the runner's screen says that it works. One that cannot be seen says nothing.
    async fn shows_work(&self, runner: &Runner) -> bool {
        let adapter = assistants::adapter(&runner.command.assistant);
        let screen = self.inner.runtime.screen(runner.id).await;
        screen.is_ok_and(|screen| adapter.titled(&screen.title) == Some(Activity::Working))
    }

    /// Of one key there is one prompt.
    fn prompt_id(&self, runner: RunnerId, key: Option<&Idempotency>) -> PromptId {
        match key {
            Some(key) => id_of(&format!("prompt {runner} {}", key.key())),
            None => PromptId::from_entropy(self.entropy()),
        }
    }

    async fn deliver(
        &self,
        caller: &Caller,
        prompt: &Prompt,
        delivery: Delivery,
    ) -> Result<(), Error> {
        let now = self.live(prompt.runner).await?;
        if !delivery.into_turn && self.answer_with(caller, &now, prompt).await? {
            let taken = PromptState::Taken { at: self.now() };
            self.inner.store.prompt_leave_queue(prompt.id, taken).await?;
            return Ok(());
        }
        let runner = match self.until_idle(prompt, delivery).await {
            Ok(runner) => runner,
            // Nothing is decided by it: whoever asks once more is heard.
            Err(error @ Error::Stopping) => return Err(error),
            Err(error) if of_the_store(&error) => return Err(error),
            Err(error) => {
                let failed = PromptState::Failed { at: self.now(), why: error.to_string() };
                self.inner.store.prompt_leave_queue(prompt.id, failed).await?;
                return Err(error);
            }
        };
        let (here, by, now) = (self.here(), self.by(caller, None), self.now());
        if !self.inner.store.prompt_send(prompt.id, runner.epoch, here, &by, now).await? {
            return Ok(());
        }
        self.inner.relay_wake.notify_one();
        failpoint("prompt_written");
        Ok(self.inner.runtime.prompt(prompt.runner, prompt.id, &prompt.text, false).await?)
    }

    /// Hands over once more what was written: whoever wrote it may have died before it was typed. False:
    /// nobody can tell whether it was.
    async fn deliver_again(
        &self,
        prompt: &Prompt,
        epoch: i64,
        delivery: Delivery,
    ) -> Result<bool, Error> {
        let runner = tokio::select! {
            runner = self.until_idle(prompt, delivery) => runner,
            now = self.until_moved(prompt, None) => return now.map(|_| true),
        };
        match runner {
            // Its agent knows what was typed; another one's does not.
            Ok(runner) if runner.epoch == epoch => {}
            Ok(_) | Err(Error::Busy { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        match self.inner.runtime.prompt(prompt.runner, prompt.id, &prompt.text, true).await {
            Ok(()) => Ok(true),
            Err(SocketError::Refused(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the assistant may be asked.
    async fn until_idle(&self, prompt: &Prompt, delivery: Delivery) -> Result<Runner, Error> {
        let until = Instant::now() + delivery.wait.min(WAIT_MAX);
        let mut events = self.inner.bus.subscribe();
        let stopping = self.inner.supervisor.stopping();
        let mut screen_until = None;
        loop {
            let runner = self.live(prompt.runner).await?;
            let busy = match runner.activity {
                Activity::Idle => false,
                // It may show a dialog of its start, which a key would answer.
                Activity::Unknown
                | Activity::Working
                | Activity::NeedsInput
                | Activity::NeedsPermission
                | Activity::RateLimited => !delivery.into_turn,
            };
            if !busy {
                let wait = *screen_until.get_or_insert_with(|| Instant::now() + SCREEN_WAIT);
                let is_late = Instant::now() >= wait;
                if delivery.into_turn || is_late || !self.shows_work(&runner).await {
                    return Ok(runner);
                }
                tokio::select! {
                    () = stopping.cancelled() => return Err(Error::Stopping),
                    () = tokio::time::sleep(SCREEN_LOOK) => continue,
                }
            }
            screen_until = None;
            if Instant::now() >= until {
                let activity = runner.activity.as_str();
                return Err(Error::Busy {
                    message: format!("runner {} is {activity}: nothing was typed", runner.name),
                    hint: if runner.activity.waits_for_person() {
                        "see what it asks, and answer that: stratavore inbox".into()
                    } else {
                        "wait for it: --wait 10m; or type it all the same: --into-turn".into()
                    },
                });
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Err(Error::Stopping),
                _ = events.recv() => {}
                () = tokio::time::sleep_until(until) => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Waits a while for the assistant to say that it has it.
    async fn until_taken(&self, prompt: &Prompt) -> Result<Prompt, Error> {
        self.until_moved(prompt, Some(Instant::now() + TAKEN_AFTER)).await
    }

    /// Waits until nothing is to be done about it any more, or until a time.
    async fn until_moved(&self, prompt: &Prompt, until: Option<Instant>) -> Result<Prompt, Error> {
        loop {
            let taken = self.inner.prompting.taken.notified();
            let now = self.inner.store.prompt_get(prompt.id).await?;
            let over = until.is_some_and(|until| Instant::now() >= until);
            match now.state {
                PromptState::Queued | PromptState::Written { .. } if !over => {}
                PromptState::Queued
                | PromptState::Written { .. }
                | PromptState::Taken { .. }
                | PromptState::Failed { .. } => return Ok(now),
            }
            tokio::select! {
                () = taken => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

/// What has a runner's assistant end by itself if it is typed, where that would be taken for what it is: only
/// while it is known to be idle.
pub(crate) fn quit_word(runner: &Runner) -> Option<&'static str> {
    let is_told = runner.doing.as_ref().is_some_and(|doing| doing.source > Source::Screen);
    let reads = runner.command.headless.is_none() && runner.desired != Desired::Paused;
    let is_idle = runner.activity == Activity::Idle && is_told;
    let quit = assistants::adapter(&runner.command.assistant).proves().quit;
    quit.filter(|_| reads && is_idle)
}

/// The id of the one prompt that this is about.
pub(crate) fn id_of(what: &str) -> PromptId {
    let mut entropy = [0; 16];
    entropy.copy_from_slice(&Sha256::digest(what)[..16]);
    PromptId::from_entropy(entropy)
}

/// Who types prompts just now, and that some have arrived.
#[derive(Default)]
pub(crate) struct Prompting {
    turns: Mutex<HashMap<RunnerId, Weak<tokio::sync::Mutex<()>>>>,
    pub(crate) taken: Notify,
}

impl Prompting {
    /// Takes the turn to type into a runner.
    async fn turn(&self, runner: RunnerId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let turn = turns.get(&runner).and_then(Weak::upgrade).unwrap_or_default();
            turns.insert(runner, Arc::downgrade(&turn));
            turn
        };
        turn.lock_owned().await
    }
}
