//! What assistants ask, and prompts on their way to them.
//!
//! Invariant: an ask leaves `open` once, in one transaction with the record of who answered it.
//! Invariant: a prompt leaves `queued` once; whoever types it has moved it on before.

use serde_json::json;
use sqlx::types::Text;
use stratavore_core::ask::{Ask, AskState, Prompt, PromptState, is_same_prompt};
use stratavore_core::caller::By;
use stratavore_core::event::NewEvent;
use stratavore_core::{AskId, NodeId, PromptId, RunnerId, Timestamp};

use crate::error::doing;
use crate::retry::retried;
use crate::tx::{Tx, on};
use crate::value::{DbTime, from_json, to_json, without_nul};
use crate::{Store, StoreError, node};

const NOUN: &str = "ask";

const OPEN: &str = "INSERT INTO asks (id, runner_id, epoch, call, state, asked_at, record)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";

const ASK_POSTGRES: &str = "SELECT record FROM asks WHERE id = $1 FOR UPDATE";
const ASK_SQLITE: &str = "SELECT record FROM asks WHERE id = $1";

const OPEN_ASKS: &str =
    "SELECT record FROM asks WHERE state = 'open' ORDER BY asked_at, id LIMIT $1";

const ASKS_OF_RUNNER: &str =
    "SELECT record FROM asks WHERE runner_id = $1 ORDER BY asked_at DESC, id DESC LIMIT $2";

const OPEN_OF_RUNNER_POSTGRES: &str =
    "SELECT record FROM asks WHERE runner_id = $1 AND state = 'open' FOR UPDATE";
const OPEN_OF_RUNNER_SQLITE: &str =
    "SELECT record FROM asks WHERE runner_id = $1 AND state = 'open'";

const SET: &str = "UPDATE asks SET state = $2, record = $3 WHERE id = $1";

const QUEUE: &str = "INSERT INTO prompts (id, runner_id, epoch, state, made_at, record)
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING";

const PROMPT_POSTGRES: &str = "SELECT record FROM prompts WHERE id = $1 FOR UPDATE";
const PROMPT_SQLITE: &str = "SELECT record FROM prompts WHERE id = $1";

const WRITTEN_OF_RUNNER_POSTGRES: &str = "SELECT record FROM prompts
    WHERE runner_id = $1 AND state = 'written' ORDER BY made_at, id FOR UPDATE";
const WRITTEN_OF_RUNNER_SQLITE: &str =
    "SELECT record FROM prompts WHERE runner_id = $1 AND state = 'written' ORDER BY made_at, id";

const SET_PROMPT: &str = "UPDATE prompts SET state = $2, record = $3 WHERE id = $1";

statements! {
    OPEN, ASK_POSTGRES, ASK_SQLITE, OPEN_ASKS, ASKS_OF_RUNNER, OPEN_OF_RUNNER_POSTGRES,
    OPEN_OF_RUNNER_SQLITE, SET, QUEUE, PROMPT_POSTGRES, PROMPT_SQLITE, WRITTEN_OF_RUNNER_POSTGRES,
    WRITTEN_OF_RUNNER_SQLITE, SET_PROMPT,
}

impl Store {
    /// Keeps what an assistant asks. One of a call that is known changes nothing.
    pub async fn ask_open(&self, ask: &Ask) -> Result<(), StoreError> {
        if let Some(call) = &ask.call {
            without_nul("the call of a hook", call)?;
        }
        retried!({
            let mut tx = self.begin().await?;
            on!(tx, |conn| sqlx::query(OPEN)
                .bind(Text(ask.id))
                .bind(Text(ask.runner))
                .bind(ask.epoch)
                .bind(&ask.call)
                .bind(ask.state.as_str())
                .bind(DbTime(ask.asked_at))
                .bind(to_json(ask))
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing("keeping an ask"))?;
            tx.commit().await
        })
    }

    pub async fn ask_get(&self, id: AskId) -> Result<Ask, StoreError> {
        let mut reader = self.read().await?;
        let record: Option<String> = on!(reader, |conn| sqlx::query_scalar(ASK_SQLITE)
            .bind(Text(id))
            .fetch_optional(conn)
            .await)
        .map_err(doing("reading an ask"))?;
        record.map_or_else(|| Err(absent(id)), |record| from_json("an ask", &record))
    }

