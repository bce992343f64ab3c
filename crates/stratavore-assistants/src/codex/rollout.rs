//! A rollout of Codex, line by line.
//!
//! Each response has one record of its usage, by the response's id. Versions before that had only
//! running totals, which are told again and again; there a response is named by the totals after it.
//!
//! Invariant: one line is read in one pass, and only what is kept of it is copied.

use std::borrow::Cow;

use jiff::Timestamp;
use stratavore_core::activity::{Activity, Doing, Source};
use stratavore_core::message::{MESSAGE_MAX, Message, Place, Role};
use stratavore_core::observation::{Lineage, LineageKind, Observation, RateWindow, SessionSeen};
use stratavore_core::usage::{Purpose, Quality, Tokens, UsageRecord};

use super::line::{Limits, Line, Payload, Totals};
use crate::adapter::Memory;
use crate::content::Text;
use crate::excerpt::{NAME_MAX, SAID_MAX, clipped};
use crate::final_record::says_limit;

/// In [`Memory::more`]: the directory that was told, the conversation that this one was forked from, that it
/// is a subagent's, that responses have records, the totals that were counted last, the turn whose response
/// is awaited, and when a window that is used up begins anew.
const DIRECTORY: &str = "directory";
const ROOT: &str = "root";
const SUBAGENT: &str = "subagent";
const RECORDS: &str = "records";
const TOTAL: &str = "total";
const AWAITED: &str = "awaited";
const RESETS: &str = "resets";

pub(super) fn read(memory: &mut Memory, line: &[u8], place: &Place) -> Vec<Observation> {
    // Looked through at once it need not be for each of its texts.
    let Ok(line) = str::from_utf8(line) else { return Vec::new() };
    let Ok(line) = serde_json::from_str::<Line<'_>>(line) else { return Vec::new() };
    let mut reader =
        Reader { memory, payload: &line.payload, at: line.timestamp, place, seen: Vec::new() };
    match line.kind.as_str() {
        "session_meta" => reader.session(),
        "turn_context" => reader.turn(),
        "response_item" => reader.item(),
        "token_usage_record" => reader.record(),
        "event_msg" => reader.event(),
        _ => {}
    }
    reader.seen
}

struct Reader<'a> {
    memory: &'a mut Memory,
    payload: &'a Payload<'a>,
    at: Timestamp,
    place: &'a Place,
    seen: Vec<Observation>,
}

