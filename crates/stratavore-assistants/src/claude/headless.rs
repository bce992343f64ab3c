//! The output of `claude -p --output-format stream-json`.

use serde_json::Value;

use crate::adapter::{Outcome, Step};
use crate::excerpt::{NAME_MAX, SAID_MAX, clipped, tool_text};
use crate::final_record::{cut, last_record, says_limit};

pub(super) fn steps(line: &str) -> Vec<Step> {
    let Ok(line) = serde_json::from_str::<Value>(line) else { return Vec::new() };
    let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
    match (text("type"), text("subtype")) {
        ("system", "init") => {
            vec![Step::Session { session: clipped(text("session_id"), NAME_MAX) }]
        }
        ("system", "api_retry") => {
            let number = |name: &str| line.get(name).map_or_else(|| "?".into(), Value::to_string);
            let why = format!(
                "attempt {} of {}, error {}",
                number("attempt"),
                number("max_retries"),
                number("error_status")
            );
            vec![Step::Retry { why }]
        }
        ("assistant" | "user", _) => blocks(&line).filter_map(step).collect(),
        _ => Vec::new(),
    }
}

fn blocks(line: &Value) -> impl Iterator<Item = &Value> {
    let content = line.get("message").and_then(|message| message.get("content"));
    content.and_then(Value::as_array).into_iter().flatten()
}

fn step(block: &Value) -> Option<Step> {
    let text = |name: &str| block.get(name).and_then(Value::as_str);
    match text("type")? {
        "text" => Some(Step::Text { text: text("text")?.to_owned() }),
        "tool_use" => Some(Step::Tool {
            tool: clipped(text("name")?, NAME_MAX),
            text: tool_text(block.get("input").unwrap_or(&Value::Null)),
        }),
        "tool_result" => {
            let parts = block.get("content").and_then(Value::as_array).into_iter().flatten();
            let texts = parts.filter_map(|part| part.get("text").and_then(Value::as_str));
            let result =
                text("content").map_or_else(|| texts.collect::<Vec<_>>().join("\n"), String::from);
            Some(Step::ToolResult { text: clipped(&result, SAID_MAX) })
        }
        _ => None,
    }
}

pub(super) fn outcome(output: &str, exit: Option<i32>) -> Outcome {
    let is_result = |record: &Value| record.get("type").is_some_and(|kind| kind == "result");
    let Some(result) = last_record(output, is_result) else { return cut(output, exit) };
    let text = |name: &str| result.get(name).and_then(Value::as_str).unwrap_or_default();
    let failed = result.get("is_error").and_then(Value::as_bool).unwrap_or_default();
    let errors = result.get("errors").and_then(Value::as_array).into_iter().flatten();
    let errors: Vec<&str> = errors.filter_map(Value::as_str).collect();
    let said = if text("result").is_empty() { errors.join("\n") } else { text("result").into() };
    let status = result.get("api_error_status").and_then(Value::as_u64);
    match text("subtype") {
        "error_max_turns" => Outcome::LimitReached { what: "max_turns".into() },
        "error_max_budget_usd" => Outcome::LimitReached { what: "max_cost".into() },
        "success" if !failed => Outcome::Done { text: said },
        _ if status == Some(429) || says_limit(&said) => Outcome::RateLimited { why: said },
        subtype if said.is_empty() => Outcome::Failed { why: subtype.into() },
        _ => Outcome::Failed { why: said },
    }
}
