//! Its transcripts: what was used, what was said, and in which conversation.

use proptest::prelude::*;
use stratavore_assistants::adapter::Memory;
use stratavore_core::activity::{Activity, Source};
use stratavore_core::message::{Place, Role};
use stratavore_core::observation::{LineageKind, Observation};
use stratavore_core::usage::{Purpose, Quality, Tokens};

use crate::reading::{
    assert_same_from_any_offset, doings, ledger, messages, of, read, read_sample, sample, sessions,
    sum,
};

const TRANSCRIPTS: [&str; 5] = [
    "claude/transcript_print_resumed.jsonl",
    "claude/transcript_fork.jsonl",
    "claude/transcript_interactive_interrupts.jsonl",
    "claude/transcript_after_clear_compacted.jsonl",
    "claude/subagents/agent-a45c3b24906daa884.jsonl",
];

#[test]
fn every_token_is_counted_once_over_parts_resumes_and_forks() {
    let one = |path: &str| sum(&ledger(&read_sample("claude", path))).total();
    // As the server that answered them had billed.
    assert_eq!(TRANSCRIPTS.map(one), [6_785, 6_788, 86_098, 64_495, 22]);

    let all: Vec<Observation> =
        TRANSCRIPTS.iter().flat_map(|path| read_sample("claude", path)).collect();
    let rows = ledger(&all);
    let exact = rows.values().filter(|row| row.quality == Quality::Exact).count();
    assert_eq!((exact, sum(&rows).total()), (20, 157_403));
    assert_eq!(
        sum(&rows),
        Tokens {
            input: 7_206,
            output: 1_538,
            cache_read: 146_200,
            cache_write: 2_454,
            cache_write_1h: 5,
            reasoning: 0,
        }
    );
    // What the caution is for: told as often as there are parts and copies, it would be more.
    let told: u64 = all
        .iter()
        .map(|seen| if let Observation::Usage(row) = seen { row.tokens.total() } else { 0 })
        .sum();
    assert!(told > 157_403, "{told}");
}

#[test]
fn a_request_has_its_names_and_what_it_was_for() {
    let rows = ledger(&read_sample("claude", TRANSCRIPTS[0]));
    let row = &rows["req_fake000004"];
    assert_eq!(row.request_id.as_deref(), Some("req_fake000004"));
    assert_eq!(row.message_id.as_deref(), Some("msg_fake000004"));
    assert_eq!((row.model.as_str(), row.purpose), ("claude-opus-4-8", Purpose::Main));
    assert_eq!(row.session, "11111111-1111-4111-8111-111111111111");
    assert_eq!((row.tokens.cache_read, row.tokens.output), (1_000, 500));

    let rows = ledger(&read_sample("claude", TRANSCRIPTS[4]));
    assert!(rows.values().all(|row| row.purpose == Purpose::Subagent));
    assert!(rows.values().all(|row| row.session == "33333333-3333-4333-8333-333333333333"));
}

#[test]
fn what_was_cut_short_is_lost_and_what_was_stopped_afterwards_is_not() {
    let rows = ledger(&read_sample("claude", TRANSCRIPTS[2]));
    let lost: Vec<&str> = rows
        .values()
        .filter(|row| row.quality == Quality::Lost)
        .map(|row| row.key.as_str())
        .collect();
    // Of 14, whose tool was stopped, there is a record.
    assert_eq!(lost, ["msg_fake000013"]);
    assert!(rows["msg_fake000013"].tokens.is_zero());
    assert_eq!(rows["req_fake000014"].quality, Quality::Exact);
}

#[test]
fn a_reply_that_was_broken_off_is_no_exact_figure() {
    let line = br#"{"type":"assistant","uuid":"u","sessionId":"s","timestamp":"2026-11-21T04:16:53Z","requestId":"req_1",
        "message":{"id":"msg_1","model":"m","stop_reason":null,"content":[],
        "usage":{"input_tokens":7,"output_tokens":1,"cache_creation_input_tokens":4,"cache_creation":{"ephemeral_1h_input_tokens":3}}}}"#;
    let line: Vec<u8> = line.iter().copied().filter(|byte| *byte != b'\n').collect();
    let rows = ledger(&read(of("claude"), "f", &line));
    assert_eq!(rows["req_1"].quality, Quality::Estimated);
    assert_eq!((rows["req_1"].tokens.cache_write, rows["req_1"].tokens.cache_write_1h), (1, 3));
}

#[test]
fn a_copy_without_its_figures_does_not_take_the_place_of_the_original() {
    let line = |session: &str, tokens: u64| {
        format!(
            r#"{{"type":"assistant","uuid":"u","sessionId":"{session}","timestamp":"2026-11-29T14:27:00Z","requestId":"req_2","message":{{"id":"msg_2","model":"m","stop_reason":"end_turn","content":[],"usage":{{"input_tokens":{tokens},"output_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0}}}}}}"#
        )
    };
    let original = read(of("claude"), "f", line("a", 102).as_bytes());
    let copy = read(of("claude"), "g", line("b", 0).as_bytes());
    assert!(ledger(&copy).is_empty());
    assert_eq!(ledger(&[original, copy].concat())["req_2"].tokens.input, 102);
}

