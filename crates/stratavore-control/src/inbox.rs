//! The inbox: who waits for a person, and answers from there.
//!
//! Invariant: an ask is answered once. The answer is written down first, with who gave it, and then
//! handed to the hook that waits, or typed at the dialog where none does; one that a crash kept back is handed over when the agent connects.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use stratavore_assistants as assistants;
use stratavore_core::ask::{Ask, AskState, Prompt};
use stratavore_core::budget::Action;
use stratavore_core::caller::Caller;
use stratavore_core::name::Name;
use stratavore_core::observation::AskKind;
use stratavore_core::runner::{Doing, Runner};
use stratavore_core::{AskId, NodeId, RunnerId, Timestamp};
use stratavore_runtime::failpoint;
use stratavore_runtime::socket::SocketError;
use stratavore_store::{BudgetHold, RunnerFilter};

use crate::control::Control;
use crate::error::Error;
use crate::runner::RunnerView;

/// How many asks are listed at most, and how many of one runner are looked at.
const LISTED_MAX: u32 = 1000;
const OF_RUNNER_MAX: u32 = 50;
/// The most characters of what the assistant is told with an answer.
const MESSAGE_MAX: usize = 4000;
/// How often it is looked whether a dialog is on the screen, how often keys are pressed at it, and how long
/// it is waited after each.
const LOOKS: u32 = 12;
const PRESSES: u32 = 8;
const LOOK: Duration = Duration::from_millis(400);
/// How many characters of what is asked have to be on the screen with its dialog.
const ON_SCREEN: usize = 24;
/// How old an answer may be that is still handed over: what the assistant asked long ago it no longer asks.
const LATE: Duration = Duration::from_secs(24 * 3600);

/// A runner that waits for a person.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub runner: RunnerView,
    pub since: Timestamp,
    /// What it asks; `None`: only its screen says.
    pub ask: Option<Ask>,
    /// The budget that holds it, and asks whether it may go on.
    pub held: Option<Held>,
    pub doing: Option<Doing>,
}

/// A budget that holds a runner and asks a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub budget: Name,
    pub since: Timestamp,
    /// How much is used of what, and what would lift it.
    pub text: String,
}

impl Control {
    /// All that wait for a person, who has waited longest first.
    pub async fn inbox(
        &self,
        caller: &Caller,
        project: Option<&str>,
    ) -> Result<Vec<Waiting>, Error> {
        let project = match project {
            Some(name) => Some(self.project(name).await?.id),
            None => None,
        };
        let asks = self.inner.store.asks_open(LISTED_MAX).await?;
        let filter = RunnerFilter { project, live_only: true, ..RunnerFilter::default() };
        let held = self.held(None).await?;
        let mut waiting = Vec::new();
        for view in self.runner_list(caller, &filter).await? {
            let of_it = |ask: &&Ask| ask.runner == view.runner.id && ask.epoch == view.runner.epoch;
            let mut asked = asks.iter().filter(of_it).peekable();
            let doing = view.runner.doing.clone();
            if let Some(held) = held.get(&view.runner.id) {
                // What it asks it can be answered once it goes on.
                let (held, since) = (Some(held.clone()), held.since);
                waiting.push(Waiting { runner: view, since, ask: None, held, doing });
                continue;
            }
            if asked.peek().is_none() && view.runner.activity.waits_for_person() {
                let since = doing.as_ref().map_or(view.runner.updated_at, |doing| doing.since);
                let (runner, doing) = (view.clone(), doing.clone());
                waiting.push(Waiting { runner, since, ask: None, held: None, doing });
            }
            for ask in asked {
                let (runner, since, doing) = (view.clone(), ask.asked_at, doing.clone());
                let ask = Some(ask.clone());
                waiting.push(Waiting { runner, since, ask, held: None, doing });
            }
        }
        waiting.sort_by_key(|waiting| waiting.since);
        Ok(waiting)
    }

    /// The budget that holds this runner and asks whether it may go on, if one does.
    pub async fn held_by(&self, runner: &Runner) -> Result<Option<Held>, Error> {
        Ok(self.held(Some(runner.node)).await?.remove(&runner.id))
    }

    async fn held(&self, node: Option<NodeId>) -> Result<BTreeMap<RunnerId, Held>, Error> {
        let mut holds = self.inner.store.budget_holds(node).await?;
        holds.retain(|hold| hold.step.action == Action::Ask);
        if holds.is_empty() {
            return Ok(BTreeMap::new());
        }
        let now = self.now();
        let budgets = self.inner.store.budget_list(None).await?;
        let current = self.inner.store.budget_current(now).await?;
        let held = |hold: BudgetHold| {
            let budget = budgets.iter().find(|budget| budget.id == hold.budget)?;
            let period = budget.period(now, Some(hold.runner))?;
            let counted = current.get(&budget.id)?.iter().find(|one| one.period == period)?;
            let (used, limit) = (budget.unit.show(counted.account.used), budget.limit());
            let lift = budget.lift_hold(&period, hold.runner);
            let text = format!("{used} used of {limit}; {lift}");
            Some((hold.runner, Held { budget: budget.name.clone(), since: hold.at, text }))
        };
        Ok(holds.into_iter().filter_map(held).collect())
    }

