//! The stand-in as a client sees it, without an assistant.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;

/// What came back: status, headers in lower case, and the body as far as it came.
struct Got {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
    /// The body came to its end.
    whole: bool,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The data of each event.
    fn events(&self) -> Vec<Value> {
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter_map(|data| serde_json::from_str(data).ok()).collect()
    }
}

fn send(model: &StandIn, method: &str, path: &str, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(model.address).unwrap();
    let body = body.to_string();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream
}

fn receive(stream: TcpStream) -> Got {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_owned(), value.to_owned());
    }
    let mut body = Vec::new();
    let mut whole = false;
    if headers.get("transfer-encoding").is_some_and(|how| how == "chunked") {
        loop {
            let mut length = String::new();
            if reader.read_line(&mut length).unwrap_or(0) == 0 {
                break;
            }
            let length = usize::from_str_radix(length.trim(), 16).unwrap();
            let mut chunk = vec![0; length + 2];
            reader.read_exact(&mut chunk).unwrap();
            if length == 0 {
                whole = true;
                break;
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }
    Got { status, headers, body: String::from_utf8(body).unwrap(), whole }
}

fn post(model: &StandIn, path: &str, body: &Value) -> Got {
    receive(send(model, "POST", path, body))
}

const GEMINI: &str = "/v1beta/models/gemini-x:generateContent";
const GEMINI_STREAM: &str = "/v1beta/models/gemini-x:streamGenerateContent?alt=sse";

/// A first request in each protocol, with a shell on offer.
fn asking(protocol: Protocol, prompt: &str, stream: bool) -> (&'static str, Value) {
    let schema = json!({ "type": "object", "properties": { "command": { "type": "string" } } });
    match protocol {
        Protocol::Messages => (
            "/v1/messages",
            json!({
                "model": "m", "stream": stream, "tools": [{ "name": "Bash", "input_schema": schema }],
                "messages": [{ "role": "user", "content": [
                    { "type": "text", "text": "<system-reminder>[[text:no]]</system-reminder>" },
                    { "type": "text", "text": prompt },
                ] }],
            }),
        ),
        Protocol::Responses => (
            "/v1/responses",
            json!({
                "model": "m", "stream": stream,
                "tools": [{ "type": "namespace", "name": "n", "tools": [
                    { "type": "function", "name": "shell", "parameters": schema },
                ] }],
                "input": [{ "type": "message", "role": "user", "content": [
                    { "type": "input_text", "text": prompt },
                ] }],
            }),
        ),
        Protocol::Chat => (
            "/v1/chat/completions",
            json!({
                "model": "m", "stream": stream, "stream_options": { "include_usage": true },
                "tools": [{ "type": "function", "function": { "name": "bash", "parameters": schema } }],
                "messages": [{ "role": "user", "content": prompt }],
            }),
        ),
        Protocol::Gemini => (
            if stream { GEMINI_STREAM } else { GEMINI },
            json!({
                "tools": [{ "functionDeclarations": [
                    { "name": "run_shell_command", "parametersJsonSchema": schema },
                ] }],
                "contents": [{ "role": "user", "parts": [{ "text": prompt }] }],
            }),
        ),
    }
}

const ALL: [Protocol; 4] =
    [Protocol::Messages, Protocol::Responses, Protocol::Chat, Protocol::Gemini];

/// The usage of an answer, from wherever its protocol has it, in our own kinds.
fn usage_in(protocol: Protocol, got: &Got, streamed: bool) -> Usage {
    let events = if streamed { got.events() } else { vec![got.json()] };
    let figure = |name: &str, key: &str| -> u64 {
        let found =
            events.iter().rev().find_map(|event| event.pointer(name)?.pointer(key)?.as_u64());
        found.unwrap_or_else(|| panic!("no {name}{key} in {}", got.body))
    };
    match protocol {
        Protocol::Messages => Usage {
            input: figure("/usage", "/input_tokens"),
            cache_read: figure("/usage", "/cache_read_input_tokens"),
            cache_write_5m: figure("/usage", "/cache_creation/ephemeral_5m_input_tokens"),
            cache_write_1h: figure("/usage", "/cache_creation/ephemeral_1h_input_tokens"),
            output: figure("/usage", "/output_tokens"),
            reasoning: 0,
        },
        Protocol::Responses => {
            let at = if streamed { "/response/usage" } else { "/usage" };
            let cached = figure(at, "/input_tokens_details/cached_tokens");
            let written = figure(at, "/input_tokens_details/cache_write_tokens");
            let reasoning = figure(at, "/output_tokens_details/reasoning_tokens");
            Usage {
                input: figure(at, "/input_tokens") - cached - written,
                cache_read: cached,
                cache_write_5m: written,
                output: figure(at, "/output_tokens") - reasoning,
                reasoning,
                ..Usage::default()
            }
        }
        Protocol::Chat => {
            let cached = figure("/usage", "/prompt_tokens_details/cached_tokens");
            let reasoning = figure("/usage", "/completion_tokens_details/reasoning_tokens");
            Usage {
                input: figure("/usage", "/prompt_tokens") - cached,
                cache_read: cached,
                output: figure("/usage", "/completion_tokens") - reasoning,
                reasoning,
                ..Usage::default()
            }
        }
        Protocol::Gemini => {
            let cached = figure("/usageMetadata", "/cachedContentTokenCount");
            Usage {
                input: figure("/usageMetadata", "/promptTokenCount") - cached,
                cache_read: cached,
                output: figure("/usageMetadata", "/candidatesTokenCount"),
                reasoning: figure("/usageMetadata", "/thoughtsTokenCount"),
                ..Usage::default()
            }
        }
    }
}

#[test]
fn every_answer_is_on_the_bill_as_it_was_told() {
    for protocol in ALL {
        for streamed in [false, true] {
            let model = StandIn::start();
            for number in 1..=3 {
                let (path, body) = asking(protocol, "[[text:a täxt]]", streamed);
                let got = post(&model, path, &body);
                assert_eq!((got.status, got.whole), (200, true), "{protocol:?}");
                let bill = model.bill();
                let entry = bill.entries.last().unwrap();
                assert_eq!(usage_in(protocol, &got, streamed), entry.usage, "{protocol:?}");
                assert_eq!((entry.number, entry.outcome), (number, Outcome::Complete));
                assert!(got.body.contains(&entry.message_id), "{}", got.body);
                assert_eq!(got.headers["request-id"], entry.request_id);
                let told: String = got
                    .body
                    .split("\"text\":\"")
                    .chain(got.body.split("\"content\":\""))
                    .map(|rest| rest.split('"').next().unwrap())
                    .collect();
                assert!(told.contains("a täxt"), "{}", got.body);
            }
            let sum: Usage = (1..=3).map(|number| Usage::of_request(protocol, number)).sum();
            assert_eq!(model.bill().usage(), sum);
        }
    }
}

#[test]
fn the_figures_of_no_set_of_requests_are_those_of_another() {
    // A ledger that misses one and has another twice has another sum, in every kind that it tells.
    for protocol in ALL {
        let all: Vec<Usage> = (1..=6).map(|n| Usage::of_request(protocol, n)).collect();
        let right: Usage = all.iter().copied().sum();
        for missed in 0..all.len() {
            for doubled in (0..all.len()).filter(|&doubled| doubled != missed) {
                let wrong = right + all[doubled];
                assert_ne!(wrong.input - all[missed].input, right.input);
                assert_ne!(wrong.cache_read - all[missed].cache_read, right.cache_read);
                assert_ne!(wrong.output - all[missed].output, right.output);
            }
        }
    }
}

#[test]
fn a_tool_is_called_as_the_request_offers_it() {
    for (protocol, name) in ALL.into_iter().zip(["Bash", "shell", "bash", "run_shell_command"]) {
        for streamed in [false, true] {
            let model = StandIn::start();
            let (path, body) = asking(protocol, "[[shell:echo \"one\"]]", streamed);
            let got = post(&model, path, &body);
            assert!(got.body.contains(&format!("\"name\":\"{name}\"")), "{}", got.body);
            // Streamed, the arguments come in pieces.
            assert!(streamed || got.body.contains("echo"), "{}", got.body);
            assert_eq!(model.faults(), Vec::<String>::new());
        }
    }
}

#[test]
fn what_is_not_on_offer_is_a_fault_that_everybody_sees() {
    let model = StandIn::start();
    let (path, body) = asking(Protocol::Chat, "[[agent:do it]]", true);
    let got = post(&model, path, &body);
    assert_eq!(got.status, 400);
    assert!(got.json()["error"]["message"].as_str().unwrap().contains("on offer are [\"bash\"]"));
    assert_eq!(model.faults().len(), 1);
    assert_eq!(model.bill(), Bill::default());
}

#[test]
fn refusals_cost_nothing_and_the_next_reply_follows() {
    for protocol in ALL {
        let model = StandIn::start();
        model.on_prompt(
            "hello",
            [Reply::rate_limited(Duration::from_secs(7)), Reply::overloaded(), Reply::text("then")],
        );
        let ask = || {
            let (path, body) = asking(protocol, "hello", true);
            post(&model, path, &body)
        };
        let (first, second, third) = (ask(), ask(), ask());
        assert_eq!(first.status, 429);
        match protocol {
            // It has no header for it.
            Protocol::Gemini => {
                assert_eq!(first.json()["error"]["details"][1]["retryDelay"], "7s");
            }
            Protocol::Messages | Protocol::Responses | Protocol::Chat => {
                assert_eq!(first.headers["retry-after"], "7");
            }
        }
        assert_eq!(second.status, 529);
        assert!(second.json()["error"]["message"].is_string());
        assert_eq!(third.status, 200);
        assert_eq!(model.asked().len(), 3);
        let numbers: Vec<u64> = model.bill().entries.iter().map(|entry| entry.number).collect();
        assert_eq!(numbers, [3]);
    }
}

#[test]
fn a_cut_answer_tells_no_figures_and_is_dropped_on_the_bill() {
    for protocol in ALL {
        let model = StandIn::start();
        model.on_prompt("hello", [Reply::text("one half and another").cut()]);
        let (path, body) = asking(protocol, "hello", true);
        let got = post(&model, path, &body);
        assert!(!got.whole && got.body.contains("one half"), "{}", got.body);
        assert!(!got.body.contains("another"));
        assert_eq!(model.bill().entries[0].outcome, Outcome::Dropped);
        assert_eq!(model.bill().complete(), Bill::default());
    }
}

/// Waits until the bill's only entry has come so far.
fn until(model: &StandIn, outcome: Outcome) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while model.bill().entries.first().is_none_or(|entry| entry.outcome != outcome) {
        assert!(Instant::now() < deadline, "not {outcome:?}: {}", model.bill());
        std::thread::yield_now();
    }
}