#[test]
fn without_a_request_the_message_is_the_key() {
    let line = br#"{"type":"assistant","sessionId":"s","timestamp":"2026-11-21T04:16:53Z","message":{"id":"msg_1","model":"m","stop_reason":"end_turn","usage":{"input_tokens":7}}}"#;
    assert!(ledger(&read(of("claude"), "f", line)).contains_key("msg_1"));
}

#[test]
fn a_branch_says_whose_its_first_lines_are() {
    let line = br#"{"type":"assistant","uuid":"u","sessionId":"branch","forkedFrom":{"sessionId":"trunk","messageUuid":"u0"},"timestamp":"2026-11-21T04:16:53Z","requestId":"req_1","message":{"id":"msg_1","model":"m","stop_reason":"end_turn","content":[],"usage":{"input_tokens":7}}}"#;
    let seen = read(of("claude"), "f", line);
    assert_eq!(ledger(&seen)["req_1"].session, "trunk");
    let lineage = sessions(&seen)[0].lineage.clone().unwrap();
    assert_eq!((lineage.parent.as_str(), lineage.kind), ("trunk", LineageKind::Forked));
}

#[test]
fn conversations_are_told_with_their_title_model_and_place() {
    let seen = read_sample("claude", TRANSCRIPTS[2]);
    let sessions = sessions(&seen);
    assert!(sessions.iter().all(|seen| seen.session == "33333333-3333-4333-8333-333333333333"));
    assert!(sessions.iter().all(|seen| !seen.is_current));
    let told = |what: fn(&stratavore_core::observation::SessionSeen) -> Option<String>| {
        sessions.iter().filter_map(|session| what(session)).collect::<Vec<_>>()
    };
    assert_eq!(told(|session| session.title.clone()), ["stratavore-test"]);
    assert_eq!(told(|session| session.directory.clone()), ["/home/dev/p1"]);
    assert_eq!(told(|session| session.model.clone()), ["claude-opus-4-8"]);
    assert_eq!(sessions[0].transcript.as_deref(), Some(TRANSCRIPTS[2]));
    // A subagent's file is not the conversation's.
    assert!(crate::reading::sessions(&read_sample("claude", TRANSCRIPTS[4])).is_empty());
}

