//! opencode, by what its server and its export told, and by what our plugin tells.

mod runs;

use proptest::prelude::*;
use serde_json::{Value, json};
use stratavore_assistants::adapter::Memory;
use stratavore_core::activity::Activity;
use stratavore_core::observation::{AskKind, LineageKind, Observation};
use stratavore_core::signal::{Signal, What};
use stratavore_core::usage::{Purpose, Quality};

use crate::sample::*;

const SESSION: &str = "ses_e037932f0fferQdLYldvlVHiX3";

fn plugin(events: &[Value]) -> What {
    hook(json!({ "opencode": events }))
}

fn status(session: &str, status: &str) -> Value {
    json!({"type": "session.status", "properties": {"sessionID": session, "status": {"type": status}}})
}

fn prompt(session: &str, text: &str) -> Value {
    json!({"type": "chat.message", "properties": {
        "sessionID": session,
        "info": {"id": "msg_1", "role": "user", "sessionID": session, "model": {"providerID": "fake", "modelID": "m1"}},
        "parts": [{"id": "prt_1", "sessionID": session, "messageID": "msg_1", "type": "text", "text": text}],
    }})
}

fn asked(id: &str) -> Value {
    json!({"type": "permission.asked", "properties": {
        "id": id, "sessionID": SESSION, "permission": "bash", "patterns": ["echo hi"],
        "metadata": {"command": "echo hi"},
    }})
}

fn replied(id: &str) -> Value {
    json!({"type": "permission.replied", "properties": {"sessionID": SESSION, "requestID": id, "reply": "once"}})
}

#[test]
fn the_events_of_a_server_say_what_was_used_and_done() {
    let opencode = adapter("opencode");
    let events = || {
        let sample = sample("opencode/serve_events.jsonl");
        let events: Vec<Value> =
            sample.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        events.into_iter().map(|event| plugin(&[event]))
    };
    let mut memory = Memory::default();
    let seen = told(opencode, &mut memory, events());
    let once = ledger(&seen);
    // What the conversation's own row says in its last event, but for the answer that was cut off.
    let lost: Vec<_> = once.values().filter(|usage| usage.quality == Quality::Lost).collect();
    assert_eq!(lost.len(), 1, "{lost:?}");
    let total = sample("opencode/serve_events.jsonl")
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| event["type"] == "session.updated")
        .map(|event| event["properties"]["info"]["tokens"].clone())
        .next_back()
        .unwrap();
    let sum = sum(&once);
    assert_eq!(json!(sum.input), total["input"]);
    assert_eq!(json!(sum.output), total["output"]);
    assert!(sum.output > 0);

    // Told twice it counts once.
    let again = told(opencode, &mut memory, events());
    assert_eq!(ledger(seen.iter().chain(&again)), once);

    assert!(sessions(&seen).iter().all(|session| session.session == SESSION));
    assert_eq!(sessions(&seen)[0].directory.as_deref(), Some("/home/dev/p1"));
    assert_eq!(sessions(&seen)[0].title.as_deref(), Some("strata"));
    let (working, needs, idle) = (Activity::Working, Activity::NeedsPermission, Activity::Idle);
    let did = activities(&seen);
    assert_eq!(did[..4], [working, needs, working, idle]);
    assert_eq!(did.last(), Some(&idle));
    let failures: Vec<_> = seen
        .iter()
        .filter_map(|seen| {
            if let Observation::TurnOver { failure, .. } = seen {
                Some(failure.as_deref().unwrap_or("none"))
            } else {
                None
            }
        })
        .collect();
    assert_eq!(
        failures,
        ["none", "MessageAbortedError: Aborted", "none", "APIError: scripted error 400"]
    );
}

#[test]
fn an_export_is_read_whole() {
    let document = sample("opencode/export.json");
    let seen = adapter("opencode").document(&document, &place(0));
    let ledger = ledger(&seen);
    let told: Value = serde_json::from_str(&document).unwrap();
    // What the conversation's own row says.
    let told = &told["info"];
    let sum = sum(&ledger);
    let row = json!({
        "input": sum.input, "output": sum.output, "reasoning": sum.reasoning,
        "cache": {"read": sum.cache_read, "write": sum.cache_write},
    });
    assert_eq!(row, told["tokens"]);
    assert_eq!(sum.total(), 1194);
    let cost: i64 = ledger.values().filter_map(|usage| usage.reported_cost).sum();
    let dollars = told["cost"].as_f64().unwrap();
    assert!((cost as f64 - dollars * 1e6).abs() <= ledger.len() as f64, "{cost}");
    assert!(ledger.values().all(|usage| usage.model == "m1"));

    let texts = texts(&seen);
    assert_eq!(texts[0].0, "user");
    assert!(texts.iter().any(|(role, text)| *role == "tool" && text.contains("echo hi-oc")));
    assert_eq!(
        texts.last().unwrap(),
        &("assistant", "Hello from the fake model. Request 26.".into())
    );
    assert_eq!(sessions(&seen)[0].title.as_deref(), Some("fixed-title"));
    assert!(!sessions(&seen)[0].is_current);
}

