//! What our plugin tells while opencode runs: opencode's own events, some in one call of the hook.
//!
//! One opencode may hold several conversations. It works while any of them does, and subagents, which
//! are conversations of their own, do not count: their parent works for as long as they do.

use jiff::Timestamp;
use serde_json::Value;
use stratavore_core::activity::{Activity, Confidence, Doing};
use stratavore_core::message::Place;
use stratavore_core::observation::{AskKind, Asked, Observation, SessionSeen};
use stratavore_core::signal::{Signal, What};
use stratavore_core::usage::{Purpose, Quality, Tokens, UsageRecord};

use super::{ask, record};
use crate::adapter::Memory;
use crate::told::{cut, is_rate_limit, millis, text};

// What is kept in mind, by name.
const BUSY: &str = "busy";
const REPLIED: &str = "replied";
const SAID: &str = "said";
const FAILURE: &str = "failure";
const SHOWN: &str = "shown";
/// It begins with a conversation of before, which is on its screen some seconds after the screen is.
const OPENS: &str = "opens";
/// These are followed by an id.
const ASK: &str = "ask.";
const CHILD: &str = "child.";

/// The most bytes of a text that is kept in mind.
const SAID_MAX: usize = 2000;
/// The most ids in one list, and the most children.
const IDS_MAX: usize = 16;
const CHILDREN_MAX: usize = 64;

pub(super) fn read(memory: &mut Memory, signal: &Signal, place: &Place) -> Vec<Observation> {
    memory.at_epoch(signal.epoch, Some(CHILD));
    let mut seen = Vec::new();
    match &signal.what {
        What::Hook { call, body } => {
            for event in body.get("opencode").and_then(Value::as_array).into_iter().flatten() {
                let at = millis(event, "/at").unwrap_or(signal.at);
                Reading { memory, seen: &mut seen, place, at }.event(event, call.as_deref());
            }
        }
        What::HookOver { call } => {
            for open in memory.more.iter_mut().filter(|(name, _)| name.starts_with(ASK)) {
                if open.1 == call {
                    // It may still be asking on its screen.
                    open.1.clear();
                }
            }
            seen.push(Observation::AskOver { call: call.clone() });
        }
        What::Title { title } => seen.extend(shown(memory, title, signal.at)),
        What::Telemetry { .. } | What::Sent { .. } => {}
    }
    seen
}

/// Its first title is there once its screen is: some seconds after our plugin, and not before can
/// anything be typed into it.
fn shown(memory: &mut Memory, title: &str, at: Timestamp) -> Option<Observation> {
    let is_conversation = title.starts_with("OC |");
    // What is typed before that begins another one.
    let is_own =
        is_conversation || title.starts_with("OpenCode") && !memory.more.contains_key(OPENS);
    if !is_own || memory.more.contains_key(BUSY) || memory.more.contains_key(SHOWN) {
        return None;
    }
    memory.more.insert(SHOWN.into(), "1".into());
    let doing = Doing::told(Activity::Idle, at, "title");
    Some(Observation::Doing(Doing { confidence: Confidence::Likely, ..doing }))
}

struct Reading<'a> {
    memory: &'a mut Memory,
    seen: &'a mut Vec<Observation>,
    place: &'a Place,
    at: Timestamp,
}

