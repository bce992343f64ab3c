//! The inbox over gRPC.

use std::time::Duration;

use stratavore_control::{Delivery, Error, Explanation, Held, Waiting, is_answerable};
use stratavore_core::AskId;
use stratavore_core::ask::{Ask, AskState, Prompt, PromptState};
use stratavore_core::caller::Caller;
use stratavore_core::runner::Runner;
use stratavore_proto::v1;
use stratavore_proto::v1::inbox_server::Inbox;
use tonic::{Request, Response, Status};

use super::forward::elsewhere;
use super::problem::status;
use super::{Api, caller, given, keyed, view};

fn ask(runner: &Runner, ask: Ask) -> v1::Ask {
    let answerable = is_answerable(runner, &ask);
    let mut message = v1::Ask {
        id: ask.id.to_string(),
        runner_id: ask.runner.to_string(),
        kind: ask.kind.as_str().into(),
        tool: ask.tool,
        text: ask.text,
        asked_at_us: ask.asked_at.as_microsecond(),
        state: ask.state.as_str().into(),
        answerable,
        ..v1::Ask::default()
    };
    match ask.state {
        AskState::Open => {}
        AskState::Answered { allow, message: words, by, at, delivered } => {
            (message.allow, message.by, message.delivered) = (allow, by, delivered);
            message.message = words.unwrap_or_default();
            message.answered_at_us = at.as_microsecond();
        }
        AskState::Over { at } => message.answered_at_us = at.as_microsecond(),
    }
    message
}

/// A budget that asks, as an ask. It has no id, and goes by the runner.
fn hold(runner: &Runner, held: &Held) -> v1::Ask {
    v1::Ask {
        runner_id: runner.id.to_string(),
        kind: "budget".into(),
        tool: format!("budget {}", held.budget),
        text: held.text.clone(),
        asked_at_us: held.since.as_microsecond(),
        state: "open".into(),
        answerable: true,
        ..v1::Ask::default()
    }
}

impl Api {
    /// To approve one that a budget holds is to let it use more.
    async fn answer_held(
        &self,
        request: Request<v1::AnswerAsk>,
        caller: &Caller,
        runner: &Runner,
        held: &Held,
    ) -> Result<Response<v1::Ask>, Status> {
        elsewhere!(self, runner.node, request, caller, inbox.answer);
        let v1::AnswerAsk { allow, message, .. } = request.into_inner();
        let (api, by, of, name) =
            (self.clone(), caller.clone(), runner.clone(), held.budget.clone());
        let work = async move {
            if !allow || !message.is_empty() {
                return Err(Error::invalid(
                    format!("{} is held by the budget {name}, which takes a yes only", of.name),
                    format!("leave it held, or end it: stratavore kill {}", of.name),
                ));
            }
            api.control.budget_allow(&by, &of, Some(name.as_str()), None, None).await.map(drop)
        };
        let on = runner.name.to_string();
        let allowed = self.control.decided(caller, "inbox.answer", &on, work).await;
        allowed.map_err(status)?;
        let (state, allow, by) = ("answered".into(), true, caller.to_string());
        Ok(Response::new(v1::Ask { state, allow, by, delivered: true, ..hold(runner, held) }))
    }
}

fn prompt(prompt: Prompt) -> v1::Prompt {
    let (at, why) = match &prompt.state {
        PromptState::Queued => (prompt.made_at, String::new()),
        PromptState::Written { at, .. } | PromptState::Taken { at } => (*at, String::new()),
        PromptState::Failed { at, why } => (*at, why.clone()),
    };
    v1::Prompt {
        id: prompt.id.to_string(),
        runner_id: prompt.runner.to_string(),
        state: prompt.state.as_str().into(),
        why,
        at_us: at.as_microsecond(),
    }
}

