//! What the hooks, the telemetry and the title of a running Codex tell.
//!
//! Its hooks name the conversation that a person holds, also where they are called for the thread of a
//! subagent or a review, which has a rollout of its own.

use jiff::Timestamp;
use stratavore_core::activity::{Activity, Confidence, Doing, Source};
use stratavore_core::message::Place;
use stratavore_core::observation::{Lineage, LineageKind, Observation, SessionSeen};
use stratavore_core::signal::{Signal, What};
use stratavore_core::usage::{Purpose, Quality, UsageRecord};

use super::line::Billed;
use crate::adapter::Memory;
use crate::excerpt::{NAME_MAX, SAID_MAX, clipped};
use crate::hooks::{self, Hook};
use crate::log_record::LogRecord;

/// In [`Memory::more`]: what the title last told.
const TITLE: &str = "title";
/// In the names of [`Memory::more`]: threads that have rollouts, and those that are asked for a title. Their
/// ids begin with the time, so the oldest are forgotten first.
const THREAD: &str = "thread:";
const ASKED: &str = "asked:";
const THREADS_MAX: usize = 64;

pub(super) fn read(memory: &mut Memory, signal: &Signal, place: &Place) -> Vec<Observation> {
    match &signal.what {
        What::Hook { call, body } => {
            hook(memory, Hook { body, call: call.as_deref(), at: signal.at })
        }
        What::HookOver { call } => hooks::call_over(memory, call, signal.at),
        What::Telemetry { record } => {
            let usage = telemetry(memory, LogRecord::new(record), signal.at, place);
            usage.map(Observation::Usage).into_iter().collect()
        }
        What::Title { title } => title_tells(memory, title, signal.at),
        What::Sent { .. } => Vec::new(),
    }
}

fn hook(memory: &mut Memory, hook: Hook<'_>) -> Vec<Observation> {
    let mut seen: Vec<Observation> = other_thread(memory, hook).into_iter().collect();
    let of_agent = hook.text("agent_id").is_some();
    if hook.event() != "SessionEnd" && !of_agent {
        seen.extend(session(memory, hook));
    }
    match hook.event() {
        // It comes with the first prompt, and the prompt's own hook follows.
        "SessionStart" | "SessionEnd" => seen.extend(hooks::all_over(memory)),
        "UserPromptSubmit" if !of_agent => {
            seen.extend(hooks::all_over(memory));
            seen.extend(hook.prompt_taken());
            seen.push(hook.told(Activity::Working));
        }
        "PreToolUse" | "PostToolUse" => seen.extend(hook.tool_runs(memory)),
        "PermissionRequest" => seen.extend(hook.asks(memory)),
        "PreCompact" if !of_agent => seen.push(hook.told(Activity::Working)),
        "Stop" if !of_agent => {
            seen.extend(hooks::all_over(memory));
            seen.extend(hook.turn_over(None));
            seen.push(hook.told(Activity::Idle));
        }
        _ => {}
    }
    seen
}

fn session(memory: &mut Memory, hook: Hook<'_>) -> Option<Observation> {
    remember(memory, THREAD, hook.session()?);
    let seen = hook.session_seen(memory, hook.text("model"))?;
    let Observation::Session(seen) = seen else { return Some(seen) };
    let transcript = seen.transcript.filter(|file| thread_of(file) == Some(seen.session.as_str()));
    Some(Observation::Session(SessionSeen { transcript, ..seen }))
}

/// A thread within the conversation, when it is first heard of.
fn other_thread(memory: &mut Memory, hook: Hook<'_>) -> Option<Observation> {
    let parent = hook.session()?;
    let file = hook.text("transcript_path")?;
    let thread = thread_of(file)?;
    if thread == parent || !remember(memory, THREAD, thread) {
        return None;
    }
    Some(Observation::Session(SessionSeen {
        session: clipped(thread, NAME_MAX),
        directory: hook.text("cwd").map(|text| clipped(text, SAID_MAX)),
        transcript: Some(clipped(file, SAID_MAX)),
        lineage: Some(Lineage { parent: clipped(parent, NAME_MAX), kind: LineageKind::Subagent }),
        at: Some(hook.at),
        ..SessionSeen::default()
    }))
}

