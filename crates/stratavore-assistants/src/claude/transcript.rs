//! A transcript of Claude Code, line by line.
//!
//! A reply has a line for each of its parts, and each of them the usage of the whole; a fork has the
//! lines of its parent with another session. So a record is named by the request, and told each time.
//!
//! Invariant: one line is read in one pass, and only what is kept of it is copied.

use std::borrow::Cow;

use jiff::Timestamp;
use stratavore_core::activity::{Activity, Confidence, Doing, Source};
use stratavore_core::message::{MESSAGE_MAX, Message, Place, Role};
use stratavore_core::observation::{Lineage, LineageKind, Observation, SessionSeen};
use stratavore_core::usage::{Purpose, Quality, Tokens, UsageRecord};

use super::line::{Billed, Line, Reply};
use super::plain_model;
use crate::adapter::Memory;
use crate::content::{Content, Part, Text};
use crate::excerpt::{NAME_MAX, SAID_MAX, clipped};
use crate::final_record::says_limit;
use crate::reset::reset_time;

/// In [`Memory::more`]: the directory, the title and the parent that were told, the last reply that has its
/// usage, and the last reply that ended a turn.
const DIRECTORY: &str = "directory";
const TITLE: &str = "title";
const PARENT: &str = "parent";
const BILLED: &str = "billed";
const ENDED: &str = "ended";
/// The model's name where no model was asked.
const SYNTHETIC: &str = "<synthetic>";

pub(super) fn read(memory: &mut Memory, line: &[u8], place: &Place) -> Vec<Observation> {
    // Looked through at once it need not be for each of its texts.
    let Ok(line) = str::from_utf8(line) else { return Vec::new() };
    let Ok(line) = serde_json::from_str::<Line<'_>>(line) else { return Vec::new() };
    let mut seen = Vec::new();
    if !line.is_sidechain {
        seen.extend(session(memory, &line, place));
    }
    let Some(at) = line.timestamp else { return seen };
    let Some(session) = line.session_id.as_ref().map(|id| clipped(id.as_str(), NAME_MAX)) else {
        return seen;
    };
    let reader = Reader { line: &line, session, at, place };
    match line.kind.as_str() {
        "assistant" => reader.assistant(memory, &mut seen),
        "user" => reader.user(memory, &mut seen),
        "attachment" => reader.queued(&mut seen),
        _ => {}
    }
    seen
}

/// The conversation, where the line tells something new of it.
fn session(memory: &mut Memory, line: &Line<'_>, place: &Place) -> Option<Observation> {
    let session = line.session_id.as_ref()?.as_str();
    let mut is_news = memory.session.as_deref() != Some(session);
    if is_news {
        *memory = Memory { session: Some(clipped(session, NAME_MAX)), ..Memory::default() };
    }
    let mut news = |name: &str, text: Option<&Text<'_>>, max: usize| {
        let text = text?.as_str();
        if memory.more.get(name).is_some_and(|known| known == text) {
            return None;
        }
        let text = clipped(text, max);
        memory.more.insert(name.into(), text.clone());
        is_news = true;
        Some(text)
    };
    let directory = news(DIRECTORY, line.cwd.as_ref(), SAID_MAX);
    let title = news(TITLE, line.custom_title.as_ref().or(line.ai_title.as_ref()), NAME_MAX);
    let parent = line.forked_from.as_ref().and_then(|from| from.session_id.as_ref());
    let lineage = news(PARENT, parent, NAME_MAX);
    let lineage = lineage.map(|parent| Lineage { parent, kind: LineageKind::Forked });
    let model = line.message.as_ref().and_then(|reply| reply.model.as_ref());
    let model = model.map(|model| plain_model(model.as_str())).filter(|model| *model != SYNTHETIC);
    let model = model.filter(|model| memory.model.as_deref() != Some(model));
    let model = model.map(|model| clipped(model, NAME_MAX));
    if model.is_some() {
        memory.model.clone_from(&model);
        is_news = true;
    }
    is_news.then(|| {
        Observation::Session(SessionSeen {
            session: clipped(session, NAME_MAX),
            directory,
            transcript: Some(place.file.clone()),
            title,
            model,
            lineage,
            at: line.timestamp,
            is_current: false,
        })
    })
}

/// One line of a conversation.
struct Reader<'a> {
    line: &'a Line<'a>,
    session: String,
    at: Timestamp,
    place: &'a Place,
}

