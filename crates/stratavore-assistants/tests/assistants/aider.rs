//! aider, by its log of analytics and what it prints.

use proptest::prelude::*;
use serde_json::json;
use stratavore_assistants::adapter::{Conversation, Memory, Outcome};
use stratavore_core::activity::Activity;
use stratavore_core::message::Role;
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
        ("aider/aider_an3.jsonl", EXACT, Quality::Exact, 1070, 530),
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

const HISTORY: &str = "/srv/shop/.aider.chat.history.md";

#[test]
fn its_history_says_what_was_said() {
    let aider = adapter("aider");
    let history = sample("aider/chat_history.md");
    let seen = read(aider, &mut Memory::default(), HISTORY, &history);
    let message = |told: &Observation| match told {
        Observation::Message(message) => Some(message.clone()),
        Observation::Session(_)
        | Observation::Usage(_)
        | Observation::Doing(_)
        | Observation::Asked(_)
        | Observation::AskOver { .. }
        | Observation::PromptTaken { .. }
        | Observation::Window(_)
        | Observation::TurnOver { .. } => None,
    };
    let messages: Vec<_> = seen.iter().filter_map(message).collect();
    let asked = messages.iter().filter(|message| message.role == Role::User).count();
    // The last one has five lines.
    assert_eq!((asked, messages.len() - asked), (history.matches("\n#### ").count() - 4, asked));
    let last = &messages[messages.len() - 2];
    assert!(last.text.contains("```\nhello from aider\n```"), "{}", last.text);
    assert_eq!(
        messages[0].text,
        "say hi [[tokens:input=1000,output=500,cache_read=70,reasoning=30]]"
    );
    assert_eq!(messages[0].at.to_string(), "2026-11-21T05:37:29Z");
    assert_eq!(messages[1].text, "Hello from the fake model. Request 67.");
    assert_eq!(messages[1].model.as_deref(), Some("openai/fake-model"));
    let sessions = sessions(&seen);
    assert!(sessions.iter().all(|one| one.session == sessions[0].session));
    assert_eq!(sessions[0].directory.as_deref(), Some("/srv/shop"));
    assert!(ledger(&seen).is_empty(), "its figures are rounded");

    // What is typed to have it end is said to nobody.
    let start = "# aider chat started at 2026-11-21 05:37:29\n\n";
    let ended = format!("{start}#### hi  \n\nhello\n\n> Tokens: 1 sent\n\n#### /exit  \n\n{start}");
    let said = read(aider, &mut Memory::default(), HISTORY, &ended);
    let said: Vec<_> = said.iter().filter_map(message).map(|message| message.text).collect();
    assert_eq!(said, ["hi", "hello"]);

    // The same in two pieces, wherever it is cut.
    let lines: Vec<&str> = history.split_inclusive('\n').collect();
    for cut in 0..lines.len() {
        let (first, second) = (lines[..cut].concat(), lines[cut..].concat());
        let mut memory = Memory::default();
        let mut both = read(aider, &mut memory, HISTORY, &first);
        let memory = serde_json::to_string(&memory).unwrap();
        let mut memory = serde_json::from_str(&memory).unwrap();
        both.extend(read_from(aider, &mut memory, HISTORY, &second, first.len() as u64));
        assert_eq!(both, seen, "cut before line {cut}");
    }
    // Another place is another conversation, and one that does not say when it began is none.
    let other = read(aider, &mut Memory::default(), "/srv/b/.aider.chat.history.md", &history);
    assert_ne!(self::sessions(&other)[0].session, sessions[0].session);
    assert!(read(aider, &mut Memory::default(), HISTORY, "#### hello\n\nhi\n> x\n").is_empty());
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
    let unadorned = aider.outcome("One.\n\nTwo.\nTokens: 1 sent\n", Some(0));
    assert_eq!(unadorned, Outcome::Done { text: "One.\n\nTwo.".into() });
    let done = Outcome::Done { text: "Hello.".into() };
    assert_eq!(aider.outcome(printed, Some(0)), done);
    // As version 0.86.2 prints it, with what its library complains about.
    let printed = "Warning: Input is not a terminal (fd=0).\nHTTPSConnectionPool: Max retries\n\
        Aider v0.86.2\nModel: openai/m with whole edit format\nGit repo: .git with 0 files\n\
        Repo-map: using 1024 tokens, auto refresh\n\nfirst line\n\nsecond line\n\n\
        Tokens: 21k sent, 132 received.\nHTTPSConnectionPool: Max retries\n";
    let done = Outcome::Done { text: "first line\n\nsecond line".into() };
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
