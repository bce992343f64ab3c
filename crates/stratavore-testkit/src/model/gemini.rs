//! Google's Gemini API.

use std::time::Duration;

use serde_json::{Value, json};

use super::asked::{Read, text_of};
use super::tool::{Arguments, Call};
use super::{Answer, Asked, Offered, Purpose, Said, Spoken, Usage, halves};

pub(super) fn read(path: &str, body: &Value) -> Read {
    let mut said = Vec::new();
    for content in body["contents"].as_array().into_iter().flatten() {
        let parts = &content["parts"];
        if content["role"] == "model" {
            said.push(Said::Model(text_of(parts)));
            continue;
        }
        for part in parts.as_array().into_iter().flatten() {
            let response = &part["functionResponse"]["response"];
            if !response.is_null() {
                let text = response["output"].as_str().map(str::to_owned);
                said.push(Said::Tool(text.unwrap_or_else(|| response.to_string())));
            }
        }
        said.push(Said::User(text_of(parts)));
    }
    let mut tools = Vec::new();
    for tool in body["tools"].as_array().into_iter().flatten() {
        for function in tool["functionDeclarations"].as_array().into_iter().flatten() {
            let schema = [&function["parametersJsonSchema"], &function["parameters"]];
            tools.push(Offered {
                name: function["name"].as_str().unwrap_or_default().into(),
                namespace: None,
                schema: schema
                    .into_iter()
                    .find(|schema| !schema.is_null())
                    .cloned()
                    .unwrap_or_default(),
            });
        }
    }
    let (model, verb) = model_and_verb(path);
    Read {
        model: model.into(),
        streams: verb == "streamGenerateContent",
        system: text_of(&body["systemInstruction"]["parts"]),
        said,
        tools,
    }
}

/// Of `/v1beta/models/MODEL:VERB`.
pub(super) fn model_and_verb(path: &str) -> (&str, &str) {
    let last = path.rsplit("models/").next().unwrap_or_default();
    last.split_once(':').unwrap_or((last, ""))
}

pub(super) fn purpose(asked: &Asked) -> Purpose {
    let schema = &asked.body["generationConfig"];
    if schema.to_string().contains("model_choice") || schema.to_string().contains("complexity") {
        return Purpose::Routing;
    }
    if asked.says("Summarize the user's primary intent") {
        return Purpose::Title;
    }
    if asked.system.contains("summar") && asked.tools.is_empty() {
        return Purpose::Compaction;
    }
    // By this a subagent gives its answer back.
    match asked.tools.iter().any(|tool| tool.name == "complete_task") {
        true => Purpose::Subagent,
        false => Purpose::Main,
    }
}

fn usage(usage: &Usage) -> Value {
    let prompt = usage.input + usage.cache_read + usage.cache_write();
    json!({
        "promptTokenCount": prompt,
        "cachedContentTokenCount": usage.cache_read,
        "candidatesTokenCount": usage.output,
        "thoughtsTokenCount": usage.reasoning,
        "totalTokenCount": prompt + usage.output + usage.reasoning,
    })
}

pub(super) fn answer(asked: &Asked, id: &str, spoken: &[Spoken], cost: &Usage) -> Answer {
    let piece = |parts: Vec<Value>, last: bool| {
        let mut candidate = json!({ "index": 0, "content": { "role": "model", "parts": parts } });
        let mut piece = json!({ "modelVersion": asked.model, "responseId": id });
        if last {
            candidate["finishReason"] = "STOP".into();
            piece["usageMetadata"] = usage(cost);
        }
        piece["candidates"] = json!([candidate]);
        piece
    };
    let parts: Vec<Value> = spoken
        .iter()
        .map(|spoken| match spoken {
            Spoken::Text(text) => json!({ "text": text }),
            Spoken::Call(Call { name, arguments, .. }) => json!({ "functionCall": {
                "name": name,
                "args": match arguments {
                    Arguments::Json(arguments) => arguments.clone(),
                    Arguments::Free(text) => json!({ "input": text }),
                },
            } }),
        })
        .collect();
    if !asked.streams {
        return Answer::whole(piece(parts, true));
    }
    let mut events = Vec::new();
    let mut middle = 0;
    for part in parts {
        if let Some(text) = part["text"].as_str() {
            let (a, b) = halves(text);
            events.push(piece(vec![json!({ "text": a })], false));
            middle = events.len();
            events.push(piece(vec![json!({ "text": b })], false));
        } else {
            events.push(piece(vec![part], false));
        }
    }
    events.push(piece(vec![json!({ "text": "" })], true));
    Answer::events(&events, middle)
}

/// When to come back is told in no header, but in the details of the refusal.
pub(super) fn retry_after(refusal: &mut Value, after: Duration) {
    refusal["error"]["details"] = json!([
        {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [{
                "quotaMetric": "generativelanguage.googleapis.com/generate_requests_per_model",
                "quotaId": "GenerateRequestsPerMinutePerProjectPerModel",
            }],
        },
        {
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": format!("{}s", after.as_secs()),
        },
    ]);
}

pub(super) fn refusal(status: u16, message: &str) -> Value {
    let name = match status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 | 529 => "UNAVAILABLE",
        _ => "INTERNAL",
    };
    json!({ "error": { "code": status, "message": message, "status": name } })
}
