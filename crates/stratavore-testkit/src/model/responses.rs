//! OpenAI's Responses API.

use serde_json::{Value, json};

use super::asked::{Read, text_of};
use super::tool::{Arguments, Call};
use super::{Answer, Asked, CREATED, Offered, Purpose, Said, Spoken, Usage, halves};

pub(super) fn read(body: &Value) -> Read {
    let mut said = Vec::new();
    if let Value::String(text) = &body["input"] {
        said.push(Said::User(text.clone()));
    }
    for item in body["input"].as_array().into_iter().flatten() {
        let kind = item["type"].as_str().unwrap_or("message");
        match (kind, item["role"].as_str()) {
            ("message", Some("user")) => said.push(Said::User(text_of(&item["content"]))),
            ("message", Some("assistant")) => said.push(Said::Model(text_of(&item["content"]))),
            ("function_call_output" | "custom_tool_call_output", _) => {
                said.push(Said::Tool(text_of(&item["output"])));
            }
            ("function_call" | "custom_tool_call", _) => said.push(Said::Model(String::new())),
            _ => {}
        }
    }
    Read {
        model: body["model"].as_str().unwrap_or_default().into(),
        streams: body["stream"] == true,
        system: body["instructions"].as_str().unwrap_or_default().into(),
        said,
        tools: tools(&body["tools"], None),
    }
}

/// The tools, those in namespaces too.
fn tools(list: &Value, namespace: Option<&str>) -> Vec<Offered> {
    let mut all = Vec::new();
    for tool in list.as_array().into_iter().flatten() {
        match tool["type"].as_str() {
            Some("function" | "custom") => all.push(Offered {
                name: tool["name"].as_str().unwrap_or_default().into(),
                namespace: namespace.map(str::to_owned),
                schema: tool["parameters"].clone(),
            }),
            Some("namespace") => all.extend(tools(&tool["tools"], tool["name"].as_str())),
            _ => {}
        }
    }
    all
}

/// Codex says it in a header.
pub(super) fn purpose(asked: &Asked) -> Purpose {
    let said: Value =
        serde_json::from_str(asked.header("x-codex-turn-metadata")).unwrap_or_default();
    match (said["thread_source"].as_str(), said["request_kind"].as_str()) {
        (Some("thread_title"), _) => Purpose::Title,
        (_, Some(kind)) if kind.contains("compact") => Purpose::Compaction,
        (Some(source), _) if source.contains("subagent") => Purpose::Subagent,
        _ => Purpose::Main,
    }
}

fn usage(usage: &Usage) -> Value {
    let input = usage.input + usage.cache_read + usage.cache_write();
    let output = usage.output + usage.reasoning;
    json!({
        "input_tokens": input,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write(),
        },
        "output_tokens": output,
        "output_tokens_details": { "reasoning_tokens": usage.reasoning },
        "total_tokens": input + output,
    })
}

fn item(number: u64, at: usize, spoken: &Spoken) -> Value {
    let Call { name, namespace, arguments } = match spoken {
        Spoken::Text(text) => {
            return json!({
                "type": "message", "id": format!("msg_{number:06}_{at}"), "role": "assistant",
                "status": "completed",
                "content": [{ "type": "output_text", "text": text, "annotations": [] }],
            });
        }
        Spoken::Call(call) => call,
    };
    let mut item = match arguments {
        Arguments::Json(arguments) => json!({
            "type": "function_call", "id": format!("fc_{number:06}_{at}"),
            "arguments": arguments.to_string(),
        }),
        Arguments::Free(text) => json!({
            "type": "custom_tool_call", "id": format!("ctc_{number:06}_{at}"), "input": text,
        }),
    };
    item["call_id"] = format!("call_{number:06}_{at}").into();
    item["name"] = name.as_str().into();
    item["status"] = "completed".into();
    if let Some(namespace) = namespace {
        item["namespace"] = namespace.as_str().into();
    }
    item
}

pub(super) fn answer(asked: &Asked, id: &str, spoken: &[Spoken], cost: &Usage) -> Answer {
    let items: Vec<Value> =
        spoken.iter().enumerate().map(|(at, spoken)| item(asked.number, at, spoken)).collect();
    let response = |status: &str, output: &[Value], usage: Value| {
        json!({
            "id": id, "object": "response", "created_at": CREATED, "status": status,
            "model": asked.model, "output": output, "usage": usage, "error": null,
            "incomplete_details": null, "parallel_tool_calls": true,
        })
    };
    let whole = response("completed", &items, usage(cost));
    if !asked.streams {
        return Answer::whole(whole);
    }
    let begun = response("in_progress", &[], Value::Null);
    let mut events = vec![
        json!({ "type": "response.created", "response": begun }),
        json!({ "type": "response.in_progress", "response": begun }),
    ];
    let mut middle = events.len();
    for (index, item) in items.iter().enumerate() {
        let mut added = item.clone();
        added["status"] = "in_progress".into();
        let (kind, deltas, whole) = match item["type"].as_str() {
            Some("message") => {
                added["content"] = json!([]);
                ("output_text", "text", item["content"][0]["text"].clone())
            }
            Some("function_call") => {
                added["arguments"] = "".into();
                ("function_call_arguments", "arguments", item["arguments"].clone())
            }
            _ => {
                added["input"] = "".into();
                ("custom_tool_call_input", "input", item["input"].clone())
            }
        };
        let at = |mut event: Value| {
            event["item_id"] = item["id"].clone();
            event["output_index"] = index.into();
            if kind == "output_text" {
                event["content_index"] = 0.into();
            }
            event
        };
        events.push(json!({
            "type": "response.output_item.added", "output_index": index, "item": added,
        }));
        if kind == "output_text" {
            let part = json!({ "type": "output_text", "text": "", "annotations": [] });
            events.push(at(json!({ "type": "response.content_part.added", "part": part })));
        }
        let (a, b) = halves(whole.as_str().unwrap_or_default());
        let delta =
            |text: &str| at(json!({ "type": format!("response.{kind}.delta"), "delta": text }));
        events.push(delta(a));
        middle = events.len();
        events.push(delta(b));
        events.push(at(json!({ "type": format!("response.{kind}.done"), deltas: whole })));
        if kind == "output_text" {
            let part = &item["content"][0];
            events.push(at(json!({ "type": "response.content_part.done", "part": part })));
        }
        events.push(json!({
            "type": "response.output_item.done", "output_index": index, "item": item,
        }));
    }
    events.push(json!({ "type": "response.completed", "response": whole }));
    for (at, event) in events.iter_mut().enumerate() {
        event["sequence_number"] = at.into();
    }
    Answer::named_events(&events, middle)
}

/// A refusal by the limit of a plan, which ends then.
pub(super) fn limited(refusal: &mut Value, resets_at: i64) {
    let error = &mut refusal["error"];
    error["type"] = "usage_limit_reached".into();
    error["plan_type"] = "pro".into();
    error["resets_at"] = resets_at.into();
}

/// The headers that tell of the plan's window, which is used up.
pub(super) fn windows(resets_at: i64) -> [(&'static str, String); 3] {
    [
        ("x-codex-primary-used-percent", "100.0".into()),
        ("x-codex-primary-window-minutes", "300".into()),
        ("x-codex-primary-reset-at", resets_at.to_string()),
    ]
}

pub(super) fn refusal(status: u16, message: &str) -> Value {
    let kind = match status {
        401 => "invalid_api_key",
        429 => "rate_limit_exceeded",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    json!({ "error": { "message": message, "type": kind, "param": null, "code": kind } })
}