impl Reading<'_> {
    fn event(&mut self, event: &Value, call: Option<&str>) {
        let (Some(kind), Some(told)) = (text(event, "/type"), event.get("properties")) else {
            return;
        };
        let session = text(told, "/sessionID");
        match kind {
            "stratavore.ready" if told.get("opens").and_then(Value::as_bool) == Some(true) => {
                self.memory.more.insert(OPENS.into(), "1".into());
            }
            "session.created" | "session.updated" => self.session(kind, told, text(event, "/fork")),
            "chat.message" => self.prompt(told),
            "session.status" => match (session, text(told, "/status/type")) {
                (Some(session), Some("busy")) => self.busy(session, kind),
                (Some(session), Some("idle")) => self.idle(session, kind),
                (Some(session), Some("retry")) => self.retry(session, told),
                _ => {}
            },
            "session.idle" | "session.deleted" => {
                if let Some(session) = session.or_else(|| text(told, "/info/id")) {
                    self.idle(session, kind);
                }
            }
            "session.error" if !session.is_some_and(|session| self.is_child(session)) => {
                self.memory.more.insert(FAILURE.into(), cut(&failure(told), SAID_MAX));
            }
            "message.updated" => {
                let info = told.get("info").unwrap_or(&Value::Null);
                let is_child =
                    text(info, "/sessionID").is_some_and(|session| self.is_child(session));
                let usage = record::usage(info, None, is_child, self.place);
                self.seen.extend(usage.map(Observation::Usage));
            }
            "message.part.updated" => self.part(told.get("part").unwrap_or(&Value::Null)),
            "permission.asked" | "question.asked" => self.asked(kind, told, call),
            "permission.replied" | "question.replied" | "question.rejected" => {
                self.replied(kind, told)
            }
            _ => {}
        }
    }

    fn session(&mut self, kind: &str, told: &Value, fork_of: Option<&str>) {
        let info = told.get("info").unwrap_or(&Value::Null);
        let Some(id) = text(info, "/id") else { return };
        if let Some(parent) = text(info, "/parentID") {
            self.memory.more.insert(format!("{CHILD}{id}"), parent.into());
            self.forget_children();
        } else if kind == "session.created" {
            self.memory.session = Some(id.into());
        }
        let is_current = self.memory.session.as_deref() == Some(id);
        let seen = record::session(info, fork_of, is_current);
        if let Some(SessionSeen { model: Some(model), is_current: true, .. }) = &seen {
            self.memory.model = Some(model.clone());
        }
        self.seen.extend(seen.map(Observation::Session));
    }

    /// Ids of sessions begin with the newest.
    fn forget_children(&mut self) {
        let more = &mut self.memory.more;
        let children = || format!("{CHILD}")..format!("{CHILD}\u{10ffff}");
        while more.range(children()).count() > CHILDREN_MAX {
            let Some(oldest) = more.range(children()).next_back().map(|(name, _)| name.clone())
            else {
                return;
            };
            more.remove(&oldest);
        }
    }

    fn is_child(&self, session: &str) -> bool {
        self.memory.more.contains_key(&format!("{CHILD}{session}"))
    }

    fn prompt(&mut self, told: &Value) {
        let info = told.get("info").unwrap_or(&Value::Null);
        let Some(session) = text(told, "/sessionID").or_else(|| text(info, "/sessionID")) else {
            return;
        };
        let parts = told.get("parts").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut said = Vec::new();
        for part in parts {
            if let Some(message) = record::message(part, Some(info), self.at, self.place) {
                said.push(message.text.clone());
                self.seen.push(Observation::Message(message));
            }
        }
        let is_synthetic =
            |part: &Value| part.get("synthetic").and_then(Value::as_bool) == Some(true);
        if self.is_child(session) || (!parts.is_empty() && parts.iter().all(is_synthetic)) {
            return;
        }
        self.memory.session = Some(session.into());
        self.memory.model = record::model(info).or(self.memory.model.take());
        self.memory.more.remove(FAILURE);
        self.memory.more.remove(SAID);
        self.seen.push(Observation::Session(SessionSeen {
            session: session.into(),
            model: self.memory.model.clone(),
            at: Some(self.at),
            is_current: true,
            ..SessionSeen::default()
        }));
        self.seen.push(Observation::PromptTaken {
            session: session.into(),
            text: said.join("\n"),
            at: self.at,
        });
        self.busy(session, "chat.message");
    }

    fn busy(&mut self, session: &str, kind: &str) {
        if self.is_child(session) {
            return;
        }
        self.add(BUSY, session);
        if !self.asks() {
            self.seen.push(Observation::Doing(Doing::told(Activity::Working, self.at, kind)));
        }
    }

    fn retry(&mut self, session: &str, told: &Value) {
        let why = text(told, "/status/message").unwrap_or_default();
        self.busy(session, "session.status");
        if self.is_child(session) || !is_rate_limit(why) || self.asks() {
            return;
        }
        let doing = Doing::told(Activity::RateLimited, self.at, "session.status retry");
        let resets_at = millis(told, "/status/next");
        self.seen.push(Observation::Doing(Doing { resets_at, ..doing.asking(why) }));
    }

    fn idle(&mut self, session: &str, kind: &str) {
        if self.is_child(session) {
            return;
        }
        if self.remove(BUSY, session) {
            self.seen.push(Observation::TurnOver {
                session: session.into(),
                text: self.memory.more.remove(SAID),
                failure: self.memory.more.remove(FAILURE),
                at: self.at,
            });
        }
        if !self.memory.more.contains_key(BUSY) {
            self.memory.more.retain(|name, _| !name.starts_with(ASK));
            self.seen.push(Observation::Doing(Doing::told(Activity::Idle, self.at, kind)));
        }
    }

    fn part(&mut self, part: &Value) {
        if text(part, "/type") == Some("step-start") {
            self.began(part);
        }
        let Some(message) = record::message(part, None, self.at, self.place) else { return };
        if text(part, "/type") == Some("text") && !self.is_child(&message.session) {
            self.memory.more.insert(SAID.into(), cut(&message.text, SAID_MAX));
        }
        self.seen.push(Observation::Message(message));
    }

    /// An answer has begun, so it is billed. Should it be cut off, then nobody says how much; else
    /// its end replaces this.
    fn began(&mut self, part: &Value) {
        let (Some(message), Some(session)) = (text(part, "/messageID"), text(part, "/sessionID"))
        else {
            return;
        };
        let is_child = self.is_child(session);
        if !is_child && !self.ids(BUSY).iter().any(|busy| busy == session) {
            // A fork begins with copies.
            return;
        }
        self.seen.push(Observation::Usage(UsageRecord {
            key: message.into(),
            session: session.into(),
            request_id: None,
            message_id: Some(message.into()),
            model: self.memory.model.clone().unwrap_or_default(),
            purpose: if is_child { Purpose::Subagent } else { Purpose::Main },
            tokens: Tokens::default(),
            reported_cost: None,
            quality: Quality::Lost,
            at: self.at,
            place: self.place.clone(),
        }));
    }

    fn asked(&mut self, kind: &str, told: &Value, call: Option<&str>) {
        let Some(id) = text(told, "/id") else { return };
        if self.ids(REPLIED).iter().any(|replied| replied == id) {
            // It was answered on the screen before its call was written down.
            return;
        }
        let asks = ask::read(kind, told);
        self.memory.more.insert(format!("{ASK}{id}"), call.unwrap_or_default().into());
        let session = text(told, "/sessionID").or(self.memory.session.as_deref());
        self.seen.push(Observation::Asked(Asked {
            call: call.map(Into::into),
            session: session.unwrap_or_default().into(),
            kind: asks.kind,
            tool: asks.tool.into(),
            text: asks.text.clone(),
            at: self.at,
        }));
        let activity = match asks.kind {
            AskKind::Permission => Activity::NeedsPermission,
            AskKind::Question => Activity::NeedsInput,
        };
        let doing = Doing::told(activity, self.at, kind).asking(&asks.question());
        self.seen.push(Observation::Doing(doing));
    }

    fn replied(&mut self, kind: &str, told: &Value) {
        let Some(id) = text(told, "/requestID") else { return };
        self.add(REPLIED, id);
        match self.memory.more.remove(&format!("{ASK}{id}")) {
            Some(call) if !call.is_empty() => self.seen.push(Observation::AskOver { call }),
            Some(_) => {}
            None => return,
        }
        if !self.asks() {
            let busy = self.memory.more.contains_key(BUSY);
            let activity = if busy { Activity::Working } else { Activity::Idle };
            self.seen.push(Observation::Doing(Doing::told(activity, self.at, kind)));
        }
    }

    fn asks(&self) -> bool {
        self.memory.more.keys().any(|name| name.starts_with(ASK))
    }

    fn ids(&self, name: &str) -> Vec<String> {
        let ids = self.memory.more.get(name).map_or("", String::as_str);
        ids.split(' ').filter(|id| !id.is_empty()).map(Into::into).collect()
    }

    /// Ids have no space in them; whoever wrote one that has is not remembered.
    fn add(&mut self, name: &str, id: &str) {
        let mut ids = self.ids(name);
        ids.retain(|known| known != id);
        ids.push(id.into());
        let excess = ids.len().saturating_sub(IDS_MAX);
        self.memory.more.insert(name.into(), ids[excess..].join(" "));
    }

    /// True if it was there.
    fn remove(&mut self, name: &str, id: &str) -> bool {
        let mut ids = self.ids(name);
        let before = ids.len();
        ids.retain(|known| known != id);
        let was_there = ids.len() < before;
        match ids.is_empty() {
            true => self.memory.more.remove(name),
            false => self.memory.more.insert(name.into(), ids.join(" ")),
        };
        was_there
    }
}

fn failure(told: &Value) -> String {
    let name = text(told, "/error/name").unwrap_or("error");
    match text(told, "/error/data/message") {
        Some(message) => format!("{name}: {message}"),
        None => name.into(),
    }
}