    /// All that is open, the oldest first.
    pub async fn asks_open(&self, limit: u32) -> Result<Vec<Ask>, StoreError> {
        let mut reader = self.read().await?;
        let records: Vec<String> = on!(reader, |conn| sqlx::query_scalar(OPEN_ASKS)
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)
        .map_err(doing("listing asks"))?;
        records.iter().map(|record| from_json("an ask", record)).collect()
    }

    /// The latest of a runner, open or not.
    pub async fn asks_of(&self, runner: RunnerId, limit: u32) -> Result<Vec<Ask>, StoreError> {
        let mut reader = self.read().await?;
        let records: Vec<String> = on!(reader, |conn| sqlx::query_scalar(ASKS_OF_RUNNER)
            .bind(Text(runner))
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)
        .map_err(doing("listing a runner's asks"))?;
        records.iter().map(|record| from_json("an ask", record)).collect()
    }

    /// Answers an open ask, with who did on the record. Of several that try at once one succeeds; the
    /// others are told [`StoreError::AskOver`].
    #[expect(clippy::too_many_arguments, reason = "who answers what, and how")]
    pub async fn ask_answer(
        &self,
        id: AskId,
        allow: bool,
        message: Option<&str>,
        who: &str,
        here: NodeId,
        by: &By,
        at: Timestamp,
    ) -> Result<Ask, StoreError> {
        let by = self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            let held = node::hold(&mut tx, here).await?;
            let mut ask = locked(&mut tx, id).await?;
            if ask.state != AskState::Open {
                return Err(StoreError::AskOver { id, state: ask.state.as_str() });
            }
            ask.state = AskState::Answered {
                allow,
                message: message.map(String::from),
                by: who.into(),
                at,
                delivered: false,
            };
            set(&mut tx, &ask).await?;
            let data = json!({
                "ask": id, "runner": ask.runner, "tool": ask.tool, "allow": allow,
            });
            let event = NewEvent::new("request.answer", data);
            node::append(&mut tx, &held, &event, &by, at).await?;
            tx.commit().await?;
            Ok(ask)
        })
    }

    /// The assistant has the answer.
    pub async fn ask_delivered(&self, id: AskId) -> Result<(), StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            let mut ask = locked(&mut tx, id).await?;
            if let AskState::Answered { delivered, .. } = &mut ask.state {
                *delivered = true;
                set(&mut tx, &ask).await?;
            }
            tx.commit().await
        })
    }

    /// Those of the runner's asks that are open and of which `which` is true wait no longer.
    pub async fn asks_over(
        &self,
        runner: RunnerId,
        which: impl Fn(&Ask) -> bool,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            let sql = tx.either(OPEN_OF_RUNNER_POSTGRES, OPEN_OF_RUNNER_SQLITE);
            let records: Vec<String> =
                on!(tx, |conn| sqlx::query_scalar(sql).bind(Text(runner)).fetch_all(conn).await)
                    .map_err(doing("reading a runner's asks"))?;
            for record in records {
                let mut ask: Ask = from_json("an ask", &record)?;
                if which(&ask) {
                    ask.state = AskState::Over { at };
                    set(&mut tx, &ask).await?;
                }
            }
            tx.commit().await
        })
    }

    /// Keeps a prompt that is to be typed. One of this id that is there is answered instead.
    pub async fn prompt_queue(&self, prompt: &Prompt) -> Result<Prompt, StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            on!(tx, |conn| sqlx::query(QUEUE)
                .bind(Text(prompt.id))
                .bind(Text(prompt.runner))
                .bind(prompt.epoch)
                .bind(prompt.state.as_str())
                .bind(DbTime(prompt.made_at))
                .bind(to_json(prompt))
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing("keeping a prompt"))?;
            let kept = locked_prompt(&mut tx, prompt.id).await?;
            tx.commit().await?;
            Ok(kept)
        })
    }

    pub async fn prompt_get(&self, id: PromptId) -> Result<Prompt, StoreError> {
        let mut reader = self.read().await?;
        let record: Option<String> = on!(reader, |conn| sqlx::query_scalar(PROMPT_SQLITE)
            .bind(Text(id))
            .fetch_optional(conn)
            .await)
        .map_err(doing("reading a prompt"))?;
        let absent = || StoreError::NotFound { noun: "prompt", wanted: id.to_string() };
        record.map_or_else(|| Err(absent()), |record| from_json("a prompt", &record))
    }

    /// Moves a prompt on from `queued`, before it is typed or when it is given up. False: it is not
    /// queued any more, so whoever asks must not type it.
    pub async fn prompt_leave_queue(
        &self,
        id: PromptId,
        state: PromptState,
    ) -> Result<bool, StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            let was_queued = leave_queue(&mut tx, id, &state).await?.is_some();
            tx.commit().await?;
            Ok(was_queued)
        })
    }

    /// The same of one that is typed next, with who has it typed on the record.
    pub async fn prompt_send(
        &self,
        id: PromptId,
        epoch: i64,
        here: NodeId,
        by: &By,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let by = self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            let held = node::hold(&mut tx, here).await?;
            let written = PromptState::Written { at, epoch };
            let Some(prompt) = leave_queue(&mut tx, id, &written).await? else {
                return Ok(false);
            };
            let data = json!({ "runner": prompt.runner, "prompt": id, "bytes": prompt.text.len() });
            let event = NewEvent::new("request.sent", data);
            node::append(&mut tx, &held, &event, &by, at).await?;
            tx.commit().await?;
            Ok(true)
        })
    }

    /// The runner's assistant says that it was asked `text`: the oldest prompt of that text that was
    /// typed has arrived.
    pub async fn prompt_taken(
        &self,
        runner: RunnerId,
        text: &str,
        at: Timestamp,
    ) -> Result<Option<PromptId>, StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            let sql = tx.either(WRITTEN_OF_RUNNER_POSTGRES, WRITTEN_OF_RUNNER_SQLITE);
            let records: Vec<String> =
                on!(tx, |conn| sqlx::query_scalar(sql).bind(Text(runner)).fetch_all(conn).await)
                    .map_err(doing("reading a runner's prompts"))?;
            let mut found = None;
            for record in records {
                let mut prompt: Prompt = from_json("a prompt", &record)?;
                // What was said before it was typed was said by somebody else.
                let after =
                    matches!(prompt.state, PromptState::Written { at: typed, .. } if typed <= at);
                if after && is_same_prompt(&prompt.text, text) {
                    prompt.state = PromptState::Taken { at };
                    set_prompt(&mut tx, &prompt).await?;
                    found = Some(prompt.id);
                    break;
                }
            }
            tx.commit().await?;
            Ok(found)
        })
    }
}

