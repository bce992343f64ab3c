//! The tool that Claude Code without a screen asks for permission: `stratavore-agent hook --dir DIR --mcp`.
//!
//! A server of one tool (MCP: lines of JSON on its standard input and output), started by the assistant for
//! one run. A call of the tool is handed to the runner's agent like that of a hook that waits, and comes back
//! with what a person has answered in the inbox.
//!
//! Invariant: nothing is allowed but by an answer. Where nobody can be asked it is no.

use std::io::{BufRead, Write};
use std::path::Path;

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use stratavore_proto::version;
use tokio::sync::mpsc;

use crate::{entropy, hook};

/// The server's only tool.
const TOOL: &str = "approve";
/// The version of the protocol that is spoken if the assistant names none.
const PROTOCOL: &str = "2025-06-18";
const NO_METHOD: i64 = -32_601;
const WRONG: i64 = -32_602;
/// Lines that wait to be read.
const WAITING_MAX: usize = 16;
const NOBODY: &str = "Nobody could be asked for this permission.";

/// Serves until its standard input ends.
pub fn serve(dir: &Path) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    let (sender, lines) = mpsc::channel(WAITING_MAX);
    // It ends with its input, or with the program.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    runtime.block_on(answer_all(dir, lines));
}

/// A call that waits for its answer.
struct Waiting {
    /// The request's own id.
    id: Value,
    gone: AbortHandle,
}

async fn answer_all(dir: &Path, mut lines: mpsc::Receiver<String>) {
    let mut calls = FuturesUnordered::new();
    let mut waiting: Vec<Waiting> = Vec::new();
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            Some((id, answer)) = calls.next(), if !calls.is_empty() => {
                waiting.retain(|call| call.id != id);
                // One that was called off wants none.
                if let Ok(answer) = answer {
                    say(&json!({ "jsonrpc": "2.0", "id": id, "result": answer }));
                }
                continue;
            }
        };
        let Some(line) = line else { return };
        let Ok(request) = serde_json::from_str::<Value>(&line) else { continue };
        match read(&request) {
            Asked::Nothing => {}
            Asked::Result(id, result) => {
                say(&json!({ "jsonrpc": "2.0", "id": id, "result": result }))
            }
            Asked::Refused(id, code, message) => {
                let error = json!({ "code": code, "message": message });
                say(&json!({ "jsonrpc": "2.0", "id": id, "error": error }));
            }
            Asked::Off(id) => {
                for call in waiting.iter().filter(|call| call.id == id) {
                    call.gone.abort();
                }
            }
            Asked::Permission(id, arguments) => {
                let (gone, registration) = AbortHandle::new_pair();
                waiting.push(Waiting { id: id.clone(), gone });
                let asking = async move {
                    (id, Abortable::new(permission(dir, arguments), registration).await)
                };
                calls.push(asking);
            }
        }
    }
}

