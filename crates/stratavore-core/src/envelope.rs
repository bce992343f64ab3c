//! Events as they leave the house: CloudEvents 1.0, in the JSON format.
//!
//! `docs/events.md` is for readers of it, and a JSON Schema of each kind is in `docs/events/`.

use serde_json::{Map, Value, json};

use crate::alert;
use crate::event::Event;

/// Where events come from, as CloudEvents has it: with the id it names an event among all.
pub const SOURCE: &str = "/stratavore";

/// What stands before the kind in the `type` of an envelope.
pub const TYPE_PREFIX: &str = "stratavore.";

/// No kind: see [`further_key`].
const STOPPED: &str = concat!("runner", ".stopped");

/// The `type` of an event's envelope: `stratavore.runner.started`.
pub fn type_of(kind: &str) -> String {
    format!("{TYPE_PREFIX}{kind}")
}

/// What a topic is bound by: the kind, and the id of the project; of an event that belongs to none,
/// the id of what it is about. Ids and never names, since names change. Of an alert it is how much it
/// matters: whoever is woken by it does not choose by hosts.
pub fn routing_key(event: &Event) -> String {
    match (event.project, event.data["severity"].as_str()) {
        (None, Some(severity)) if event.kind == alert::KIND => {
            format!("{}.{severity}", event.kind)
        }
        (Some(project), _) => format!("{}.{project}", event.kind),
        (None, _) => format!("{}.{}", event.kind, event.entity_id),
    }
}

/// A further key, for whoever asks for less than our kinds tell apart: a runner that has stopped,
/// however it came to that.
pub fn further_key(event: &Event) -> Option<String> {
    let is_end = matches!(event.kind.as_str(), "runner.exited" | "runner.failed" | "runner.lost");
    let project = event.project.filter(|_| is_end)?;
    Some(format!("{STOPPED}.{project}"))
}

/// The envelope of a published event.
pub fn cloud_event(event: &Event) -> Value {
    let mut envelope = Map::new();
    let mut put = |name: &str, value: Value| envelope.insert(name.into(), value);
    put("specversion", json!("1.0"));
    put("id", json!(event.id));
    put("source", json!(SOURCE));
    put("type", json!(type_of(&event.kind)));
    put("subject", json!(event.entity_id));
    put("time", json!(event.at.to_string()));
    put("datacontenttype", json!("application/json"));
    // The extension `sequence` of CloudEvents: texts that sort as the positions do.
    if let Some(position) = event.position {
        put("sequence", json!(format!("{position:020}")));
    }
    put("entity", json!(event.entity));
    put("entityname", json!(event.name));
    put("entityseq", json!(event.seq));
    if let Some(project) = event.project {
        put("projectid", json!(project));
    }
    put("causedby", json!(event.by));
    put("decision", json!(event.decision.as_str()));
    if let Some(reason) = &event.reason {
        put("reason", json!(reason));
    }
    put("data", event.data.clone());
    Value::Object(envelope)
}
