//! What adapters have read, taken in: sessions, messages and usage, in one transaction with how far the
//! file was read.
//!
//! Locks are taken in one order: the file, the runner, the sessions by the assistant's ids of them, the
//! messages of the ledger by their keys, the sums, the windows. Two daemons that read of the same conversation wait
//! for each other at its row. Rows of the ledger and of sums are written many at a time.

use std::collections::{BTreeMap, BTreeSet};

use stratavore_core::caller::By;
use stratavore_core::message::{Message, Role};
use stratavore_core::name::Name;
use stratavore_core::observation::{LineageKind, Observation, SessionSeen};
use stratavore_core::session::{MODELS_MAX, MessageCounts};
use stratavore_core::usage::{
    PATH_MAX, Priced, Tokens, USAGE_TEXT_MAX, UsageDelta, UsageRecord, bounded_text,
};
use stratavore_core::{NodeId, ProjectId, RunnerId, SessionId, Timestamp};

use crate::follow::{self, FollowStep};
use crate::hold::Holds;
use crate::retry::retried;
use crate::session_seen::{self, Found, Told};
use crate::tx::Tx;
use crate::{Store, StoreError, account, hold, message, usage, window};

/// What something costs, by a table of prices: the model, what was used, and when.
pub type PriceOf<'a> = &'a (dyn Fn(&str, &Tokens, Timestamp) -> Option<Priced> + Sync);

/// What an adapter has read of one file, from one place of it to another.
#[derive(Clone, Copy)]
pub struct Observed<'a> {
    pub assistant: &'a Name,
    pub node: NodeId,
    /// Whose conversations they are; `None`: of a conversation that is not known nothing is kept but
    /// its usage, which then belongs to nobody.
    pub project: Option<ProjectId>,
    /// Whose assistant it is; `None`: it is imported.
    pub runner: Option<RunnerId>,
    /// At which of the runner's starts it was told; `None`: at the one that is now. What an earlier one
    /// held is history, and not what the runner holds.
    pub epoch: Option<i64>,
    pub follow: Option<FollowStep<'a>>,
    pub observations: &'a [Observation],
    pub price: PriceOf<'a>,
    pub now: Timestamp,
}

/// What has come of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recorded {
    /// Our ids of the conversations, by the assistant's.
    pub sessions: BTreeMap<String, SessionId>,
    /// What is new in the ledger.
    pub deltas: Vec<UsageDelta>,
    /// The session that the runner holds now, if it is another one than before.
    pub now_holds: Option<SessionId>,
    /// The assistant has gone on to this conversation, which another live runner holds: ours is still
    /// written down with the one that it had.
    pub held_by_another: Option<(SessionId, RunnerId)>,
}

/// All that a batch says of one conversation.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) directory: Option<String>,
    pub(crate) transcript: Option<String>,
    /// The last one: assistants change them.
    pub(crate) title: Option<String>,
    pub(crate) first_prompt: Option<String>,
    pub(crate) models: Vec<String>,
    pub(crate) parent: Option<(String, LineageKind)>,
    pub(crate) first_at: Option<Timestamp>,
    pub(crate) last_at: Option<Timestamp>,
}

/// A batch, sorted.
#[derive(Debug, Default)]
struct Gathered<'a> {
    sessions: BTreeMap<String, Seen>,
    /// The conversations that the assistant went on to, in that order.
    current: Vec<String>,
    usage: Vec<UsageRecord>,
    messages: Vec<&'a Message>,
}

impl Store {
    /// Takes in what was read of a piece of a file.
    ///
    /// If somebody else has read that piece meanwhile, or the runner is being given the same
    /// conversation at this moment, the answer is [`StoreError::Conflict`] and nothing was written: ask
    /// how far the file was read, and go on from there. What was told before counts no second time,
    /// whichever file or daemon tells it.
    ///
    /// The reader needs no more care than that: pieces of one conversation that are taken in at the same
    /// time wait for each other.
    pub async fn observed(
        &self,
        batch: &Observed<'_>,
        by: impl Into<By>,
    ) -> Result<Recorded, StoreError> {
        let by = &self.author(by)?;
        let gathered = Gathered::of(batch);
        retried!({
            let mut tx = self.begin().await?;
            let recorded = record(&mut tx, batch, &gathered, by).await?;
            tx.commit().await?;
            Ok(recorded)
        })
    }
}

