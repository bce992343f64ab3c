//! Claude Code: `claude`.
//!
//! It is observed by hooks and telemetry that are given to one run, and by its transcripts. A request
//! has the same key in both, so that the ledger counts it once.

mod headless;
mod home;
mod line;
mod signal;
mod start;
mod transcript;
mod window;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};
use stratavore_core::activity::{Activity, Doing, Source};
use stratavore_core::message::Place;
use stratavore_core::observation::{Observation, RateWindow};
use stratavore_core::signal::Signal;
use stratavore_core::usage::Quality;

use crate::adapter::{Adapter, Memory, Outcome, Proves, Start, Started, Step};
use crate::{Assistant, AssistantError, hooks, no_flags};

pub(crate) const ASSISTANT: Assistant = Assistant {
    name: "claude",
    title: "Claude Code",
    program: Some("claude"),
    flags: no_flags,
    // A runner must stay the program that was started.
    env: &[("DISABLE_AUTOUPDATER", "1")],
    adapter: &Claude,
};

/// An interactive session that finds these takes itself for the child of another one: it writes
/// no transcript and cannot be resumed.
pub(crate) const MARKS: [&str; 6] = [
    "CLAUDECODE",
    "CLAUDE_CODE_CHILD_SESSION",
    "CLAUDE_CODE_SESSION_ID",
    "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_EFFORT",
    "AI_AGENT",
];

/// In [`Memory::more`]: its maker has refused a request for the rate of them.
const LIMITED: &str = "limited";
/// The field of what the status line is given that tells of windows.
const WINDOWS: &str = "rate_limits";

/// A model's name without what is said of its context: `claude-opus-4-8[1m]`.
fn plain_model(model: &str) -> &str {
    model.split('[').next().unwrap_or(model)
}

/// The input of the tool that asks, with the answers in it: one line for each question, or one for all.
fn answered(body: &Value, text: &str) -> Option<Value> {
    // What is longer was cut on its way, and the tool must not get less than it gave.
    const WHOLE: usize = 4096;
    if body.get("tool_name")? != "AskUserQuestion" {
        return None;
    }
    let mut input = body.get("tool_input")?.clone();
    let questions: Vec<&str> = (input.get("questions")?.as_array()?.iter())
        .filter_map(|question| question.get("question")?.as_str())
        .collect();
    if questions.is_empty() || input.to_string().len() >= WHOLE {
        return None;
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let one_each = lines.len() == questions.len();
    let answer = |nth: usize| if one_each { lines.get(nth).copied() } else { None };
    let answers: serde_json::Map<String, Value> = (questions.iter().enumerate())
        .map(|(nth, question)| ((*question).to_owned(), answer(nth).unwrap_or(text).into()))
        .collect();
    input.as_object_mut()?.insert("answers".into(), answers.into());
    Some(input)
}

/// What the tool that it asks for permission gives back; that adds what was asked for.
fn prompt_answered(body: &Value, allow: bool, message: Option<&str>) -> Option<Value> {
    match (allow, message) {
        (true, None) => Some(json!({ "behavior": "allow" })),
        // Words that it would not see are not taken for it.
        (true, Some(text)) => {
            Some(json!({ "behavior": "allow", "updatedInput": answered(body, text)? }))
        }
        (false, message) => {
            let why = message.unwrap_or("A person has refused this.");
            Some(json!({ "behavior": "deny", "message": why }))
        }
    }
}

struct Claude;

impl Adapter for Claude {
    fn proves(&self) -> Proves {
        Proves {
            headless: true,
            own_limits: true,
            preset_session: true,
            resume: true,
            elsewhere: false,
            resumes_unheard: false,
            fork: true,
            activity: Some(Source::Events),
            prompts: true,
            permission_requests: true,
            permission_answers: true,
            headless_answers: true,
            usage: Some(Quality::Exact),
            cost: true,
            transcript: true,
            quit: Some("/exit"),
            mcp: true,
        }
    }

    fn start(&self, start: &Start<'_>) -> Result<Started, AssistantError> {
        Ok(start::start(start))
    }

    fn signal(&self, memory: &mut Memory, signal: &Signal, place: &Place) -> Vec<Observation> {
        signal::read(memory, signal, place)
    }

    fn titled(&self, title: &str) -> Option<Activity> {
        signal::titled(title)
    }

    fn line(&self, memory: &mut Memory, line: &[u8], place: &Place) -> Vec<Observation> {
        transcript::read(memory, line, place)
    }

    fn beside(&self, transcript: &Path) -> Option<(PathBuf, &'static str)> {
        let session = transcript.file_stem()?;
        Some((transcript.with_file_name(session).join("subagents"), ".jsonl"))
    }

    fn found(&self, env: &BTreeMap<String, String>) -> Vec<PathBuf> {
        home::transcripts(env)
    }

    fn transcript_home(&self, env: &BTreeMap<String, String>) -> Option<PathBuf> {
        home::projects(env)
    }

    fn level(&self, pid: u32, env: &BTreeMap<String, String>) -> Option<Doing> {
        home::level(pid, env)
    }

    fn answer(&self, body: &Value, allow: bool, message: Option<&str>) -> Option<String> {
        if body.get("hook_event_name").is_some_and(|event| event == signal::PROMPT) {
            return prompt_answered(body, allow, message).map(|answer| answer.to_string());
        }
        let mut decision = hooks::decision(body, allow, message.filter(|_| !allow))?;
        if let Some(text) = message.filter(|_| allow) {
            // Words that it would not see are not taken for it.
            decision["hookSpecificOutput"]["decision"]["updatedInput"] = answered(body, text)?;
        }
        Some(decision.to_string())
    }

    fn step(&self, line: &str) -> Vec<Step> {
        headless::steps(line)
    }

    fn windows(&self, output: &str, at: Timestamp) -> Vec<RateWindow> {
        window::of_output(output, at)
    }

    fn outcome(&self, output: &str, exit: Option<i32>) -> Outcome {
        headless::outcome(output, exit)
    }
}