impl Reader<'_> {
    /// The first line of the file. Older versions copied those of the parents after it.
    fn session(&mut self) {
        let Some(id) = &self.payload.id else { return };
        if self.memory.session.as_deref().is_some_and(|known| known != id.as_str()) {
            return;
        }
        let session = id.name();
        self.memory.session = Some(session.clone());
        let parent =
            |id: &Option<Text<'_>>, kind| id.as_ref().map(|id| Lineage { parent: id.name(), kind });
        let subagent = parent(&self.payload.parent_thread_id, LineageKind::Subagent);
        let lineage = subagent
            .or_else(|| parent(&self.payload.forked_from_id, LineageKind::Forked))
            .filter(|lineage| lineage.parent != session);
        match &lineage {
            Some(lineage) if lineage.kind == LineageKind::Subagent => {
                self.memory.more.insert(SUBAGENT.into(), lineage.parent.clone());
            }
            Some(lineage) => drop(self.memory.more.insert(ROOT.into(), lineage.parent.clone())),
            None => {}
        }
        let directory = self.directory();
        self.seen.push(Observation::Session(SessionSeen {
            session,
            directory,
            transcript: Some(self.place.file.clone()),
            lineage,
            at: Some(self.at),
            ..SessionSeen::default()
        }));
    }

    /// A turn begins, perhaps with another model, perhaps elsewhere.
    fn turn(&mut self) {
        let Some(session) = self.memory.session.clone() else { return };
        let directory = self.directory();
        let model = self.payload.model.as_ref().map(Text::name);
        let model = model.filter(|model| self.memory.model.as_ref() != Some(model));
        if model.is_some() {
            self.memory.model.clone_from(&model);
        }
        if directory.is_some() || model.is_some() {
            self.seen.push(Observation::Session(SessionSeen {
                session,
                directory,
                model,
                transcript: Some(self.place.file.clone()),
                at: Some(self.at),
                ..SessionSeen::default()
            }));
        }
    }

    fn directory(&mut self) -> Option<String> {
        let directory = clipped(self.payload.cwd.as_ref()?.as_str(), SAID_MAX);
        let before = self.memory.more.insert(DIRECTORY.into(), directory.clone());
        (before.as_ref() != Some(&directory)).then_some(directory)
    }

    fn record(&mut self) {
        self.memory.more.remove(AWAITED);
        self.memory.more.entry(RECORDS.into()).or_default();
        let payload = self.payload;
        let (Some(id), Some(billed)) = (&payload.response_id, payload.usage) else { return };
        self.usage(id.name(), Some(id.name()), billed.tokens(), Quality::Exact);
    }

    /// Totals are told again without a new response: only those that have grown are one.
    fn totals(&mut self, totals: &Totals) {
        let (Some(total), Some(last)) = (totals.total_token_usage, totals.last_token_usage) else {
            return;
        };
        let Some(session) = self.memory.session.clone() else { return };
        let total = format!("{}:{}", total.input_tokens, total.output_tokens);
        let before = self.memory.more.insert(TOTAL.into(), total.clone());
        if before.as_ref() == Some(&total) || last.tokens().is_zero() {
            return;
        }
        self.memory.more.remove(AWAITED);
        // A fork has its parent's lines as well.
        let root = self.memory.more.get(ROOT).cloned().unwrap_or(session);
        self.usage(format!("{root}:{total}"), None, last.tokens(), Quality::Exact);
    }

    fn usage(&mut self, key: String, id: Option<String>, tokens: Tokens, quality: Quality) {
        // All that was done for one conversation is its own, whoever did it.
        let told = self.payload.session_id.as_ref().or(self.payload.thread_id.as_ref());
        let parent = || self.memory.more.get(SUBAGENT).or(self.memory.session.as_ref()).cloned();
        let Some(session) = told.map(Text::name).or_else(parent) else { return };
        let of_subagent = match (&self.payload.session_id, &self.payload.thread_id) {
            (Some(root), Some(thread)) => root.as_str() != thread.as_str(),
            _ => false,
        };
        let of_subagent = of_subagent || self.is_subagent();
        self.seen.push(Observation::Usage(UsageRecord {
            key,
            session,
            request_id: id,
            message_id: None,
            model: self.memory.model.clone().unwrap_or_default(),
            purpose: if of_subagent { Purpose::Subagent } else { Purpose::Main },
            tokens,
            reported_cost: None,
            quality,
            at: self.at,
            place: self.place.clone(),
        }));
    }

    fn event(&mut self) {
        let payload = self.payload;
        match payload.kind.as_ref().map(Text::as_str) {
            Some("task_started") => {
                let turn = payload.turn_id.as_ref().map(Text::name).unwrap_or_default();
                self.memory.more.insert(AWAITED.into(), turn);
                self.doing(Activity::Working, "task_started");
            }
            Some("task_complete") if payload.error.is_some() => {
                let error = payload.error.as_ref().and_then(|error| error.message.as_ref());
                self.failed(error.map_or("", Text::as_str));
            }
            Some("task_complete") => {
                self.memory.more.remove(AWAITED);
                let text = payload.last_agent_message.as_ref();
                let text = text.map(|text| clipped(text.as_str(), SAID_MAX));
                self.turn_over(text, None);
                self.doing(Activity::Idle, "task_complete");
            }
            Some("turn_aborted") => self.aborted(),
            Some("token_count") => {
                if let Some(totals) = &payload.info
                    && !self.memory.more.contains_key(RECORDS)
                {
                    self.totals(totals);
                }
                if let Some(limits) = &payload.rate_limits {
                    self.limits(limits);
                }
            }
            Some("error") => {
                self.failed(&payload.message.text().unwrap_or_default());
            }
            Some("thread_name_updated") => {
                let title = payload.thread_name.as_ref().map(Text::name);
                if let (Some(session), Some(title)) = (self.memory.session.clone(), title) {
                    self.seen.push(Observation::Session(SessionSeen {
                        session,
                        title: Some(title),
                        at: Some(self.at),
                        ..SessionSeen::default()
                    }));
                }
            }
            _ => {}
        }
    }

    fn aborted(&mut self) {
        if let Some(turn) = self.memory.more.remove(AWAITED) {
            self.usage(format!("{turn}:aborted"), None, Tokens::default(), Quality::Lost);
        }
        let reason = self.payload.reason.as_ref().map_or("aborted", Text::as_str);
        self.turn_over(None, Some(clipped(reason, SAID_MAX)));
        self.doing(Activity::Idle, "turn_aborted");
    }

    /// No hook tells of it either.
    fn failed(&mut self, why: &str) {
        self.memory.more.remove(AWAITED);
        self.turn_over(None, Some(clipped(why, SAID_MAX)));
        if says_limit(why) {
            let resets = self.memory.more.get(RESETS).and_then(|time| time.parse().ok());
            self.limited("task_complete", resets);
        } else {
            self.doing(Activity::Idle, "task_complete");
        }
    }

    fn limits(&mut self, limits: &Limits<'_>) {
        let group = limits.limit_id.as_ref().map(Text::as_str).filter(|id| *id != "codex");
        let mut resets = None;
        for (name, window) in [("primary", &limits.primary), ("secondary", &limits.secondary)] {
            let Some(window) = window else { continue };
            let after = || self.at.as_second().checked_add(window.resets_in_seconds?);
            let resets_at = window.resets_at.or_else(after);
            let resets_at = resets_at.and_then(|second| Timestamp::from_second(second).ok());
            if window.used_percent >= 100.0 {
                resets = resets.max(resets_at);
            }
            self.seen.push(Observation::Window(RateWindow {
                name: group.map_or_else(
                    || name.into(),
                    |group| clipped(&format!("{group}/{name}"), NAME_MAX),
                ),
                used_percent: window.used_percent.clamp(0.0, 100.0),
                window_minutes: window.window_minutes,
                resets_at,
                at: self.at,
            }));
        }
        match resets {
            Some(time) => drop(self.memory.more.insert(RESETS.into(), time.to_string())),
            None => drop(self.memory.more.remove(RESETS)),
        }
        if limits.rate_limit_reached_type.is_some() {
            self.limited("rate_limits", resets);
        }
    }

    fn limited(&mut self, signal: &str, resets_at: Option<Timestamp>) {
        let told = Doing::told(Activity::RateLimited, self.at, signal);
        self.does(Doing { resets_at, ..told });
    }

    fn item(&mut self) {
        let payload = self.payload;
        match payload.kind.as_ref().map(Text::as_str) {
            Some("message") => self.message(),
            Some("function_call" | "custom_tool_call" | "local_shell_call" | "web_search_call") => {
                let kind = payload.kind.as_ref().map_or("", Text::as_str);
                let name = payload.name.as_ref().map_or(kind, Text::as_str);
                let action = || payload.action.map(|raw| Cow::Borrowed(raw.get()));
                let given = payload.arguments.text().or_else(|| payload.input.text());
                let text = format!("{name} {}", given.or_else(action).unwrap_or_default());
                self.said(Role::Tool, &text, "");
            }
            Some("function_call_output" | "custom_tool_call_output") => {
                let text = payload.output.text().unwrap_or_default();
                // The next request goes out with it, unless the turn is about to be aborted.
                if !text.starts_with("aborted") && !text.ends_with("aborted by user") {
                    let turn = self.memory.more.get(AWAITED).cloned();
                    let turn = turn.unwrap_or_else(|| self.place.offset.to_string());
                    self.memory.more.insert(AWAITED.into(), turn);
                }
                self.said(Role::Tool, &text, "#output");
            }
            _ => {}
        }
    }

    fn message(&mut self) {
        let payload = self.payload;
        let text = payload.content.text().unwrap_or_default();
        match payload.role.as_ref().map(Text::as_str) {
            Some("assistant") => self.said(Role::Assistant, &text, ""),
            Some("user") if self.is_typed(&text) => {
                self.said(Role::User, &text, "");
                if let Some(session) = self.memory.session.clone().filter(|_| !self.is_subagent()) {
                    let text = clipped(&text, SAID_MAX);
                    self.seen.push(Observation::PromptTaken { session, text, at: self.at });
                }
            }
            _ => {}
        }
    }

    /// Codex puts texts of its own where the user's are.
    fn is_typed(&self, text: &str) -> bool {
        const OWN: [&str; 5] = [
            "<environment_context>",
            "<user_instructions>",
            "<turn_aborted>",
            "<user_action>",
            "# AGENTS.md instructions",
        ];
        let passthrough = self.payload.internal_chat_message_metadata_passthrough.as_ref();
        match passthrough.and_then(|passthrough| passthrough.content_item_kinds.as_ref()) {
            Some(kinds) => kinds.iter().any(|kind| kind.as_str().starts_with("user.")),
            None => !OWN.iter().any(|own| text.trim_start().starts_with(own)),
        }
    }

    fn said(&mut self, role: Role, text: &str, after_id: &str) {
        let Some(session) = self.memory.session.clone() else { return };
        if text.trim().is_empty() {
            return;
        }
        // Older versions gave no id to what a user said.
        let id = self.payload.id.as_ref().or(self.payload.call_id.as_ref());
        let id = id.map_or_else(
            || format!("@{}", self.place.offset),
            |id| format!("{}{after_id}", id.as_str()),
        );
        let model = if role == Role::Assistant { self.memory.model.clone() } else { None };
        self.seen.push(Observation::Message(Message {
            id: clipped(&id, NAME_MAX),
            session,
            role,
            at: self.at,
            model,
            text: clipped(text, MESSAGE_MAX),
            place: self.place.clone(),
        }));
    }

    fn turn_over(&mut self, text: Option<String>, failure: Option<String>) {
        let Some(session) = self.memory.session.clone() else { return };
        if !self.is_subagent() {
            self.seen.push(Observation::TurnOver { session, text, failure, at: self.at });
        }
    }

    /// What is written as it happens is as sure as a hook, and tells what no hook does.
    fn doing(&mut self, activity: Activity, signal: &str) {
        self.does(Doing::told(activity, self.at, signal));
    }

    /// By a transcript, of which old lines are no news: a turn that was cut off has a beginning there and no
    /// end.
    fn does(&mut self, told: Doing) {
        if !self.is_subagent() {
            let source = Source::Transcript;
            self.seen.push(Observation::Doing(Doing { source, ..told }));
        }
    }

    /// The conversation itself goes on meanwhile.
    fn is_subagent(&self) -> bool {
        self.memory.more.contains_key(SUBAGENT)
    }
}