impl Reader<'_> {
    fn assistant(&self, memory: &mut Memory, seen: &mut Vec<Observation>) {
        let Some(reply) = &self.line.message else { return };
        let model = reply.model.as_ref().map(|model| plain_model(model.as_str()));
        if model == Some(SYNTHETIC) {
            if self.line.is_api_error_message {
                self.api_error(reply, seen);
            } else {
                self.messages(&reply.content, None, seen);
            }
            return;
        }
        if let Some(billed) = &reply.usage {
            let id = reply.id.as_ref().map(Text::as_str);
            let whole = reply.stop_reason.is_some();
            seen.extend(self.usage(id, model, billed, whole).map(Observation::Usage));
            if let Some(id) = id {
                set(memory, BILLED, id);
            }
        }
        self.messages(&reply.content, model, seen);
        if self.line.is_sidechain {
            return;
        }
        let ends = matches!(
            reply.stop_reason.as_ref().map(Text::as_str),
            Some("end_turn" | "stop_sequence" | "max_tokens" | "refusal")
        );
        let text = reply.content.text();
        let id = reply.id.as_ref().map_or("", Text::as_str);
        if ends && text.is_some() && memory.more.get(ENDED).is_none_or(|ended| ended != id) {
            set(memory, ENDED, id);
            self.turn_over(text.map(|text| clipped(&text, SAID_MAX)), None, seen);
            seen.push(self.doing(Activity::Idle, "end_turn"));
        }
    }

    /// The text that stands where the model's would.
    fn api_error(&self, reply: &Reply<'_>, seen: &mut Vec<Observation>) {
        let text = reply.content.text().unwrap_or_default();
        if self.line.is_sidechain {
            return;
        }
        self.turn_over(None, Some(clipped(&text, SAID_MAX)), seen);
        let limited = self.line.api_error_status == Some(429) || says_limit(&text);
        let activity = if limited { Activity::RateLimited } else { Activity::Idle };
        let resets_at = if limited { reset_time(&text, self.at) } else { None };
        let told = self.told(activity, "api_error");
        seen.push(Observation::Doing(Doing { resets_at, ..told }));
    }

    fn usage(
        &self,
        id: Option<&str>,
        model: Option<&str>,
        billed: &Billed,
        whole: bool,
    ) -> Option<UsageRecord> {
        let request = self.line.request_id.as_ref().map(|id| clipped(id.as_str(), NAME_MAX));
        let message = id.map(|id| clipped(id, NAME_MAX));
        let tokens = billed.tokens();
        // A fork of what was compacted has replies with their figures blotted out.
        if tokens.is_zero() {
            return None;
        }
        let origin = self.line.forked_from.as_ref().and_then(|from| from.session_id.as_ref());
        Some(UsageRecord {
            key: request.clone().or_else(|| message.clone())?,
            session: origin
                .map_or_else(|| self.session.clone(), |origin| clipped(origin.as_str(), NAME_MAX)),
            request_id: request,
            message_id: message,
            model: clipped(model.unwrap_or_default(), NAME_MAX),
            purpose: self.purpose(),
            tokens,
            reported_cost: None,
            // A reply that was broken off has what was read, and one token of what was written.
            quality: if whole { Quality::Exact } else { Quality::Estimated },
            at: self.at,
            place: self.place.clone(),
        })
    }

    fn user(&self, memory: &mut Memory, seen: &mut Vec<Observation>) {
        let Some(message) = &self.line.message else { return };
        if self.line.is_meta || self.line.is_compact_summary {
            return;
        }
        let text = message.content.text();
        if let Some(text) = text.as_deref().filter(|text| text.starts_with("[Request interrupted"))
        {
            self.interrupted(memory, text, seen);
            return;
        }
        self.messages(&message.content, None, seen);
        let is_prompt = text.as_deref().is_some_and(|text| said_by_user(text).is_some());
        if is_prompt && !self.line.is_sidechain {
            let text = text.as_deref().and_then(said_by_user).unwrap_or_default();
            self.prompt_taken(&text, seen);
            if !text.starts_with(['/', '!']) {
                seen.push(self.doing(Activity::Working, "user"));
            }
        }
    }

    /// Esc was pressed, and no hook tells. A reply that was cut short was billed, and nobody has its
    /// figures; where a tool was stopped the reply had come to its end.
    fn interrupted(&self, memory: &Memory, text: &str, seen: &mut Vec<Observation>) {
        let cut = self.line.interrupted_message_id.as_ref().map(Text::as_str);
        let billed = memory.more.get(BILLED).map(String::as_str);
        if let Some(id) = cut.filter(|id| Some(*id) != billed) {
            let id = clipped(id, NAME_MAX);
            seen.push(Observation::Usage(UsageRecord {
                key: id.clone(),
                session: self.session.clone(),
                request_id: None,
                message_id: Some(id),
                model: memory.model.clone().unwrap_or_default(),
                purpose: self.purpose(),
                tokens: Tokens::default(),
                reported_cost: None,
                quality: Quality::Lost,
                at: self.at,
                place: self.place.clone(),
            }));
        }
        if !self.line.is_sidechain {
            let why = text.trim_matches(['[', ']']);
            self.turn_over(None, Some(clipped(why, SAID_MAX)), seen);
            seen.push(self.doing(Activity::Idle, "interrupted"));
        }
    }

    /// A prompt that was typed while it worked, and taken in the middle of the turn: no hook tells of it.
    fn queued(&self, seen: &mut Vec<Observation>) {
        let Some(attachment) = &self.line.attachment else { return };
        let is = |text: &Option<Text<'_>>, what: &str| {
            text.as_ref().is_some_and(|text| text.as_str() == what)
        };
        let typed = attachment.command_mode.is_none() || is(&attachment.command_mode, "prompt");
        if !is(&attachment.kind, "queued_command") || !typed || self.line.is_meta {
            return;
        }
        self.messages(&attachment.prompt, None, seen);
        if let Some(text) = attachment.prompt.text().filter(|_| !self.line.is_sidechain) {
            self.prompt_taken(&text, seen);
        }
    }

    /// What was said, one message for all that one side said in a row.
    fn messages(&self, content: &Content<'_>, model: Option<&str>, seen: &mut Vec<Observation>) {
        let Some(uuid) = self.line.uuid.as_ref().map(Text::as_str) else { return };
        let user = self.line.kind.as_str() != "assistant";
        let mut nth = 0;
        for part in content.parts() {
            let (role, text) = match part {
                // The whole of a subagent's conversation is what came of a tool.
                Part::Said(text) if self.line.is_sidechain => (Role::Tool, text),
                Part::Said(text) if user => match said_by_user(&text) {
                    Some(text) => (Role::User, text.into_owned().into()),
                    None => continue,
                },
                Part::Said(text) => (Role::Assistant, text),
                Part::Tool(text) => (Role::Tool, text),
            };
            if text.trim().is_empty() {
                continue;
            }
            let id = if nth == 0 { uuid.to_owned() } else { format!("{uuid}#{nth}") };
            nth += 1;
            seen.push(Observation::Message(Message {
                id: clipped(&id, NAME_MAX),
                session: self.session.clone(),
                role,
                at: self.at,
                model: model.map(|model| clipped(model, NAME_MAX)),
                text: clipped(&text, MESSAGE_MAX),
                place: self.place.clone(),
            }));
        }
    }

    fn prompt_taken(&self, text: &str, seen: &mut Vec<Observation>) {
        seen.push(Observation::PromptTaken {
            session: self.session.clone(),
            text: clipped(text, SAID_MAX),
            at: self.at,
        });
    }

    fn turn_over(
        &self,
        text: Option<String>,
        failure: Option<String>,
        seen: &mut Vec<Observation>,
    ) {
        let session = self.session.clone();
        seen.push(Observation::TurnOver { session, text, failure, at: self.at });
    }

    fn purpose(&self) -> Purpose {
        if self.line.is_sidechain { Purpose::Subagent } else { Purpose::Main }
    }

    fn doing(&self, activity: Activity, signal: &str) -> Observation {
        Observation::Doing(self.told(activity, signal))
    }

    fn told(&self, activity: Activity, signal: &str) -> Doing {
        Doing {
            source: Source::Transcript,
            confidence: Confidence::Likely,
            ..Doing::told(activity, self.at, signal)
        }
    }
}