async fn record(
    tx: &mut Tx,
    batch: &Observed<'_>,
    gathered: &Gathered<'_>,
    by: &crate::event::Author,
) -> Result<Recorded, StoreError> {
    follow::step(tx, batch).await?;
    let mut recorded = Recorded::default();
    let mut holder = match (batch.runner, gathered.current.is_empty()) {
        (Some(id), false) => Some(hold::lock(tx, id).await?),
        (Some(_), true) | (None, _) => None,
    };
    if let (Some(holder), Some(first)) = (&holder, gathered.current.first()) {
        session_seen::bind(tx, batch.assistant, holder.session, first).await?;
    }
    let mut found: BTreeMap<&str, Found> = BTreeMap::new();
    for (external, seen) in &gathered.sessions {
        if let Some(row) = session_seen::find(tx, batch, external, seen.last_at).await? {
            recorded.sessions.insert(external.clone(), row.id());
            found.insert(external, row);
        }
    }
    let is_new = keep_messages(tx, &recorded.sessions, &gathered.messages).await?;
    let mut counts: BTreeMap<&str, MessageCounts> = BTreeMap::new();
    for (message, _) in gathered.messages.iter().zip(is_new).filter(|(_, is_new)| *is_new) {
        let name = session_name(&message.session);
        if let Some((external, _)) = name.and_then(|name| gathered.sessions.get_key_value(&name)) {
            counts.entry(external).or_default().add(message.role);
        }
    }
    for (external, row) in &found {
        let seen = &gathered.sessions[*external];
        let parent = seen.parent.as_ref().and_then(|(parent, _)| recorded.sessions.get(parent));
        let counted = counts.remove(external).unwrap_or_default();
        let is_current = gathered.current.iter().any(|current| current == external);
        let told = Told { seen, parent: parent.copied(), counted, is_current };
        session_seen::write(tx, batch, row, &told, by).await?;
    }
    if let Some(holder) = &mut holder {
        for external in &gathered.current {
            let Some(session) = recorded.sessions.get(external) else { continue };
            match hold::hold(tx, holder, batch.epoch, *session, batch.now, by).await? {
                Holds::Already => {}
                Holds::Now => recorded.now_holds = Some(*session),
                Holds::Another(other) => {
                    recorded.held_by_another = Some((*session, other));
                }
            }
        }
    }
    if let Some(runner) = batch.runner {
        hold::still_held(tx, runner, recorded.sessions.values(), batch.now).await?;
    }
    recorded.deltas = usage::merge(tx, batch, &gathered.usage, &found).await?;
    account::settle(tx, &recorded.deltas, by, batch.now).await?;
    window::keep(tx, batch).await?;
    Ok(recorded)
}

/// Keeps the text of messages for search, and answers which of them were not kept before.
async fn keep_messages(
    tx: &mut Tx,
    sessions: &BTreeMap<String, SessionId>,
    messages: &[&Message],
) -> Result<Vec<bool>, StoreError> {
    let session_of = |message: &Message| sessions.get(&session_name(&message.session)?).copied();
    let sessions: Vec<Option<SessionId>> = messages.iter().map(|m| session_of(m)).collect();
    let whose = sessions.iter().zip(messages);
    let wanted: Vec<_> = whose.filter_map(|(s, message)| Some(((*s)?, *message))).collect();
    // Of a conversation that is not kept, no message is.
    let mut is_new = message::insert(tx, &wanted).await?.into_iter();
    Ok(sessions.iter().map(|s| s.is_some() && is_new.next().unwrap_or(false)).collect())
}

/// The name of a conversation as it is kept; `None`: it has none.
pub(crate) fn session_name(external: &str) -> Option<String> {
    let name = bounded_text(external, USAGE_TEXT_MAX);
    (!name.is_empty()).then_some(name)
}

