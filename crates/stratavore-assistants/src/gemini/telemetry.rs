//! What Gemini's telemetry tells: OpenTelemetry log records.
//!
//! They come some seconds late, so they never overrule what the title said since.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use stratavore_core::activity::{Activity, Doing, Source};
use stratavore_core::message::Place;
use stratavore_core::observation::{Observation, SessionSeen};
use stratavore_core::usage::{Purpose, Quality, Tokens, UsageRecord};

use super::hook::{HOOKS, TITLE_AT, TITLE_WORKS};
use crate::adapter::Memory;
use crate::reset::reset_time;
use crate::told::{count, is_rate_limit, text, time};

/// The last answer that the transcript has, unless it is thrown away: as a record.
const LAST: &str = "last";

/// How long after the beginning of a turn its title may say that it works: the turn may be refused before.
const PAINTED: SignedDuration = SignedDuration::from_secs(2);

/// The process that this run is, as far as telemetry tells.
const PID: &str = "pid";

/// The roles whose requests are in a transcript.
const IN_TRANSCRIPT: [&str; 2] = ["main", "subagent"];

pub(super) fn read(
    memory: &mut Memory,
    record: &Value,
    at: Timestamp,
    place: &Place,
) -> Vec<Observation> {
    let told = record.get("attributes").unwrap_or(&Value::Null);
    // Keys have dots in them, and pointers do not mind.
    let at = time(told, "/event.timestamp").unwrap_or(at);
    let (Some(event), Some(session)) = (text(told, "/event.name"), text(told, "/session.id"))
    else {
        return Vec::new();
    };
    let Some(event) = event.strip_prefix("gemini_cli.") else { return Vec::new() };
    let mut seen = Vec::new();
    if is_nested(memory, record) {
        // Nobody follows its transcript.
        if event == "api_response" {
            seen.push(Observation::Usage(usage(told, session, at, place)));
        }
        return seen;
    }
    let has_hooks = memory.more.contains_key(HOOKS);
    // Hooks come at once. They have told already what this would tell, or something newer.
    if !has_hooks && memory.session.as_deref() != Some(session) {
        memory.session = Some(session.into());
        seen.push(Observation::Session(SessionSeen {
            session: session.into(),
            at: Some(at),
            is_current: true,
            ..SessionSeen::default()
        }));
    }
    match event {
        "user_prompt" if !has_hooks => {
            // Its text is not told.
            let prompt = text(told, "/prompt").unwrap_or_default();
            seen.push(Observation::PromptTaken {
                session: session.into(),
                text: prompt.into(),
                at,
            });
            if told.get("interactive").and_then(Value::as_bool) == Some(false) {
                seen.push(Observation::Doing(Doing::told(Activity::Working, at, "user_prompt")));
            }
        }
        "api_response" => {
            let usage = usage(told, session, at, place);
            if text(told, "/role").is_none_or(|role| IN_TRANSCRIPT.contains(&role)) {
                let usage = serde_json::to_string(&usage).unwrap_or_default();
                memory.more.insert(LAST.into(), usage);
            } else if !usage.tokens.is_zero() {
                seen.push(Observation::Usage(usage));
            }
        }
        // The answer before was no good, and is in no transcript.
        "chat.content_retry" | "chat.content_retry_failure" => {
            let last = memory.more.remove(LAST).and_then(|last| serde_json::from_str(&last).ok());
            let is_billed = |last: &UsageRecord| !last.tokens.is_zero() && last.session == session;
            seen.extend(last.filter(is_billed).map(Observation::Usage));
        }
        "api_error" => seen.extend(failed(memory, told, session, at, place)),
        _ => {}
    }
    seen
}

/// Input has in it what was cached; the prompts of tools are beside it.
fn usage(told: &Value, session: &str, at: Timestamp, place: &Place) -> UsageRecord {
    let cached = count(told, "/cached_content_token_count");
    let input = count(told, "/input_token_count").saturating_sub(cached);
    let tokens = Tokens {
        input: input.saturating_add(count(told, "/tool_token_count")),
        output: count(told, "/output_token_count"),
        cache_read: cached,
        reasoning: count(told, "/thoughts_token_count"),
        ..Tokens::default()
    };
    record(told, session, tokens, Quality::Exact, at, place)
}

fn record(
    told: &Value,
    session: &str,
    tokens: Tokens,
    quality: Quality,
    at: Timestamp,
    place: &Place,
) -> UsageRecord {
    let role = text(told, "/role").unwrap_or("main");
    // No id of the answer is told. No two of one conversation have all of this alike.
    let prompt = text(told, "/prompt_id").unwrap_or_default();
    let took = count(told, "/duration_ms");
    let total = tokens.total();
    UsageRecord {
        key: format!("{session}/{at}/{role}/{prompt}/{took}/{total}"),
        session: session.into(),
        request_id: None,
        message_id: None,
        model: text(told, "/model").unwrap_or_default().into(),
        purpose: match role {
            "main" => Purpose::Main,
            "subagent" => Purpose::Subagent,
            "utility_compressor" | "utility_state_snapshot_processor" => Purpose::Compaction,
            "utility_summarizer" => Purpose::Title,
            _ => Purpose::Other,
        },
        tokens,
        reported_cost: None,
        quality,
        at,
        place: place.clone(),
    }
}

fn failed(
    memory: &Memory,
    told: &Value,
    session: &str,
    at: Timestamp,
    place: &Place,
) -> Option<Observation> {
    let why = ["/error.message", "/error"].iter().find_map(|at| text(told, at)).unwrap_or_default();
    let status = count(told, "/status_code");
    if status == 429 || is_rate_limit(why) {
        let title: Option<Timestamp> = memory.more.get(TITLE_AT).and_then(|at| at.parse().ok());
        let title = title.unwrap_or(at);
        let works = memory.more.contains_key(TITLE_WORKS);
        if title.duration_since(at) > if works { PAINTED } else { SignedDuration::ZERO } {
            return None;
        }
        let mut doing = Doing::told(Activity::RateLimited, at.max(title), "api_error").asking(why);
        doing.resets_at = reset_time(why, at);
        if is_interactive(told) && !memory.more.contains_key(HOOKS) {
            // The title must be able to say that it is over.
            doing.source = Source::Screen;
        }
        return Some(Observation::Doing(doing));
    }
    // An answer that began and was cut off is billed, and nobody says how much.
    let kind = text(told, "/error.type").unwrap_or_default();
    let is_cut =
        status == 0 && (kind.contains("Abort") || why.to_ascii_lowercase().contains("abort"));
    is_cut.then(|| {
        let usage = record(told, session, Tokens::default(), Quality::Lost, at, place);
        Observation::Usage(usage)
    })
}

/// A tool of this Gemini may start another one, which tells of itself by the same way.
fn is_nested(memory: &mut Memory, record: &Value) -> bool {
    let pid = count(record, "/resource/process.pid");
    let first = memory.more.entry(PID.into()).or_insert_with(|| pid.to_string());
    pid != 0 && *first != pid.to_string() && first != "0"
}

fn is_interactive(told: &Value) -> bool {
    told.get("interactive").and_then(Value::as_bool).unwrap_or(true)
}