fn set(memory: &mut Memory, name: &str, value: &str) {
    match memory.more.get_mut(name) {
        Some(known) if known == value => {}
        Some(known) => clipped(value, NAME_MAX).clone_into(known),
        None => drop(memory.more.insert(name.into(), clipped(value, NAME_MAX))),
    }
}

/// What a person typed, of a text that stands where the user's does: much there is the program's own.
fn said_by_user(text: &str) -> Option<Cow<'_, str>> {
    let text = text.trim();
    let within = |tag: &str| {
        let (_, after) = text.split_once(&format!("<{tag}>"))?;
        Some(after.split_once(&format!("</{tag}>"))?.0.trim())
    };
    if text.starts_with("<command-name>") || text.starts_with("<command-message>") {
        let (name, args) = (within("command-name")?, within("command-args").unwrap_or_default());
        return Some(Cow::Owned(format!("{name} {args}").trim().to_owned()));
    }
    if text.starts_with("<bash-input>") {
        return Some(Cow::Owned(format!("! {}", within("bash-input")?)));
    }
    const OWN: [&str; 6] = [
        "<local-command-",
        "<bash-stdout>",
        "<bash-stderr>",
        "<system-reminder>",
        "<task-notification>",
        "<user-memory-input>",
    ];
    let own = text.is_empty() || OWN.iter().any(|tag| text.starts_with(tag));
    (!own).then_some(Cow::Borrowed(text))
}
