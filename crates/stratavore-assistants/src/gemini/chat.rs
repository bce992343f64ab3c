//! Gemini's transcripts: a header, messages, and patches to what was said before, one a line.
//!
//! A message is written anew as its tools come back, always whole: the last line of an id is the one
//! that counts, and none of them has other figures than the one before, or had none yet.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::Value;
use stratavore_core::message::{Message, Place, Role};
use stratavore_core::observation::{Lineage, LineageKind, Observation, SessionSeen};
use stratavore_core::usage::{Purpose, Quality, Tokens, UsageRecord};

use crate::adapter::Memory;
use crate::told::{count, cut, text, time};

const SUBAGENT: &str = "subagent";
/// What it tells itself at the start of each conversation.
const CONTEXT: &str = "<session_context>";
const DIRECTORIES: &str = "**Workspace Directories:**";

/// The most bytes of a tool's input or output in a message, and of a header.
const TOOL_MAX: usize = 8 << 10;
const HEADER_MAX: u64 = 64 << 10;

pub(super) fn read(memory: &mut Memory, line: &[u8], place: &Place) -> Vec<Observation> {
    let Ok(line) = serde_json::from_slice::<Value>(line) else { return Vec::new() };
    if text(&line, "/projectHash").is_some()
        && let Some(session) = text(&line, "/sessionId")
    {
        return vec![Observation::Session(header(memory, &line, session, place))];
    }
    let Some(session) = memory.session.clone() else { return Vec::new() };
    let mut seen = Vec::new();
    if let Some(patch) = line.get("$set") {
        // Messages in a patch were written before. What they used is counted again in case that the
        // file of before is lost: under the same key it stays one.
        for message in patch.get("messages").and_then(Value::as_array).into_iter().flatten() {
            seen.extend(directory(message).map(|directory| about(&session, Some(directory), None)));
            seen.extend(usage(memory, message, &session, place).map(Observation::Usage));
        }
        if let Some(title) = text(patch, "/summary") {
            seen.push(about(&session, None, Some(title)));
        }
        return seen;
    }
    if let Some(directory) = directory(&line) {
        return vec![about(&session, Some(directory), None)];
    }
    let is_own = !memory.more.contains_key(SUBAGENT);
    said(&line, &session, is_own, place, &mut seen);
    if let Some(usage) = usage(memory, &line, &session, place) {
        if memory.model.as_deref() != Some(&usage.model) {
            memory.model = Some(usage.model.clone());
            seen.push(Observation::Session(SessionSeen {
                session,
                model: memory.model.clone(),
                ..SessionSeen::default()
            }));
        }
        seen.push(Observation::Usage(usage));
    }
    seen
}

/// A conversation that was resumed has one for each time.
fn header(memory: &mut Memory, line: &Value, session: &str, place: &Place) -> SessionSeen {
    let is_subagent = text(line, "/kind") == Some(SUBAGENT);
    memory.session = Some(session.into());
    memory.more.clear();
    // A subagent's file is in a directory that is named like its parent.
    let directory = Path::new(&place.file).parent().and_then(Path::file_name);
    let parent = directory.and_then(|name| name.to_str()).filter(|_| is_subagent);
    if is_subagent {
        memory.more.insert(SUBAGENT.into(), "1".into());
    }
    SessionSeen {
        session: session.into(),
        directory: text(line, "/directories/0").map(Into::into),
        transcript: Some(place.file.clone()),
        title: text(line, "/summary").map(Into::into),
        lineage: parent
            .map(|parent| Lineage { parent: parent.into(), kind: LineageKind::Subagent }),
        at: time(line, "/startTime"),
        ..SessionSeen::default()
    }
}

fn about(session: &str, directory: Option<&str>, title: Option<&str>) -> Observation {
    Observation::Session(SessionSeen {
        session: session.into(),
        directory: directory.map(Into::into),
        title: title.map(Into::into),
        ..SessionSeen::default()
    })
}

/// Its own words at the start name the directory that it runs in.
fn directory(message: &Value) -> Option<&str> {
    let context = text(message, "/content/0/text").filter(|text| text.starts_with(CONTEXT))?;
    let (_, after) = context.split_once(DIRECTORIES)?;
    let line = after.lines().map(str::trim).find(|line| !line.is_empty())?;
    line.strip_prefix("- ").map(str::trim).filter(|directory| directory.starts_with('/'))
}

