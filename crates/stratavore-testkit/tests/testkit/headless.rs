//! Each assistant, without a terminal, on one prompt that takes two tools.

use std::fs;

use serde_json::Value;
use stratavore_testkit::assistant_home::AssistantHome;
use stratavore_testkit::model::{Outcome, Protocol, Purpose, Reply, StandIn, Usage};
use stratavore_testkit::programs::Program;

use crate::told;

const PROMPT: &str = "marker-one: make the two files";

/// Runs it on the prompt, and checks what it did against what the model said and billed.
fn does_as_the_model_says(program: Program, protocol: Protocol, results: &[&str]) -> Vec<Value> {
    let model = StandIn::start();
    let home = AssistantHome::new(program, &model.url());
    let file = home.work().join("by-tool.txt");
    model.on_prompt(
        "marker-one",
        [
            Reply::shell("echo out-of-the-shell; echo by-shell > by-shell.txt"),
            Reply::write(&file, "by-tool\n"),
            Reply::text("final words of the model"),
        ],
    );

    let output = home.headless(PROMPT).output().expect("it can be started");

    let told = format!("{}\n{}", told(&output), model.bill());
    assert!(output.status.success(), "{told}");
    assert_eq!(model.faults(), Vec::<String>::new(), "{told}");
    let written = |name: &str| fs::read_to_string(home.work().join(name)).unwrap_or_default();
    assert_eq!(written("by-shell.txt"), "by-shell\n", "{told}");
    assert_eq!(written("by-tool.txt").trim_end(), "by-tool", "{told}");
    let asked = model.asked();
    assert!(asked[1].tool_results().join("").contains("out-of-the-shell"), "{:?}", asked[1].said);

    let bill = model.bill();
    assert_eq!(bill.purposes(), [Purpose::Main; 3], "{told}");
    for (entry, number) in bill.entries.iter().zip(1..) {
        assert_eq!((entry.number, entry.protocol), (number, protocol));
        assert_eq!((entry.model.as_str(), entry.outcome), (home.model(), Outcome::Complete));
        assert_eq!(entry.usage, Usage::of_request(protocol, number));
    }
    let others: Vec<_> = model.others().into_iter().filter(|other| other.status != 200).collect();
    assert_eq!(others, [], "what it asks for besides is known");
    for text in results {
        assert!(told.contains(text), "no {text:?} in {told}");
    }
    let lines = String::from_utf8_lossy(&output.stdout);
    lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The sum that the bill must have after three requests.
fn billed(protocol: Protocol) -> Usage {
    (1..=3).map(|number| Usage::of_request(protocol, number)).sum()
}

#[test]
fn claude_does_as_the_model_says() {
    let events = does_as_the_model_says(
        Program::Claude,
        Protocol::Messages,
        &["final words of the model", "msg_", "req_"],
    );
    let result = events.iter().find(|event| event["type"] == "result").unwrap();
    let (used, billed) = (&result["modelUsage"]["claude-opus-4-8[1m]"], billed(Protocol::Messages));
    assert_eq!(used["inputTokens"], billed.input, "{result}");
    assert_eq!(used["cacheReadInputTokens"], billed.cache_read);
    assert_eq!(used["cacheCreationInputTokens"], billed.cache_write());
    assert_eq!(used["outputTokens"], billed.output);
}

#[test]
fn codex_does_as_the_model_says() {
    let events =
        does_as_the_model_says(Program::Codex, Protocol::Responses, &["final words of the model"]);
    let turn = events.iter().find(|event| event["type"] == "turn.completed").unwrap();
    let (used, billed) = (&turn["usage"], billed(Protocol::Responses));
    let input = billed.input + billed.cache_read + billed.cache_write();
    assert_eq!(used["input_tokens"], input, "{turn}");
    assert_eq!(used["cached_input_tokens"], billed.cache_read);
    assert_eq!(used["output_tokens"], billed.output + billed.reasoning);
    assert_eq!(used["reasoning_output_tokens"], billed.reasoning);
}

#[test]
fn opencode_does_as_the_model_says() {
    let events =
        does_as_the_model_says(Program::Opencode, Protocol::Chat, &["final words of the model"]);
    let steps = || events.iter().filter(|event| event["type"] == "step_finish");
    let sum = |pointer: &str| -> u64 {
        steps().filter_map(|step| step["part"]["tokens"].pointer(pointer)?.as_u64()).sum()
    };
    let billed = billed(Protocol::Chat);
    assert_eq!(steps().count(), 3);
    assert_eq!(sum("/input"), billed.input);
    assert_eq!(sum("/cache/read"), billed.cache_read);
    assert_eq!(sum("/output"), billed.output);
    assert_eq!(sum("/reasoning"), billed.reasoning);
}

#[test]
fn gemini_does_as_the_model_says() {
    let events = does_as_the_model_says(
        Program::Gemini,
        Protocol::Gemini,
        &["final words ", "of the model"],
    );
    let result = events.iter().find(|event| event["type"] == "result").unwrap();
    let (used, billed) = (&result["stats"], billed(Protocol::Gemini));
    assert_eq!(used["input_tokens"], billed.input + billed.cache_read, "{result}");
    assert_eq!(used["cached"], billed.cache_read);
    assert_eq!(used["output_tokens"], billed.output);
    assert_eq!(used["total_tokens"], billed.total());
}