#[test]
fn the_same_message_has_one_key_in_export_and_events() {
    let document = sample("opencode/export.json");
    let export: Value = serde_json::from_str(&document).unwrap();
    let events =
        export["messages"].as_array().unwrap().iter().map(
            |message| json!({"type": "message.updated", "properties": {"info": message["info"]}}),
        );
    let opencode = adapter("opencode");
    let live = told(opencode, &mut Memory::default(), [plugin(&events.collect::<Vec<_>>())]);
    let past = opencode.document(&document, &place(0));
    assert_eq!(ledger(&live), ledger(&past));
}

#[test]
fn a_turn_is_followed_from_prompt_to_end() {
    let opencode = adapter("opencode");
    let mut memory = Memory::default();
    let part = json!({"type": "message.part.updated", "properties": {"part": {
        "id": "prt_2", "sessionID": SESSION, "messageID": "msg_2", "type": "text", "text": "it is done",
        "time": {"start": 1, "end": 2},
    }}});
    let idle = json!({"type": "session.idle", "properties": {"sessionID": SESSION}});
    let seen = told(
        opencode,
        &mut memory,
        [
            plugin(&[json!({"type": "stratavore.ready", "properties": {}})]),
            title("~/p1"),
            title("OpenCode"),
            title("OC | another"),
            plugin(&[prompt(SESSION, "fix it"), status(SESSION, "busy")]),
            plugin(&[part, status(SESSION, "idle"), idle.clone(), idle]),
        ],
    );
    assert_eq!(activities(&seen), [Activity::Idle, Activity::Working, Activity::Idle]);
    let taken = |seen: &&Observation| matches!(seen, Observation::PromptTaken { session, text, .. } if session == SESSION && text == "fix it");
    assert_eq!(seen.iter().filter(taken).count(), 1);
    let over: Vec<_> = seen
        .iter()
        .filter_map(|seen| {
            if let Observation::TurnOver { text, failure, .. } = seen {
                Some((text.as_deref(), failure.as_deref()))
            } else {
                None
            }
        })
        .collect();
    assert_eq!(over, [(Some("it is done"), None)]);
    assert_eq!(sessions(&seen)[0].session, SESSION);
    assert!(sessions(&seen)[0].is_current);
    assert_eq!(memory.session.as_deref(), Some(SESSION));
}

/// What is typed before it is on the screen would begin another conversation.
#[test]
fn one_that_begins_with_a_conversation_of_before_is_idle_once_that_is_on_its_screen() {
    let opencode = adapter("opencode");
    let mut memory = Memory::default();
    let ready = json!({"type": "stratavore.ready", "properties": {"opens": true}});
    let before = told(opencode, &mut memory, [plugin(&[ready]), title("OpenCode")]);
    assert_eq!(activities(&before), []);
    let seen = told(opencode, &mut memory, [title("OC | one (fork #1)")]);
    assert_eq!(activities(&seen), [Activity::Idle]);
}

#[test]
fn an_answer_that_is_cut_off_is_not_forgotten() {
    let opencode = adapter("opencode");
    let mut memory = Memory::default();
    let began = json!({"type": "message.part.updated", "properties": {"part": {
        "id": "prt_3", "sessionID": SESSION, "messageID": "msg_2", "type": "step-start",
    }}});
    // Copies in a fork come before its first prompt.
    assert_eq!(told(opencode, &mut memory, [plugin(std::slice::from_ref(&began))]), []);
    let seen = told(opencode, &mut memory, [plugin(&[prompt(SESSION, "go"), began])]);
    let lost = &ledger(&seen)["msg_2"];
    assert_eq!((lost.quality, lost.model.as_str(), lost.tokens.total()), (Quality::Lost, "m1", 0));
    let whole = json!({"type": "message.updated", "properties": {"info": {
        "id": "msg_2", "sessionID": SESSION, "role": "assistant", "modelID": "m1",
        "tokens": {"input": 5, "output": 6}, "time": {"created": 1_795_238_056_771_i64, "completed": 1_795_238_058_191_i64},
    }}});
    let seen = told(opencode, &mut memory, [plugin(&[whole])]);
    assert_eq!(ledger(&seen)["msg_2"].quality, Quality::Exact);
}

