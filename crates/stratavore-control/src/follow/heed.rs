//! What follows from what assistants tell, for the people who wait for it: what each one does, what it asks,
//! and that it has a prompt.

use std::collections::BTreeMap;

use serde_json::Value;
use stratavore_assistants as assistants;
use stratavore_assistants::adapter::Adapter;
use stratavore_core::Timestamp;
use stratavore_core::activity::{Activity, Doing, Source};
use stratavore_core::ask::Ask;
use stratavore_core::caller::Caller;
use stratavore_core::observation::Observation;
use stratavore_core::runner::{Input, Runner};
use stratavore_store::StoreError;

use super::{hook_of, lock};
use crate::asked::ask_id;
use crate::control::Control;
use crate::error::Error;

/// An assistant whose activity stands in a file of its own, and what is known of it.
#[derive(Clone)]
pub(super) struct Level {
    epoch: i64,
    pid: u32,
    adapter: &'static dyn Adapter,
    env: BTreeMap<String, String>,
    known: Option<Doing>,
}

impl Control {
    /// What a person waits for.
    pub(super) async fn heed(
        &self,
        runner: &Runner,
        epoch: i64,
        observations: &[Observation],
        hooks: &BTreeMap<String, Value>,
    ) -> Result<(), Error> {
        let store = &self.inner.store;
        if !observations.iter().any(is_heeded) {
            return Ok(());
        }
        // What was read just before this, in the same pass, has told of it as well.
        let runner = &store.runner_get(runner.id).await?;
        let starts = epoch == runner.epoch && self.is_to_be_prompted(runner).await?;
        let (mut doing, mut is_taken) = (None, false);
        let mut on_screen = runner.activity.waits_for_person();
        let now = self.now();
        for observation in observations {
            match observation {
                Observation::Doing(told)
                    if starts && doing.is_none() && told.activity == Activity::Idle => {}
                Observation::Doing(told)
                    if epoch == runner.epoch && is_of_now(runner, told, now) =>
                {
                    doing = Some(match doing {
                        Some(before) => Doing::followed_by(before, told.clone(), now),
                        None => told.clone(),
                    });
                }
                Observation::Asked(asked) => {
                    let id = ask_id(runner.id, epoch, asked);
                    let hook = hooks.get(&hook_of(asked.call.as_deref(), asked.at)).cloned();
                    let asked = self.asked_on_screen(runner, asked.clone()).await;
                    on_screen |= asked.call.is_none();
                    doing = doing.map(|doing| match doing.question {
                        None if doing.activity.waits_for_person() && !asked.text.is_empty() => {
                            doing.asking(&format!("{}: {}", asked.tool, asked.text))
                        }
                        Some(_) | None => doing,
                    });
                    store.ask_open(&Ask::new(id, runner.id, epoch, asked, hook)).await?;
                }
                Observation::AskOver { call } => {
                    let of_call = |ask: &Ask| ask.call.as_ref() == Some(call);
                    store.asks_over(runner.id, of_call, self.now()).await?;
                }
                Observation::PromptTaken { text, at, .. } => {
                    is_taken |= store.prompt_taken(runner.id, text, *at).await?.is_some();
                }
                Observation::Doing(_)
                | Observation::Session(_)
                | Observation::Message(_)
                | Observation::Usage(_)
                | Observation::Window(_)
                | Observation::TurnOver { .. } => {}
            }
        }
        let done = match doing {
            Some(doing) => self.does(runner, epoch, doing, on_screen).await,
            None => Ok(()),
        };
        if is_taken {
            // Who has sent it and looks now sees that it is worked on.
            self.inner.prompting.taken.notify_waiters();
        }
        done
    }

    /// True for as long as it has not begun with the prompt that it was started with: it may look idle, and
    /// what is typed then is lost.
    async fn is_to_be_prompted(&self, runner: &Runner) -> Result<bool, Error> {
        let command = &runner.command;
        let prompted = command.prompt.is_some() && command.headless.is_none();
        let Some(session) = runner.session.filter(|_| prompted) else { return Ok(false) };
        if runner.activity != Activity::Unknown {
            return Ok(false);
        }
        let has_begun = self.inner.store.session_get(session).await?.has_begun();
        Ok(!has_begun && !self.has_unsaid(runner).await?)
    }

