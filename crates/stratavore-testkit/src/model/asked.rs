//! A request as the script sees it, whatever its protocol.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Protocol, chat, gemini, messages, responses};

/// The tags of what assistants add to their users' words.
const ADDED: [&str; 4] =
    ["system-reminder", "environment_context", "session_context", "turn_aborted"];

/// What a request is for, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// A turn of the conversation itself.
    Main,
    /// A turn of a conversation below it.
    Subagent,
    /// A name for the conversation.
    Title,
    /// The conversation in short, to go on with.
    Compaction,
    /// Which model is to answer.
    Routing,
    Other,
}

/// A piece of the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    User(String),
    Model(String),
    /// What a tool gave back.
    Tool(String),
}

/// A tool that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Offered {
    pub name: String,
    /// The group that it is in, for a protocol that has them.
    pub namespace: Option<String>,
    /// Of its arguments; null if they are free text.
    pub schema: Value,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its place among all, from 1.
    pub number: u64,
    pub protocol: Protocol,
    pub path: String,
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Value,
    pub model: String,
    pub streams: bool,
    pub purpose: Purpose,
    pub system: String,
    pub said: Vec<Said>,
    /// The last thing that the user said.
    pub prompt: String,
    /// How often tools have answered since.
    pub rounds: usize,
    pub tools: Vec<Offered>,
}

/// What a protocol's own module finds in a request.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) model: String,
    pub(super) streams: bool,
    pub(super) system: String,
    pub(super) said: Vec<Said>,
    pub(super) tools: Vec<Offered>,
}

impl Asked {
    pub(super) fn new(
        number: u64,
        protocol: Protocol,
        path: &str,
        headers: BTreeMap<String, String>,
        body: Value,
    ) -> Self {
        let Read { model, streams, system, said, tools } = match protocol {
            Protocol::Messages => messages::read(&body),
            Protocol::Responses => responses::read(&body),
            Protocol::Chat => chat::read(&body),
            Protocol::Gemini => gemini::read(path, &body),
        };
        let said: Vec<Said> = said.into_iter().map(plain).filter(|said| !is_empty(said)).collect();
        let last = said.iter().rposition(|said| matches!(said, Said::User(_)));
        let prompt = match last.map(|at| &said[at]) {
            Some(Said::User(text)) => text.clone(),
            Some(Said::Model(_) | Said::Tool(_)) | None => String::new(),
        };
        let since = &said[last.map_or(0, |at| at + 1)..];
        let rounds = (0..since.len())
            .filter(|&at| is_tool(&since[at]) && (at == 0 || !is_tool(&since[at - 1])))
            .count();
        let mut asked = Self {
            number,
            protocol,
            path: path.into(),
            headers,
            body,
            model,
            streams,
            purpose: Purpose::Main,
            system,
            said,
            prompt,
            rounds,
            tools,
        };
        asked.purpose = asked.tell_purpose();
        asked
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// All that was said, by whoever it was.
    pub fn conversation(&self) -> String {
        let words = self.said.iter().map(|said| match said {
            Said::User(text) | Said::Model(text) | Said::Tool(text) => text.as_str(),
        });
        words.collect::<Vec<_>>().join("\n")
    }

    /// Whether the user's last words contain these.
    pub fn says(&self, words: &str) -> bool {
        self.prompt.contains(words)
    }

    /// What the tools gave back last.
    pub fn tool_results(&self) -> Vec<&str> {
        let results = self.said.iter().rev().map_while(|said| match said {
            Said::Tool(text) => Some(text.as_str()),
            Said::User(_) | Said::Model(_) => None,
        });
        let mut results: Vec<&str> = results.collect();
        results.reverse();
        results
    }

    pub fn offers(&self, tool: &str) -> bool {
        self.tools.iter().any(|offered| offered.name == tool)
    }

    /// By the words that each assistant puts into such requests, seen in what they send.
    fn tell_purpose(&self) -> Purpose {
        match self.protocol {
            Protocol::Messages => messages::purpose(self),
            Protocol::Responses => responses::purpose(self),
            Protocol::Chat => chat::purpose(self),
            Protocol::Gemini => gemini::purpose(self),
        }
    }

    /// A title in the form that is asked for.
    pub(super) fn title_reply(&self, title: &str) -> String {
        let wants_json = [&self.body["output_config"], &self.body["text"]["format"]]
            .iter()
            .any(|format| !format.is_null());
        if wants_json { serde_json::json!({ "title": title }).to_string() } else { title.into() }
    }
}

fn is_tool(said: &Said) -> bool {
    matches!(said, Said::Tool(_))
}

fn is_empty(said: &Said) -> bool {
    match said {
        Said::User(text) => text.trim().is_empty(),
        // An answer that was only a call still stands between two rounds.
        Said::Model(_) | Said::Tool(_) => false,
    }
}

/// The text of a content, which is a string or a list of parts that may have text.
pub(super) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part["text"].as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    }
}

/// What the user said without what the assistant put around it.
fn plain(said: Said) -> Said {
    match said {
        Said::User(text) => {
            Said::User(ADDED.iter().fold(text, |text, tag| without(&text, tag)).trim().into())
        }
        Said::Model(_) | Said::Tool(_) => said,
    }
}

/// A text without what is between these tags.
fn without(text: &str, tag: &str) -> String {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let mut rest = text;
    let mut kept = String::new();
    while let Some((before, after)) = rest.split_once(&open) {
        kept.push_str(before);
        rest = after.split_once(&close).map_or("", |(_, after)| after);
    }
    kept + rest
}