#[test]
fn what_it_asks_waits_until_it_is_answered() {
    let opencode = adapter("opencode");
    let mut memory = Memory::default();
    let call =
        |event: Value| What::Hook { call: Some("c1".into()), body: json!({ "opencode": [event] }) };
    let seen =
        told(opencode, &mut memory, [plugin(&[prompt(SESSION, "go")]), call(asked("per_1"))]);
    let ask = seen
        .iter()
        .find_map(|seen| if let Observation::Asked(asked) = seen { Some(asked) } else { None })
        .unwrap();
    assert_eq!((ask.call.as_deref(), ask.kind), (Some("c1"), AskKind::Permission));
    assert_eq!((ask.tool.as_str(), ask.text.as_str()), ("bash", "echo hi"));
    assert_eq!(doings(&seen).last().unwrap().question.as_deref(), Some("bash: echo hi"));

    // opencode says that it is busy all the while, and our hook may be gone before it is answered.
    let seen = told(
        opencode,
        &mut memory,
        [plugin(&[status(SESSION, "busy")]), What::HookOver { call: "c1".into() }],
    );
    assert_eq!(seen, [Observation::AskOver { call: "c1".into() }]);

    let seen = told(opencode, &mut memory, [plugin(&[replied("per_1")])]);
    assert_eq!(activities(&seen), [Activity::Working]);
    // What was asked before a restart is asked no more.
    let mut restarted = memory.clone();
    told(opencode, &mut restarted, [call(asked("per_9"))]);
    let what = plugin(&[status(SESSION, "busy")]);
    let signal = Signal { at: at(9), epoch: 2, what };
    let seen = opencode.signal(&mut restarted, &signal, &place(9));
    assert_eq!(activities(&seen), [Activity::Working]);
    // A call that was written down late.
    assert_eq!(told(opencode, &mut memory, [call(asked("per_1"))]), []);
    let seen = told(opencode, &mut memory, [call(asked("per_2")), plugin(&[replied("per_2")])]);
    assert!(seen.contains(&Observation::AskOver { call: "c1".into() }));
}