/// What one line asks for.
#[derive(Debug, PartialEq)]
enum Asked {
    Nothing,
    Result(Value, Value),
    Refused(Value, i64, &'static str),
    /// The call of this id is of no interest any more.
    Off(Value),
    Permission(Value, Value),
}

fn read(request: &Value) -> Asked {
    let method = request.get("method").and_then(Value::as_str).unwrap_or_default();
    let Some(id) = request.get("id").cloned() else {
        let off =
            (method == "notifications/cancelled").then(|| request.pointer("/params/requestId"));
        return off.flatten().map_or(Asked::Nothing, |id| Asked::Off(id.clone()));
    };
    match method {
        "initialize" => {
            let wanted = request.pointer("/params/protocolVersion");
            let protocol = wanted.cloned().unwrap_or_else(|| PROTOCOL.into());
            let server = json!({ "name": "stratavore", "version": version::VERSION });
            let can = json!({ "tools": {} });
            let about =
                json!({ "protocolVersion": protocol, "capabilities": can, "serverInfo": server });
            Asked::Result(id, about)
        }
        "ping" => Asked::Result(id, json!({})),
        "tools/list" => {
            let schema = json!({
                "type": "object",
                "properties": {
                    "tool_name": { "type": "string" },
                    "input": { "type": "object" },
                    "tool_use_id": { "type": "string" },
                },
                "required": ["tool_name", "input"],
            });
            let about = "Asks a person whether a tool may be used. Nothing for the model to call.";
            let tool = json!({ "name": TOOL, "description": about, "inputSchema": schema });
            Asked::Result(id, json!({ "tools": [tool] }))
        }
        "tools/call" if request.pointer("/params/name") == Some(&TOOL.into()) => {
            match request.pointer("/params/arguments") {
                Some(arguments) if arguments.get("tool_name").is_some_and(Value::is_string) => {
                    Asked::Permission(id, arguments.clone())
                }
                Some(_) | None => {
                    Asked::Refused(id, WRONG, "it is not said which tool may be used")
                }
            }
        }
        "tools/call" => Asked::Refused(id, WRONG, "there is no such tool"),
        "" => Asked::Nothing,
        _ => Asked::Refused(id, NO_METHOD, "this is not understood"),
    }
}

/// Has a person asked, and waits.
async fn permission(dir: &Path, arguments: Value) -> Value {
    let input = arguments.get("input").cloned().unwrap_or_else(|| json!({}));
    let mut body = json!({
        "hook_event_name": "PermissionPrompt",
        "tool_name": arguments["tool_name"],
        "tool_input": input,
    });
    if let Some(call) = arguments.get("tool_use_id") {
        body["tool_use_id"] = call.clone();
    }
    if let Ok(session) = std::env::var("CLAUDE_CODE_SESSION_ID") {
        body["session_id"] = session.into();
    }
    let answered = match (hook::kept(body), entropy::bytes::<16>()) {
        (Ok(body), Ok(id)) => hook::hand_over(dir, &entropy::hex(&id), &body).await,
        (Err(_), _) | (_, Err(_)) => None,
    };
    told(answered.as_deref(), input)
}

/// The answer as the assistant reads it: a text that is JSON. What is allowed is what it asked for, all of
/// it, unless the answer has something else in its place.
fn told(answered: Option<&str>, input: Value) -> Value {
    let answered = answered.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let is_good = |answer: &Value| match answer.get("behavior").and_then(Value::as_str) {
        Some("allow") => true,
        Some("deny") => answer.get("message").is_some_and(Value::is_string),
        Some(_) | None => false,
    };
    let mut answer = answered
        .filter(is_good)
        .unwrap_or_else(|| json!({ "behavior": "deny", "message": NOBODY }));
    if answer["behavior"] == "allow" && answer.get("updatedInput").is_none() {
        answer["updatedInput"] = input;
    }
    json!({ "content": [{ "type": "text", "text": answer.to_string() }] })
}

fn say(message: &Value) {
    let mut out = std::io::stdout().lock();
    // Who no longer reads has ended, and so will we.
    let _said = writeln!(out, "{message}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Asked {
        read(&serde_json::from_str(text).unwrap())
    }

    fn text(answered: Option<&str>) -> Value {
        let told = told(answered, json!({ "command": "ls" }));
        serde_json::from_str(told["content"][0]["text"].as_str().unwrap()).unwrap()
    }

    #[test]
    fn it_has_one_tool_and_says_so() {
        let Asked::Result(id, about) =
            asked(r#"{"id":7,"method":"initialize","params":{"protocolVersion":"2024-11-05"}}"#)
        else {
            panic!("it answers");
        };
        assert_eq!((&id, &about["protocolVersion"]), (&json!(7), &json!("2024-11-05")));
        let Asked::Result(_, list) = asked(r#"{"id":"a","method":"tools/list"}"#) else {
            panic!("it answers");
        };
        assert_eq!((&list["tools"][0]["name"], list["tools"][1].is_null()), (&json!(TOOL), true));
        assert_eq!(asked(r#"{"id":1,"method":"ping"}"#), Asked::Result(json!(1), json!({})));
        assert_eq!(asked(r#"{"method":"notifications/initialized"}"#), Asked::Nothing);
        let off = r#"{"method":"notifications/cancelled","params":{"requestId":3}}"#;
        assert_eq!(asked(off), Asked::Off(json!(3)));
        for (wrong, code) in [
            (r#"{"id":1,"method":"resources/list"}"#, NO_METHOD),
            (r#"{"id":1,"method":"tools/call","params":{"name":"other"}}"#, WRONG),
            (r#"{"id":1,"method":"tools/call","params":{"name":"approve","arguments":{}}}"#, WRONG),
        ] {
            assert!(
                matches!(asked(wrong), Asked::Refused(_, found, _) if found == code),
                "{wrong}"
            );
        }
    }

    #[test]
    fn nothing_is_allowed_but_by_an_answer() {
        for nothing in [None, Some(""), Some("yes"), Some("{}"), Some(r#"{"behavior":"ask"}"#)] {
            assert_eq!(text(nothing), json!({ "behavior": "deny", "message": NOBODY }));
        }
        let no = r#"{"behavior":"deny","message":"leave it"}"#;
        assert_eq!(text(Some(no)), json!({ "behavior": "deny", "message": "leave it" }));
        let yes = json!({ "behavior": "allow", "updatedInput": { "command": "ls" } });
        assert_eq!(text(Some(r#"{"behavior":"allow"}"#)), yes);
        let other = r#"{"behavior":"allow","updatedInput":{"answers":1}}"#;
        assert_eq!(text(Some(other))["updatedInput"], json!({ "answers": 1 }));
    }
}