#[test]
fn a_held_answer_waits_for_its_release() {
    for place in [Place::Start, Place::Middle] {
        let (model, hold) = (StandIn::start(), Hold::new());
        model.on_prompt("hello", [Reply::text("one half and another").held(place, &hold)]);
        assert!(!hold.is_reached());
        let (path, body) = asking(Protocol::Messages, "hello", true);
        let stream = send(&model, "POST", path, &body);
        hold.until_reached();
        until(&model, Outcome::Open);
        hold.release();
        let got = receive(stream);
        assert!(got.whole && got.body.contains("another"));
        assert_eq!(model.bill().entries[0].outcome, Outcome::Complete);
    }
}

#[test]
fn whoever_leaves_a_held_answer_has_it_dropped() {
    for place in [Place::Start, Place::Middle] {
        let (model, hold) = (StandIn::start(), Hold::new());
        model.on_prompt("hello", [Reply::text("one half and another").held(place, &hold)]);
        let (path, body) = asking(Protocol::Messages, "hello", true);
        let stream = send(&model, "POST", path, &body);
        hold.until_reached();
        drop(stream);
        until(&model, Outcome::Dropped);
    }
}

#[test]
fn rules_know_the_round_and_the_purpose() {
    let model = StandIn::start();
    let (path, mut body) = asking(Protocol::Messages, "[[shell:a]] [[text:b]]", false);
    assert!(post(&model, path, &body).body.contains("tool_use"));
    body["messages"].as_array_mut().unwrap().extend([
        json!({ "role": "assistant", "content": [{ "type": "tool_use", "id": "t", "name": "Bash", "input": {} }] }),
        json!({ "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t", "content": "out" }] }),
        json!({ "role": "system", "content": "be kind" }),
    ]);
    assert_eq!(post(&model, path, &body).json()["content"][0]["text"], "b");
    let asked = model.asked();
    assert_eq!((asked[0].rounds, asked[1].rounds), (0, 1));
    assert_eq!(asked[1].tool_results(), ["out"]);
    assert_eq!(asked[0].prompt, "[[shell:a]] [[text:b]]", "without what was added");

    // A title request has the prompt in it, and is none of the rule's.
    model.on_prompt("marker", [Reply::text("of the turn")]);
    let title = json!({
        "model": "m", "system": "Write a title", "output_config": { "format": {} },
        "messages": [{ "role": "user", "content": "<session>marker</session>" }],
    });
    let got = post(&model, path, &title).json();
    assert_eq!(got["content"][0]["text"], r#"{"title":"A scripted title"}"#);
    let (_, body) = asking(Protocol::Messages, "marker", false);
    assert_eq!(post(&model, path, &body).json()["content"][0]["text"], "of the turn");
    let last = model.bill().purposes().split_off(2);
    assert_eq!(last, [Purpose::Title, Purpose::Main]);
}

