//! Its hooks, telemetry, title, registry and output.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};
use stratavore_assistants::adapter::{Outcome, Step};
use stratavore_core::activity::{Activity, Source};
use stratavore_core::observation::{AskKind, Observation};
use stratavore_core::signal::What;
use stratavore_core::usage::{Purpose, Quality};

use crate::reading::{
    Log, activity, asked, doings, ledger, lines, of, over, read_sample, sample, sessions, sum,
};

const HOOKS: &str = "claude/hooks_interactive_all_events.jsonl";
const FIRST: &str = "33333333-3333-4333-8333-333333333333";
const CLEARED: &str = "6e88a8bb-cf36-42ac-bbf2-ca1c780c7c7d";

fn body(event: &str, more: Value) -> Value {
    let mut body = json!({ "session_id": FIRST, "hook_event_name": event, "cwd": "/home/dev/p1" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn a_whole_session_is_told_by_its_hooks() {
    let mut log = Log::of("claude");
    let told = log.hooks(HOOKS);
    let mut story: Vec<(String, &str)> = Vec::new();
    for (body, seen) in &told {
        for doing in doings(seen) {
            assert_eq!(doing.source, Source::Events);
            let event = body["hook_event_name"].as_str().unwrap().to_owned();
            story.push((event, doing.activity.as_str()));
        }
    }
    let story: Vec<String> =
        story.iter().map(|(event, activity)| format!("{event} {activity}")).collect();
    assert_eq!(
        story[..8],
        [
            "SessionStart idle",
            "UserPromptSubmit working",
            "PreToolUse working",
            "PermissionRequest needs_permission",
            "PostToolUse working",
            "Stop idle",
            "Notification idle",
            "UserPromptSubmit working",
        ]
    );
    assert!(story.contains(&"PermissionRequest needs_input".to_owned()), "{story:?}");

    // Cleared in between: one runner, two conversations, the second current.
    let current: Vec<&str> = told
        .iter()
        .flat_map(|(_, seen)| sessions(seen))
        .inspect(|session| assert!(session.is_current && session.transcript.is_some()))
        .map(|session| session.session.as_str())
        .collect();
    assert_eq!(current, [FIRST, CLEARED, CLEARED]);
    let seen: Vec<Observation> = told.into_iter().flat_map(|(_, seen)| seen).collect();
    let first = sessions(&seen)[0].clone();
    assert_eq!(first.title.as_deref(), Some("stratavore-test"));
    assert_eq!(first.model.as_deref(), Some("claude-opus-4-8"));
    assert_eq!(first.directory.as_deref(), Some("/home/dev/p1"));

    let asks: Vec<(AskKind, &str, &str)> =
        asked(&seen).iter().map(|ask| (ask.kind, ask.tool.as_str(), ask.text.as_str())).collect();
    assert_eq!(asks[0], (AskKind::Permission, "Bash", "touch /home/dev/p1/x1"));
    let question = (AskKind::Question, "AskUserQuestion", "Which color? (Red / Blue)");
    assert!(asks.contains(&question), "{asks:?}");
    // Whatever was asked is over at the end, each once.
    let mut calls: Vec<&str> = asked(&seen).iter().filter_map(|ask| ask.call.as_deref()).collect();
    let mut ended = over(&seen);
    calls.sort_unstable();
    ended.sort_unstable();
    assert_eq!(calls, ended);
}

#[test]
fn what_is_asked_stays_asked_while_other_tools_run() {
    let mut log = Log::of("claude");
    let ask = |command: &str| json!({ "tool_name": "Bash", "tool_input": { "command": command } });
    log.hook(1, None, body("UserPromptSubmit", json!({ "prompt": "go" })));
    let seen = log.hook(2, Some("a"), body("PermissionRequest", ask("rm x")));
    assert_eq!(doings(&seen)[0].question.as_deref(), Some("Bash: rm x"));
    assert_eq!(asked(&seen)[0].call.as_deref(), Some("a"));
    log.hook(3, Some("b"), body("PermissionRequest", ask("rm y")));
    // One that needed no permission.
    let seen = log.hook(4, None, body("PostToolUse", ask("ls")));
    assert_eq!((doings(&seen).len(), over(&seen).len()), (0, 0));
    // Told again after some seconds, with less.
    let notice = json!({ "notification_type": "permission_prompt", "message": "needs you" });
    assert!(log.hook(5, None, body("Notification", notice.clone())).is_empty());
    // The first is answered on the screen, the second from elsewhere.
    let seen = log.hook(6, None, body("PostToolUse", ask("rm x")));
    assert_eq!((doings(&seen).len(), over(&seen)), (0, vec!["a"]));
    let seen = log.tell(7, What::HookOver { call: "b".into() });
    assert_eq!((activity(&seen), over(&seen)), (Some(Activity::Working), vec!["b"]));
    // A hook that ended with its question open is said to be over, and no more.
    let seen = log.tell(8, What::HookOver { call: "a".into() });
    assert_eq!((doings(&seen).len(), over(&seen)), (0, vec!["a"]));
    // The notification comes though it was just answered.
    assert!(log.hook(9, None, body("Notification", notice.clone())).is_empty());
    // Nothing is known to be asked, and it says that something is.
    let seen = log.hook(30, None, body("Notification", notice));
    assert_eq!(activity(&seen), Some(Activity::NeedsPermission));
    let seen = log.hook(31, None, body("Stop", json!({ "last_assistant_message": "done" })));
    assert_eq!(activity(&seen), Some(Activity::Idle));
}

#[test]
fn what_a_run_without_a_screen_asks_is_answered_as_its_tool_gives_it_back() {
    let mut log = Log::of("claude");
    let input = json!({ "command": "rm x" });
    let asks = json!({ "tool_name": "Bash", "tool_input": input, "tool_use_id": "toolu_1" });
    log.hook(1, None, body("UserPromptSubmit", json!({ "prompt": "go" })));
    let prompt = body("PermissionPrompt", asks.clone());
    let seen = log.hook(2, Some("a"), prompt.clone());
    assert_eq!(activity(&seen), Some(Activity::NeedsPermission));
    assert_eq!((asked(&seen)[0].call.as_deref(), &*asked(&seen)[0].text), (Some("a"), "rm x"));
    let seen = log.tell(3, What::HookOver { call: "a".into() });
    assert_eq!((activity(&seen), over(&seen)), (Some(Activity::Working), vec!["a"]));

    let claude = stratavore_assistants::adapter(&"claude".parse().unwrap());
    let answer = |body: &Value, allow, message| {
        let answer = claude.answer(body, allow, message)?;
        Some(serde_json::from_str::<Value>(&answer).unwrap())
    };
    assert_eq!(answer(&prompt, true, None), Some(json!({ "behavior": "allow" })));
    let denied = answer(&prompt, false, Some("leave it")).unwrap();
    assert_eq!(denied, json!({ "behavior": "deny", "message": "leave it" }));
    assert!(answer(&prompt, false, None).unwrap()["message"].is_string(), "it wants a reason");
    // It takes no words with a yes, but to a question.
    assert_eq!(answer(&prompt, true, Some("do")), None);
    let question = json!({ "questions": [{ "question": "Which?", "options": [] }] });
    let asks = json!({ "tool_name": "AskUserQuestion", "tool_input": question });
    let given = answer(&body("PermissionPrompt", asks), true, Some("Blue")).unwrap();
    assert_eq!(given["updatedInput"]["answers"], json!({ "Which?": "Blue" }));
}

#[test]
fn a_subagent_in_the_background_does_not_make_it_work() {
    let mut log = Log::of("claude");
    log.hook(1, None, body("Stop", json!({})));
    let of_agent = json!({ "tool_name": "Bash", "tool_input": {}, "agent_id": "a1" });
    assert!(doings(&log.hook(2, None, body("PreToolUse", of_agent.clone()))).is_empty());
    let asks = log.hook(3, Some("c"), body("PermissionRequest", of_agent.clone()));
    assert_eq!(activity(&asks), Some(Activity::NeedsPermission));
    assert_eq!(over(&log.hook(4, None, body("PostToolUse", of_agent))), ["c"]);
}

#[test]
fn the_end_of_a_conversation_does_not_bring_it_back() {
    let mut log = Log::of("claude");
    log.hook(1, None, body("SessionStart", json!({ "source": "startup" })));
    let next = json!({ "source": "clear", "session_id": CLEARED });
    assert_eq!(sessions(&log.hook(2, None, body("SessionStart", next)))[0].session, CLEARED);
    assert!(log.hook(3, None, body("SessionEnd", json!({ "reason": "clear" }))).is_empty());
    // A hook of one that was not heard of before is its beginning.
    let seen = log.hook(4, None, body("UserPromptSubmit", json!({ "prompt": "x" })));
    assert_eq!(sessions(&seen)[0].session, FIRST);
}

#[test]
fn a_limit_is_told_with_the_time_of_its_end() {
    let mut log = Log::of("claude");
    let limit = json!({
        "error": "rate_limit",
        "last_assistant_message": "You've hit your session limit · resets Jan 1, 1970, 9am (UTC)",
    });
    let seen = log.hook(100, None, body("StopFailure", limit));
    let doing = doings(&seen)[0];
    assert_eq!(doing.activity, Activity::RateLimited);
    assert_eq!(doing.resets_at.map(|time| time.as_second()), Some(9 * 60 * 60));
    let other = json!({ "error": "server_error", "error_details": "500" });
    let seen = log.hook(101, None, body("StopFailure", other));
    assert_eq!(activity(&seen), Some(Activity::Idle));
    let Observation::TurnOver { failure, .. } = &seen[0] else { panic!("{seen:?}") };
    assert_eq!(failure.as_deref(), Some("server_error: 500"));
}

#[test]
fn while_it_tries_again_it_is_limited_until_a_request_is_answered() {
    let mut log = Log::of("claude");
    let record = |event: &str, second: i64, more: Value| {
        let mut attributes = json!({ "event.name": event, "session.id": FIRST });
        attributes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let record = json!({ "body": null, "time": second * 1_000_000, "attributes": attributes });
        What::Telemetry { record }
    };
    log.hook(10, None, body("UserPromptSubmit", json!({ "prompt": "x" })));
    let error = record("api_error", 11, json!({ "status_code": "429", "error": "slow down" }));
    assert_eq!(activity(&log.tell(12, error)), Some(Activity::RateLimited));
    let other = record("api_error", 12, json!({ "status_code": 529, "error": "busy" }));
    assert!(log.tell(13, other).is_empty());
    let request = json!({ "request_id": "r", "input_tokens": "3", "cost_usd": 0.25 });
    let seen = log.tell(14, record("api_request", 13, request));
    assert_eq!(activity(&seen), Some(Activity::Working));
    assert_eq!(ledger(&seen)["r"].tokens.input, 3);
    assert_eq!(ledger(&seen)["r"].reported_cost, Some(250_000));
    // Told late: a hook knows better by then.
    log.hook(20, None, body("Stop", json!({})));
    let late = record("api_error", 19, json!({ "status_code": 429 }));
    assert!(log.tell(21, late).is_empty());
}

/// What the records of a sample come to.
fn told_by_telemetry(path: &str) -> Vec<Observation> {
    let mut log = Log::of("claude");
    let records = sample(path);
    let tell = |(_, line): &(u64, &[u8])| {
        let record = serde_json::from_slice(line).unwrap();
        log.tell(1_800_000_000, What::Telemetry { record })
    };
    lines(&records).iter().flat_map(tell).collect()
}

#[test]
fn a_run_without_a_screen_tells_of_its_requests_alone() {
    let seen = told_by_telemetry("claude/telemetry_print.jsonl");
    let rows = ledger(&seen);
    let names: Vec<&str> = rows.keys().map(String::as_str).collect();
    assert_eq!(names, ["req_fake000147", "req_fake000148"]);
    assert_eq!(sum(&rows).total(), 110);
    let costs = rows.values().map(|row| row.reported_cost.unwrap());
    assert_eq!(costs.collect::<Vec<_>>(), [815, 82]);
    assert!(rows.values().all(|row| row.purpose == Purpose::Main));
}

#[test]
fn telemetry_has_what_transcripts_lack_by_the_same_names() {
    let seen = told_by_telemetry("claude/telemetry_compact_subagent.jsonl");
    let rows = ledger(&seen);
    assert_eq!((rows.len(), sum(&rows).total()), (15, 132_978));
    let cost: i64 = rows.values().filter_map(|row| row.reported_cost).sum();
    assert_eq!(cost, 157_093);
    let of = |purpose| rows.values().filter(|row| row.purpose == purpose).count();
    assert_eq!(of(Purpose::Title), 6);
    assert_eq!(of(Purpose::Compaction), 1);
    assert_eq!(of(Purpose::Subagent), 2);
    assert!(rows.values().all(|row| row.quality == Quality::Exact));
    assert!(rows.iter().all(|(key, row)| row.request_id.as_ref() == Some(key)));
    assert_eq!(rows["req_fake000163"].tokens.cache_read, 77);
    assert_eq!(rows["req_fake000163"].at.to_string(), "2026-11-21T04:43:01.774Z");
}

#[test]
fn without_a_request_only_what_no_transcript_has_is_counted() {
    let mut log = Log::of("claude");
    let mut count = |source: &str| {
        let attributes = json!({
            "event.name": "api_request", "session.id": "s", "query_source": source, "input_tokens": 1,
            "event.sequence": 4, "event.timestamp": "2026-11-21T04:43:01.774Z",
        });
        let seen = log.tell(1, What::Telemetry { record: json!({ "attributes": attributes }) });
        ledger(&seen).keys().next().cloned()
    };
    assert_eq!(count("repl_main_thread"), None);
    assert_eq!(count("agent:builtin:Explore"), None);
    assert_eq!(count("compact").as_deref(), Some("s/1795236181774000/4"));
}

#[test]
fn the_title_tells_little_and_that_once() {
    let mut log = Log::of("claude");
    let mut tell = |title: &str| {
        let seen = log.tell(1, What::Title { title: title.into() });
        assert!(doings(&seen).iter().all(|doing| doing.source == Source::Screen));
        activity(&seen)
    };
    assert_eq!(tell("⠿ fix the build"), Some(Activity::Working));
    assert_eq!(tell("⠿ fix the build"), None);
    assert_eq!(tell("✳ fix the build"), Some(Activity::Idle));
    assert_eq!(tell("bash"), None);
    assert_eq!(tell(""), None);
}

#[test]
fn an_answer_is_what_the_hook_prints() {
    let claude = of("claude");
    let ask = body("PermissionRequest", json!({ "tool_name": "Bash" }));
    assert_eq!(
        claude.answer(&ask, true, None).unwrap(),
        r#"{"hookSpecificOutput":{"decision":{"behavior":"allow"},"hookEventName":"PermissionRequest"}}"#
    );
    assert_eq!(
        claude.answer(&ask, false, Some("use \"git rm\"")).unwrap(),
        r#"{"hookSpecificOutput":{"decision":{"behavior":"deny","message":"use \"git rm\""},"hookEventName":"PermissionRequest"}}"#
    );
    // A question is answered with the tool's own input.
    let questions = json!([{ "question": "Which color?" }, { "question": "Which size?" }]);
    let ask_user =
        json!({ "tool_name": "AskUserQuestion", "tool_input": { "questions": questions } });
    let ask_user = body("PermissionRequest", ask_user);
    let answers = |text: &str| {
        let answer = claude.answer(&ask_user, true, Some(text)).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let decision = &answer["hookSpecificOutput"]["decision"];
        assert_eq!(decision["behavior"], "allow");
        assert_eq!(decision["updatedInput"]["questions"], questions);
        decision["updatedInput"]["answers"].clone()
    };
    assert_eq!(answers("Blue\nL"), json!({ "Which color?": "Blue", "Which size?": "L" }));
    assert_eq!(answers("any"), json!({ "Which color?": "any", "Which size?": "any" }));
    let plain = claude.answer(&ask_user, true, None).unwrap();
    assert!(!plain.contains("updatedInput"));
    assert_eq!(claude.answer(&ask, true, Some("go")), None, "it would not see the words");
    assert_eq!(claude.answer(&body("Stop", json!({})), true, None), None);
    assert_eq!(claude.answer(&Value::Null, true, None), None);
    assert_eq!(claude.answer_keys(&ask, true), None);
}

#[test]
fn the_registry_tells_what_a_process_does_if_it_is_that_process() {
    let home = tempfile::tempdir().unwrap();
    let env = BTreeMap::from([("HOME".to_owned(), home.path().to_string_lossy().into_owned())]);
    let sessions = home.path().join(".claude/sessions");
    fs::create_dir_all(&sessions).unwrap();
    let pid = std::process::id();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let start = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned();
    let level = |start: &str, status: Value| {
        let mut file = json!({ "pid": pid, "procStart": start, "sessionId": FIRST, "statusUpdatedAt": 1_795_234_777_119_i64 });
        file.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
        fs::write(sessions.join(format!("{pid}.json")), file.to_string()).unwrap();
        of("claude").level(pid, &env)
    };
    let told = |status: &str| level(&start, json!({ "status": status })).unwrap();
    assert_eq!(told("busy").activity, Activity::Working);
    assert_eq!(told("idle").activity, Activity::Idle);
    assert_eq!(told("idle").since.as_millisecond(), 1_795_234_777_119);
    let waits = |what: &str| {
        level(&start, json!({ "status": "waiting", "waitingFor": what })).unwrap().activity
    };
    assert_eq!(waits("permission prompt"), Activity::NeedsPermission);
    assert_eq!(waits("dialog open"), Activity::NeedsInput);
    assert_eq!(level(&start, json!({ "status": "asleep" })), None);
    // Another process had the number.
    assert_eq!(level("1", json!({ "status": "busy" })), None);
    // As it is written, for another process.
    let mut own: Value =
        serde_json::from_slice(&sample("claude/sessions_registry_PID.json")).unwrap();
    own["pid"] = pid.into();
    let doing = level(&start, own.clone());
    assert_eq!(doing, None, "its time is another's");
    own["procStart"] = start.clone().into();
    let doing = level(&start, own).unwrap();
    assert_eq!(doing.activity, Activity::NeedsPermission);
    assert_eq!(doing.since.as_millisecond(), 1_795_234_777_119);
    fs::remove_dir_all(&sessions).unwrap();
    assert_eq!(of("claude").level(pid, &env), None);
}

#[test]
fn transcripts_are_found_where_the_environment_says() {
    let home = tempfile::tempdir().unwrap();
    let write = |path: &str| {
        let file = home.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "{}\n").unwrap();
    };
    write(".claude/projects/-home-dev-p1/a.jsonl");
    write(".claude/projects/-home-dev-p1/a/subagents/agent-1.jsonl");
    write(".claude/projects/-home-dev-p1/memory/notes.md");
    write("other/projects/-home-dev-p2/b.jsonl");
    let path = |path: &str| home.path().join(path).to_string_lossy().into_owned();
    let mut env = BTreeMap::from([("HOME".to_owned(), path(""))]);
    let names = |env: &BTreeMap<String, String>| -> Vec<String> {
        let found = of("claude").found(env);
        found.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(names(&env), ["a.jsonl"]);
    let found = of("claude").found(&env).remove(0);
    let (beside, ending) = of("claude").beside(&found).unwrap();
    assert_eq!(beside, home.path().join(".claude/projects/-home-dev-p1/a/subagents"));
    assert!(
        fs::read_dir(beside)
            .unwrap()
            .all(|file| { file.unwrap().file_name().to_string_lossy().ends_with(ending) })
    );
    env.insert("CLAUDE_CONFIG_DIR".into(), path("other"));
    assert_eq!(names(&env), ["b.jsonl"]);
    assert!(names(&BTreeMap::new()).is_empty());
}

#[test]
fn the_steps_of_a_run_are_shown() {
    let output = sample("claude/print_stream_json_tools.jsonl");
    let steps: Vec<Step> = String::from_utf8(output)
        .unwrap()
        .lines()
        .flat_map(|line| of("claude").step(line))
        .collect();
    assert_eq!(
        steps[..5],
        [
            Step::Session { session: "11111111-1111-4111-8111-111111111111".into() },
            Step::Text { text: "I will run two things.".into() },
            Step::Tool { tool: "Bash".into(), text: "echo hi-from-tool".into() },
            Step::ToolResult { text: "hi-from-tool".into() },
            Step::Tool { tool: "Write".into(), text: "/home/dev/p1/out.txt".into() },
        ]
    );
    let retry = r#"{"type":"system","subtype":"api_retry","attempt":2,"max_retries":10,"error_status":529}"#;
    let why = "attempt 2 of 10, error 529".to_owned();
    assert_eq!(of("claude").step(retry), [Step::Retry { why }]);
    assert!(of("claude").step("Warning: no").is_empty());
}

#[test]
fn a_run_comes_out_as_its_final_record_says() {
    let outcome = |output: &str, exit| of("claude").outcome(output, exit);
    let whole = String::from_utf8(sample("claude/print_stream_json_tools.jsonl")).unwrap();
    let done = |text: &str| Outcome::Done { text: text.into() };
    assert_eq!(outcome(&whole, Some(0)), done("Hello from the fake model. Request 6."));
    let said = |name: &str| outcome(&String::from_utf8(sample(name)).unwrap(), Some(0));
    let simple = said("claude/print_stream_json_simple.jsonl");
    assert_eq!(simple, done("Hello from the fake model. Request 2."));
    // Of several turns the last one is the result.
    let turns = said("claude/stream_input_two_turns.jsonl");
    assert_eq!(turns, done("Hello from the fake model. Request 97."));
    // Denied what it asked for, it still came to its end.
    let denied = String::from_utf8(sample("claude/print_permission_denied.jsonl")).unwrap();
    assert_eq!(outcome(&denied, Some(0)), done("Hello from the fake model. Request 100."));
    // The same without its last line: an exit code of 0 is worth nothing.
    let cut = &whole[..whole.trim_end().rfind('\n').unwrap()];
    assert_eq!(outcome(cut, Some(0)), Outcome::Cut);
    assert_eq!(outcome(&whole[..whole.len() - 10], Some(0)), Outcome::Cut);
    assert_eq!(outcome("", None), Outcome::Cut);
    let result = |more: &str| format!(r#"{{"type":"result",{more}}}"#);
    assert_eq!(
        outcome(&result(r#""subtype":"error_max_turns","is_error":true"#), Some(1)),
        Outcome::LimitReached { what: "max_turns".into() }
    );
    assert_eq!(
        outcome(&result(r#""subtype":"error_max_budget_usd","is_error":true"#), Some(1)),
        Outcome::LimitReached { what: "max_cost".into() }
    );
    let limited = r#""subtype":"success","is_error":true,"api_error_status":429,"result":"You've hit your limit""#;
    let why = "You've hit your limit".to_owned();
    assert_eq!(outcome(&result(limited), Some(1)), Outcome::RateLimited { why });
    let failed =
        r#""subtype":"error_during_execution","is_error":true,"errors":["No conversation found"]"#;
    let why = "No conversation found".to_owned();
    assert_eq!(outcome(&result(failed), Some(1)), Outcome::Failed { why });
    let why = "exit 1: Error: Session ID x is already in use.".to_owned();
    let output = "Error: Session ID x is already in use.\n";
    assert_eq!(outcome(output, Some(1)), Outcome::Failed { why });
}

#[test]
fn transcripts_and_telemetry_agree_on_names() {
    let from_transcript = ledger(&read_sample("claude", "claude/transcript_print_resumed.jsonl"));
    let attributes = json!({
        "event.name": "api_request", "session.id": "s", "query_source": "sdk",
        "request_id": "req_fake000004", "input_tokens": 10,
    });
    let seen =
        Log::of("claude").tell(1, What::Telemetry { record: json!({ "attributes": attributes }) });
    assert!(from_transcript.contains_key(ledger(&seen).keys().next().unwrap()));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-zA-Z_ :|]{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "PermissionRequest",
            "Stop",
            "StopFailure",
            "Notification",
            "api_request"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        let keys = prop::sample::select(vec![
            "hook_event_name",
            "session_id",
            "tool_name",
            "tool_input",
            "prompt",
            "questions",
            "question",
            "options",
            "attributes",
            "event.name",
            "session.id",
            "time",
            "error",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys.prop_map(String::from), inner, 0..6)
                .prop_map(Value::from_iter),
        ]
    })
}

proptest! {
    #[test]
    fn no_signal_makes_it_fail(bodies in prop::collection::vec(any_json(), 1..6)) {
        for assistant in ["claude", "codex"] {
            let mut log = Log::of(assistant);
            for body in &bodies {
                log.hook(1, Some("c"), body.clone());
                log.tell(2, What::Telemetry { record: body.clone() });
                let _ = of(assistant).answer(body, true, None);
                let _ = of(assistant).step(&body.to_string());
                let _ = of(assistant).outcome(&body.to_string(), Some(1));
            }
            prop_assert!(log.memory.more.len() < 40);
        }
    }
}

/// The hooks of another kind, by HTTP, have the same bodies.
#[test]
fn hooks_that_were_called_by_http_tell_the_same() {
    let mut log = Log::of("claude");
    let told = log.hooks("claude/http_hooks.jsonl");
    let seen: Vec<Observation> = told.into_iter().flat_map(|(_, seen)| seen).collect();
    let mut did: Vec<&str> = doings(&seen).iter().map(|doing| doing.activity.as_str()).collect();
    did.dedup();
    assert_eq!(did, ["working", "needs_permission", "working", "idle"]);
    let asks = asked(&seen);
    assert_eq!((asks.len(), asks[0].tool.as_str()), (1, "Bash"));
    let turns = seen.iter().filter(|told| matches!(told, Observation::TurnOver { .. })).count();
    assert_eq!(turns, 1);
}
