//! Gemini CLI, by its transcripts, telemetry, hooks, title and output.

mod runs;

use std::collections::BTreeMap;

use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::{Value, json};
use stratavore_assistants::adapter::Memory;
use stratavore_core::activity::{Activity, Source};
use stratavore_core::observation::{AskKind, LineageKind, Observation};
use stratavore_core::signal::{Signal, What};
use stratavore_core::usage::{Purpose, Quality, Tokens};

use crate::sample::*;

const CHAT: &str = "/home/dev/.gemini/tmp/p1/chats/session-2026-11-21T05-24-66666666.jsonl";
const SESSION: &str = "66666666-5555-4555-8555-555555555555";

fn telemetry(event: &str, attributes: Value) -> What {
    let mut told = json!({"event.name": event, "session.id": SESSION});
    for (name, value) in attributes.as_object().unwrap() {
        told[name] = value.clone();
    }
    What::Telemetry { record: json!({"body": null, "time": 1, "attributes": told, "resource": {}}) }
}

fn hooks(name: &str) -> Vec<What> {
    sample(name).lines().map(|line| hook(serde_json::from_str(line).unwrap())).collect()
}

#[test]
fn a_transcript_that_was_resumed_counts_each_message_once() {
    let gemini = adapter("gemini");
    let chat = sample("gemini/chat_resumed_three_times.jsonl");
    let mut memory = Memory::default();
    let seen = read(gemini, &mut memory, CHAT, &chat);
    let once = ledger(&seen);
    assert_eq!(once.len(), 3);
    assert_eq!(sum(&once), Tokens { input: 6, output: 9, ..Tokens::default() });
    let again = read(gemini, &mut memory, CHAT, &chat);
    assert_eq!(ledger(seen.iter().chain(&again)), once);

    let of = sessions(&seen);
    assert!(of.iter().all(|session| session.session == SESSION && !session.is_current));
    assert_eq!(of[0].transcript.as_deref(), Some(CHAT));
    assert!(of.iter().any(|session| session.directory.as_deref() == Some("/home/dev/p1")));
    assert!(of.iter().any(|session| session.model.as_deref() == Some("gemini-2.5-pro")));
    let texts = texts(&seen);
    let users: Vec<_> = texts.iter().filter(|(role, _)| *role == "user").collect();
    assert_eq!(users.len(), 3, "{users:?}");
    assert!(users[0].1.starts_with("one "));
}

#[test]
fn a_transcript_can_be_read_on_from_any_line() {
    let gemini = adapter("gemini");
    let chat = sample("gemini/chat_resumed_three_times.jsonl");
    let whole = read(gemini, &mut Memory::default(), CHAT, &chat);
    let mut memory = Memory::default();
    let mut parts = Vec::new();
    let mut offset = 0;
    for line in chat.split_inclusive('\n') {
        // As it is kept between two daemons.
        memory = serde_json::from_value(json!(memory)).unwrap();
        let place = stratavore_core::message::Place { file: CHAT.into(), offset };
        parts.extend(gemini.line(&mut memory, line.trim_end().as_bytes(), &place));
        offset += line.len() as u64;
    }
    assert_eq!(parts, whole);
}

#[test]
fn a_message_that_is_written_twice_is_one_and_kinds_exclude_each_other() {
    let gemini = adapter("gemini");
    let header = json!({"sessionId": SESSION, "projectHash": "h", "startTime": "2026-11-21T05:24:49Z", "kind": "main"});
    let message = |calls: Value| {
        json!({"id": "m1", "timestamp": "2026-11-21T05:24:50Z", "type": "gemini", "content": "I will", "model": "gemini-2.5-pro",
            "tokens": {"input": 17, "output": 5, "cached": 7, "thoughts": 2, "tool": 3, "total": 27}, "toolCalls": calls})
    };
    let call = json!({"id": "t1", "name": "run_shell_command", "args": {"command": "ls"}, "resultDisplay": "a.txt"});
    let lines = format!("{header}\n{}\n{}\n", message(json!([])), message(json!([call])));
    let seen = read(gemini, &mut Memory::default(), CHAT, &lines);
    let tokens = Tokens { input: 13, output: 5, cache_read: 7, reasoning: 2, ..Tokens::default() };
    assert_eq!(sum(&ledger(&seen)), tokens);
    assert_eq!(tokens.total(), 27);
    assert!(
        texts(&seen).contains(&("tool", "run_shell_command {\"command\":\"ls\"}\na.txt".into()))
    );
}

