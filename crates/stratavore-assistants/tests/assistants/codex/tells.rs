//! Its hooks, title and output.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use stratavore_assistants::adapter::{Outcome, Step};
use stratavore_core::activity::{Activity, Source};
use stratavore_core::observation::{LineageKind, Observation};
use stratavore_core::signal::What;
use stratavore_core::usage::Purpose;

use crate::reading::{Log, activity, asked, doings, ledger, of, over, sample, sessions};

#[test]
fn a_whole_session_is_told_by_its_hooks() {
    let mut log = Log::of("codex");
    let told = log.hooks("codex/hooks_tui.jsonl");
    let story: Vec<String> = told
        .iter()
        .flat_map(|(body, seen)| {
            let event = body["hook_event_name"].as_str().unwrap();
            doings(seen)
                .into_iter()
                .map(move |doing| format!("{event} {}", doing.activity.as_str()))
        })
        .collect();
    assert_eq!(
        story,
        [
            "UserPromptSubmit working",
            "PreToolUse working",
            "PermissionRequest needs_permission",
            "PostToolUse working",
            "Stop idle",
            // It was interrupted, which no hook tells.
            "UserPromptSubmit working",
            "UserPromptSubmit working",
            "Stop idle",
        ]
    );
    let seen: Vec<Observation> = told.into_iter().flat_map(|(_, seen)| seen).collect();
    let current: Vec<&str> =
        sessions(&seen).iter().map(|session| session.session.as_str()).collect();
    assert_eq!(
        current,
        ["01a1fc7c-d64b-7ff0-a2c9-035931d0838a", "01a1fc7d-0c7f-78b3-b70a-fc8f5d8ac239"]
    );
    assert!(
        sessions(&seen).iter().all(|session| session.is_current && session.transcript.is_some())
    );
    assert_eq!(asked(&seen)[0].text, "touch /home/dev/zz3");
    // The request has a reason with it and the tool's end has not: they are of one another all the same.
    assert_eq!(over(&seen).len(), 1);
}

const CHILD: &str = "01a22798-c328-71b0-ab1f-d978afcfba90";
const ROOT: &str = "01a22798-c119-7960-bdf4-a7709f3aa30c";

