//! How fast transcripts are read, against the bare reading of the same fields in the same run.
//!
//! Counted is the time that the thread had a processor, as a machine that is busy otherwise takes it away
//! from either at any moment; the two take turns, and each pair is a measurement.
//!
//! `cargo run --release -p stratavore-assistants --example read_speed [MEGABYTES [bare|ours ASSISTANT]]`
//! The longer form only reads, once, for a profiler to count what that takes.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that somebody looks at"
)]

use std::hint::black_box;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::value::RawValue;
use stratavore_assistants::adapter;
use stratavore_assistants::adapter::Memory;
use stratavore_core::message::Place;

/// The fields of both assistants' lines that are read, as plainly as can be: texts within content and
/// payloads are not even looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClaudeLine<'a> {
    r#type: &'a str,
    uuid: Option<&'a str>,
    session_id: Option<&'a str>,
    timestamp: Option<&'a str>,
    cwd: Option<&'a str>,
    request_id: Option<&'a str>,
    #[serde(borrow)]
    message: Option<ClaudeMessage<'a>>,
}

#[derive(Deserialize)]
struct ClaudeMessage<'a> {
    id: Option<&'a str>,
    model: Option<&'a str>,
    stop_reason: Option<&'a str>,
    usage: Option<Usage>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Usage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CodexLine<'a> {
    timestamp: &'a str,
    r#type: &'a str,
    #[serde(borrow)]
    payload: CodexPayload<'a>,
}

#[derive(Deserialize)]
struct CodexPayload<'a> {
    r#type: Option<&'a str>,
    id: Option<&'a str>,
    session_id: Option<&'a str>,
    thread_id: Option<&'a str>,
    turn_id: Option<&'a str>,
    cwd: Option<&'a str>,
    model: Option<&'a str>,
    name: Option<&'a str>,
    call_id: Option<&'a str>,
    response_id: Option<&'a str>,
    role: Option<&'a str>,
    usage: Option<Usage>,
    info: Option<Info>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Info {
    total_token_usage: Option<Usage>,
    last_token_usage: Option<Usage>,
}

const SAMPLES: [(&str, &str); 2] = [
    ("claude", "claude/transcript_interactive_interrupts.jsonl"),
    ("codex", "codex/rollout_resumed_3_turns.jsonl"),
];
const PAIRS: usize = 15;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let megabytes: usize = args.first().map_or(100, |text| text.parse().unwrap());
    for (assistant, sample) in SAMPLES {
        let text = transcript(sample, megabytes << 20);
        match args.get(1).map(String::as_str) {
            None => compare(assistant, &text),
            Some(_) if args.get(2).is_none_or(|name| name != assistant) => {}
            Some("bare") => drop(black_box(bare(assistant, &text))),
            Some(_) => drop(black_box(ours(assistant, &text))),
        }
    }
}

fn compare(assistant: &str, text: &[u8]) {
    let mut pairs: Vec<(f64, f64)> = (0..PAIRS)
        .map(|_| (timed(|| bare(assistant, text)), timed(|| ours(assistant, text))))
        .collect();
    let speed = |seconds: f64| text.len() as f64 / 1e6 / seconds;
    pairs.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    let ratio = |nth: usize| pairs[nth].0 / pairs[nth].1;
    let (bare, ours) = pairs[PAIRS / 2];
    println!(
        "{assistant}: {:.2} of bare ({:.2} to {:.2} over {PAIRS} pairs); {:.0} and {:.0} MB/s",
        ratio(PAIRS / 2),
        ratio(0),
        ratio(PAIRS - 1),
        speed(ours),
        speed(bare),
    );
}

fn transcript(sample: &str, bytes: usize) -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(sample);
    let sample = std::fs::read(file).unwrap();
    sample.repeat(bytes / sample.len() + 1)
}

/// The seconds that this thread had a processor for it.
fn timed(work: impl FnOnce() -> usize) -> f64 {
    let begin = clock_gettime(ClockId::ThreadCPUTime);
    black_box(work());
    let end = clock_gettime(ClockId::ThreadCPUTime);
    (end.tv_sec - begin.tv_sec) as f64 + (end.tv_nsec - begin.tv_nsec) as f64 / 1e9
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn bare(assistant: &str, text: &[u8]) -> usize {
    lines(text)
        .map(|line| {
            if assistant == "claude" {
                serde_json::from_slice::<ClaudeLine<'_>>(line).map_or(0, |line| {
                    let message = line.message.as_ref();
                    let usage = message.and_then(|message| message.usage.as_ref());
                    black_box((line.r#type, line.uuid, line.session_id, line.timestamp, line.cwd));
                    black_box((
                        line.request_id,
                        message.map(|message| (message.id, message.model)),
                    ));
                    black_box(message.map(|message| (message.stop_reason, message.content)));
                    usage.map_or(1, |usage| tokens(usage) as usize)
                })
            } else {
                serde_json::from_slice::<CodexLine<'_>>(line).map_or(0, |line| {
                    let payload = &line.payload;
                    black_box((line.timestamp, line.r#type, payload.r#type, payload.id));
                    black_box((payload.thread_id, payload.response_id, payload.role));
                    black_box((payload.session_id, payload.turn_id, payload.cwd, payload.model));
                    black_box((payload.name, payload.call_id));
                    let info = payload.info.as_ref();
                    black_box(info.and_then(|info| info.total_token_usage.as_ref().map(tokens)));
                    black_box(info.and_then(|info| info.last_token_usage.as_ref().map(tokens)));
                    black_box((payload.content, payload.arguments, payload.output));
                    payload.usage.as_ref().map_or(1, |usage| tokens(usage) as usize)
                })
            }
        })
        .sum()
}

fn tokens(usage: &Usage) -> u64 {
    let kinds = [
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens,
    ];
    kinds.into_iter().flatten().sum()
}

fn ours(assistant: &str, text: &[u8]) -> usize {
    let adapter = adapter(&assistant.parse().unwrap());
    let mut memory = Memory::default();
    let mut place =
        Place { file: "/home/dev/.claude/projects/-home-dev-p1/a.jsonl".into(), offset: 0 };
    let mut count = 0;
    for line in lines(text) {
        count += adapter.line(&mut memory, line, &place).len();
        place.offset += line.len() as u64 + 1;
    }
    count
}