#[test]
fn what_was_said_is_found_by_who_said_it() {
    let seen = read_sample("claude", TRANSCRIPTS[0]);
    let said: Vec<(Role, &str)> = messages(&seen)
        .iter()
        .map(|message| (message.role, message.text.split("[[").next().unwrap().trim()))
        .collect();
    assert_eq!(
        said[..7],
        [
            (Role::User, "do it"),
            (Role::Assistant, "I will run two things."),
            (
                Role::Tool,
                r#"Bash {"command":"echo hi-from-tool","description":"scripted command"}"#
            ),
            (Role::Tool, "hi-from-tool"),
            (Role::Tool, r#"Write {"file_path":"/home/dev/p1/out.txt","content":"some content"}"#),
            (
                Role::Tool,
                "File created successfully at: /home/dev/p1/out.txt (file state is current in your context — no need to Read it back)"
            ),
            (Role::Assistant, "Hello from the fake model. Request 6."),
        ]
    );
    let ids: std::collections::BTreeSet<&str> =
        messages(&seen).iter().map(|message| message.id.as_str()).collect();
    assert_eq!(ids.len(), messages(&seen).len(), "ids are unique");
}

#[test]
fn what_the_program_put_where_a_user_speaks_is_not_said_by_the_user() {
    let seen = read_sample("claude", TRANSCRIPTS[3]);
    let users: Vec<&str> = messages(&seen)
        .iter()
        .filter(|message| message.role == Role::User)
        .map(|message| message.text.split(" [[").next().unwrap())
        .collect();
    assert_eq!(users, ["/clear", "after clear", "/compact", "m2", "m3", "m4", "/compact"]);
    let prompts: Vec<&str> = seen
        .iter()
        .filter_map(|seen| {
            if let Observation::PromptTaken { text, .. } = seen { Some(text) } else { None }
        })
        .map(|text| text.split(" [[").next().unwrap())
        .collect();
    assert_eq!(prompts, users);
    // All that a subagent said is what came of a tool.
    let seen = read_sample("claude", TRANSCRIPTS[4]);
    assert!(!messages(&seen).is_empty());
    assert!(messages(&seen).iter().all(|message| message.role == Role::Tool));
    assert!(doings(&seen).is_empty());
}

#[test]
fn a_prompt_that_was_typed_while_it_worked_is_told() {
    let line = |mode: &str| {
        format!(
            r#"{{"type":"attachment","uuid":"u","sessionId":"s","timestamp":"2026-11-29T14:25:18.571Z","attachment":{{"type":"queued_command","prompt":"typed while busy","commandMode":"{mode}","origin":{{"kind":"human"}}}}}}"#
        )
    };
    let seen = read(of("claude"), "f", line("prompt").as_bytes());
    assert_eq!(messages(&seen)[0].text, "typed while busy");
    let prompts =
        seen.iter().filter(|seen| matches!(seen, Observation::PromptTaken { .. })).count();
    assert_eq!(prompts, 1);
    let seen = read(of("claude"), "f", line("task-notification").as_bytes());
    assert!(messages(&seen).is_empty());
}

#[test]
fn turns_end_and_interrupts_are_told() {
    let seen = read_sample("claude", TRANSCRIPTS[2]);
    let turns: Vec<(Option<&str>, Option<&str>)> = seen
        .iter()
        .filter_map(|seen| {
            if let Observation::TurnOver { text, failure, .. } = seen {
                Some((text.as_deref(), failure.as_deref()))
            } else {
                None
            }
        })
        .collect();
    assert_eq!(
        turns,
        [
            (Some("Hello from the fake model. Request 11."), None),
            (None, Some("Request interrupted by user")),
            (None, Some("Request interrupted by user for tool use")),
            (Some("Hello from the fake model. Request 16."), None),
            (None, Some("Request interrupted by user for tool use")),
            (Some("Hello from the fake model. Request 21."), None),
        ]
    );
    let interrupts: Vec<_> =
        doings(&seen).into_iter().filter(|doing| doing.signal == "interrupted").collect();
    assert_eq!(interrupts.len(), 3);
    assert!(interrupts.iter().all(|doing| doing.activity == Activity::Idle));
    assert!(doings(&seen).iter().all(|doing| doing.source == Source::Transcript));
}

#[test]
fn a_limit_in_place_of_a_reply_is_told_with_its_end() {
    let line = br#"{"type":"assistant","uuid":"u","sessionId":"s","timestamp":"2026-11-21T04:16:53Z","isApiErrorMessage":true,"error":"rate_limit","message":{"id":"x","model":"<synthetic>","stop_reason":"stop_sequence","content":[{"type":"text","text":"You've hit your session limit \u00b7 resets 7am (UTC)"}],"usage":{"input_tokens":0}}}"#;
    let seen = read(of("claude"), "f", line);
    let doing = doings(&seen)[0];
    assert_eq!(doing.activity, Activity::RateLimited);
    assert_eq!(doing.resets_at, Some("2026-11-21T07:00:00Z".parse().unwrap()));
    assert!(ledger(&seen).is_empty());
}

#[test]
fn reading_goes_on_from_anywhere() {
    for path in TRANSCRIPTS {
        assert_same_from_any_offset("claude", path);
    }
}

#[test]
fn no_line_makes_it_fail() {
    let adapter = of("claude");
    let place = Place { file: "f".into(), offset: 0 };
    for line in [
        &b""[..],
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        br#"{"type":"assistant"}"#,
        br#"{"type":"assistant","timestamp":"x","sessionId":1}"#,
        br#"{"type":"user","timestamp":"2026-11-21T04:16:53Z","sessionId":"s","message":{"content":7}}"#,
        br#"{"type":"user","timestamp":"2026-11-21T04:16:53Z","sessionId":"s","message":{"content":{"a":[1]}}}"#,
        br#"{"type":"assistant","timestamp":"2026-11-21T04:16:53Z","sessionId":"s","message":{"usage":{"input_tokens":18446744073709551615,"output_tokens":18446744073709551615,"cache_creation":{"ephemeral_1h_input_tokens":9}},"id":"m","content":[{},{"type":"text"},{"type":"tool_use"}]}}"#,
    ] {
        let seen = adapter.line(&mut Memory::default(), line, &place);
        assert!(seen.len() < 3, "{}", String::from_utf8_lossy(line));
    }
}

proptest! {
    #[test]
    fn cut_and_spoilt_lines_tell_something_or_nothing(
        which in 0..TRANSCRIPTS.len(),
        nth in any::<proptest::sample::Index>(),
        cut in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
        garbage in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = sample(TRANSCRIPTS[which]);
        let lines = crate::reading::lines(&bytes);
        let (offset, line) = lines[nth.index(lines.len())];
        let place = Place { file: "f".into(), offset };
        let adapter = of("claude");
        let mut spoilt = line.to_vec();
        spoilt[cut.index(line.len())] = byte;
        for line in [&line[..cut.index(line.len())], &spoilt, &garbage] {
            let mut memory = Memory::default();
            let seen = adapter.line(&mut memory, line, &place);
            prop_assert!(seen.len() < 16);
        }
    }
}