    /// Takes down what the assistant does; `asked_on_screen`: it has asked something before this, of which
    /// its screen may have taken the answer.
    async fn does(
        &self,
        runner: &Runner,
        epoch: i64,
        doing: Doing,
        asked_on_screen: bool,
    ) -> Result<(), Error> {
        let input = Input::Activity { epoch, doing };
        let now = self.apply(runner.id, input, &Caller::agent(runner.id), None).await?;
        let waits = now.activity.waits_for_person();
        if !waits && !now.is_terminal() && asked_on_screen {
            // What had no hook that waits was answered on the screen.
            let on_screen = |ask: &Ask| ask.call.is_none();
            self.inner.store.asks_over(runner.id, on_screen, self.now()).await?;
        }
        self.keep_level(&now);
        self.keep_limited(&now);
        self.keep_idle(&now);
        self.say_unsaid(&now).await
    }

    /// Remembers whose activity has to be looked at: of an assistant that works, or waits, an interrupt is
    /// told by nobody.
    fn keep_level(&self, runner: &Runner) {
        let busy = match runner.activity {
            Activity::Working | Activity::NeedsInput | Activity::NeedsPermission => true,
            Activity::Unknown | Activity::Idle | Activity::RateLimited => false,
        };
        let mut levels = lock(&self.inner.following.levels);
        match runner.state.process().filter(|_| busy) {
            Some(process) => {
                let level = Level {
                    epoch: runner.epoch,
                    pid: process.pid,
                    adapter: assistants::adapter(&runner.command.assistant),
                    env: self.env_seen(&runner.command),
                    known: runner.doing.clone(),
                };
                levels.insert(runner.id, level);
            }
            None => {
                levels.remove(&runner.id);
            }
        }
    }

    /// The periodic look at those.
    pub(crate) async fn look_at_levels(&self) -> Result<String, Error> {
        let levels = lock(&self.inner.following.levels).clone();
        let count = levels.len();
        for (id, level) in levels {
            let Level { epoch, pid, adapter, env, known } = level;
            let look = tokio::task::spawn_blocking(move || adapter.level(pid, &env));
            let Some(doing) = look.await.map_err(Error::internal)? else { continue };
            let same = known.is_some_and(|known| known.activity == doing.activity);
            if same {
                continue;
            }
            match self.inner.store.runner_get(id).await {
                Ok(runner) if runner.epoch == epoch && !runner.is_terminal() => {
                    // A hook that came meanwhile is told by its own signal.
                    let known = runner.doing.as_ref().map(|known| known.since);
                    if known.is_none_or(|since| since <= doing.since || since > self.now()) {
                        let waited = runner.activity.waits_for_person();
                        self.does(&runner, epoch, doing, waited).await?;
                    }
                }
                Ok(_) | Err(StoreError::NotFound { .. }) => self.no_longer_followed(id),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(format!("looked at {count} assistants"))
    }
}

/// True for what [`Control::heed`] does something about.
fn is_heeded(observation: &Observation) -> bool {
    match observation {
        Observation::Doing(_)
        | Observation::Asked(_)
        | Observation::AskOver { .. }
        | Observation::PromptTaken { .. } => true,
        Observation::Session(_)
        | Observation::Message(_)
        | Observation::Usage(_)
        | Observation::Window(_)
        | Observation::TurnOver { .. } => false,
    }
}

/// Old lines tell of old days: what a transcript says was so before the runner has started is no news. By a
/// clock that was set back to before that, nobody can tell.
fn is_of_now(runner: &Runner, doing: &Doing, now: Timestamp) -> bool {
    let is_new = |started: Timestamp| doing.since >= started || started > now;
    doing.source == Source::Events || runner.started_at.is_some_and(is_new)
}
