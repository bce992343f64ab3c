//! What Gemini's hooks tell, and its terminal's title.
//!
//! Without hooks the title is all that tells what it does while it has a screen. With them it is
//! needed still: no hook says that a question was answered.

use jiff::Timestamp;
use serde_json::Value;
use stratavore_core::activity::{Activity, Confidence, Doing, Source};
use stratavore_core::observation::{AskKind, Asked, Observation, SessionSeen};

use crate::adapter::Memory;
use crate::told::text;

// What is kept in mind, by name.
/// Hooks come from this run.
pub(super) const HOOKS: &str = "hooks";
/// It asks for a permission, or something else.
const ASKS: &str = "asks";
/// A turn is not over.
const TURN: &str = "turn";
/// A conversation of another Gemini, which a tool of this one has started.
const NESTED: &str = "nested";
/// Since when the title is as it is.
pub(super) const TITLE_AT: &str = "title_at";
/// There if that title said that it works.
pub(super) const TITLE_WORKS: &str = "title_works";

pub(super) fn read(memory: &mut Memory, body: &Value, at: Timestamp) -> Vec<Observation> {
    let (Some(hook), Some(session)) = (text(body, "/hook_event_name"), text(body, "/session_id"))
    else {
        return Vec::new();
    };
    memory.more.insert(HOOKS.into(), "1".into());
    let is_other = memory.session.as_ref().is_some_and(|known| known != session);
    if is_other && hook == "SessionStart" && memory.more.contains_key(TURN) {
        // In the middle of a turn no other conversation begins.
        memory.more.insert(NESTED.into(), session.into());
    }
    if memory.more.get(NESTED).is_some_and(|nested| nested == session) {
        return Vec::new();
    }
    let mut seen = Vec::new();
    if hook == "SessionStart" || memory.session.as_deref() != Some(session) {
        memory.session = Some(session.into());
        seen.push(Observation::Session(SessionSeen {
            session: session.into(),
            directory: text(body, "/cwd").map(Into::into),
            transcript: text(body, "/transcript_path").map(Into::into),
            at: Some(at),
            is_current: true,
            ..SessionSeen::default()
        }));
    }
    let doing = |activity| Observation::Doing(Doing::told(activity, at, hook));
    match hook {
        "SessionStart" => seen.push(doing(Activity::Idle)),
        "BeforeAgent" => {
            memory.more.remove(ASKS);
            memory.more.insert(TURN.into(), "1".into());
            seen.push(Observation::PromptTaken {
                session: session.into(),
                text: text(body, "/prompt").unwrap_or_default().into(),
                at,
            });
            seen.push(doing(Activity::Working));
        }
        "AfterAgent" => {
            memory.more.remove(ASKS);
            memory.more.remove(TURN);
            seen.push(Observation::TurnOver {
                session: session.into(),
                text: text(body, "/prompt_response").map(str::trim).map(Into::into),
                failure: None,
                at,
            });
            seen.push(doing(Activity::Idle));
        }
        "Notification" if text(body, "/notification_type") == Some("ToolPermission") => {
            memory.more.insert(ASKS.into(), "1".into());
            let asked = asked(body, session, at);
            let activity = match asked.kind {
                AskKind::Permission => Activity::NeedsPermission,
                AskKind::Question => Activity::NeedsInput,
            };
            let doing = Doing::told(activity, at, "ToolPermission");
            seen.push(Observation::Doing(doing.asking(&format!("{}: {}", asked.tool, asked.text))));
            seen.push(Observation::Asked(asked));
        }
        _ => {}
    }
    seen
}

/// Only its own screen takes the answer.
fn asked(body: &Value, session: &str, at: Timestamp) -> Asked {
    let details = body.get("details").unwrap_or(&Value::Null);
    let kind = match text(details, "/type") {
        Some("ask_user" | "exit_plan_mode") => AskKind::Question,
        Some(_) | None => AskKind::Permission,
    };
    let what = ["/command", "/filePath", "/fileName", "/toolDisplayName", "/prompt", "/planPath"];
    let what = what.iter().find_map(|at| text(details, at));
    let questions = details.get("questions").and_then(Value::as_array).into_iter().flatten();
    let questions: Vec<_> = questions.filter_map(|question| text(question, "/question")).collect();
    let questions = Some(questions.join("\n")).filter(|questions| !questions.is_empty());
    let message = || text(body, "/message").map(String::from);
    Asked {
        call: None,
        session: session.into(),
        kind,
        tool: ["/toolName", "/type"]
            .iter()
            .find_map(|at| text(details, at))
            .unwrap_or("tool")
            .into(),
        text: questions.or(what.map(Into::into)).or_else(message).unwrap_or_default(),
        at,
    }
}

/// The first choice of its question for a permission is to allow it once. Other questions have others. Where
/// the title alone told that it asks, only the screen says what: its dialog is one for a permission.
pub(super) fn answer_keys(body: &Value, allow: bool) -> Option<&'static str> {
    let is_ask = body.is_null() || text(body, "/notification_type") == Some("ToolPermission");
    let is_question = matches!(text(body, "/details/type"), Some("ask_user" | "exit_plan_mode"));
    match (is_ask && !is_question, allow) {
        (true, true) => Some("\r"),
        (true, false) => Some("\u{1b}"),
        (false, _) => None,
    }
}

/// Gemini keeps its title at what it does: `✦  Working…`, `◇  Ready`, `✋  Action Required`.
pub(super) fn titled(title: &str) -> Option<Activity> {
    match title.trim_start().chars().next()? {
        '✦' | '⏲' => Some(Activity::Working),
        '◇' => Some(Activity::Idle),
        '✋' => Some(Activity::NeedsPermission),
        _ => None,
    }
}

pub(super) fn title_tells(memory: &mut Memory, title: &str, at: Timestamp) -> Vec<Observation> {
    let Some(activity) = titled(title) else { return Vec::new() };
    memory.more.insert(TITLE_AT.into(), at.to_string());
    if activity == Activity::Working {
        memory.more.insert(TITLE_WORKS.into(), "1".into());
    } else {
        memory.more.remove(TITLE_WORKS);
    }
    let mut doing = Doing::told(activity, at, "title");
    doing.confidence = Confidence::Likely;
    let asks = activity.waits_for_person();
    if memory.more.contains_key(HOOKS) {
        // It is as good as a hook where there is none: when something is asked that no hook tells,
        // and when that is over.
        if asks == memory.more.contains_key(ASKS) {
            return Vec::new();
        }
        if asks {
            memory.more.insert(ASKS.into(), "1".into());
            return vec![Observation::Doing(doing), untold(memory, at)];
        }
        memory.more.remove(ASKS);
    } else {
        doing.source = Source::Screen;
    }
    let mut seen = Vec::new();
    if activity == Activity::Idle {
        // Nor does one say that a turn was broken off at a question.
        let session = memory.session.clone().unwrap_or_default();
        if memory.more.remove(TURN).is_some() && !session.is_empty() {
            seen.push(Observation::TurnOver { session, text: None, failure: None, at });
        }
    } else {
        memory.more.insert(TURN.into(), "1".into());
    }
    seen.push(Observation::Doing(doing));
    if asks {
        seen.push(untold(memory, at));
    }
    seen
}

/// What is asked there only its screen says.
fn untold(memory: &Memory, at: Timestamp) -> Observation {
    Observation::Asked(Asked {
        call: None,
        session: memory.session.clone().unwrap_or_default(),
        kind: AskKind::Permission,
        tool: String::new(),
        text: String::new(),
        at,
    })
}
