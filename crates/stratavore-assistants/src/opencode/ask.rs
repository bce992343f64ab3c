//! What opencode asks: for a permission, or a question of its own with answers to choose from.

use serde_json::{Value, json};
use stratavore_core::observation::AskKind;

use crate::told::text;

pub(super) struct Asks<'a> {
    pub(super) kind: AskKind,
    pub(super) tool: &'a str,
    pub(super) text: String,
}

impl Asks<'_> {
    /// On one line or some, for people.
    pub(super) fn question(&self) -> String {
        match self.kind {
            AskKind::Permission => format!("{}: {}", self.tool, self.text),
            AskKind::Question => self.text.clone(),
        }
    }
}

pub(super) fn read<'a>(event: &str, told: &'a Value) -> Asks<'a> {
    if event == "permission.asked" {
        let tool = text(told, "/permission").unwrap_or_default();
        Asks { kind: AskKind::Permission, tool, text: permission_text(told) }
    } else {
        Asks { kind: AskKind::Question, tool: "question", text: question_text(told) }
    }
}

fn permission_text(told: &Value) -> String {
    let meant = ["/metadata/command", "/metadata/filepath", "/metadata/url", "/metadata/query"];
    if let Some(text) = meant.iter().find_map(|at| text(told, at)) {
        return text.into();
    }
    let patterns = told.get("patterns").and_then(Value::as_array).into_iter().flatten();
    patterns.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

fn questions(told: &Value) -> impl Iterator<Item = &Value> {
    told.get("questions").and_then(Value::as_array).into_iter().flatten()
}

fn options(question: &Value) -> impl Iterator<Item = &str> {
    let options = question.get("options").and_then(Value::as_array).into_iter().flatten();
    options.filter_map(|option| text(option, "/label"))
}

fn question_text(told: &Value) -> String {
    let lines = questions(told).flat_map(|question| {
        let options = options(question).map(|label| format!("- {label}"));
        text(question, "/question").map(String::from).into_iter().chain(options)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What our plugin reads. A question is answered by the message, one line for each question if there
/// are several, else by the first of the answers on offer.
pub(super) fn answer(body: &Value, allow: bool, message: Option<&str>) -> Option<String> {
    let events = body.get("opencode")?.as_array()?;
    let asked = |event: &&Value| {
        matches!(text(event, "/type"), Some("permission.asked" | "question.asked"))
    };
    let event = events.iter().rev().find(asked)?;
    let answer = match (text(event, "/type")?, allow) {
        // It takes no words with a permission.
        ("permission.asked", true) if message.is_some() => return None,
        ("permission.asked", true) => json!({"reply": "once"}),
        ("permission.asked", false) => match message {
            Some(message) => json!({"reply": "reject", "message": message}),
            None => json!({"reply": "reject"}),
        },
        ("question.asked", true) => json!({"answers": answers(&event["properties"], message)}),
        _ => json!({"reply": "reject"}),
    };
    Some(answer.to_string())
}

fn answers(told: &Value, message: Option<&str>) -> Vec<Vec<String>> {
    let several = questions(told).count() > 1;
    let message = message.unwrap_or_default().trim();
    let mut lines = message.lines();
    let given = |question: &Value| {
        let said = if several { lines.next().unwrap_or_default().trim() } else { message };
        let said = if said.is_empty() { options(question).next() } else { Some(said) };
        said.map(String::from).into_iter().collect()
    };
    questions(told).map(given).collect()
}
