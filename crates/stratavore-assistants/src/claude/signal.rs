//! What the hooks, the telemetry and the title of a running Claude Code tell.

use jiff::Timestamp;
use stratavore_core::activity::{Activity, Confidence, Doing, Source};
use stratavore_core::message::Place;
use stratavore_core::observation::Observation;
use stratavore_core::signal::{Signal, What};
use stratavore_core::usage::{Purpose, Quality, Tokens, UsageRecord};

use super::{LIMITED, plain_model, window};
use crate::adapter::Memory;
use crate::excerpt::{NAME_MAX, SAID_MAX, clipped};
use crate::hooks::{self, Hook};
use crate::log_record::LogRecord;
use crate::reset::reset_time;

/// What the tool is called by that is asked for permission in a run without a screen.
pub(super) const PROMPT: &str = "PermissionPrompt";

/// In [`Memory::more`]: when the last hook was called, in microseconds.
const HOOK_AT: &str = "hook_at";
/// In [`Memory::more`]: what the title last told.
const TITLE: &str = "title";
/// In [`Memory::more`]: the epoch of the runner in which it has told of itself.
const BEGUN: &str = "begun";

pub(super) fn read(memory: &mut Memory, signal: &Signal, place: &Place) -> Vec<Observation> {
    match &signal.what {
        What::Hook { call, body } => {
            if let Some(windows) = window::of_line(body, signal.at) {
                return windows;
            }
            memory.more.insert(HOOK_AT.into(), signal.at.as_microsecond().to_string());
            memory.more.insert(BEGUN.into(), signal.epoch.to_string());
            hook(memory, Hook { body, call: call.as_deref(), at: signal.at })
        }
        What::HookOver { call } => hooks::call_over(memory, call, signal.at),
        What::Telemetry { record } => {
            telemetry(memory, LogRecord::new(record), signal.at, place).unwrap_or_default()
        }
        What::Title { title } => title_tells(memory, title, signal).into_iter().collect(),
        What::Sent { .. } => Vec::new(),
    }
}

fn hook(memory: &mut Memory, hook: Hook<'_>) -> Vec<Observation> {
    let mut seen = Vec::new();
    // The end of one conversation may come after the beginning of the next.
    if hook.event() != "SessionEnd" {
        seen.extend(hook.session_seen(memory, hook.text("model").map(plain_model)));
    }
    match hook.event() {
        "SessionStart" => {
            seen.extend(hooks::all_over(memory));
            // After a compaction the turn goes on.
            if hook.text("source") != Some("compact") {
                seen.push(hook.told(Activity::Idle));
            }
        }
        "SessionEnd" => seen.extend(hooks::all_over(memory)),
        "UserPromptSubmit" => {
            seen.extend(hooks::all_over(memory));
            seen.extend(hook.prompt_taken());
            seen.push(hook.told(Activity::Working));
        }
        "PreToolUse" | "PostToolUse" | "PostToolUseFailure" | "ElicitationResult" => {
            seen.extend(hook.tool_runs(memory));
        }
        "PermissionRequest" | PROMPT => seen.extend(hook.asks(memory)),
        "Elicitation" => {
            let told = Doing::told(Activity::NeedsInput, hook.at, hook.event());
            seen.push(Observation::Doing(told.asking(hook.text("message").unwrap_or_default())));
        }
        "Notification" => seen.extend(notification(memory, hook)),
        "Stop" => {
            seen.extend(hooks::all_over(memory));
            seen.extend(hook.turn_over(None));
            seen.push(hook.told(Activity::Idle));
        }
        "StopFailure" => {
            seen.extend(hooks::all_over(memory));
            seen.extend(stop_failure(memory, hook));
        }
        "PreCompact" => seen.push(hook.told(Activity::Working)),
        "PostCompact" if hook.text("trigger") == Some("manual") => {
            seen.push(hook.told(Activity::Idle));
        }
        _ => {}
    }
    seen
}

fn notification(memory: &Memory, hook: Hook<'_>) -> Option<Observation> {
    let message = hook.text("message").unwrap_or_default();
    let kind = hook.text("notification_type")?;
    match kind {
        // It comes six seconds after the request, which said more, even if that was just answered.
        "permission_prompt" | "worker_permission_prompt"
            if !hooks::is_asking(memory) && !hooks::answered_within(memory, 10, hook.at) =>
        {
            let told = Doing::told(Activity::NeedsPermission, hook.at, kind);
            Some(Observation::Doing(told.asking(message)))
        }
        "elicitation_dialog" => {
            let told = Doing::told(Activity::NeedsInput, hook.at, kind);
            Some(Observation::Doing(told.asking(message)))
        }
        "idle_prompt" => Some(Observation::Doing(Doing::told(Activity::Idle, hook.at, kind))),
        _ => None,
    }
}

/// A failure ended the turn.
fn stop_failure(memory: &mut Memory, hook: Hook<'_>) -> Vec<Observation> {
    let error = hook.text("error").unwrap_or("unknown");
    let said = hook.text("last_assistant_message").or_else(|| hook.text("error_details"));
    let failure = said.map_or_else(|| error.to_owned(), |said| format!("{error}: {said}"));
    let mut seen: Vec<Observation> =
        hook.turn_over(Some(clipped(&failure, SAID_MAX))).into_iter().collect();
    if error == "rate_limit" {
        memory.more.insert(LIMITED.into(), String::new());
        seen.push(limited(hook.at, hook.event(), said.unwrap_or_default(), hook.at));
    } else {
        seen.push(hook.told(Activity::Idle));
    }
    seen
}