impl<'a> Gathered<'a> {
    fn of(batch: &Observed<'a>) -> Self {
        let mut gathered = Gathered::default();
        for observation in batch.observations {
            match observation {
                Observation::Session(seen) => gathered.session(seen, batch.now),
                Observation::Message(message) => gathered.message(message, batch.now),
                Observation::Usage(record) => gathered.usage(record, batch.now),
                Observation::PromptTaken { session, text, at } => {
                    if let Some(seen) = gathered.seen(session, Some(*at), batch.now) {
                        seen.prompt(text);
                    }
                }
                Observation::TurnOver { session, at, .. } => {
                    gathered.seen(session, Some(*at), batch.now);
                }
                Observation::Doing(_)
                | Observation::Asked(_)
                | Observation::AskOver { .. }
                | Observation::Window(_) => {}
            }
        }
        // A parent is a conversation too, though nothing else is known of it.
        let parents: BTreeSet<String> = gathered
            .sessions
            .values()
            .filter_map(|seen| seen.parent.as_ref().map(|(parent, _)| parent.clone()))
            .collect();
        for parent in parents {
            gathered.sessions.entry(parent).or_default();
        }
        gathered
    }

    fn seen(&mut self, external: &str, at: Option<Timestamp>, now: Timestamp) -> Option<&mut Seen> {
        let seen = self.sessions.entry(session_name(external)?).or_default();
        // What is told of the future is told now.
        if let Some(at) = at.map(|at| at.min(now)) {
            seen.first_at = Some(seen.first_at.map_or(at, |first| first.min(at)));
            seen.last_at = Some(seen.last_at.map_or(at, |last| last.max(at)));
        }
        Some(seen)
    }

    fn session(&mut self, told: &SessionSeen, now: Timestamp) {
        let Some(name) = session_name(&told.session) else { return };
        let Some(seen) = self.seen(&told.session, told.at, now) else { return };
        let path = |text: &Option<String>| {
            text.as_deref().filter(|text| !text.is_empty()).map(|text| bounded_text(text, PATH_MAX))
        };
        seen.directory = path(&told.directory).or(seen.directory.take());
        seen.transcript = path(&told.transcript).or(seen.transcript.take());
        if let Some(title) = told.title.as_deref().filter(|title| !title.trim().is_empty()) {
            seen.title = Some(title.trim().to_owned());
        }
        if let Some(model) = &told.model {
            seen.model(model);
        }
        if let Some(lineage) = &told.lineage
            && let Some(parent) = session_name(&lineage.parent)
            && parent != name
        {
            seen.parent.get_or_insert((parent, lineage.kind));
        }
        if told.is_current && self.current.last() != Some(&name) {
            self.current.push(name);
        }
    }

    fn message(&mut self, message: &'a Message, now: Timestamp) {
        let Some(seen) = self.seen(&message.session, Some(message.at), now) else { return };
        match message.role {
            Role::User => seen.prompt(&message.text),
            Role::Assistant | Role::Tool => {}
        }
        if let Some(model) = &message.model {
            seen.model(model);
        }
        self.messages.push(message);
    }

    fn usage(&mut self, record: &UsageRecord, now: Timestamp) {
        if let Some(seen) = self.seen(&record.session, Some(record.at), now) {
            seen.model(&record.model);
        }
        // A message without a key could not be told from another one.
        if !record.key.is_empty() {
            self.usage.push(record.clone().bounded(now));
        }
    }
}

impl Seen {
    fn prompt(&mut self, text: &str) {
        if self.first_prompt.is_none() && !text.trim().is_empty() {
            self.first_prompt = Some(text.trim().to_owned());
        }
    }

    fn model(&mut self, model: &str) {
        let is_new = !model.is_empty() && !self.models.iter().any(|known| known == model);
        if is_new && self.models.len() < MODELS_MAX {
            self.models.push(bounded_text(model, USAGE_TEXT_MAX));
        }
    }
}