/// The thread that a rollout is of: `rollout-TIME-ID.jsonl`.
fn thread_of(file: &str) -> Option<&str> {
    const ID: usize = 36;
    let stem = file.rsplit('/').next()?.strip_suffix(".jsonl")?;
    stem.strip_prefix("rollout-")?;
    stem.get(stem.len().checked_sub(ID)?..)
}

/// False if it was known.
fn remember(memory: &mut Memory, kind: &str, id: &str) -> bool {
    let is_new = memory.more.insert(format!("{kind}{}", clipped(id, NAME_MAX)), String::new());
    let known: Vec<String> =
        memory.more.keys().filter(|key| key.starts_with(kind)).cloned().collect();
    for oldest in known.iter().take(known.len().saturating_sub(THREADS_MAX)) {
        memory.more.remove(oldest);
    }
    is_new.is_none()
}

fn is_known(memory: &Memory, kind: &str, id: &str) -> bool {
    memory.more.contains_key(&format!("{kind}{id}"))
}

/// A request for a title: it is made on a thread that has no rollout, may do nothing, and has no tools of
/// others. All other requests are in rollouts.
fn telemetry(
    memory: &mut Memory,
    record: LogRecord<'_>,
    now: Timestamp,
    place: &Place,
) -> Option<UsageRecord> {
    let thread = record.text("conversation.id")?;
    match record.event()? {
        "conversation_starts" => {
            let idle = record.text("sandbox_policy") == Some("read-only");
            if idle && record.text("mcp_servers").is_none() {
                remember(memory, ASKED, thread);
            }
            None
        }
        "sse_event" if is_known(memory, ASKED, thread) && !is_known(memory, THREAD, thread) => {
            // Nobody's, as long as no hook has told of a conversation: hooks may be switched off.
            let session = memory.session.clone()?;
            let input_tokens = record.count("input_token_count")?;
            let count = |name| record.count(name).unwrap_or_default();
            let billed = Billed {
                input_tokens,
                cached_input_tokens: count("cached_token_count"),
                cache_write_input_tokens: count("cache_write_token_count"),
                output_tokens: count("output_token_count"),
                reasoning_output_tokens: count("reasoning_token_count"),
            };
            let at = record.at().unwrap_or(now);
            Some(UsageRecord {
                key: format!("{}@{}", clipped(thread, NAME_MAX), at.as_microsecond()),
                session,
                request_id: None,
                message_id: None,
                model: clipped(record.text("model").unwrap_or_default(), NAME_MAX),
                purpose: Purpose::Title,
                tokens: billed.tokens(),
                reported_cost: None,
                quality: Quality::Exact,
                at,
                place: place.clone(),
            })
        }
        _ => None,
    }
}

/// `⠏ dir` while it works, `[ ! ] Action Required | dir` when it asks, `dir` otherwise.
pub(super) fn titled(title: &str) -> Option<Activity> {
    match title.chars().next()? {
        '\u{2800}'..='\u{28ff}' => Some(Activity::Working),
        // It blinks: `[ . ]`.
        '[' if title.contains("] Action Required") => Some(Activity::NeedsPermission),
        _ => Some(Activity::Idle),
    }
}

fn title_tells(memory: &mut Memory, title: &str, at: Timestamp) -> Vec<Observation> {
    let Some(activity) = titled(title) else { return Vec::new() };
    let before = memory.more.insert(TITLE.into(), activity.as_str().into());
    if before.as_deref() == Some(activity.as_str()) {
        return Vec::new();
    }
    // That the dialog was answered no hook tells before the tool has run, which may take long.
    let asked = before.as_deref() == Some(Activity::NeedsPermission.as_str());
    let answered = asked && hooks::is_asking(memory);
    let mut seen = if answered { hooks::all_over(memory) } else { Vec::new() };
    seen.push(Observation::Doing(Doing {
        source: if answered { Source::Events } else { Source::Screen },
        confidence: Confidence::Likely,
        ..Doing::told(activity, at, "title")
    }));
    seen
}