fn said(line: &Value, session: &str, is_own: bool, place: &Place, seen: &mut Vec<Observation>) {
    let role = match text(line, "/type") {
        Some("user") => Role::User,
        Some("gemini") => Role::Assistant,
        Some(_) | None => return,
    };
    let Some(id) = text(line, "/id") else { return };
    let at = time(line, "/timestamp").unwrap_or(Timestamp::UNIX_EPOCH);
    let message = |id: &str, role, at, said| {
        Observation::Message(Message {
            id: id.into(),
            session: session.into(),
            role,
            at,
            model: text(line, "/model").filter(|_| role == Role::Assistant).map(Into::into),
            text: said,
            place: place.clone(),
        })
    };
    let words = line.get("content").map(words).unwrap_or_default();
    if !words.is_empty() && !words.starts_with(CONTEXT) {
        if role == Role::User && is_own {
            let session = session.into();
            seen.push(Observation::PromptTaken { session, text: words.clone(), at });
        }
        seen.push(message(id, role, at, words));
    }
    for call in line.get("toolCalls").and_then(Value::as_array).into_iter().flatten() {
        let (Some(id), Some(name)) = (text(call, "/id"), text(call, "/name")) else { continue };
        let args = call.get("args").map(Value::to_string).unwrap_or_default();
        let mut said = format!("{name} {}", cut(&args, TOOL_MAX));
        if let Some(result) = text(call, "/resultDisplay") {
            said = format!("{said}\n{}", cut(result, TOOL_MAX));
        }
        seen.push(message(id, Role::Tool, time(call, "/timestamp").unwrap_or(at), said));
    }
}

/// A text, or parts of which some have one.
fn words(content: &Value) -> String {
    match content {
        Value::String(words) => words.clone(),
        Value::Array(parts) => {
            let words: Vec<_> = parts.iter().filter_map(|part| text(part, "/text")).collect();
            words.join("\n")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    }
}

/// Input has in it what was cached, and output not what was thought.
fn usage(memory: &Memory, line: &Value, session: &str, place: &Place) -> Option<UsageRecord> {
    let told = line.get("tokens").filter(|tokens| tokens.is_object())?;
    let id = text(line, "/id")?;
    let cached = count(told, "/cached");
    let input = count(told, "/input").saturating_sub(cached);
    let tokens = Tokens {
        input: input.saturating_add(count(told, "/tool")),
        output: count(told, "/output"),
        cache_read: cached,
        reasoning: count(told, "/thoughts"),
        ..Tokens::default()
    };
    let is_subagent = memory.more.contains_key(SUBAGENT);
    let usage = UsageRecord {
        key: id.into(),
        session: session.into(),
        request_id: None,
        message_id: Some(id.into()),
        model: text(line, "/model").or(memory.model.as_deref()).unwrap_or_default().into(),
        purpose: if is_subagent { Purpose::Subagent } else { Purpose::Main },
        tokens,
        reported_cost: None,
        quality: Quality::Exact,
        at: time(line, "/timestamp").unwrap_or(Timestamp::UNIX_EPOCH),
        place: place.clone(),
    };
    (!usage.tokens.is_zero()).then_some(usage)
}

/// The directory of the subagents' transcripts: named by the whole id of the conversation, of which
/// the file's name has the beginning.
pub(super) fn subagents(transcript: &Path) -> Option<PathBuf> {
    let session = session_of(transcript)?;
    let directory = transcript.parent()?.join(session);
    directory.is_dir().then_some(directory)
}

/// Where it keeps its chats, project by project.
pub(super) fn home(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    let home = env.get("GEMINI_CLI_HOME").or_else(|| env.get("HOME"))?;
    Some(Path::new(home).join(".gemini").join("tmp"))
}

pub(super) fn found(env: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let projects = home(env).map(|home| entries(&home)).unwrap_or_default();
    let chats = projects.iter().flat_map(|project| entries(&project.join("chats")));
    let is_chat = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("session-") && name.ends_with(".jsonl"))
    };
    let mut found: Vec<_> = chats.filter(is_chat).collect();
    found.sort();
    found
}

pub(super) fn of_session(session: &str, env: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let Some(short) = session.get(..8) else { return Vec::new() };
    let ending = format!("-{short}.jsonl");
    let is_named = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(&ending))
    };
    let mut found = found(env);
    found.retain(|path| is_named(path) && session_of(path).as_deref() == Some(session));
    found
}

fn session_of(transcript: &Path) -> Option<String> {
    let mut line = String::new();
    BufReader::new(File::open(transcript).ok()?.take(HEADER_MAX)).read_line(&mut line).ok()?;
    let header: Value = serde_json::from_str(&line).ok()?;
    let session = text(&header, "/sessionId")?;
    // It becomes part of a path.
    session.chars().all(|c| c.is_ascii_alphanumeric() || c == '-').then(|| session.into())
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}