    async fn asks_now(&self, runner: &Runner) -> Result<Vec<Ask>, Error> {
        let asks = self.inner.store.asks_of(runner.id, OF_RUNNER_MAX).await?;
        let is_now = |ask: &Ask| ask.state == AskState::Open && ask.epoch == runner.epoch;
        Ok(asks.into_iter().filter(is_now).collect())
    }

    /// Answers the one question that the runner asks with a prompt to it, if the assistant takes words for
    /// an answer. False: it asks none, or several.
    pub(crate) async fn answer_with(
        &self,
        caller: &Caller,
        runner: &Runner,
        prompt: &Prompt,
    ) -> Result<bool, Error> {
        let text = prompt.text.trim();
        let asks = self.inner.store.asks_of(runner.id, OF_RUNNER_MAX).await?;
        // One whose daemon died over it has answered, and is not said a second time.
        let was_it = |ask: &Ask| {
            matches!(&ask.state, AskState::Answered { message: Some(message), at, .. }
            if message == text && *at >= prompt.made_at)
        };
        if asks.iter().any(was_it) {
            return Ok(true);
        }
        let mut asks = self.asks_now(runner).await?;
        let (Some(ask), true) = (asks.pop(), asks.is_empty()) else { return Ok(false) };
        let takes_words = how(runner, &ask, true, Some(text)).is_some();
        if ask.kind != AskKind::Question || !takes_words || text.chars().count() > MESSAGE_MAX {
            return Ok(false);
        }
        self.answer(caller, ask, true, Some(text.to_owned())).await.map(|_| true)
    }

    /// What a runner asks just now: the one thing, or an error that says what there is.
    pub async fn ask_of(&self, runner: &Runner) -> Result<Ask, Error> {
        let mut open = self.asks_now(runner).await?;
        match open.len() {
            1 => Ok(open.remove(0)),
            0 => Err(Error::invalid(
                format!("runner {} asks nothing that can be answered from here", runner.name),
                format!("look at its screen: stratavore attach {}", runner.name),
            )),
            several => Err(Error::invalid(
                format!("runner {} asks {several} things", runner.name),
                "answer one of them by its id: stratavore inbox",
            )),
        }
    }

    pub async fn ask(&self, id: AskId) -> Result<(Ask, Runner), Error> {
        let ask = self.inner.store.ask_get(id).await?;
        let runner = self.inner.store.runner_get(ask.runner).await?;
        Ok((ask, runner))
    }

    /// Lets the assistant do what it asked for, or not; `message` is for the assistant.
    pub async fn answer(
        &self,
        caller: &Caller,
        ask: Ask,
        allow: bool,
        message: Option<String>,
    ) -> Result<Ask, Error> {
        self.may_change(caller, "answer what assistants ask")?;
        let runner = self.live(ask.runner).await?;
        if let Some(message) = &message
            && message.chars().count() > MESSAGE_MAX
        {
            return Err(Error::invalid(
                format!("the message is over the limit of {MESSAGE_MAX} characters"),
                "say it shorter, or send it as a prompt: stratavore send",
            ));
        }
        match how(&runner, &ask, allow, message.as_deref()) {
            Some(Way::Hook(_)) => {}
            Some(Way::Keys(_)) if message.is_some() => return Err(takes_no_words(&runner)),
            Some(Way::Keys(_)) if ask.state == AskState::Open => {
                self.until_it_is_on_the_screen(&runner, &ask).await?;
            }
            // Who comes too late is told so by the store.
            Some(Way::Keys(_)) => {}
            None if message.is_some() && how(&runner, &ask, allow, None).is_some() => {
                return Err(takes_no_words(&runner));
            }
            None => {
                let what = if allow { "approve" } else { "deny" };
                return Err(Error::invalid(
                    format!(
                        "{} takes this answer on its own screen only",
                        runner.command.assistant
                    ),
                    format!("{what} it there: stratavore attach {}", runner.name),
                ));
            }
        }
        let who = caller.to_string();
        let (by, now) = (self.by(caller, None), self.now());
        let here = self.inner.node.id;
        let answered = self
            .inner
            .store
            .ask_answer(ask.id, allow, message.as_deref(), &who, here, &by, now)
            .await?;
        self.inner.relay_wake.notify_one();
        failpoint("answer_committed");
        self.hand_over(&runner, &answered).await?;
        Ok(self.inner.store.ask_get(ask.id).await?)
    }