#[test]
fn marks_of_a_prompt_may_have_marks_of_their_own() {
    let replies =
        script::from_prompt("do [[agent:x [[shell:y]] z]] then [[write:a=b=c]] [[nothing]] [[");
    let parts: Vec<_> = replies.into_iter().flat_map(|reply| reply.parts).collect();
    assert_eq!(
        parts,
        [
            Part::Call(Tool::Subagent { prompt: "x [[shell:y]] z".into() }),
            Part::Call(Tool::Write { path: "a".into(), text: "b=c".into() }),
        ]
    );
}

#[test]
fn small_things_are_answered_and_unknown_ones_kept() {
    let model = StandIn::start();
    let got = post(&model, "/v1/messages/count_tokens", &json!({}));
    assert_eq!((got.status, got.json()["input_tokens"].as_u64()), (200, Some(1_000)));
    let got = receive(send(&model, "GET", "/v1/models", &Value::Null));
    assert_eq!((got.status, got.json()["data"].clone()), (200, json!([])));
    assert_eq!(post(&model, "/nothing", &json!({})).status, 404);
    let unknown = Other { method: "POST".into(), path: "/nothing".into(), status: 404 };
    assert_eq!(model.others().last(), Some(&unknown));
    assert_eq!(model.bill(), Bill::default());
}
