//! Queues.

use std::collections::HashMap;

use stratavore_control::{Error, QueueEdit};
use stratavore_core::name::Name;
use stratavore_core::queue::{Item, ItemState, ItemWish, QueueSettings};
use stratavore_core::runner::Headless;
use stratavore_core::{ProjectId, Timestamp};
use stratavore_proto::v1;
use stratavore_proto::v1::queue_server::Queue;
use stratavore_store::ItemFilter;
use tonic::{Request, Response, Status};

use super::problem::status;
use super::{Api, caller, given, keyed};

/// The most items in one page of a list. Each may have a prompt of a hundred kilobytes.
const PAGE: u32 = 100;
/// The most characters of a prompt in a list.
const LISTED_PROMPT: usize = 1000;

fn wish(request: v1::AddItem) -> Result<ItemWish, Error> {
    let name = |text: &str| -> Result<Option<Name>, Error> {
        let parsed = given(text).map(str::parse).transpose();
        parsed.map_err(|error: stratavore_core::name::NameError| {
            Error::invalid(error.to_string(), "choose another name")
        })
    };
    let not_before = match request.not_before_us {
        0 => None,
        micros => Some(Timestamp::from_microsecond(micros).map_err(|error| {
            Error::invalid(error.to_string(), "give a time between the years 1 and 9999")
        })?),
    };
    Ok(ItemWish {
        assistant: name(&request.assistant)?,
        name: name(&request.name)?,
        args: request.args,
        prompt: given(&request.prompt).map(Into::into),
        env: request.env,
        priority: request.priority,
        max_attempts: if request.max_attempts == 0 { 1 } else { request.max_attempts },
        backoff_ms: if request.backoff_ms == 0 { 30_000 } else { request.backoff_ms },
        waits_for_reset: !request.fails_at_rate_limit,
        not_before,
        timeout_seconds: (request.timeout_seconds != 0).then_some(request.timeout_seconds),
        headless: Headless {
            max_turns: (request.max_turns != 0).then_some(request.max_turns),
            max_cost: (request.max_cost != 0).then_some(request.max_cost),
            item: None,
        },
        session: None,
    })
}

fn micros(at: Option<Timestamp>) -> i64 {
    at.map_or(0, |at| at.as_microsecond())
}

fn message(item: Item, project: String) -> v1::QueueItem {
    let (not_before, ended) = (item.state.not_before(), item.state.ended_at());
    let mut message = v1::QueueItem {
        id: item.id.to_string(),
        project_id: item.project.to_string(),
        project,
        assistant: item.wish.assistant.map(String::from).unwrap_or_default(),
        args: item.wish.args,
        prompt: item.wish.prompt.unwrap_or_default(),
        name: item.wish.name.map(String::from).unwrap_or_default(),
        priority: item.wish.priority,
        max_attempts: item.wish.max_attempts,
        backoff_ms: item.wish.backoff_ms,
        fails_at_rate_limit: !item.wish.waits_for_reset,
        timeout_seconds: item.wish.timeout_seconds.unwrap_or(0),
        max_turns: item.wish.headless.max_turns.unwrap_or(0),
        max_cost: item.wish.headless.max_cost.unwrap_or(0),
        by: item.by,
        state: item.state.as_str().into(),
        attempts: item.attempts,
        not_before_us: micros(not_before),
        runner_id: item.last_runner.map(|id| id.to_string()).unwrap_or_default(),
        session_id: item.session.map(|id| id.to_string()).unwrap_or_default(),
        created_at_us: item.created_at.as_microsecond(),
        updated_at_us: item.updated_at.as_microsecond(),
        ended_at_us: micros(ended),
        generation: item.generation,
        ..v1::QueueItem::default()
    };
    match item.state {
        ItemState::Queued { .. } => message.why = item.last_why.unwrap_or_default(),
        ItemState::Running { since, cancelled_by, .. } => {
            message.started_at_us = since.as_microsecond();
            message.cancelled_by = cancelled_by.unwrap_or_default();
        }
        ItemState::Done { text, .. } => message.text = text,
        ItemState::Failed { why, .. } => message.why = why,
        ItemState::Cancelled { by, .. } => message.cancelled_by = by,
    }
    message
}

/// What a list shows of an item: `Get` has all of it.
fn listed(mut item: v1::QueueItem) -> v1::QueueItem {
    for text in [&mut item.prompt, &mut item.text, &mut item.why] {
        if let Some((at, _)) = text.char_indices().nth(LISTED_PROMPT) {
            text.truncate(at);
            text.push('…');
        }
    }
    item
}