    /// Gives the waiting hook its answer, or the dialog its keys.
    async fn hand_over(&self, runner: &Runner, ask: &Ask) -> Result<(), Error> {
        let AskState::Answered { allow, message, delivered: false, .. } = &ask.state else {
            return Ok(());
        };
        let handed = match (how(runner, ask, *allow, message.as_deref()), &ask.call) {
            (Some(Way::Hook(output)), Some(call)) => {
                self.inner.runtime.answer(runner.id, call.clone(), output).await
            }
            (Some(Way::Keys(keys)), _) => return self.press(runner, ask, keys).await,
            (Some(Way::Hook(_)), None) | (None, _) => return Ok(()),
        };
        match handed {
            Ok(()) => Ok(self.inner.store.ask_delivered(ask.id).await?),
            Err(SocketError::Refused(_)) => Err(no_longer_asks(runner)),
            Err(error) => Err(error.into()),
        }
    }

    /// A dialog comes a moment after its assistant has told of it; what is typed before goes elsewhere.
    async fn until_it_is_on_the_screen(&self, runner: &Runner, ask: &Ask) -> Result<(), Error> {
        for _ in 0..LOOKS {
            if self.is_on_the_screen(runner, ask).await? {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(no_longer_asks(runner))
    }

    async fn is_on_the_screen(&self, runner: &Runner, ask: &Ask) -> Result<bool, Error> {
        let adapter = assistants::adapter(&runner.command.assistant);
        let Some(dialog) = adapter.dialog() else { return Ok(false) };
        let screen = words(&self.inner.runtime.screen(runner.id).await?.text);
        let asked: String = words(&ask.text).chars().take(ON_SCREEN).collect();
        Ok(screen.contains(&words(dialog)) && screen.contains(&asked))
    }

    /// Presses keys at the dialog until it is gone: one that has just come may not take them. Nothing is
    /// pressed at another dialog.
    async fn press(&self, runner: &Runner, ask: &Ask, keys: &str) -> Result<(), Error> {
        for _ in 0..PRESSES {
            if !self.is_on_the_screen(runner, ask).await? {
                return Ok(self.inner.store.ask_delivered(ask.id).await?);
            }
            let asks = self.inner.store.asks_of(runner.id, OF_RUNNER_MAX).await?;
            if asks.iter().any(|other| other.id != ask.id && other.state == AskState::Open) {
                return Ok(());
            }
            self.inner.runtime.send(runner.id, keys.into(), false, false).await?;
            tokio::time::sleep(LOOK).await;
        }
        if self.is_on_the_screen(runner, ask).await? {
            return Err(Error::invalid(
                format!("{} did not take the answer", runner.command.assistant),
                format!("answer on its screen: stratavore attach {}", runner.name),
            ));
        }
        Ok(self.inner.store.ask_delivered(ask.id).await?)
    }

    /// Hands over what was answered while the agent could not be reached.
    pub(crate) async fn hand_over_answers(&self, id: RunnerId) {
        let look = async {
            let runner = self.inner.store.runner_get(id).await?;
            for ask in self.inner.store.asks_of(id, OF_RUNNER_MAX).await? {
                let late = matches!(&ask.state, AskState::Answered { at, delivered: false, .. }
                    if self.now().duration_since(*at).unsigned_abs() < LATE);
                if late && ask.epoch == runner.epoch {
                    // Who waits no longer was answered on the screen.
                    self.hand_over(&runner, &ask).await.ok();
                }
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = look.await {
            self.not_done(id, "could not look for answers that were not handed over", &error);
        }
    }
}

/// How an assistant is answered.
enum Way {
    /// The hook that waits prints this.
    Hook(String),
    /// This is typed at the dialog on its screen.
    Keys(&'static str),
}

/// `None`: only a person who sees its screen can answer.
fn how(runner: &Runner, ask: &Ask, allow: bool, message: Option<&str>) -> Option<Way> {
    let adapter = assistants::adapter(&runner.command.assistant);
    if ask.call.is_some() {
        return adapter.answer(ask.hook.as_ref()?, allow, message).map(Way::Hook);
    }
    adapter.dialog()?;
    // Of what no hook told there is nothing but the screen.
    let hook = ask.hook.as_ref().unwrap_or(&Value::Null);
    adapter.answer_keys(hook, allow).map(Way::Keys)
}

/// True if the runner's ask can be answered from elsewhere than its screen.
pub fn is_answerable(runner: &Runner, ask: &Ask) -> bool {
    how(runner, ask, true, None).is_some()
}

fn takes_no_words(runner: &Runner) -> Error {
    Error::invalid(
        format!("{} takes no words with this answer", runner.command.assistant),
        format!("answer without a message, then say it: stratavore send {}", runner.name),
    )
}

fn no_longer_asks(runner: &Runner) -> Error {
    Error::invalid(
        format!("runner {} no longer waits for this answer", runner.name),
        format!("it was answered on its screen: stratavore attach {}", runner.name),
    )
}

/// A text without its blanks, line ends and frames: a screen breaks lines where it has to.
fn words(text: &str) -> String {
    text.split(|c: char| c.is_whitespace() || ('\u{2500}'..='\u{257f}').contains(&c)).collect()
}
