//! What `opencode run --format json` prints.

use serde_json::Value;

use crate::adapter::{Outcome, Step};
use crate::told::{is_rate_limit, text};

/// One line of it.
pub(super) fn step(line: &str) -> Vec<Step> {
    let Ok(line) = serde_json::from_str::<Value>(line) else { return Vec::new() };
    let part = |at: &str| text(&line, at).unwrap_or_default().to_owned();
    match text(&line, "/type") {
        Some("step_start") => text(&line, "/sessionID")
            .map(|session| Step::Session { session: session.into() })
            .into_iter()
            .collect(),
        Some("text") => vec![Step::Text { text: part("/part/text") }],
        Some("tool_use") => {
            let title = text(&line, "/part/state/title").map(String::from);
            let input = || line.pointer("/part/state/input").map(Value::to_string);
            let said = title.or_else(input).unwrap_or_default();
            let result =
                text(&line, "/part/state/output").or_else(|| text(&line, "/part/state/error"));
            let mut steps = vec![Step::Tool { tool: part("/part/tool"), text: said }];
            steps.extend(result.map(|text| Step::ToolResult { text: text.into() }));
            steps
        }
        _ => Vec::new(),
    }
}

/// Its exit code says little: a signal makes it 0. The end is a step that no further one follows.
pub(super) fn outcome(output: &str, exit: Option<i32>) -> Outcome {
    let mut texts: Vec<String> = Vec::new();
    let mut end = None;
    for line in output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        match text(&line, "/type") {
            Some("step_start") => {
                texts.clear();
                end = None;
            }
            Some("text") => texts.extend(text(&line, "/part/text").map(Into::into)),
            Some("tool_use") if text(&line, "/part/state/status") == Some("error") => {
                let why = text(&line, "/part/state/error").unwrap_or("a tool failed");
                end = Some(Outcome::Failed { why: why.into() });
            }
            Some("step_finish") => {
                end = match (text(&line, "/part/reason"), end.take()) {
                    // A tool that was refused ends it, if no further step comes.
                    (Some("tool-calls"), Some(refused)) => Some(refused),
                    (Some("tool-calls") | None, _) => None,
                    (Some("length"), _) => Some(Outcome::LimitReached {
                        what: "the longest answer of the model".into(),
                    }),
                    (Some(_), _) => Some(Outcome::Done { text: String::new() }),
                };
            }
            Some("error") => end = Some(failed(&line)),
            _ => {}
        }
    }
    match end {
        Some(Outcome::Done { .. }) => Outcome::Done { text: texts.join("\n") },
        Some(end) => end,
        None => match exit {
            // It could not even begin.
            Some(code) if !matches!(code, 0 | 129..=159) && !output.contains("\"step_start\"") => {
                let last = output.lines().map(str::trim).rfind(|line| !line.is_empty());
                let why = last.map_or_else(String::new, |last| format!(": {last}"));
                Outcome::Failed { why: format!("exit {code}{why}") }
            }
            Some(_) | None => Outcome::Cut,
        },
    }
}

fn failed(line: &Value) -> Outcome {
    let message = text(line, "/error/data/message").or_else(|| text(line, "/error/message"));
    let name = text(line, "/error/name").unwrap_or("error");
    let why = message.map_or_else(|| name.into(), |message| format!("{name}: {message}"));
    let is_limit = line.pointer("/error/data/statusCode").and_then(Value::as_u64) == Some(429);
    match name {
        "MessageAbortedError" => Outcome::Cut,
        "MessageOutputLengthError" => Outcome::LimitReached { what: why },
        _ if is_limit || is_rate_limit(&why) => Outcome::RateLimited { why },
        _ => Outcome::Failed { why },
    }
}
