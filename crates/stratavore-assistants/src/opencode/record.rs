//! opencode's messages and sessions, as its events and its export have them alike.

use jiff::Timestamp;
use serde_json::Value;
use stratavore_core::message::{Message, Place, Role};
use stratavore_core::observation::{Lineage, LineageKind, SessionSeen};
use stratavore_core::usage::{Purpose, Quality, Tokens, UsageRecord};

use crate::told::{count, cut, micros, millis, text};

/// The most bytes of a tool's input or output in a message.
const TOOL_MAX: usize = 8 << 10;

/// What an assistant's message used, if it is over and its own.
///
/// A fork begins with copies of its parent's messages under new ids. They keep the time at which the
/// first ones were made, which is before the fork was: what they used was counted there.
pub(crate) fn usage(
    info: &Value,
    session_created: Option<Timestamp>,
    is_subagent: bool,
    place: &Place,
) -> Option<UsageRecord> {
    let key = text(info, "/id")?;
    let session = text(info, "/sessionID")?;
    let completed = millis(info, "/time/completed")?;
    if text(info, "/role") != Some("assistant") || is_copy(info, session_created) {
        return None;
    }
    let tokens = tokens(info.get("tokens")?);
    let is_cut = text(info, "/error/name") == Some("MessageAbortedError");
    if tokens.is_zero() && !is_cut {
        // Refused, so nothing was billed.
        return None;
    }
    let is_compaction = info.get("summary").and_then(Value::as_bool) == Some(true)
        || text(info, "/mode") == Some("compaction")
        || text(info, "/agent") == Some("compaction");
    Some(UsageRecord {
        key: key.into(),
        session: session.into(),
        request_id: None,
        message_id: Some(key.into()),
        model: model(info).unwrap_or_default(),
        purpose: match (is_compaction, is_subagent) {
            (true, _) => Purpose::Compaction,
            (false, true) => Purpose::Subagent,
            (false, false) => Purpose::Main,
        },
        tokens,
        reported_cost: micros(info, "/cost").filter(|cost| *cost > 0),
        quality: if tokens.is_zero() { Quality::Lost } else { Quality::Exact },
        at: completed,
        place: place.clone(),
    })
}

/// Its input leaves out what was cached, and its output the reasoning: as ours.
pub(crate) fn tokens(tokens: &Value) -> Tokens {
    Tokens {
        input: count(tokens, "/input"),
        output: count(tokens, "/output"),
        cache_read: count(tokens, "/cache/read"),
        cache_write: count(tokens, "/cache/write"),
        cache_write_1h: 0,
        reasoning: count(tokens, "/reasoning"),
    }
}

/// Without its provider: prices and lists know models by their own names.
pub(crate) fn model(info: &Value) -> Option<String> {
    let model = ["/modelID", "/model/modelID", "/model/id"].iter().find_map(|at| text(info, at))?;
    Some(model.into())
}

fn is_copy(info: &Value, session_created: Option<Timestamp>) -> bool {
    let Some(created) = millis(info, "/time/created") else { return false };
    let id_time = text(info, "/id").and_then(|id| id_millis(id, false));
    // An id of its own time says that the clock was set back, and not that it is a copy.
    let is_own = id_time == Some(created.as_millisecond().rem_euclid(ID_WRAP));
    let session = text(info, "/sessionID").and_then(|id| id_millis(id, true));
    let is_before = match (session_created, session) {
        (Some(session), _) => created < session,
        (None, Some(session)) => created.as_millisecond().rem_euclid(ID_WRAP) < session,
        (None, None) => false,
    };
    is_before && !is_own
}

/// Ids begin with the low 48 bits of 4096 times the milliseconds since 1970, as twelve hexadecimal
/// digits; those of sessions with these bits turned round, so that the newest comes first.
const ID_WRAP: i64 = 1 << 36;

fn id_millis(id: &str, is_session: bool) -> Option<i64> {
    let digits = id.split_once('_')?.1.get(..12)?;
    let bits = i64::from_str_radix(digits, 16).ok()?;
    let bits = if is_session { !bits & ((1 << 48) - 1) } else { bits };
    Some(bits >> 12)
}