fn limited(since: Timestamp, signal: &str, said: &str, now: Timestamp) -> Observation {
    let told = Doing::told(Activity::RateLimited, since, signal);
    Observation::Doing(Doing { resets_at: reset_time(said, now), ..told })
}

fn telemetry(
    memory: &mut Memory,
    record: LogRecord<'_>,
    now: Timestamp,
    place: &Place,
) -> Option<Vec<Observation>> {
    let at = record.at().unwrap_or(now);
    // It is told a second later or more: a hook that was called since then knows better.
    let hook_at = memory.more.get(HOOK_AT).and_then(|at| at.parse::<i64>().ok());
    let is_news = hook_at.is_none_or(|hook_at| at.as_microsecond() >= hook_at);
    match record.event()? {
        "api_request" => {
            let mut seen: Vec<Observation> =
                usage(record, at, place).map(Observation::Usage).into_iter().collect();
            if is_news && memory.more.remove(LIMITED).is_some() {
                let working = Doing::told(Activity::Working, at, "api_request");
                seen.push(Observation::Doing(working));
            }
            Some(seen)
        }
        "api_error" if is_news && record.count("status_code") == Some(429) => {
            memory.more.insert(LIMITED.into(), String::new());
            let said = record.text("error").unwrap_or_default();
            Some(vec![limited(at, "api_error", said, now)])
        }
        _ => None,
    }
}

/// One request that was answered in full.
fn usage(record: LogRecord<'_>, at: Timestamp, place: &Place) -> Option<UsageRecord> {
    let session = record.text("session.id")?;
    let purpose = purpose(record.text("query_source").unwrap_or_default());
    let request_id = record.text("request_id").map(|id| clipped(id, NAME_MAX));
    let key = match (&request_id, purpose) {
        (Some(id), _) => id.clone(),
        // The transcript has it, by a name that is not told here.
        (None, Purpose::Main | Purpose::Subagent) => return None,
        (None, Purpose::Compaction | Purpose::Title | Purpose::Other) => {
            let nth = record.count("event.sequence").unwrap_or_default();
            format!("{session}/{}/{nth}", at.as_microsecond())
        }
    };
    let micros = record.count("cost_usd_micros").and_then(|cost| i64::try_from(cost).ok());
    let dollars = || record.real("cost_usd").map(|cost| (cost * 1e6).round() as i64);
    Some(UsageRecord {
        key,
        session: clipped(session, NAME_MAX),
        request_id,
        message_id: None,
        model: clipped(plain_model(record.text("model").unwrap_or_default()), NAME_MAX),
        purpose,
        tokens: Tokens {
            input: record.count("input_tokens").unwrap_or_default(),
            output: record.count("output_tokens").unwrap_or_default(),
            cache_read: record.count("cache_read_tokens").unwrap_or_default(),
            // For how long it is kept is told by the transcript alone.
            cache_write: record.count("cache_creation_tokens").unwrap_or_default(),
            ..Tokens::default()
        },
        reported_cost: micros.or_else(dollars),
        quality: Quality::Exact,
        at,
        place: place.clone(),
    })
}

/// `repl_main_thread:outputStyle:…`, `agent:builtin:…`, and many names of things done on the side.
fn purpose(source: &str) -> Purpose {
    let first = source.split(':').next().unwrap_or_default();
    match first {
        "" | "repl_main_thread" | "sdk" => Purpose::Main,
        "agent" => Purpose::Subagent,
        "compact" => Purpose::Compaction,
        "rename_generate_name" => Purpose::Title,
        other if other.contains("title") => Purpose::Title,
        _ => Purpose::Other,
    }
}

/// `⠿ name` while it works, `✳ name` otherwise: also while it starts, when what is typed is lost.
pub(super) fn titled(title: &str) -> Option<Activity> {
    match title.chars().next()? {
        '\u{2800}'..='\u{28ff}' => Some(Activity::Working),
        '✳' => Some(Activity::Idle),
        _ => None,
    }
}

fn title_tells(memory: &mut Memory, title: &str, signal: &Signal) -> Option<Observation> {
    let activity = titled(title)?;
    let epoch = signal.epoch.to_string();
    match activity {
        Activity::Idle if memory.more.get(BEGUN) != Some(&epoch) => return None,
        Activity::Working => drop(memory.more.insert(BEGUN.into(), epoch)),
        Activity::Idle
        | Activity::Unknown
        | Activity::NeedsInput
        | Activity::NeedsPermission
        | Activity::RateLimited => {}
    }
    let before = memory.more.insert(TITLE.into(), activity.as_str().into());
    if before.as_deref() == Some(activity.as_str()) {
        return None;
    }
    Some(Observation::Doing(Doing {
        source: Source::Screen,
        confidence: Confidence::Likely,
        ..Doing::told(activity, signal.at, "title")
    }))
}
