//! Anthropic's Messages API.

use serde_json::{Value, json};

use super::asked::{Read, text_of};
use super::tool::{Arguments, Call};
use super::{Answer, Asked, Offered, Purpose, Said, Spoken, Usage, halves};

pub(super) fn read(body: &Value) -> Read {
    let mut said = Vec::new();
    let mut system = text_of(&body["system"]);
    for message in body["messages"].as_array().into_iter().flatten() {
        let content = &message["content"];
        match message["role"].as_str() {
            Some("user") => {}
            // Instructions that came up on the way.
            Some("system") => {
                system.push('\n');
                system.push_str(&text_of(content));
                continue;
            }
            _ => {
                said.push(Said::Model(text_of(content)));
                continue;
            }
        }
        for part in content.as_array().into_iter().flatten() {
            if part["type"] == "tool_result" {
                said.push(Said::Tool(text_of(&part["content"])));
            }
        }
        said.push(Said::User(text_of(content)));
    }
    let tools = body["tools"].as_array().into_iter().flatten().map(|tool| Offered {
        name: tool["name"].as_str().unwrap_or_default().into(),
        namespace: None,
        schema: tool["input_schema"].clone(),
    });
    Read {
        model: body["model"].as_str().unwrap_or_default().into(),
        streams: body["stream"] == true,
        system,
        said,
        tools: tools.collect(),
    }
}

pub(super) fn purpose(asked: &Asked) -> Purpose {
    if asked.system.contains("title") && asked.tools.is_empty() {
        return Purpose::Title;
    }
    if asked.says("Your task is to create a detailed summary of") {
        return Purpose::Compaction;
    }
    if asked.header("x-claude-code-agent-id").is_empty() {
        Purpose::Main
    } else {
        Purpose::Subagent
    }
}

fn usage(usage: &Usage, output: u64) -> Value {
    json!({
        "input_tokens": usage.input,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation_input_tokens": usage.cache_write(),
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": output,
        "service_tier": "standard",
    })
}

fn block(number: u64, at: usize, spoken: &Spoken) -> Value {
    match spoken {
        Spoken::Text(text) => json!({ "type": "text", "text": text }),
        Spoken::Call(Call { name, arguments, .. }) => json!({
            "type": "tool_use",
            "id": format!("toolu_{number:06}_{at}"),
            "name": name,
            "input": match arguments {
                Arguments::Json(arguments) => arguments.clone(),
                Arguments::Free(text) => json!({ "input": text }),
            },
        }),
    }
}

pub(super) fn answer(asked: &Asked, id: &str, spoken: &[Spoken], cost: &Usage) -> Answer {
    let blocks: Vec<Value> =
        spoken.iter().enumerate().map(|(at, spoken)| block(asked.number, at, spoken)).collect();
    let calls = spoken.iter().any(|spoken| matches!(spoken, Spoken::Call(_)));
    let stop = if calls { "tool_use" } else { "end_turn" };
    // Thoughts are part of the output here.
    let output = cost.output + cost.reasoning;
    let message = |content: Value, stop: Option<&str>, output| {
        json!({
            "id": id, "type": "message", "role": "assistant", "model": asked.model,
            "content": content, "stop_reason": stop, "stop_sequence": null,
            "usage": usage(cost, output),
        })
    };
    if !asked.streams {
        return Answer::whole(message(blocks.into(), Some(stop), output));
    }
    let mut events =
        vec![json!({ "type": "message_start", "message": message(json!([]), None, 1) })];
    let mut middle = 1;
    for (index, block) in blocks.iter().enumerate() {
        let mut start = block.clone();
        let deltas = if block["type"] == "text" {
            start["text"] = "".into();
            let (a, b) = halves(block["text"].as_str().unwrap_or_default());
            [a, b].map(|text| json!({ "type": "text_delta", "text": text }))
        } else {
            start["input"] = json!({});
            let input = block["input"].to_string();
            let (a, b) = halves(&input);
            [a, b].map(|text| json!({ "type": "input_json_delta", "partial_json": text }))
        };
        events
            .push(json!({ "type": "content_block_start", "index": index, "content_block": start }));
        for (at, delta) in deltas.into_iter().enumerate() {
            events.push(json!({ "type": "content_block_delta", "index": index, "delta": delta }));
            if at == 0 {
                middle = events.len();
            }
        }
        events.push(json!({ "type": "content_block_stop", "index": index }));
    }
    events.push(json!({
        "type": "message_delta",
        "delta": { "stop_reason": stop, "stop_sequence": null },
        "usage": usage(cost, output),
    }));
    events.push(json!({ "type": "message_stop" }));
    Answer::named_events(&events, middle)
}

pub(super) fn refusal(status: u16, message: &str) -> Value {
    let kind = match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    json!({ "type": "error", "error": { "type": kind, "message": message } })
}