#[test]
fn subagents_are_found_beside_the_transcript() {
    let gemini = adapter("gemini");
    let home = tempfile::tempdir().unwrap();
    let chats = home.path().join(".gemini/tmp/p1/chats");
    let children = chats.join(SESSION);
    std::fs::create_dir_all(&children).unwrap();
    let chat = chats.join("session-2026-11-21T05-24-66666666.jsonl");
    std::fs::write(&chat, sample("gemini/chat_resumed_three_times.jsonl")).unwrap();
    // The beginning of its id is the same, but it is another one.
    let other = chats.join("session-2026-11-21T05-25-66666666.jsonl");
    std::fs::write(&other, "{\"sessionId\":\"66666666-0000\",\"projectHash\":\"h\"}\n").unwrap();
    std::fs::write(chats.join("notes.jsonl"), "").unwrap();
    assert_eq!(gemini.beside(&chat), Some((children.clone(), ".jsonl")));
    assert_eq!(gemini.beside(&other), None);

    let env = BTreeMap::from([("HOME".to_owned(), home.path().to_string_lossy().into_owned())]);
    assert_eq!(gemini.found(&env), [chat.clone(), other]);
    assert_eq!(gemini.transcripts(SESSION, &env), [chat]);
    assert!(gemini.transcripts("", &env).is_empty() && gemini.found(&BTreeMap::new()).is_empty());

    let header = json!({"sessionId": "sub-1", "projectHash": "h", "kind": "subagent", "directories": ["/home/dev/p1"]});
    let used = json!({"id": "m9", "type": "gemini", "content": "x", "tokens": {"input": 1, "output": 2}, "model": "g"});
    let file = children.join("sub-1.jsonl");
    let seen = read(
        gemini,
        &mut Memory::default(),
        file.to_str().unwrap(),
        &format!("{header}\n{used}\n"),
    );
    let lineage = sessions(&seen)[0].lineage.clone().unwrap();
    assert_eq!((lineage.parent.as_str(), lineage.kind), (SESSION, LineageKind::Subagent));
    assert_eq!(ledger(&seen)["m9"].purpose, Purpose::Subagent);
}

#[test]
fn telemetry_counts_what_no_transcript_has() {
    let gemini = adapter("gemini");
    let records = sample("gemini/telemetry.jsonl");
    let records = || {
        records.lines().map(|line| What::Telemetry { record: serde_json::from_str(line).unwrap() })
    };
    let mut memory = Memory::default();
    let seen = told(gemini, &mut memory, records());
    // All of these are in the transcript.
    assert!(ledger(&seen).is_empty());
    assert_eq!(sessions(&seen).len(), 1);
    assert!(sessions(&seen)[0].is_current);
    assert_eq!(activities(&seen), [Activity::Working]);
    assert!(seen.iter().any(|seen| matches!(seen, Observation::PromptTaken { .. })));

    let response = |role: &str, time: &str| {
        telemetry(
            "gemini_cli.api_response",
            json!({"role": role, "event.timestamp": time, "prompt_id": "p", "model": "flash-lite", "duration_ms": 9,
                "input_token_count": "17", "output_token_count": 5, "cached_content_token_count": 7, "thoughts_token_count": 2}),
        )
    };
    let router = || response("utility_router", "2026-11-21T05:30:24.000Z");
    let seen = told(gemini, &mut memory, [router(), router()]);
    let tokens = Tokens { input: 10, output: 5, cache_read: 7, reasoning: 2, ..Tokens::default() };
    assert_eq!((ledger(&seen).len(), sum(&ledger(&seen))), (1, tokens));
    let seen = told(
        gemini,
        &mut memory,
        [
            response("utility_compressor", "2026-11-21T05:30:25.000Z"),
            response("utility_summarizer", "2026-11-21T05:30:25.000Z"),
        ],
    );
    let mut purposes: Vec<_> = ledger(&seen).values().map(|usage| usage.purpose).collect();
    purposes.sort_by_key(|purpose| purpose.as_str());
    assert_eq!(purposes, [Purpose::Compaction, Purpose::Title]);

    // An answer that was thrown away is in no transcript, and counts once.
    let retry =
        || telemetry("gemini_cli.chat.content_retry", json!({"error_type": "NO_RESPONSE_TEXT"}));
    let seen =
        told(gemini, &mut memory, [response("main", "2026-11-21T05:30:26.000Z"), retry(), retry()]);
    assert_eq!((ledger(&seen).len(), sum(&ledger(&seen))), (1, tokens));

    let cut =
        telemetry("gemini_cli.api_error", json!({"error.type": "AbortError", "error": "aborted"}));
    let seen = told(gemini, &mut memory, [cut]);
    assert_eq!(ledger(&seen).values().next().unwrap().quality, Quality::Lost);
}

