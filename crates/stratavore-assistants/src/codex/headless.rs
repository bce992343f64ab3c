//! The output of `codex exec --json`.

use serde_json::Value;

use crate::adapter::{Outcome, Step};
use crate::excerpt::{NAME_MAX, SAID_MAX, clipped, tool_text};
use crate::final_record::{cut, last_record, says_limit};

pub(super) fn steps(line: &str) -> Vec<Step> {
    let Ok(line) = serde_json::from_str::<Value>(line) else { return Vec::new() };
    let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
    let step = match text("type") {
        "thread.started" => Some(Step::Session { session: clipped(text("thread_id"), NAME_MAX) }),
        "item.started" => line.get("item").and_then(begins),
        "item.completed" => line.get("item").and_then(ends),
        "error" => Some(Step::Retry { why: clipped(text("message"), SAID_MAX) }),
        _ => None,
    };
    step.into_iter().collect()
}

fn begins(item: &Value) -> Option<Step> {
    let text = |name: &str| item.get(name).and_then(Value::as_str);
    match text("type")? {
        "command_execution" => Some(Step::Tool {
            tool: "shell".into(),
            text: clipped(text("command").unwrap_or_default(), SAID_MAX),
        }),
        "mcp_tool_call" => Some(Step::Tool {
            tool: format!(
                "{}.{}",
                clipped(text("server").unwrap_or_default(), NAME_MAX),
                clipped(text("tool").unwrap_or_default(), NAME_MAX)
            ),
            text: tool_text(item.get("arguments").unwrap_or(&Value::Null)),
        }),
        "web_search" => Some(Step::Tool {
            tool: "web_search".into(),
            text: clipped(text("query").unwrap_or_default(), SAID_MAX),
        }),
        _ => None,
    }
}

fn ends(item: &Value) -> Option<Step> {
    let text = |name: &str| item.get(name).and_then(Value::as_str);
    match text("type")? {
        "agent_message" => Some(Step::Text { text: text("text")?.to_owned() }),
        "command_execution" => {
            Some(Step::ToolResult { text: clipped(text("aggregated_output")?, SAID_MAX) })
        }
        "mcp_tool_call" => {
            let error = item.get("error").and_then(|error| error.get("message"));
            let result = error.or_else(|| item.get("result")).unwrap_or(&Value::Null);
            Some(Step::ToolResult { text: tool_text(result) })
        }
        "file_change" => Some(Step::Tool {
            tool: "apply_patch".into(),
            text: tool_text(item.get("changes").unwrap_or(&Value::Null)),
        }),
        _ => None,
    }
}

pub(super) fn outcome(output: &str, exit: Option<i32>) -> Outcome {
    let kind = |record: &Value| record.get("type").and_then(Value::as_str).map(String::from);
    let is_final =
        |record: &Value| matches!(kind(record).as_deref(), Some("turn.completed" | "turn.failed"));
    let Some(last) = last_record(output, is_final) else { return cut(output, exit) };
    if kind(&last).as_deref() == Some("turn.failed") {
        let error = last.get("error").and_then(|error| error.get("message"));
        let why = error.and_then(Value::as_str).unwrap_or("the turn failed").to_owned();
        return if says_limit(&why) {
            Outcome::RateLimited { why }
        } else {
            Outcome::Failed { why }
        };
    }
    let said = |record: &Value| {
        record
            .get("item")
            .is_some_and(|item| item.get("type").is_some_and(|kind| kind == "agent_message"))
    };
    let said = last_record(output, said);
    let text = said.as_ref().and_then(|record| record.get("item")?.get("text")?.as_str());
    Outcome::Done { text: text.unwrap_or_default().to_owned() }
}
