//! What `gemini --output-format stream-json` prints.

use serde_json::Value;

use crate::adapter::{Outcome, Step};
use crate::told::{is_rate_limit, text};

/// It ended by the user's limit of turns.
const EXIT_TURNS: i32 = 53;

pub(super) fn step(line: &str) -> Vec<Step> {
    let Ok(line) = serde_json::from_str::<Value>(line) else { return Vec::new() };
    let at = |at: &str| text(&line, at).map(String::from);
    let step = match text(&line, "/type") {
        Some("init") => at("/session_id").map(|session| Step::Session { session }),
        Some("message") if text(&line, "/role") == Some("assistant") => {
            at("/content").map(|text| Step::Text { text })
        }
        Some("tool_use") => {
            let given = line.get("parameters").map(Value::to_string).unwrap_or_default();
            at("/tool_name").map(|tool| Step::Tool { tool, text: given })
        }
        Some("tool_result") => {
            let result = at("/output").or_else(|| at("/error/message")).or_else(|| at("/status"));
            result.map(|text| Step::ToolResult { text })
        }
        Some("error") => at("/message").map(|why| Step::Retry { why }),
        _ => None,
    };
    step.into_iter().collect()
}

/// Its exit code is 0 after a signal too: only the last record tells the end.
pub(super) fn outcome(output: &str, exit: Option<i32>) -> Outcome {
    let mut said = String::new();
    let mut wrong = None;
    let mut last = None;
    for line in output.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            last = Some(line.trim()).filter(|line| !line.is_empty()).or(last);
            continue;
        };
        match text(&line, "/type") {
            Some("message") if text(&line, "/role") == Some("assistant") => {
                said.push_str(text(&line, "/content").unwrap_or_default());
            }
            // What it said before it used a tool is not its answer.
            Some("tool_use" | "tool_result") => said.clear(),
            Some("error") => wrong = text(&line, "/message").map(String::from),
            Some("result") => return result(&line, said, exit),
            _ => {}
        }
    }
    match (exit, wrong) {
        (Some(EXIT_TURNS), _) => Outcome::LimitReached { what: "turns".into() },
        (_, Some(why)) => failed(why),
        // It could not even begin: no login, a wrong argument, a refusal.
        (Some(code), None) if !matches!(code, 0 | 129..=143) && said.is_empty() => {
            let why = last.map_or_else(String::new, |last| format!(": {last}"));
            Outcome::Failed { why: format!("exit {code}{why}") }
        }
        (Some(_) | None, None) => Outcome::Cut,
    }
}

fn result(line: &Value, said: String, exit: Option<i32>) -> Outcome {
    if text(line, "/status") == Some("success") {
        return Outcome::Done { text: said };
    }
    let kind = text(line, "/error/type").unwrap_or("error");
    if exit == Some(EXIT_TURNS) || kind == "FatalTurnLimitedError" {
        return Outcome::LimitReached { what: "turns".into() };
    }
    match text(line, "/error/message") {
        Some(message) => failed(format!("{kind}: {message}")),
        None => failed(kind.into()),
    }
}

fn failed(why: String) -> Outcome {
    if is_rate_limit(&why) { Outcome::RateLimited { why } } else { Outcome::Failed { why } }
}