/// Of a real run with a screen: a router of models, the summary of an earlier conversation, two turns
/// with tools and one with a subagent, a compression, and a turn that was broken off.
#[test]
fn all_that_was_billed_is_counted_once() {
    let gemini = adapter("gemini");
    let mut memory = Memory::default();
    let records = sample("gemini/billed/telemetry.jsonl");
    let records =
        records.lines().map(|line| What::Telemetry { record: serde_json::from_str(line).unwrap() });
    // Hooks are always first.
    let signals: Vec<_> = hooks("gemini/billed/hooks.jsonl").into_iter().chain(records).collect();
    let mut seen = told(gemini, &mut memory, signals);
    assert_eq!(sessions(&seen).len(), 1);
    let transcript = sessions(&seen)[0].transcript.clone().unwrap();
    let chat = sample("gemini/billed/session-2026-11-29T13-59-01970000.jsonl");
    seen.extend(read(gemini, &mut Memory::default(), &transcript, &chat));
    let name = "77b30f28-36c6-4501-b122-d82139bdd700.jsonl";
    let file = format!("/home/dev/chats/01970000-0000-4000-8000-000000000002/{name}");
    let subagent = sample(&format!("gemini/billed/{name}"));
    seen.extend(read(gemini, &mut Memory::default(), &file, &subagent));

    let line = |usage: &stratavore_core::usage::UsageRecord| {
        let tokens = usage.tokens;
        format!(
            "{} {} {} {} {}",
            usage.model, tokens.input, tokens.cache_read, tokens.output, tokens.reasoning
        )
    };
    let mut counted: Vec<_> = ledger(&seen).values().map(line).collect();
    let bill = sample("gemini/billed/bill.txt");
    let mut billed: Vec<_> = bill.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    counted.sort();
    billed.sort();
    assert_eq!(counted, billed);

    let of = |purpose| ledger(&seen).values().filter(|usage| usage.purpose == purpose).count();
    use Purpose::{Compaction, Main, Other, Subagent, Title};
    assert_eq!([Main, Subagent, Compaction, Title, Other].map(of), [5, 3, 2, 1, 4]);
    // Each by its telemetry and by the conversation's file.
    let taken = |seen: &&Observation| matches!(seen, Observation::PromptTaken { .. });
    assert_eq!(seen.iter().filter(taken).count(), 2 * 3);
}

#[test]
fn a_gemini_that_a_tool_starts_is_billed_and_not_followed() {
    let gemini = adapter("gemini");
    let mut memory = Memory::default();
    let own = |hook_name: &str| hook(json!({"session_id": SESSION, "hook_event_name": hook_name}));
    let other =
        |hook_name: &str| hook(json!({"session_id": "other", "hook_event_name": hook_name}));
    let signals = [own("SessionStart"), own("BeforeAgent")];
    told(gemini, &mut memory, signals);
    let nested = ["SessionStart", "BeforeAgent", "AfterAgent", "SessionEnd"].map(other);
    assert_eq!(told(gemini, &mut memory, nested), []);
    let seen = told(gemini, &mut memory, [own("AfterAgent")]);
    assert_eq!(activities(&seen), [Activity::Idle]);
    // Between turns it is one that the user has begun.
    assert_eq!(sessions(&told(gemini, &mut memory, [other("BeforeAgent")])), [] as [&_; 0]);
    let clear =
        hook(json!({"session_id": "s3", "hook_event_name": "SessionStart", "source": "clear"}));
    assert_eq!(sessions(&told(gemini, &mut memory, [clear]))[0].session, "s3");

    let of = |pid: u32| What::Telemetry {
        record: json!({
            "attributes": {"event.name": "gemini_cli.api_response", "session.id": "s", "role": "main",
                "input_token_count": 5, "event.timestamp": "2026-11-21T05:30:24Z"},
            "resource": {"process.pid": pid},
        }),
    };
    let mut memory = Memory::default();
    let seen = told(gemini, &mut memory, [of(7), of(8)]);
    assert_eq!((sessions(&seen).len(), ledger(&seen).len()), (1, 1));
    // After a restart it is a new process, and tells again which conversation it holds.
    let restarted = Signal { at: at(9), epoch: 2, what: of(8) };
    let seen = gemini.signal(&mut memory, &restarted, &place(9));
    assert_eq!((sessions(&seen).len(), ledger(&seen).len()), (1, 0));
}

