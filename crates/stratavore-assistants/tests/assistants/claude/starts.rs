//! How it is started.

use proptest::prelude::*;
use serde_json::Value;
use stratavore_assistants::adapter::{Conversation, Headless, Mode, OTLP};

use crate::reading::{Launch, PRESET, SESSION, launch};

const FILE: &str = "/state/runners/r1/claude-settings.json";
const SERVERS: &str = "/state/runners/r1/claude-mcp.json";

fn line(launch: Launch) -> String {
    let started = launch.start("claude");
    started
        .argv
        .join(" ")
        .replace(PRESET, "PRESET")
        .replace(SESSION, "SESSION")
        .replace(FILE, "FILE")
        .replace(SERVERS, "SERVERS")
}

const OURS: &str = "-n fix the build --settings FILE";
const ASKS: &str = "--mcp-config SERVERS --permission-prompt-tool mcp__stratavore__approve";

#[test]
fn a_new_run_has_an_id_of_ours_and_a_name() {
    assert_eq!(line(launch("claude", &[])), format!("claude --session-id PRESET {OURS}"));
    assert_eq!(
        line(launch("claude -x", &["--model", "opus", "fix it"])),
        format!("claude -x --session-id PRESET {OURS} --model opus fix it")
    );
    assert_eq!(
        line(launch("claude", &["--add-dir", "/x"]).prompt("- fix it")),
        format!("claude --session-id PRESET {OURS} --add-dir /x -- - fix it")
    );
    assert_eq!(launch("claude", &[]).start("claude").session.as_deref(), Some(PRESET));
}

#[test]
fn what_the_caller_says_of_the_conversation_counts() {
    let session = |given: &[&str]| launch("claude", given).start("claude").session;
    for given in [
        &["--resume", SESSION][..],
        &["-r", SESSION],
        &["-c"],
        &["--continue"],
        &["-pc"],
        &["--from-pr", "7"],
        &["--session-id", SESSION],
        &["--session-id=x"],
        &["--resume"],
        &["--resume", SESSION, "--fork-session"],
    ] {
        let words = given.join(" ").replace(SESSION, "SESSION");
        assert_eq!(line(launch("claude", given)), format!("claude {OURS} {words}"), "{given:?}");
    }
    assert_eq!(session(&["--resume", SESSION]).as_deref(), Some(SESSION));
    assert_eq!(session(&["--session-id", SESSION]).as_deref(), Some(SESSION));
    assert_eq!(session(&["-c"]), None);
    assert_eq!(session(&["--resume", "a search"]), None);
    assert_eq!(session(&["--resume", SESSION, "--fork-session"]), None);
    // As text it is a prompt.
    assert_eq!(session(&["--", "--continue"]).as_deref(), Some(PRESET));
    assert_eq!(line(launch("claude --continue", &[])), format!("claude --continue {OURS}"));
}

#[test]
fn a_resumed_run_leaves_out_the_prompt_and_the_first_choice() {
    let resumed = format!("claude --resume SESSION {OURS}");
    for (given, kept) in [
        (&["fix it"][..], ""),
        (&["--model", "opus", "fix it"], " --model opus"),
        (&["--session-id", PRESET, "--verbose"], " --verbose"),
        (&["-c", "fix it", "--ide"], " --ide"),
        (&["--resume", "x", "--fork-session", "--effort", "low"], " --effort low"),
        // All these are values, and so might be what follows an option that is not known.
        (&["--allowedTools", "Edit", "Bash(git *)"], " --allowedTools Edit Bash(git *)"),
        (&["-w", "tree"], " -w tree"),
        (&["--brand-new", "fix it"], " --brand-new fix it"),
        (&["--brand-new", "--", "fix it"], " --brand-new --"),
    ] {
        assert_eq!(line(launch("claude", given).resume()), format!("{resumed}{kept}"), "{given:?}");
    }
    assert_eq!(
        line(launch("claude", &["fix it"]).resume().prompt("go on")),
        format!("{resumed} -- go on")
    );
    assert_eq!(
        line(launch("claude", &["fix it"]).fork()),
        format!("claude --resume SESSION --fork-session --session-id PRESET {OURS}")
    );
    let session = |launch: Launch| launch.start("claude").session;
    assert_eq!(session(launch("claude", &[]).resume()).as_deref(), Some(SESSION));
    assert_eq!(session(launch("claude", &[]).fork()).as_deref(), Some(PRESET));
}

