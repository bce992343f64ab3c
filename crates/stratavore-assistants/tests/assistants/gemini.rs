//! Gemini CLI, by its transcripts, telemetry, hooks, title and output.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use stratavore_assistants::AssistantError;
use stratavore_assistants::adapter::{Conversation, Memory, OTLP, Outcome, Step};
use stratavore_core::activity::{Activity, Source};
use stratavore_core::observation::{AskKind, LineageKind, Observation};
use stratavore_core::signal::What;
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
    // What no hook tells.
    let seen = told(gemini, &mut memory, [title("✋  Action Required (p1)")]);
    assert_eq!(activities(&seen), [Activity::NeedsPermission]);
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

#[test]
fn runs_are_started_as_gemini_wants_it() {
    let gemini = adapter("gemini");
    let asked = Asked::new(&["gemini", "-m", "x"]);
    let bare = asked.fresh(gemini);
    assert_eq!((bare.argv.join("|"), bare.session), ("gemini|-m|x".into(), None));
    assert!(bare.env.is_empty() && bare.files.is_empty() && !bare.watch_title);

    let asked = Asked::new(&["gemini", "-m", "x"]).observed("/nowhere").prompt("-do it");
    let started = asked.fresh(gemini);
    let expected =
        format!("gemini|--session-id|{PRESET}|--prompt-interactive=-do it|--skip-trust|-m|x");
    assert_eq!((started.argv.join("|"), started.watch_title), (expected, true));
    assert_eq!(started.session.as_deref(), Some(PRESET));
    assert_eq!(started.env["GEMINI_TELEMETRY_OTLP_ENDPOINT"], OTLP);
    assert_eq!(started.env["GEMINI_TELEMETRY_LOG_PROMPTS"], "false");
    // Not a directory that root owns, so it would be ignored with a warning.
    assert!(
        !started.env.contains_key("GEMINI_CLI_SYSTEM_DEFAULTS_PATH") && started.files.is_empty()
    );

    let asked =
        Asked::new(&["gemini", "-o", "text", "-m", "x", "--resume=old", "-i", "old prompt"]);
    let asked = asked.observed("/nowhere").headless().prompt("by its input");
    assert_eq!(
        asked.resumed(gemini, SESSION).argv.join("|"),
        format!("gemini|--output-format|stream-json|--resume|{SESSION}|--skip-trust|-m|x")
    );
    // Somebody resumes one by himself.
    assert_eq!(asked.fresh(gemini).session, None);
    let named = Asked::new(&["gemini", "--session-id", "mine"]).observed("/nowhere").fresh(gemini);
    assert_eq!((named.argv.len(), named.session.as_deref()), (4, Some("mine")));

    let fork = Conversation::Fork { session: SESSION, preset: PRESET };
    let refused = asked.start(gemini, fork).unwrap_err();
    assert!(matches!(refused, AssistantError::CannotFork { .. }));
    assert!(!gemini.proves().fork && refused.to_string().contains("Gemini CLI"));
}

#[test]
fn the_users_own_receiver_of_telemetry_stays() {
    let mut asked = Asked::new(&["gemini"]).observed("/nowhere");
    asked.env.insert("OTEL_EXPORTER_OTLP_ENDPOINT".into(), "http://mine".into());
    assert!(asked.fresh(adapter("gemini")).env.is_empty());
}

#[test]
fn the_output_of_a_run_tells_its_steps_and_its_end() {
    let gemini = adapter("gemini");
    let output = sample("gemini/stream_json_tools.jsonl");
    let done = Outcome::Done { text: "Hello from the fake model. Request 3.".into() };
    assert_eq!(gemini.outcome(&output, Some(0)), done);
    let steps: Vec<_> = output.lines().flat_map(|line| gemini.step(line)).collect();
    assert_eq!(steps[0], Step::Session { session: "55555555-5555-4555-8555-555555555555".into() });
    assert_eq!(steps[1], Step::Text { text: "I will".into() });
    let tool =
        Step::Tool { tool: "run_shell_command".into(), text: r#"{"command":"echo hi-gm"}"#.into() };
    assert_eq!(steps[2], tool);
    let lines: Vec<_> = output.lines().collect();
    for end in 0..lines.len() {
        assert_eq!(gemini.outcome(&lines[..end].join("\n"), Some(0)), Outcome::Cut, "{end}");
    }
    let ended = |error: Value, exit| {
        let result = json!({"type": "result", "status": "error", "error": error});
        gemini.outcome(&result.to_string(), Some(exit))
    };
    let failed = ended(json!({"type": "ApiError", "message": "bad request"}), 144);
    assert_eq!(failed, Outcome::Failed { why: "ApiError: bad request".into() });
    let limited = ended(json!({"type": "ApiError", "message": "RESOURCE_EXHAUSTED"}), 144);
    assert!(matches!(limited, Outcome::RateLimited { .. }));
    let turns = ended(json!({"type": "FatalTurnLimitedError", "message": "x"}), 53);
    assert_eq!(turns, Outcome::LimitReached { what: "turns".into() });
    assert_eq!(gemini.outcome("", Some(41)), Outcome::Failed { why: "exit 41".into() });
    assert_eq!(gemini.outcome("", Some(143)), Outcome::Cut);
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