#[test]
fn what_is_kept_of_telemetry_is_all_that_tells() {
    let gemini = adapter("gemini");
    let kept = Asked::new(&["gemini"]).observed("/tmp/r1").fresh(gemini).telemetry;
    let is_kept = |what: &&What| {
        let What::Telemetry { record } = what else { return false };
        kept.iter().any(|name| !record["attributes"][*name].is_null())
    };
    for name in ["gemini/telemetry.jsonl", "gemini/billed/telemetry.jsonl"] {
        let sample = sample(name);
        let all: Vec<_> = sample
            .lines()
            .map(|line| What::Telemetry { record: serde_json::from_str(line).unwrap() })
            .collect();
        let some = all.iter().filter(is_kept).cloned().collect::<Vec<_>>();
        let seen = |signals: Vec<What>| {
            let mut ledger = ledger(&told(gemini, &mut Memory::default(), signals));
            ledger.values_mut().for_each(|usage| usage.place = place(0));
            ledger
        };
        assert!(some.len() > 3);
        assert_eq!(seen(some), seen(all));
    }
}

#[test]
fn hooks_follow_a_turn() {
    let gemini = adapter("gemini");
    let mut memory = Memory::default();
    let seen = told(gemini, &mut memory, hooks("gemini/hooks_headless.jsonl"));
    assert_eq!(activities(&seen), [Activity::Idle, Activity::Working, Activity::Idle]);
    assert!(doings(&seen).iter().all(|doing| doing.source == Source::Events));
    let session = sessions(&seen)[0];
    assert!(
        session.is_current && session.transcript.as_ref().unwrap().ends_with("-3304a28f.jsonl")
    );
    assert_eq!(session.directory.as_deref(), Some("/home/dev/p1"));
    let over = seen.iter().find_map(|seen| {
        if let Observation::TurnOver { text, .. } = seen { text.as_deref() } else { None }
    });
    assert_eq!(over, Some("Hello from the fake model. Request 29."));
    // Telemetry comes later, and tells nothing that hooks have told.
    let late = telemetry("gemini_cli.user_prompt", json!({"interactive": false}));
    assert_eq!(told(gemini, &mut memory, [late]), []);
}

#[test]
fn a_permission_is_told_by_a_hook_and_its_end_by_the_title() {
    let gemini = adapter("gemini");
    let mut memory = Memory::default();
    let mut signals = hooks("gemini/hook_notification_toolpermission.jsonl");
    let session = "12121212-5555-4555-8555-555555555555";
    signals.insert(
        0,
        hook(json!({"session_id": session, "hook_event_name": "BeforeAgent", "prompt": "go"})),
    );
    let seen = told(gemini, &mut memory, signals);
    let ask = seen
        .iter()
        .find_map(|seen| if let Observation::Asked(asked) = seen { Some(asked) } else { None })
        .unwrap();
    assert_eq!((ask.call.as_deref(), ask.kind), (None, AskKind::Permission));
    assert_eq!((ask.tool.as_str(), ask.text.as_str()), ("exec", "touch /home/dev/p1/gg"));
    assert_eq!(activities(&seen), [Activity::Working, Activity::NeedsPermission]);
    assert_eq!(doings(&seen)[1].question.as_deref(), Some("exec: touch /home/dev/p1/gg"));

    assert_eq!(told(gemini, &mut memory, [title("✋  Action Required (p1)")]), []);
    let seen = told(gemini, &mut memory, [title("✦  Touching (p1)"), title("✦  Working… (p1)")]);
    assert_eq!(activities(&seen), [Activity::Working]);
    assert_eq!(doings(&seen)[0].source, Source::Events);
    // What no hook tells: another question, and that the turn is broken off there.
    let seen = told(gemini, &mut memory, [title("✋  Action Required (p1)")]);
    assert_eq!(activities(&seen), [Activity::NeedsPermission]);
    let seen = told(gemini, &mut memory, [title("◇  Ready (p1)"), title("◇  Ready (p1)")]);
    assert_eq!(activities(&seen), [Activity::Idle]);
    assert!(matches!(seen[0], Observation::TurnOver { .. }) && seen.len() == 2);
}

