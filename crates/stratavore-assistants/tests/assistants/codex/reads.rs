//! Its rollouts: what was used, what was said, and in which conversation.

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

const RESUMED: &str = "codex/rollout_resumed_3_turns.jsonl";
const FORK: &str = "codex/rollout_fork.jsonl";
const ROOT: &str = "01a1fc78-ad30-7b21-8fbd-03156962f393";

/// A rollout of lines of these kinds and payloads, a second apart.
fn rollout(lines: &[(&str, &str)]) -> Vec<u8> {
    let line = |(nth, (kind, payload)): (usize, &(&str, &str))| {
        format!(
            r#"{{"timestamp":"2026-11-21T04:00:{nth:02}Z","type":"{kind}","payload":{payload}}}"#
        ) + "\n"
    };
    lines.iter().enumerate().map(line).collect::<String>().into_bytes()
}

#[test]
fn every_token_is_counted_once_over_resumes_and_forks() {
    let seen = read_sample("codex", RESUMED);
    let rows = ledger(&seen);
    assert_eq!((rows.len(), sum(&rows).total()), (5, 1_189));
    // Of the fork what it did itself; its running totals go on from the parent's.
    let fork = ledger(&read_sample("codex", FORK));
    assert_eq!((fork.len(), sum(&fork).total()), (1, 5));
    assert!(fork.keys().all(|key| !rows.contains_key(key)));
    assert_eq!(
        rows["resp_fake000001"].tokens,
        Tokens {
            input: 10,
            output: 5,
            cache_read: 7,
            cache_write: 3,
            cache_write_1h: 0,
            reasoning: 2,
        }
    );
    assert!(rows.values().all(|row| row.quality == Quality::Exact && row.session == ROOT));
    assert!(rows.values().all(|row| row.model == "gpt-5-codex" && row.purpose == Purpose::Main));
}

#[test]
fn conversations_are_told_with_where_they_come_from() {
    let seen = read_sample("codex", RESUMED);
    let directories: Vec<&str> =
        sessions(&seen).iter().filter_map(|session| session.directory.as_deref()).collect();
    // It was resumed elsewhere.
    assert_eq!(directories, ["/home/dev/p1", "/home/dev/p2"]);
    assert!(sessions(&seen).iter().all(|session| session.session == ROOT && !session.is_current));
    let seen = read_sample("codex", FORK);
    let lineage = sessions(&seen)[0].lineage.clone().unwrap();
    assert_eq!((lineage.parent.as_str(), lineage.kind), (ROOT, LineageKind::Forked));
}

