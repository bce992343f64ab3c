//! OpenAI's Chat Completions API, which many others speak.

use serde_json::{Value, json};

use super::asked::{Read, text_of};
use super::tool::{Arguments, Call};
use super::{Answer, Asked, CREATED, Offered, Purpose, Said, Spoken, Usage, halves};

pub(super) fn read(body: &Value) -> Read {
    let mut read = Read {
        model: body["model"].as_str().unwrap_or_default().into(),
        streams: body["stream"] == true,
        ..Read::default()
    };
    for message in body["messages"].as_array().into_iter().flatten() {
        let text = text_of(&message["content"]);
        match message["role"].as_str() {
            Some("system" | "developer") => {
                read.system.push_str(&text);
                read.system.push('\n');
            }
            Some("user") => read.said.push(Said::User(text)),
            Some("tool") => read.said.push(Said::Tool(text)),
            _ => read.said.push(Said::Model(text)),
        }
    }
    for tool in body["tools"].as_array().into_iter().flatten() {
        let function = &tool["function"];
        read.tools.push(Offered {
            name: function["name"].as_str().unwrap_or_default().into(),
            namespace: None,
            schema: function["parameters"].clone(),
        });
    }
    read
}

/// As opencode's own agents for it say.
pub(super) fn purpose(asked: &Asked) -> Purpose {
    if asked.system.contains("title generator") {
        return Purpose::Title;
    }
    if asked.system.contains("summariz") && asked.tools.is_empty() {
        return Purpose::Compaction;
    }
    if asked.header("x-parent-session-id").is_empty() { Purpose::Main } else { Purpose::Subagent }
}

fn usage(usage: &Usage) -> Value {
    let input = usage.input + usage.cache_read + usage.cache_write();
    let output = usage.output + usage.reasoning;
    json!({
        "prompt_tokens": input,
        "completion_tokens": output,
        "total_tokens": input + output,
        "prompt_tokens_details": { "cached_tokens": usage.cache_read },
        "completion_tokens_details": { "reasoning_tokens": usage.reasoning },
    })
}

fn tool_call(number: u64, at: usize, call: &Call) -> Value {
    let arguments = match &call.arguments {
        Arguments::Json(arguments) => arguments.to_string(),
        Arguments::Free(text) => json!({ "input": text }).to_string(),
    };
    json!({
        "id": format!("call_{number:06}_{at}"), "type": "function",
        "function": { "name": call.name, "arguments": arguments },
    })
}

pub(super) fn answer(asked: &Asked, id: &str, spoken: &[Spoken], cost: &Usage) -> Answer {
    let mut text = String::new();
    let mut calls: Vec<Value> = Vec::new();
    for spoken in spoken {
        match spoken {
            Spoken::Text(more) => text.push_str(more),
            Spoken::Call(call) => calls.push(tool_call(asked.number, calls.len(), call)),
        }
    }
    let finish = if calls.is_empty() { "stop" } else { "tool_calls" };
    if !asked.streams {
        let mut message = json!({ "role": "assistant", "content": text });
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        return Answer::whole(json!({
            "id": id, "object": "chat.completion", "created": CREATED, "model": asked.model,
            "choices": [{ "index": 0, "message": message, "finish_reason": finish }],
            "usage": usage(cost),
        }));
    }
    let chunk = |choices: Value| {
        json!({
            "id": id, "object": "chat.completion.chunk", "created": CREATED, "model": asked.model,
            "choices": choices,
        })
    };
    let delta =
        |delta: Value| chunk(json!([{ "index": 0, "delta": delta, "finish_reason": null }]));
    let mut events = vec![delta(json!({ "role": "assistant", "content": "" }))];
    let mut middle = 1;
    if !text.is_empty() {
        let (a, b) = halves(&text);
        events.push(delta(json!({ "content": a })));
        middle = events.len();
        events.push(delta(json!({ "content": b })));
    }
    for (index, call) in calls.iter().enumerate() {
        let mut call = call.clone();
        call["index"] = index.into();
        events.push(delta(json!({ "tool_calls": [call] })));
    }
    events.push(chunk(json!([{ "index": 0, "delta": {}, "finish_reason": finish }])));
    if asked.body["stream_options"]["include_usage"] == true {
        let mut last = chunk(json!([]));
        last["usage"] = usage(cost);
        events.push(last);
    }
    let mut answer = Answer::events(&events, middle);
    answer.events.push("data: [DONE]\n\n".into());
    answer
}