#[test]
fn without_hooks_the_title_tells() {
    let gemini = adapter("gemini");
    let mut memory = Memory::default();
    let seen = told(
        gemini,
        &mut memory,
        [
            telemetry("gemini_cli.config", json!({"interactive": true, "model": "auto"})),
            title("◇  Ready (p1)"),
            title("✦  Working… (p1)"),
            title("✋  Action Required (p1)"),
            title("⏲  Working… (p1)"),
            title("◇  Ready (p1)"),
            title("Gemini CLI (p1)"),
            title(""),
        ],
    );
    use Activity::{Idle, NeedsPermission, Working};
    assert_eq!(activities(&seen), [Idle, Working, NeedsPermission, Working, Idle]);
    assert!(doings(&seen).iter().all(|doing| doing.source == Source::Screen));
    let over = |seen: &&Observation| matches!(seen, Observation::TurnOver { session, .. } if session == SESSION);
    assert_eq!(seen.iter().filter(over).count(), 1);
    // What is asked its screen says.
    let asks = |seen: &&Observation| matches!(seen, Observation::Asked(asked) if asked.text.is_empty() && asked.call.is_none());
    assert_eq!(seen.iter().filter(asks).count(), 1);
    let keys = [true, false].map(|allow| gemini.answer_keys(&Value::Null, allow));
    assert_eq!(keys, [Some("\r"), Some("\u{1b}")]);

    // A refusal that is older than the title says nothing; a new one does, and the title ends it.
    let refused = |time: &str| {
        telemetry(
            "gemini_cli.api_error",
            json!({"status_code": 429, "error": "Quota exceeded", "interactive": true, "event.timestamp": time}),
        )
    };
    assert_eq!(told(gemini, &mut memory, [refused("2020-01-01T00:00:00Z")]), []);
    let seen = told(gemini, &mut memory, [refused("2099-01-01T00:00:00Z")]);
    assert_eq!(
        (activities(&seen), doings(&seen)[0].source),
        (vec![Activity::RateLimited], Source::Screen)
    );
}

/// A turn that is refused at once has its title painted after that. A title that says something else is news.
#[test]
fn a_title_of_a_turn_that_was_refused_before_it_was_painted_does_not_hide_that() {
    let gemini = adapter("gemini");
    let refused = |seconds: i64| {
        let at = at(-seconds).to_string();
        let told = json!({"status_code": 429, "error": "Quota exceeded", "event.timestamp": at});
        telemetry("gemini_cli.api_error", told)
    };
    for (painted, seconds, is_told) in
        [("✦  Working…", 1, true), ("✦  Working…", 9, false), ("◇  Ready", 1, false)]
    {
        let mut memory = Memory::default();
        // Times are told to the microsecond.
        let at = at(0).checked_add(SignedDuration::from_micros(285)).unwrap();
        let signal = Signal { at, epoch: 1, what: title(painted) };
        gemini.signal(&mut memory, &signal, &place(0));
        let seen = told(gemini, &mut memory, [refused(seconds)]);
        let doings = doings(&seen);
        let limited = doings.iter().find(|doing| doing.activity == Activity::RateLimited);
        assert_eq!(limited.is_some(), is_told, "{painted} {seconds}: {seen:?}");
        // The title does not take it back by being later.
        assert!(limited.is_none_or(|doing| doing.since >= at), "{limited:?}");
    }
}

proptest! {
    #[test]
    fn garbage_is_no_observation_and_no_failure(
        text in ".{0,200}",
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        cut in 0..7000usize,
    ) {
        let gemini = adapter("gemini");
        let mut memory = Memory::default();
        gemini.line(&mut memory, &bytes, &place(0));
        let chat = sample("gemini/chat_resumed_three_times.jsonl");
        let cut = chat.floor_char_boundary(cut.min(chat.len()));
        read(gemini, &mut memory, CHAT, &chat[..cut]);
        for line in [json!({"$set": {"messages": [text, {"tokens": {"input": text}, "id": 1}]}}), json!({"type": "gemini", "id": text, "content": [text], "tokens": {"input": -1, "cached": 1e99}, "toolCalls": {"a": 1}})] {
            gemini.line(&mut memory, line.to_string().as_bytes(), &place(0));
        }
        told(gemini, &mut memory, [
            hook(json!(text)),
            hook(json!({"hook_event_name": "Notification", "session_id": text, "notification_type": "ToolPermission", "details": text})),
            telemetry("gemini_cli.api_response", json!({"role": text, "input_token_count": text})),
            What::Telemetry { record: json!(text) },
            title(&text),
        ]);
        gemini.step(&text);
        gemini.outcome(&text, Some(1));
    }
}
