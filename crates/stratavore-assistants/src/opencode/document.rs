//! What `opencode export` prints of one conversation, and the list that names them all.

use jiff::Timestamp;
use serde_json::Value;
use stratavore_core::message::Place;
use stratavore_core::observation::Observation;

use super::record;
use crate::told::{millis, text};

/// Everything that an export says of its conversation.
pub(super) fn read(document: &str, place: &Place) -> Vec<Observation> {
    let Ok(document) = serde_json::from_str::<Value>(json(document)) else { return Vec::new() };
    let info = document.get("info").unwrap_or(&Value::Null);
    let Some(session) = record::session(info, None, false) else { return Vec::new() };
    let created = session.at;
    let is_subagent = text(info, "/parentID").is_some();
    let mut seen = vec![Observation::Session(session)];
    for message in document.get("messages").and_then(Value::as_array).into_iter().flatten() {
        let info = message.get("info").unwrap_or(&Value::Null);
        let at = millis(info, "/time/created").or(created).unwrap_or(Timestamp::UNIX_EPOCH);
        let parts = message.get("parts").and_then(Value::as_array).into_iter().flatten();
        let said = parts.filter_map(|part| record::message(part, Some(info), at, place));
        seen.extend(said.map(Observation::Message));
        seen.extend(record::usage(info, created, is_subagent, place).map(Observation::Usage));
    }
    seen
}

/// The ids in a list of conversations.
pub(super) fn listed(output: &str) -> Vec<String> {
    let Ok(Value::Array(sessions)) = serde_json::from_str(json(output)) else { return Vec::new() };
    sessions.iter().filter_map(|session| text(session, "/id")).map(Into::into).collect()
}

/// Without what it may print before.
fn json(output: &str) -> &str {
    let start = output.find(['{', '[']).unwrap_or(output.len());
    output[start..].trim()
}