/// A conversation, from what opencode says of it. A title of its own making is none.
pub(crate) fn session(
    info: &Value,
    fork_of: Option<&str>,
    is_current: bool,
) -> Option<SessionSeen> {
    let subagent_of = text(info, "/parentID");
    let lineage = match (subagent_of, fork_of) {
        (Some(parent), _) => Some(Lineage { parent: parent.into(), kind: LineageKind::Subagent }),
        (None, Some(parent)) => Some(Lineage { parent: parent.into(), kind: LineageKind::Forked }),
        (None, None) => None,
    };
    Some(SessionSeen {
        session: text(info, "/id")?.into(),
        directory: text(info, "/directory").map(Into::into),
        transcript: None,
        title: text(info, "/title").filter(|title| !is_placeholder(title)).map(Into::into),
        model: model(info),
        lineage,
        at: millis(info, "/time/created"),
        is_current: is_current && subagent_of.is_none(),
    })
}

fn is_placeholder(title: &str) -> bool {
    ["New session - ", "Child session - "].iter().any(|start| title.starts_with(start))
}

/// A part of a message that is whole, as a message of ours.
pub(crate) fn message(
    part: &Value,
    info: Option<&Value>,
    at: Timestamp,
    place: &Place,
) -> Option<Message> {
    let is_user = info.and_then(|info| text(info, "/role")) == Some("user");
    let (role, text_of) = match text(part, "/type")? {
        "text" if part.get("synthetic").and_then(Value::as_bool) == Some(true) => return None,
        "text" => (if is_user { Role::User } else { Role::Assistant }, text(part, "/text")?.into()),
        "tool" => (Role::Tool, tool(part)?),
        _ => return None,
    };
    Some(Message {
        id: text(part, "/id")?.into(),
        session: text(part, "/sessionID")?.into(),
        role,
        at: time_of(part).or_else(|| millis(info?, "/time/created")).unwrap_or(at),
        model: info.and_then(model).filter(|_| role == Role::Assistant),
        text: text_of,
        place: place.clone(),
    })
}

fn time_of(part: &Value) -> Option<Timestamp> {
    ["/time/end", "/state/time/end", "/time/start"].iter().find_map(|at| millis(part, at))
}

fn tool(part: &Value) -> Option<String> {
    let input = part.pointer("/state/input").map(Value::to_string).unwrap_or_default();
    let output = text(part, "/state/output").or_else(|| text(part, "/state/error"));
    let said = format!("{} {}", text(part, "/tool")?, cut(&input, TOOL_MAX));
    Some(match output {
        Some(output) => format!("{said}\n{}", cut(output, TOOL_MAX)),
        None => said,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_tell_their_time() {
        let millis = Some(1_795_958_899_415 % ID_WRAP);
        assert_eq!(id_millis("ses_dd881fd28ffeWzQHIGDdRUXt1E", true), millis);
        let millis = Some(1_795_958_899_534 % ID_WRAP);
        assert_eq!(id_millis("msg_2277e034e001T3tb0p8ATEMEl9", false), millis);
        for id in ["", "msg", "msg_", "msg_zzzzzzzzzzzz", "msg_Grüße und so", "x_-1234567890ab"] {
            id_millis(id, true);
        }
    }

    #[test]
    fn copies_in_a_fork_are_not_counted_again() {
        let message = |id: &str, created: i64| {
            json!({
                "id": id, "sessionID": "ses_dd881fd28ffeWzQHIGDdRUXt1E", "role": "assistant",
                "time": {"created": created, "completed": created + 5},
                "tokens": {"input": 7, "output": 1},
            })
        };
        let place = Place { file: String::new(), offset: 0 };
        let counts = |info: &Value, created: Option<Timestamp>| {
            usage(info, created, false, &place).is_some()
        };
        // Its id was made when the fork was, its time is the first one's.
        let copy = message("msg_2277e034e001T3tb0p8ATEMEl9", 1_795_958_000_000);
        assert!(!counts(&copy, None));
        assert!(!counts(&copy, Timestamp::from_millisecond(1_795_958_899_415).ok()));
        assert!(counts(&message("msg_2277e034e001T3tb0p8ATEMEl9", 1_795_958_899_534), None));
        // The clock was set back after the conversation was made.
        let early = message("msg_227704980001T3tb0p8ATEMEl9", 1_795_958_000_000);
        assert_eq!(id_millis("msg_227704980001", false), Some(1_795_958_000_000 % ID_WRAP));
        assert!(counts(&early, None));
    }
}