/// `None`: it has left it before.
async fn leave_queue(
    tx: &mut Tx,
    id: PromptId,
    state: &PromptState,
) -> Result<Option<Prompt>, StoreError> {
    let mut prompt = locked_prompt(tx, id).await?;
    if prompt.state != PromptState::Queued {
        return Ok(None);
    }
    prompt.state = state.clone();
    set_prompt(tx, &prompt).await?;
    Ok(Some(prompt))
}

fn absent(id: AskId) -> StoreError {
    StoreError::NotFound { noun: NOUN, wanted: id.to_string() }
}

async fn locked(tx: &mut Tx, id: AskId) -> Result<Ask, StoreError> {
    let sql = tx.either(ASK_POSTGRES, ASK_SQLITE);
    let record: Option<String> =
        on!(tx, |conn| sqlx::query_scalar(sql).bind(Text(id)).fetch_optional(conn).await)
            .map_err(doing("reading an ask"))?;
    record.map_or_else(|| Err(absent(id)), |record| from_json("an ask", &record))
}

async fn set(tx: &mut Tx, ask: &Ask) -> Result<(), StoreError> {
    on!(tx, |conn| sqlx::query(SET)
        .bind(Text(ask.id))
        .bind(ask.state.as_str())
        .bind(to_json(ask))
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("changing an ask"))
}

async fn locked_prompt(tx: &mut Tx, id: PromptId) -> Result<Prompt, StoreError> {
    let sql = tx.either(PROMPT_POSTGRES, PROMPT_SQLITE);
    let record: Option<String> =
        on!(tx, |conn| sqlx::query_scalar(sql).bind(Text(id)).fetch_optional(conn).await)
            .map_err(doing("reading a prompt"))?;
    let absent = || StoreError::NotFound { noun: "prompt", wanted: id.to_string() };
    record.map_or_else(|| Err(absent()), |record| from_json("a prompt", &record))
}

async fn set_prompt(tx: &mut Tx, prompt: &Prompt) -> Result<(), StoreError> {
    on!(tx, |conn| sqlx::query(SET_PROMPT)
        .bind(Text(prompt.id))
        .bind(prompt.state.as_str())
        .bind(to_json(prompt))
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("changing a prompt"))
}