impl Api {
    async fn item_message(&self, item: Item) -> v1::QueueItem {
        let project = self.control.project_name(item.project).await;
        message(item, project)
    }
}

#[tonic::async_trait]
impl Queue for Api {
    async fn add(&self, request: Request<v1::AddItem>) -> Result<Response<v1::QueueItem>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let key = keyed!("queue.add", request);
        let (project, session) = (request.project.clone(), request.session.clone());
        let mut wish = wish(request).map_err(status)?;
        if let Some(wanted) = given(&session) {
            let resume =
                self.control.session_to_resume(&caller, wanted, false).await.map_err(status)?;
            wish.session = Some(resume.session);
        }
        let (control, by, on) = (self.control.clone(), caller.clone(), project.clone());
        let added = async move { control.item_add(&by, &project, wish, key).await };
        let item = self.control.decided(&caller, "queue.add", &on, added).await.map_err(status)?;
        Ok(Response::new(self.item_message(item).await))
    }

    async fn list(
        &self,
        request: Request<v1::ListItems>,
    ) -> Result<Response<v1::QueueItemList>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let project = match given(&request.project) {
            Some(project) => Some(self.control.project(project).await.map_err(status)?.id),
            None => None,
        };
        let before = match given(&request.before) {
            Some(id) => {
                let last = self.control.item(&caller, id).await.map_err(status)?;
                Some((last.created_at, last.id))
            }
            None => None,
        };
        let limit = if request.limit == 0 { 500 } else { request.limit }.min(PAGE);
        let filter =
            ItemFilter { project, open_only: !request.all, limit: Some(limit + 1), before };
        let mut found = self.control.items(&caller, &filter).await.map_err(status)?;
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let next = found.last().filter(|_| more).map(|item| item.id.to_string());
        let mut names: HashMap<ProjectId, String> = HashMap::new();
        let mut items = Vec::with_capacity(found.len());
        for item in found {
            let name = match names.get(&item.project) {
                Some(name) => name.clone(),
                None => {
                    let name = self.control.project_name(item.project).await;
                    names.insert(item.project, name.clone());
                    name
                }
            };
            items.push(listed(message(item, name)));
        }
        Ok(Response::new(v1::QueueItemList { items, next: next.unwrap_or_default() }))
    }

    async fn get(&self, request: Request<v1::GetItem>) -> Result<Response<v1::QueueItem>, Status> {
        let caller = caller(&request)?;
        let item = self.control.item(&caller, &request.get_ref().item).await.map_err(status)?;
        Ok(Response::new(self.item_message(item).await))
    }

    async fn cancel(
        &self,
        request: Request<v1::ChangeItem>,
    ) -> Result<Response<v1::QueueItem>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let key = keyed!("queue.cancel", request);
        let (control, by, item) = (self.control.clone(), caller.clone(), request.item.clone());
        let cancelled = async move { control.item_cancel(&by, &item, key).await };
        let cancelled = self.control.decided(&caller, "queue.cancel", &request.item, cancelled);
        Ok(Response::new(self.item_message(cancelled.await.map_err(status)?).await))
    }

    async fn retry(
        &self,
        request: Request<v1::ChangeItem>,
    ) -> Result<Response<v1::QueueItem>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let key = keyed!("queue.retry", request);
        let (control, by, item) = (self.control.clone(), caller.clone(), request.item.clone());
        let retried = async move { control.item_retry(&by, &item, key).await };
        let retried = self.control.decided(&caller, "queue.retry", &request.item, retried);
        Ok(Response::new(self.item_message(retried.await.map_err(status)?).await))
    }

    async fn set(
        &self,
        request: Request<v1::SetQueue>,
    ) -> Result<Response<v1::QueueSettings>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let key = keyed!("queue.set", request);
        let project = self.control.project(&request.project).await.map_err(status)?;
        let name = project.name.to_string();
        let edit = QueueEdit { concurrency: request.concurrency, paused: request.paused };
        let QueueSettings { concurrency, paused } = if edit == QueueEdit::default() {
            self.control.queue_settings(project.id).await.map_err(status)?
        } else {
            let (control, by) = (self.control.clone(), caller.clone());
            let set =
                async move { control.queue_set(&by, &project.id.to_string(), edit, key).await };
            self.control.decided(&caller, "queue.set", &name, set).await.map_err(status)?
        };
        Ok(Response::new(v1::QueueSettings { project: name, concurrency, paused }))
    }
}