#[test]
fn answers_are_what_the_plugin_reads() {
    let opencode = adapter("opencode");
    let answer = |event: Value, allow, message| {
        opencode.answer(&json!({ "opencode": [event] }), allow, message)
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(answer(asked("per_1"), true, None), some(r#"{"reply":"once"}"#));
    assert_eq!(answer(asked("per_1"), false, None), some(r#"{"reply":"reject"}"#));
    assert_eq!(
        answer(asked("per_1"), false, Some("use \"rg\"")),
        some(r#"{"message":"use \"rg\"","reply":"reject"}"#)
    );
    let question = |count: usize| {
        let question = json!({"question": "Which?", "options": [{"label": "A"}, {"label": "B"}]});
        json!({"type": "question.asked", "properties": {
            "id": "que_1", "sessionID": SESSION, "questions": vec![question; count],
        }})
    };
    assert_eq!(answer(question(1), true, None), some(r#"{"answers":[["A"]]}"#));
    assert_eq!(answer(question(1), true, Some("B")), some(r#"{"answers":[["B"]]}"#));
    assert_eq!(answer(question(2), true, Some("B\nA")), some(r#"{"answers":[["B"],["A"]]}"#));
    assert_eq!(answer(question(2), true, Some("B")), some(r#"{"answers":[["B"],["A"]]}"#));
    assert_eq!(answer(question(1), false, None), some(r#"{"reply":"reject"}"#));
    assert_eq!(answer(status(SESSION, "busy"), true, None), None);
    assert_eq!(opencode.answer(&json!(7), true, None), None);

    let seen = told(opencode, &mut Memory::default(), [plugin(&[question(1)])]);
    assert_eq!(activities(&seen), [Activity::NeedsInput]);
    assert_eq!(doings(&seen)[0].question.as_deref(), Some("Which?\n- A\n- B"));
}

#[test]
fn subagents_and_other_conversations_do_not_end_the_turn() {
    let opencode = adapter("opencode");
    let mut memory = Memory::default();
    let child = json!({"type": "session.created", "properties": {"info": {
        "id": "ses_dd80", "parentID": SESSION, "title": "Child session - 2026", "directory": "/p",
    }}});
    let used = json!({"type": "message.updated", "properties": {"info": {
        "id": "msg_9", "sessionID": "ses_dd80", "role": "assistant", "modelID": "m1",
        "tokens": {"input": 5, "output": 6}, "time": {"created": 1, "completed": 2},
    }}});
    let seen = told(
        opencode,
        &mut memory,
        [plugin(&[
            prompt(SESSION, "go"),
            child,
            prompt("ses_dd80", "help"),
            status("ses_dd80", "busy"),
            used,
            status("ses_dd80", "idle"),
        ])],
    );
    assert_eq!(activities(&seen), [Activity::Working]);
    let lineage = sessions(&seen)[1].lineage.clone().unwrap();
    assert_eq!((lineage.parent.as_str(), lineage.kind), (SESSION, LineageKind::Subagent));
    assert!(!sessions(&seen)[1].is_current && sessions(&seen)[1].title.is_none());
    assert_eq!(ledger(&seen)["msg_9"].purpose, Purpose::Subagent);

    let seen = told(
        opencode,
        &mut memory,
        [plugin(&[status("ses_other", "busy"), status(SESSION, "idle")])],
    );
    assert_eq!(activities(&seen), [Activity::Working]);
    let seen = told(opencode, &mut memory, [plugin(&[status("ses_other", "idle")])]);
    assert_eq!(activities(&seen), [Activity::Idle]);
}

#[test]
fn a_limit_of_rate_is_told_with_its_end() {
    let retry = json!({"type": "session.status", "properties": {"sessionID": SESSION, "status": {
        "type": "retry", "attempt": 1, "message": "Rate limit reached", "next": 1_795_000_100_000_i64,
    }}});
    let seen = told(adapter("opencode"), &mut Memory::default(), [plugin(&[retry])]);
    let doing = *doings(&seen).last().unwrap();
    assert_eq!(doing.activity, Activity::RateLimited);
    assert_eq!(doing.resets_at, Some(at(100)));
}

/// Of a real run: a conversation was forked, and used a subagent. Its provider billed four requests.
#[test]
fn a_fork_and_its_subagent_are_counted_as_they_were_billed() {
    let opencode = adapter("opencode");
    let signals = sample("opencode/plugin_fork_subagent.jsonl");
    let signals = || signals.lines().map(|line| hook(serde_json::from_str(line).unwrap()));
    let mut memory = Memory::default();
    let seen = told(opencode, &mut memory, signals());
    let once = ledger(&seen);
    let mut billed: Vec<_> = once
        .values()
        .map(|usage| {
            (
                usage.tokens.input,
                usage.tokens.cache_read,
                usage.tokens.output,
                usage.tokens.reasoning,
                usage.purpose,
            )
        })
        .collect();
    billed.sort_by_key(|billed| billed.0);
    assert_eq!(
        billed,
        [
            (1042, 20606, 58, 90, Purpose::Main),
            (1049, 20707, 61, 95, Purpose::Subagent),
            (1056, 20808, 64, 100, Purpose::Subagent),
            (1063, 20909, 67, 105, Purpose::Main),
        ]
    );
    let again = told(opencode, &mut memory, signals());
    assert_eq!(ledger(seen.iter().chain(&again)), once);
    assert_eq!(activities(&seen), [Activity::Working, Activity::Idle]);
    let lineages: Vec<_> =
        sessions(&seen).iter().filter_map(|session| session.lineage.as_ref()).collect();
    assert_eq!(lineages[0].kind, LineageKind::Forked);
    assert!(lineages[1..].iter().all(|lineage| lineage.kind == LineageKind::Subagent));
    let over = |seen: &&Observation| matches!(seen, Observation::TurnOver { text: Some(text), .. } if text == "done");
    assert_eq!(seen.iter().filter(over).count(), 1);
}

#[test]
fn a_fork_is_known_by_what_the_plugin_was_told() {
    let created = json!({"type": "session.created", "fork": "ses_parent", "properties": {"info": {
        "id": SESSION, "title": "x (fork #1)",
    }}});
    let seen = told(adapter("opencode"), &mut Memory::default(), [plugin(&[created])]);
    let lineage = sessions(&seen)[0].lineage.clone().unwrap();
    assert_eq!((lineage.parent.as_str(), lineage.kind), ("ses_parent", LineageKind::Forked));
    assert!(sessions(&seen)[0].is_current);
}

proptest! {
    #[test]
    fn garbage_is_no_observation_and_no_failure(
        text in ".{0,200}",
        kind in "(session|message|permission|question|chat)\\.(status|updated|asked|replied|message|part\\.updated)",
        cut in 0..16_000usize,
    ) {
        let opencode = adapter("opencode");
        let mut memory = Memory::default();
        for properties in [json!(text), json!({"info": text, "part": [text]}), json!({"id": text, "sessionID": text, "questions": {"a": 1}})] {
            let event = json!({"type": kind, "at": text, "properties": properties});
            told(opencode, &mut memory, [plugin(&[event]), hook(json!(text)), title(&text)]);
        }
        let document = sample("opencode/export.json");
        let cut = document.floor_char_boundary(cut.min(document.len()));
        opencode.document(&document[..cut], &place(0));
        opencode.document(&text, &place(0));
        opencode.step(&text);
        opencode.outcome(&text, Some(0));
    }
}
