//! How Gemini is started, and what a run of it prints.

use serde_json::{Value, json};
use stratavore_assistants::AssistantError;
use stratavore_assistants::adapter::{Conversation, Headless, Mode, OTLP, Outcome, Step};

use super::SESSION;
use crate::sample::*;

#[test]
fn runs_are_started_as_gemini_wants_it() {
    let gemini = adapter("gemini");
    let asked = Asked::new(&["gemini", "-m", "x"]);
    let bare = asked.fresh(gemini);
    assert_eq!((bare.argv.join("|"), bare.session), ("gemini|-m|x".into(), None));
    assert!(bare.env.is_empty() && bare.files.is_empty() && !bare.watch_title);

    let asked = Asked::new(&["gemini", "-m", "x"]).observed("/tmp/r1").prompt("-do it");
    let started = asked.fresh(gemini);
    let expected =
        format!("gemini|--session-id|{PRESET}|--prompt-interactive=-do it|--skip-trust|-m|x");
    assert_eq!((started.argv.join("|"), started.watch_title), (expected, true));
    assert_eq!(started.session.as_deref(), Some(PRESET));
    assert_eq!(started.env["GEMINI_TELEMETRY_OTLP_ENDPOINT"], OTLP);
    assert_eq!(started.env["GEMINI_TELEMETRY_LOG_PROMPTS"], "false");
    // Others can write there, so it would be ignored with a warning.
    assert!(
        !started.env.contains_key("GEMINI_CLI_SYSTEM_DEFAULTS_PATH") && started.files.is_empty()
    );

    let asked =
        Asked::new(&["gemini", "-o", "text", "-m", "x", "--resume=old", "-i", "old prompt"]);
    let asked = asked.observed("/tmp/r1").headless().prompt("by its input");
    assert_eq!(
        asked.resumed(gemini, SESSION).argv.join("|"),
        format!("gemini|--output-format|stream-json|--resume|{SESSION}|--skip-trust|-m|x")
    );
    // Somebody resumes one by himself.
    assert_eq!(asked.fresh(gemini).session, None);
    let named = Asked::new(&["gemini", "--session-id", "mine"]).observed("/tmp/r1").fresh(gemini);
    assert_eq!((named.argv.len(), named.session.as_deref()), (4, Some("mine")));

    // A prompt is not said again, whichever way it was given; options keep their values.
    let args = ["gemini", "-e", "ext", "-y", "fix it", "--policy=a", "-p", "x", "--", "and it"];
    let asked = Asked::new(&args).observed("/tmp/r1");
    assert_eq!(
        asked.resumed(gemini, SESSION).argv.join("|"),
        format!("gemini|--resume|{SESSION}|--skip-trust|-e|ext|-y|--policy=a|--")
    );
    // No conversation at all.
    for args in [["gemini", "mcp", "list"], ["gemini", "-d", "--list-sessions"]] {
        let started = Asked::new(&args).observed("/tmp/r1").fresh(gemini);
        assert_eq!((started.argv.join("|"), started.env.len()), (args.join("|"), 0));
    }

    let fork = Conversation::Fork { session: SESSION, preset: PRESET };
    let refused = asked.start(gemini, fork).unwrap_err();
    assert!(matches!(refused, AssistantError::CannotFork { .. }));
    assert!(!gemini.proves().fork && refused.to_string().contains("Gemini CLI"));
}

#[test]
fn its_question_for_a_permission_is_answered_by_keys() {
    let gemini = adapter("gemini");
    let keys = |kind: &str, allow| {
        let body = json!({"notification_type": "ToolPermission", "details": {"type": kind}});
        gemini.answer_keys(&body, allow)
    };
    assert_eq!((keys("exec", true), keys("exec", false)), (Some("\r"), Some("\u{1b}")));
    assert_eq!((keys("ask_user", true), keys("ask_user", false)), (None, None));
    assert_eq!(gemini.answer_keys(&json!({"hook_event_name": "AfterAgent"}), true), None);
}

#[test]
fn hooks_are_injected_where_gemini_takes_them() {
    let gemini = adapter("gemini");
    let variable = "GEMINI_CLI_SYSTEM_DEFAULTS_PATH";
    // Root owns it, and nobody else can write into it.
    let mut asked = Asked::new(&["gemini"]).observed("/usr/not/there/yet").headless();
    asked.mode = Mode::Headless(Headless { max_turns: Some(7), max_cost: None, item: None });
    let started = asked.fresh(gemini);
    assert_eq!(started.env[variable], "/usr/not/there/yet/gemini-defaults.json");
    let (name, content) = &started.files[0];
    assert_eq!(name, "gemini-defaults.json");
    let defaults: Value = serde_json::from_str(content).unwrap();
    let hook = json!([{"matcher": "*", "hooks": [{
        "name": "stratavore", "type": "command", "timeout": 5000,
        "command": "/opt/stratavore-agent hook",
    }]}]);
    let mut hooks = json!({});
    for event in ["SessionStart", "SessionEnd", "BeforeAgent", "AfterAgent", "Notification"] {
        hooks[event] = hook.clone();
    }
    assert_eq!(
        defaults,
        json!({
            "general": {"enableAutoUpdate": false, "sessionRetention": {"enabled": false}},
            "hooks": hooks, "hooksConfig": {"notifications": false},
            "model": {"maxSessionTurns": 7},
        })
    );
    // Somebody has defaults of his own, or it is a directory that others can write into.
    asked.env.insert(variable.into(), "/etc/mine.json".into());
    assert_eq!(asked.fresh(gemini).files, []);
    assert_eq!(Asked::new(&["gemini"]).observed("/tmp").fresh(gemini).files, []);
}

#[test]
fn the_users_own_receiver_of_telemetry_stays() {
    let mut asked = Asked::new(&["gemini"]).observed("/tmp/r1");
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
    let why = "exit 41: Please set an Auth method".to_owned();
    assert_eq!(gemini.outcome("Please set an Auth method\n\n", Some(41)), Outcome::Failed { why });
    assert_eq!(gemini.outcome("", Some(143)), Outcome::Cut);
}