fn hook_of(event: &str, thread: &str, more: Value) -> Value {
    let mut body = json!({
        "hook_event_name": event, "session_id": ROOT, "cwd": "/p", "model": "gpt-5-codex",
        "transcript_path": format!("/sessions/2026/11/29/rollout-2026-11-29T13-57-32-{thread}.jsonl"),
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn a_subagent_has_a_thread_and_a_file_of_its_own() {
    let mut log = Log::of("codex");
    log.hook(1, None, hook_of("SessionStart", ROOT, json!({ "source": "startup" })));
    log.hook(2, None, hook_of("UserPromptSubmit", ROOT, json!({ "prompt": "x" })));
    let agent = json!({ "agent_id": CHILD, "prompt": "do the work" });
    let seen = log.hook(3, None, hook_of("SubagentStart", CHILD, agent.clone()));
    let [session] = sessions(&seen)[..] else { panic!("{seen:?}") };
    assert_eq!((session.session.as_str(), session.is_current), (CHILD, false));
    assert!(session.transcript.as_ref().unwrap().ends_with(&format!("{CHILD}.jsonl")));
    let lineage = session.lineage.as_ref().unwrap();
    assert_eq!((lineage.parent.as_str(), lineage.kind), (ROOT, LineageKind::Subagent));
    // What it is given is no prompt of a person's, and what it says ends no turn.
    log.hook(4, None, hook_of("Stop", ROOT, json!({})));
    assert!(log.hook(5, None, hook_of("UserPromptSubmit", CHILD, agent.clone())).is_empty());
    assert!(log.hook(6, None, hook_of("Stop", CHILD, agent)).is_empty());
}

#[test]
fn a_review_is_a_thread_of_the_conversation() {
    let prompt = json!({ "prompt": "check it all" });
    let seen = Log::of("codex").hook(1, None, hook_of("UserPromptSubmit", CHILD, prompt));
    let told: Vec<(&str, bool, bool)> = sessions(&seen)
        .iter()
        .map(|session| (session.session.as_str(), session.is_current, session.transcript.is_some()))
        .collect();
    // The file is the review's; the conversation's own is not told.
    assert_eq!(told, [(CHILD, false, true), (ROOT, true, false)]);
    assert_eq!(activity(&seen), Some(Activity::Working));
}

#[test]
fn a_request_for_a_title_is_counted_and_no_other_is_counted_twice() {
    let mut log = Log::of("codex");
    let record = |event: &str, thread: &str, more: Value| {
        let mut attributes = json!({
            "event.name": event, "conversation.id": thread, "model": "gpt-5-codex",
            "event.timestamp": "2026-11-29T13:57:07.303Z",
        });
        attributes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        What::Telemetry { record: json!({ "body": null, "time": 0, "attributes": attributes }) }
    };
    let starts = |thread: &str, sandbox: &str, servers: &str| {
        let more = json!({ "sandbox_policy": sandbox, "mcp_servers": servers });
        record("codex.conversation_starts", thread, more)
    };
    let completed = |thread: &str| {
        let more = json!({
            "event.kind": "response.completed", "input_token_count": "118",
            "output_token_count": "10", "cached_token_count": "7", "cache_write_token_count": "1",
            "reasoning_token_count": "2",
        });
        record("codex.sse_event", thread, more)
    };
    const TITLE: &str = "01a22798-5ff8-79a3-8d0b-577e3ffa1d97";
    // No hook has told of a conversation yet: whose it is, is not known.
    log.tell(1, starts(TITLE, "read-only", ""));
    assert!(log.tell(1, completed(TITLE)).is_empty());
    log.hook(2, None, hook_of("SessionStart", ROOT, json!({ "source": "startup" })));
    let seen = log.tell(3, completed(TITLE));
    let rows = ledger(&seen);
    let row = rows.values().next().unwrap();
    assert_eq!((row.session.as_str(), row.purpose), (ROOT, Purpose::Title));
    assert_eq!((row.tokens.input, row.tokens.total()), (110, 128));
    assert_eq!(row.key, format!("{TITLE}@1795960627303000"));
    // Those that rollouts have: the conversation's own, a subagent's, and any that may do something.
    log.tell(4, starts(ROOT, "read-only", ""));
    assert!(log.tell(4, completed(ROOT)).is_empty());
    log.hook(5, None, hook_of("SubagentStart", CHILD, json!({ "agent_id": CHILD })));
    log.tell(6, starts(CHILD, "read-only", ""));
    assert!(log.tell(6, completed(CHILD)).is_empty());
    log.tell(7, starts("other", "workspace-write", "codex_tui"));
    assert!(log.tell(7, completed("other")).is_empty());
    // Each piece of a response has a record as well.
    let piece = record("codex.sse_event", TITLE, json!({ "event.kind": "response.completed" }));
    assert!(log.tell(8, piece).is_empty());
}

#[test]
fn a_question_without_a_call_is_answered_by_keys() {
    let mut log = Log::of("codex");
    let body = json!({
        "hook_event_name": "PermissionRequest", "session_id": "s", "tool_name": "Bash",
        "tool_input": { "command": "touch x", "description": "need it" },
    });
    let seen = log.hook(1, None, body.clone());
    assert_eq!(asked(&seen)[0].call, None);
    let codex = of("codex");
    assert_eq!(codex.answer_keys(&body, true), Some("y"));
    assert_eq!(codex.answer_keys(&body, false), Some("\u{1b}"));
    assert_eq!(codex.answer_keys(&Value::Null, true), None);
    assert_eq!(
        codex.answer(&body, false, Some("no")).unwrap(),
        r#"{"hookSpecificOutput":{"decision":{"behavior":"deny","message":"no"},"hookEventName":"PermissionRequest"}}"#
    );
    let next = json!({ "hook_event_name": "Stop", "session_id": "s" });
    let seen = log.hook(2, None, next);
    // Nobody waits for the answer, so nobody is told that it is over.
    assert_eq!((activity(&seen), over(&seen).len()), (Some(Activity::Idle), 0));
}

#[test]
fn the_title_tells_little_and_that_once() {
    let mut log = Log::of("codex");
    let mut tell = |title: &str| {
        let seen = log.tell(1, What::Title { title: title.into() });
        assert!(doings(&seen).iter().all(|doing| doing.source == Source::Screen));
        activity(&seen)
    };
    assert_eq!(tell("⠿ p1"), Some(Activity::Working));
    assert_eq!(tell("⠿ p1"), None);
    assert_eq!(tell("[ ! ] Action Required | p1"), Some(Activity::NeedsPermission));
    assert_eq!(tell("p1"), Some(Activity::Idle));
}

#[test]
fn an_answer_at_the_screen_is_known_before_the_tool_has_run() {
    let mut log = Log::of("codex");
    let ask = json!({ "tool_name": "Bash", "tool_input": { "command": "sleep 600" } });
    let mut known = log.hook(1, None, hook_of("PermissionRequest", ROOT, ask));
    let mut title = |second: i64, title: &str| {
        known.extend(log.tell(second, What::Title { title: title.into() }));
        activity(&known)
    };
    // The spinner of a moment before.
    assert_eq!(title(2, "⠿ p1"), Some(Activity::NeedsPermission));
    for (second, blink) in [(3, "!"), (4, "."), (5, "!")] {
        let asks = format!("[ {blink} ] Action Required | p1");
        assert_eq!(title(second, &asks), Some(Activity::NeedsPermission));
    }
    assert_eq!(title(6, "⠿ p1"), Some(Activity::Working));
    // From here on the title is no more than a guess again.
    assert_eq!(title(7, "p1"), Some(Activity::Working));
}

#[test]
fn rollouts_are_found_where_the_environment_says() {
    let home = tempfile::tempdir().unwrap();
    let write = |path: &str| {
        let file = home.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "{}\n").unwrap();
    };
    write(".codex/sessions/2026/11/21/rollout-b.jsonl");
    write(".codex/sessions/2026/11/20/rollout-a.jsonl");
    write(".codex/sessions/2026/11/20/notes.jsonl");
    write(".codex/archived_sessions/rollout-c.jsonl");
    write("other/sessions/2026/01/01/rollout-d.jsonl");
    let path = |path: &str| home.path().join(path).to_string_lossy().into_owned();
    let mut env = BTreeMap::from([("HOME".to_owned(), path(""))]);
    let names = |env: &BTreeMap<String, String>| -> Vec<String> {
        let found = of("codex").found(env);
        found.iter().map(|file| file.file_stem().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(names(&env), ["rollout-a", "rollout-b", "rollout-c"]);
    env.insert("CODEX_HOME".into(), path("other"));
    assert_eq!(names(&env), ["rollout-d"]);
    assert!(names(&BTreeMap::new()).is_empty());
}

#[test]
fn the_steps_of_a_run_are_shown() {
    let steps = |path: &str| -> Vec<Step> {
        let output = String::from_utf8(sample(path)).unwrap();
        output.lines().flat_map(|line| of("codex").step(line)).collect()
    };
    assert_eq!(
        steps("codex/exec_json_tools.jsonl"),
        [
            Step::Session { session: "01a1fc78-ad30-7b21-8fbd-03156962f393".into() },
            Step::Text { text: "I will".into() },
            Step::Tool { tool: "shell".into(), text: "/bin/bash -lc 'echo hi-codex'".into() },
            Step::ToolResult { text: "hi-codex\n".into() },
            Step::Text { text: "Hello from the fake model. Request 3.".into() },
        ]
    );
    let mcp = steps("codex/exec_mcp_call.jsonl");
    assert_eq!(mcp[1], Step::Tool { tool: "stratavore.ping".into(), text: r#"{"x":"1"}"#.into() });
    let why = "Reconnecting... 1/2".to_owned();
    let retry = r#"{"type":"error","message":"Reconnecting... 1/2"}"#;
    assert_eq!(of("codex").step(retry), [Step::Retry { why }]);
}

#[test]
fn a_run_comes_out_as_its_final_record_says() {
    let outcome = |output: &str, exit| of("codex").outcome(output, exit);
    let whole = String::from_utf8(sample("codex/exec_json_tools.jsonl")).unwrap();
    let text = "Hello from the fake model. Request 3.".to_owned();
    assert_eq!(outcome(&whole, Some(0)), Outcome::Done { text });
    let cut = &whole[..whole.trim_end().rfind('\n').unwrap()];
    assert_eq!(outcome(cut, Some(0)), Outcome::Cut);
    let failed =
        |message: &str| format!(r#"{{"type":"turn.failed","error":{{"message":"{message}"}}}}"#);
    let why = "stream disconnected".to_owned();
    assert_eq!(outcome(&failed(&why), Some(1)), Outcome::Failed { why });
    let why = "You've hit your usage limit. Try again at 3:00 PM.".to_owned();
    assert_eq!(outcome(&failed(&why), Some(1)), Outcome::RateLimited { why });
    let why = "exit 1: Not inside a trusted directory".to_owned();
    assert_eq!(outcome("Not inside a trusted directory\n", Some(1)), Outcome::Failed { why });
}

/// Without a screen: the same hooks, and telemetry that must not count again what its rollout has. Its thread
/// begins like one for a title, with a sandbox that may do nothing.
#[test]
fn a_run_without_a_screen_is_told_by_its_hooks() {
    let mut log = Log::of("codex");
    let told = log.hooks("codex/hooks_exec.jsonl");
    let seen: Vec<Observation> = told.into_iter().flat_map(|(_, seen)| seen).collect();
    let did: Vec<&str> = doings(&seen).iter().map(|doing| doing.activity.as_str()).collect();
    assert_eq!(did, ["working", "working", "working", "idle"]);
    let current = sessions(&seen).into_iter().filter(|session| session.is_current).count();
    assert_eq!(current, 1);

    let thread = "01a1fc7f-d11e-7db1-80e6-db6493cda206";
    let begins = json!({ "session_id": thread, "hook_event_name": "SessionStart", "cwd": "/p" });
    let telemetry = || {
        let text = String::from_utf8(sample("codex/telemetry_exec.jsonl")).unwrap();
        let records = text.lines().map(|line| serde_json::from_str(line).unwrap());
        records.map(|record| What::Telemetry { record }).collect::<Vec<_>>()
    };
    let mut log = Log::of("codex");
    log.hook(1_795_000_000, None, begins);
    let seen: Vec<Observation> =
        telemetry().into_iter().flat_map(|record| log.tell(1_795_000_001, record)).collect();
    assert!(ledger(&seen).is_empty(), "{seen:?}");
}