#[test]
fn without_a_screen_it_takes_its_prompt_from_its_input() {
    let headless = "-p --output-format stream-json --verbose";
    assert_eq!(
        line(launch("claude", &[]).headless()),
        format!("claude --session-id PRESET {headless} {OURS} {ASKS}")
    );
    assert_eq!(
        line(launch("claude", &["-p", "--verbose", "--model", "opus"]).headless()),
        format!(
            "claude --session-id PRESET --output-format stream-json {OURS} {ASKS} -p --verbose --model opus"
        )
    );
    assert_eq!(
        line(launch("claude", &["--output-format", "json"]).headless()),
        format!("claude --session-id PRESET -p {OURS} {ASKS} --output-format json")
    );
    assert_eq!(
        line(launch("claude", &["fix it"]).headless().resume()),
        format!("claude --resume SESSION {headless} {OURS} {ASKS}")
    );
    assert_eq!(
        line(launch("claude", &[]).limited(7, 1_250_000)),
        format!(
            "claude --session-id PRESET {headless} --max-turns 7 --max-budget-usd 1.250000 {OURS} {ASKS}"
        )
    );
    assert_eq!(
        line(launch("claude", &["--max-turns", "3"]).limited(7, -5)),
        format!(
            "claude --session-id PRESET {headless} --max-budget-usd 0.000001 {OURS} {ASKS} --max-turns 3"
        )
    );
    // Whoever has a tool for that himself keeps it.
    let own = ["--permission-prompt-tool", "mcp__mine__ask"];
    assert_eq!(
        line(launch("claude", &own).headless()),
        format!("claude --session-id PRESET {headless} {OURS} {}", own.join(" "))
    );
}

#[test]
fn without_a_screen_its_permissions_are_asked_of_us() {
    let started = launch("claude", &[]).headless().start("claude");
    let (_, content) = started.files.iter().find(|(name, _)| name == "claude-mcp.json").unwrap();
    let servers: Value = serde_json::from_str(content).unwrap();
    let server = &servers["mcpServers"]["stratavore"];
    assert_eq!(server["command"], "/opt/stratavore");
    assert_eq!(server["args"], serde_json::json!(["hook", "/state/runners/r1", "--mcp"]));
    assert!(server["timeout"].as_u64().unwrap() > 24 * 60 * 60 * 1000, "a person may be asleep");
    // With a screen it is its hook that waits.
    let started = launch("claude", &[]).start("claude");
    assert!(!started.argv.iter().any(|word| word == "--mcp-config"));
}

#[test]
fn bare_it_runs_as_if_we_were_not_there_but_for_what_was_asked() {
    let started = launch("claude", &["fix it"]).bare().start("claude");
    assert_eq!(started.argv.join(" "), format!("claude --session-id {PRESET} fix it"));
    assert!(started.env.is_empty() && started.files.is_empty() && !started.watch_title);
    assert_eq!(line(launch("claude", &[]).bare().resume()), "claude --resume SESSION");
    assert_eq!(
        line(launch("claude", &[]).bare().headless()),
        "claude --session-id PRESET -p --output-format stream-json --verbose"
    );
}

#[test]
fn what_is_no_conversation_is_left_alone() {
    for given in
        [&["mcp", "list"][..], &["--help"], &["-v"], &["--model", "opus", "doctor"], &["update"]]
    {
        let started = launch("claude", given).headless().start("claude");
        assert_eq!(started.argv[1..], *given, "{given:?}");
        assert!(started.files.is_empty() && started.session.is_none());
    }
    assert!(line(launch("claude", &["--", "mcp"])).contains("--session-id"));
    assert!(line(launch("claude", &["--model", "doctor"])).contains("--session-id"));
}

