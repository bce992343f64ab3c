//! aider, by its log of analytics and what it prints.

use proptest::prelude::*;
use serde_json::json;
use stratavore_assistants::adapter::{Conversation, Memory, Outcome};
use stratavore_core::activity::Activity;
use stratavore_core::observation::Observation;
use stratavore_core::usage::{Quality, Tokens};

use crate::sample::*;

const EXACT: &str = "/runs/r1/aider-exact-0197a0b0.jsonl";
const ESTIMATED: &str = "/runs/r1/aider-estimated-0197a0b0.jsonl";

#[test]
fn the_log_says_what_was_used() {
    let aider = adapter("aider");
    for (name, file, quality, input, output) in [
        ("aider/aider_an1.jsonl", EXACT, Quality::Exact, 1070, 530),
        ("aider/aider_an2.jsonl", ESTIMATED, Quality::Estimated, 613, 10),
    ] {
        let mut memory = Memory::default();
        let log = sample(name);
        let seen = read(aider, &mut memory, file, &log);
        let once = ledger(&seen);
        assert_eq!(sum(&once), Tokens { input, output, ..Tokens::default() });
        assert!(once.values().all(|usage| usage.quality == quality && usage.session == "0197a0b0"));
        let again = read(aider, &mut memory, file, &log);
        assert_eq!(ledger(seen.iter().chain(&again)), once);
        assert_eq!(sessions(&seen)[0].transcript.as_deref(), Some(file));
        assert_eq!(activities(&seen), [Activity::Working]);
    }
    // Nothing says whose it is.
    let log = sample("aider/aider_an1.jsonl");
    assert!(read(aider, &mut Memory::default(), "/runs/r1/other.jsonl", &log).is_empty());
}

#[test]
fn its_notification_is_the_end_of_a_turn() {
    let body = json!({"hook_event_name": "waits", "session_id": "s1"});
    let seen = told(adapter("aider"), &mut Memory::default(), [hook(body.clone()), hook(body)]);
    assert_eq!(activities(&seen), [Activity::Idle]);
    assert_eq!(sessions(&seen).len(), 1);
    let over = |seen: &&Observation| matches!(seen, Observation::TurnOver { session, .. } if session == "s1");
    assert_eq!(seen.iter().filter(over).count(), 2);
}

#[test]
fn runs_are_started_as_aider_wants_it() {
    let aider = adapter("aider");
    let bare = Asked::new(&["aider", "--model", "m", "a b.txt"]).fresh(aider);
    assert_eq!((bare.argv.join("|"), bare.session), ("aider|--model|m|a b.txt".into(), None));

    let asked = Asked::new(&["aider", "--model", "m"]).observed("/runs/r 1");
    let log = format!("/runs/r 1/aider-exact-{PRESET}.jsonl");
    let started = asked.fresh(aider);
    assert_eq!(started.transcript.as_deref(), Some(std::path::Path::new(&log)));
    assert_eq!(started.session.as_deref(), Some(PRESET));
    let hook = format!(
        "/opt/stratavore-agent hook --body '{{\"hook_event_name\":\"waits\",\"session_id\":\"{PRESET}\"}}'"
    );
    let flags = "--no-stream|--no-show-release-notes|--no-analytics|--analytics-log";
    assert_eq!(
        started.argv.join("|"),
        format!("aider|{flags}|{log}|--notifications|--notifications-command|{hook}|--model|m")
    );

    let headless = Asked::new(&["aider", "--stream", "--notifications-command", "mine"]);
    let resumed = headless.observed("/runs/r1").headless().resumed(aider, "../s 1");
    let log = "/runs/r1/aider-estimated-___s_1.jsonl";
    assert_eq!(
        resumed.argv.join("|"),
        format!(
            "aider|--restore-chat-history|--yes-always|--no-pretty|--no-gitignore|--message-file|/dev/stdin|--no-git|--no-show-release-notes|--no-analytics|--analytics-log|{log}|--stream|--notifications-command|mine"
        )
    );
    // Not said again, and the prompt of one with a screen is somebody's to send.
    let asked = Asked::new(&["aider", "-m", "old", "a.txt", "--msg=older"]).prompt("new");
    let resumed = asked.resumed(aider, "s1");
    assert_eq!(resumed.argv, ["aider", "--restore-chat-history", "a.txt"]);
    assert!(resumed.unsaid && !started.unsaid);

    let fork = Conversation::Fork { session: "s", preset: PRESET };
    assert!(Asked::new(&["aider"]).start(aider, fork).is_err());
}

#[test]
fn its_end_is_told_by_what_it_prints() {
    let aider = adapter("aider");
    let printed = "Aider v0.86.2\n\nHello.\n\nTokens: 1.1k sent, 530 received.\n";
    let done = Outcome::Done { text: printed.trim().into() };
    assert_eq!(aider.outcome(printed, Some(0)), done);
    assert_eq!(aider.outcome(printed, Some(143)), Outcome::Cut);
    assert_eq!(aider.outcome("Aider v0.86.2\n", Some(0)), Outcome::Cut);
    let refused =
        |why: &str| aider.outcome(&format!("{why}\nThe API provider is not able\n"), Some(0));
    let why = "litellm.RateLimitError: slow down".to_owned();
    assert_eq!(refused(&why), Outcome::RateLimited { why });
    let why = "litellm.AuthenticationError: no".to_owned();
    assert_eq!(refused(&why), Outcome::Failed { why });
    let failed = Outcome::Failed { why: "exit 2: aider: error: unrecognized arguments".into() };
    assert_eq!(aider.outcome("aider: error: unrecognized arguments\n", Some(2)), failed);
}

proptest! {
    #[test]
    fn garbage_is_no_observation_and_no_failure(
        text in ".{0,200}",
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        time in any::<i64>(),
    ) {
        let aider = adapter("aider");
        let mut memory = Memory::default();
        read(aider, &mut memory, EXACT, &text);
        aider.line(&mut memory, &bytes, &place(0));
        let line = json!({"event": "message_send", "time": time, "properties": {"prompt_tokens": text, "cost": "x"}});
        read(aider, &mut memory, EXACT, &line.to_string());
        told(aider, &mut memory, [hook(json!(text)), title(&text)]);
        aider.step(&text);
        aider.outcome(&text, Some(0));
    }
}