#[test]
fn what_was_said_is_found_by_who_said_it() {
    let seen = read_sample("codex", RESUMED);
    let said: Vec<(Role, &str)> = messages(&seen)
        .iter()
        .map(|message| (message.role, message.text.split([' ', '\n']).next().unwrap()))
        .collect();
    assert_eq!(
        said,
        [
            (Role::User, "do"),
            (Role::Assistant, "I"),
            (Role::Tool, "exec_command"),
            (Role::Tool, "Chunk"),
            (Role::Tool, "exec_command"),
            (Role::Tool, "Chunk"),
            (Role::Assistant, "Hello"),
            (Role::User, "again"),
            (Role::Assistant, "Hello"),
            (Role::User, "again2"),
            (Role::Assistant, "Hello"),
        ]
    );
    let tool = messages(&seen)[2].text.as_str();
    assert_eq!(tool, r#"exec_command {"cmd": "echo hi-codex"}"#);
    let ids: std::collections::BTreeSet<&str> =
        messages(&seen).iter().map(|message| message.id.as_str()).collect();
    assert_eq!(ids.len(), said.len(), "ids are unique");
    let prompts =
        seen.iter().filter(|seen| matches!(seen, Observation::PromptTaken { .. })).count();
    assert_eq!(prompts, 3);
    let activities: Vec<Activity> = doings(&seen).iter().map(|doing| doing.activity).collect();
    assert_eq!(activities, [Activity::Working, Activity::Idle].repeat(3));
    // What was so before the program was started is no news of it: that is asked of transcripts alone.
    assert!(doings(&seen).iter().all(|doing| doing.source == Source::Transcript));
}

#[test]
fn an_interrupt_is_told_and_what_was_under_way_is_lost() {
    let start = ("session_meta", r#"{"id":"t","session_id":"t","cwd":"/p"}"#);
    let begin = ("event_msg", r#"{"type":"task_started","turn_id":"turn"}"#);
    let abort = ("event_msg", r#"{"type":"turn_aborted","turn_id":"turn","reason":"interrupted"}"#);
    let record = (
        "token_usage_record",
        r#"{"thread_id":"t","session_id":"t","response_id":"r","usage":{"input_tokens":5,"output_tokens":1}}"#,
    );
    let lost = |lines: &[(&str, &str)]| {
        let seen = read(of("codex"), "f", &rollout(lines));
        let last = doings(&seen).last().copied().cloned().unwrap();
        assert_eq!((last.activity, last.source), (Activity::Idle, Source::Transcript));
        ledger(&seen).values().filter(|row| row.quality == Quality::Lost).count()
    };
    assert_eq!(lost(&[start, begin, abort]), 1);
    // A tool was stopped, not a response.
    assert_eq!(lost(&[start, begin, record, abort]), 0);
    let aborted = (
        "response_item",
        r#"{"type":"function_call_output","call_id":"c","output":"aborted by user after 2.0s"}"#,
    );
    assert_eq!(lost(&[start, begin, record, aborted, abort]), 0);
    let output =
        ("response_item", r#"{"type":"function_call_output","call_id":"c","output":"done"}"#);
    assert_eq!(lost(&[start, begin, record, output, abort]), 1);
}

#[test]
fn a_subagents_work_is_its_parents() {
    let seen = read(
        of("codex"),
        "f",
        &rollout(&[
            (
                "session_meta",
                r#"{"id":"child","session_id":"root","parent_thread_id":"root","source":{"subagent":{}}}"#,
            ),
            ("event_msg", r#"{"type":"task_started","turn_id":"t"}"#),
            (
                "token_usage_record",
                r#"{"thread_id":"child","session_id":"root","response_id":"r","usage":{"input_tokens":5}}"#,
            ),
        ]),
    );
    let lineage = sessions(&seen)[0].lineage.clone().unwrap();
    assert_eq!((lineage.parent.as_str(), lineage.kind), ("root", LineageKind::Subagent));
    assert!(doings(&seen).is_empty());
    let row = &ledger(&seen)["r"];
    assert_eq!((row.session.as_str(), row.purpose), ("root", Purpose::Subagent));
}

#[test]
fn older_rollouts_are_counted_by_their_totals() {
    let start = ("session_meta", r#"{"id":"t","cwd":"/p","forked_from_id":null}"#);
    let count = |total: u64, last: u64| {
        format!(
            r#"{{"type":"token_count","info":{{"total_token_usage":{{"input_tokens":{total},"output_tokens":2}},"last_token_usage":{{"input_tokens":{last},"cached_input_tokens":1,"output_tokens":1}}}},"rate_limits":null}}"#
        )
    };
    let (first, second) = (count(10, 10), count(25, 15));
    let null = r#"{"type":"token_count","info":null}"#;
    let lines = [
        start,
        ("event_msg", null),
        ("event_msg", &first),
        // Told again, with nothing new.
        ("event_msg", &first),
        ("event_msg", &second),
    ];
    let parent = read(of("codex"), "f", &rollout(&lines));
    assert_eq!(sum(&ledger(&parent)).total(), 27);
    // A fork that copied them, with the parent's first line behind its own.
    let fork = ("session_meta", r#"{"id":"t2","cwd":"/p","forked_from_id":"t"}"#);
    let copied = [&[fork], &lines[..]].concat();
    let fork = read(of("codex"), "g", &rollout(&copied));
    assert!(sessions(&fork).iter().all(|session| session.session == "t2"));
    let all = [parent, fork].concat();
    assert_eq!(sum(&ledger(&all)).total(), 27);
}

#[test]
fn windows_are_told_with_their_ends() {
    let limits = r#"{"type":"token_count","info":null,"rate_limits":{"limit_id":"codex",
        "primary":{"used_percent":100.0,"window_minutes":300,"resets_at":1795240000},
        "secondary":{"used_percent":31.5,"window_minutes":10080,"resets_in_seconds":60},
        "rate_limit_reached_type":"primary"}}"#
        .replace('\n', "");
    let seen = read(of("codex"), "f", &rollout(&[("event_msg", &limits)]));
    let windows: Vec<(&str, f64, Option<u64>, Option<i64>)> = seen
        .iter()
        .filter_map(|seen| if let Observation::Window(window) = seen { Some(window) } else { None })
        .map(|window| {
            let resets = window.resets_at.map(|time| time.as_second());
            (window.name.as_str(), window.used_percent, window.window_minutes, resets)
        })
        .collect();
    let now = "2026-11-21T04:00:00Z".parse::<jiff::Timestamp>().unwrap().as_second();
    assert_eq!(
        windows,
        [
            ("primary", 100.0, Some(300), Some(1_795_240_000)),
            ("secondary", 31.5, Some(10_080), Some(now + 60)),
        ]
    );
    let doing = doings(&seen)[0];
    assert_eq!(doing.activity, Activity::RateLimited);
    assert_eq!(doing.resets_at.map(|time| time.as_second()), Some(1_795_240_000));
}

#[test]
fn a_turn_that_failed_is_told_with_why_and_until_when() {
    let start = ("session_meta", r#"{"id":"t","session_id":"t","cwd":"/p"}"#);
    let begin = ("event_msg", r#"{"type":"task_started","turn_id":"turn"}"#);
    let used_up = (
        "event_msg",
        r#"{"type":"token_count","info":null,"rate_limits":{"primary":{"used_percent":100.0,"resets_at":1795964905}}}"#,
    );
    let failed = |why: &str| {
        format!(
            r#"{{"type":"task_complete","turn_id":"turn","last_agent_message":null,"error":{{"message":"{why}","codex_error_info":"x"}}}}"#
        )
    };
    let limit = failed("You\u{2019}ve hit your usage limit. Try again later.");
    let seen = read(of("codex"), "f", &rollout(&[start, begin, used_up, ("event_msg", &limit)]));
    let doing = *doings(&seen).last().unwrap();
    assert_eq!(doing.activity, Activity::RateLimited);
    assert_eq!(doing.resets_at.map(|time| time.as_second()), Some(1_795_964_905));
    assert!(ledger(&seen).is_empty(), "what was refused was not billed");
    let other = failed("stream disconnected");
    let seen = read(of("codex"), "f", &rollout(&[start, begin, ("event_msg", &other)]));
    assert_eq!(doings(&seen).last().unwrap().activity, Activity::Idle);
    let failures: Vec<&str> = seen
        .iter()
        .filter_map(|seen| {
            if let Observation::TurnOver { failure, .. } = seen { failure.as_deref() } else { None }
        })
        .collect();
    assert_eq!(failures, ["stream disconnected"]);
}

#[test]
fn reading_goes_on_from_anywhere() {
    for path in [RESUMED, FORK] {
        assert_same_from_any_offset("codex", path);
    }
}

proptest! {
    #[test]
    fn cut_and_spoilt_lines_tell_something_or_nothing(
        nth in any::<proptest::sample::Index>(),
        cut in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
        garbage in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = sample(RESUMED);
        let lines = crate::reading::lines(&bytes);
        let (offset, line) = lines[nth.index(lines.len())];
        let place = Place { file: "f".into(), offset };
        let adapter = of("codex");
        let mut spoilt = line.to_vec();
        spoilt[cut.index(line.len())] = byte;
        for line in [&line[..cut.index(line.len())], &spoilt, &garbage] {
            let seen = adapter.line(&mut Memory::default(), line, &place);
            prop_assert!(seen.len() < 16);
        }
    }
}