#[tonic::async_trait]
impl Inbox for Api {
    async fn list(
        &self,
        request: Request<v1::ListInbox>,
    ) -> Result<Response<v1::InboxList>, Status> {
        let caller = caller(&request)?;
        let project = request.into_inner().project;
        let found = self.control.inbox(&caller, given(&project)).await.map_err(status)?;
        let waiting =
            found.into_iter().map(|Waiting { runner, since, ask: asked, held, .. }| {
                let of = &runner.runner;
                let ask = asked.map(|asked| ask(of, asked)).or(held.map(|held| hold(of, &held)));
                let runner = Some(view::runner(runner));
                v1::Waiting { runner, since_us: since.as_microsecond(), ask }
            });
        Ok(Response::new(v1::InboxList { waiting: waiting.collect() }))
    }

    async fn answer(&self, request: Request<v1::AnswerAsk>) -> Result<Response<v1::Ask>, Status> {
        let caller = caller(&request)?;
        let about = request.get_ref();
        let (asked, runner) = match about.ask.parse::<AskId>() {
            Ok(id) => self.control.ask(id).await.map_err(status)?,
            Err(_) => {
                let runner = self.find(&about.ask, &about.project).await?;
                if let Some(held) = self.control.held_by(&runner).await.map_err(status)? {
                    return self.answer_held(request, &caller, &runner, &held).await;
                }
                (self.control.ask_of(&runner).await.map_err(status)?, runner)
            }
        };
        elsewhere!(self, runner.node, request, &caller, inbox.answer);
        let v1::AnswerAsk { allow, message, .. } = request.into_inner();
        let (control, by, on) = (self.control.clone(), caller.clone(), asked.id.to_string());
        let message = given(&message).map(String::from);
        let answered = async move { control.answer(&by, asked, allow, message).await };
        let answered = self.control.decided(&caller, "inbox.answer", &on, answered).await;
        Ok(Response::new(ask(&runner, answered.map_err(status)?)))
    }

    async fn prompt(
        &self,
        request: Request<v1::PromptRunner>,
    ) -> Result<Response<v1::Prompt>, Status> {
        let caller = caller(&request)?;
        let about = request.get_ref();
        let runner = self.find(&about.runner, &about.project).await?;
        elsewhere!(self, runner.node, request, &caller, inbox.prompt);
        let mut request = request.into_inner();
        let key = keyed!("inbox.prompt", request);
        let v1::PromptRunner { text, into_turn, wait_ms, .. } = request;
        let delivery = Delivery { into_turn, wait: Duration::from_millis(wait_ms) };
        let (control, by, on) = (self.control.clone(), caller.clone(), runner.name.to_string());
        let id = runner.id;
        let sent = async move { control.prompt(&by, id, text, delivery, key).await };
        let sent = self.control.decided(&caller, "inbox.prompt", &on, sent).await;
        Ok(Response::new(prompt(sent.map_err(status)?)))
    }

    async fn explain(
        &self,
        request: Request<v1::GetRunner>,
    ) -> Result<Response<v1::Explanation>, Status> {
        let caller = caller(&request)?;
        let about = request.get_ref();
        let runner = self.find(&about.runner, &about.project).await?;
        elsewhere!(self, runner.node, request, &caller, inbox.explain);
        let Explanation { runner, proves, signals, asks, observed } =
            self.control.explain(&caller, runner.id).await.map_err(status)?;
        let proves =
            serde_json::to_string(&proves).map_err(|error| status(Error::internal(error)))?;
        let signals = signals.into_iter().map(|read| v1::SignalRead {
            at_us: read.at.as_microsecond(),
            epoch: read.epoch,
            signal: read.signal,
            meaning: read.meaning,
        });
        let asks = asks.into_iter().map(|asked| ask(&runner.runner, asked)).collect();
        Ok(Response::new(v1::Explanation {
            runner: Some(view::runner(runner)),
            observed,
            proves,
            signals: signals.collect(),
            asks,
        }))
    }
}