#[test]
fn names_and_settings_of_the_caller_stay_the_callers() {
    assert_eq!(
        line(launch("claude", &["-n", "mine", "--settings", "{}"])),
        "claude --session-id PRESET -n mine --settings {}"
    );
    assert!(launch("claude", &["--settings", "{}"]).start("claude").files.is_empty());
}

#[test]
fn the_hooks_are_called_without_a_shell_and_one_of_them_waits() {
    let started = launch("claude", &[]).start("claude");
    let [(name, content)] = started.files.as_slice() else { panic!("{:?}", started.files) };
    assert_eq!(name, "claude-settings.json");
    let settings: Value = serde_json::from_str(content).unwrap();
    let hooks = settings["hooks"].as_object().unwrap();
    assert!(hooks.len() > 10);
    for (event, hook) in hooks {
        let hook = &hook[0]["hooks"][0];
        assert_eq!(hook["type"], "command");
        assert_eq!(hook["command"], "/opt/stratavore");
        let waits = event == "PermissionRequest";
        let mut args = vec!["hook", "/state/runners/r1"];
        args.extend(waits.then_some("--wait"));
        assert_eq!(hook["args"], serde_json::json!(args), "{event}");
        let long = hook["timeout"].as_u64().unwrap() > 24 * 60 * 60;
        assert_eq!(long, waits, "{event}");
    }
}

#[test]
fn telemetry_comes_to_us_unless_it_goes_elsewhere() {
    let env = launch("claude", &[]).start("claude").env;
    assert_eq!(env["OTEL_EXPORTER_OTLP_ENDPOINT"], OTLP);
    assert_eq!(env["CLAUDE_CODE_ENABLE_TELEMETRY"], "1");
    assert_eq!(env["OTEL_METRICS_EXPORTER"], "none");
    assert_eq!(env["CLAUDE_CODE_RESUME_TOKEN_THRESHOLD"], "999999999");
    for name in [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        "CLAUDE_CODE_ENABLE_TELEMETRY",
    ] {
        let env = launch("claude", &[]).env(name, "x").start("claude").env;
        assert!(!env.keys().any(|name| name.starts_with("OTEL")), "{name}: {env:?}");
        assert!(env.contains_key("DISABLE_COST_WARNINGS"));
    }
    let env = launch("claude", &[]).env("DISABLE_COST_WARNINGS", "0").start("claude").env;
    assert!(!env.contains_key("DISABLE_COST_WARNINGS"));
}

proptest! {
    /// A new run has all of the caller's words at its end, in their order, whatever they are.
    #[test]
    fn the_callers_words_are_unchanged(
        given in prop::collection::vec("(--?[a-z-]{1,12}|[a-z ]{0,8}|--resume|-p|--|-c)", 0..8),
        headless in any::<bool>(),
        bare in any::<bool>(),
    ) {
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        // What is ours comes after a subcommand, and so between its word and the rest.
        prop_assume!(!given.iter().any(|word| ["e", "exec", "resume", "fork"].contains(word)));
        for assistant in ["claude", "codex"] {
            let mut launch = launch(assistant, &given);
            launch.bare = bare;
            if headless {
                launch.mode = Mode::Headless(Headless::default());
            }
            let started = launch.start(assistant);
            let ends = started.argv.ends_with(&launch.argv[1..])
                || started.argv[..started.argv.len() - 1].ends_with(&launch.argv[1..]);
            prop_assert!(ends, "{:?}", started.argv);
            prop_assert_eq!(&started.argv[0], assistant);
            // Nor does any other way to start it fail.
            launch.conversation = Conversation::Resume { session: SESSION };
            prop_assert!(!launch.start(assistant).argv.is_empty());
        }
    }
}
