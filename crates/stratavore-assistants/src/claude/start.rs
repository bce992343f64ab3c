//! How a run of Claude Code is started.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{WINDOWS, home};
use crate::adapter::{Conversation, MCP, Mode, OTLP, Observed, PART, Start, Started, WAIT};
use crate::excerpt::clip;
use crate::words::{Options, Word};

/// What `claude --help` tells, and options that it keeps to itself.
const OPTIONS: Options = Options {
    alone: &[
        "--allow-dangerously-skip-permissions",
        "--ax-screen-reader",
        "--bare",
        "--bg",
        "--background",
        "--brief",
        "--chrome",
        "--no-chrome",
        "-c",
        "--continue",
        "--dangerously-skip-permissions",
        "--disable-slash-commands",
        "--enable-auto-mode",
        "--exclude-dynamic-system-prompt-sections",
        "--fork-session",
        "-h",
        "--help",
        "--ide",
        "--include-hook-events",
        "--include-partial-messages",
        "--no-session-persistence",
        "-p",
        "--print",
        "--replay-user-messages",
        "--safe-mode",
        "--strict-mcp-config",
        "--tmux",
        "-v",
        "--verbose",
        "--version",
    ],
    one: &[
        "--agent",
        "--agents",
        "--append-system-prompt",
        "--append-system-prompt-file",
        "--debug-file",
        "--effort",
        "--fallback-model",
        "--input-format",
        "--json-schema",
        "--max-budget-usd",
        "--max-thinking-tokens",
        "--max-turns",
        "--model",
        "-n",
        "--name",
        "--output-format",
        "--permission-mode",
        "--permission-prompt-tool",
        "--plugin-dir",
        "--plugin-url",
        "--remote-control-session-name-prefix",
        "--resume-session-at",
        "--session-id",
        "--setting-sources",
        "--settings",
        "--system-prompt",
        "--system-prompt-file",
        "--teammate-mode",
        "--thinking",
    ],
    maybe: &[
        "-d",
        "--debug",
        "--from-pr",
        "--prompt-suggestions",
        "-r",
        "--remote-control",
        "--resume",
        "--teleport",
        "-w",
        "--worktree",
    ],
    many: &[
        "--add-dir",
        "--allowedTools",
        "--allowed-tools",
        "--betas",
        "--disallowedTools",
        "--disallowed-tools",
        "--file",
        "--mcp-config",
        "--tools",
    ],
};

/// Subcommands: what they do is no conversation.
const SUBCOMMANDS: [&str; 16] = [
    "agents",
    "auth",
    "auto-mode",
    "config",
    "doctor",
    "gateway",
    "install",
    "mcp",
    "migrate-installer",
    "plugin",
    "plugins",
    "project",
    "setup-token",
    "ultrareview",
    "update",
    "upgrade",
];
const NO_CONVERSATION: [&str; 4] = ["-h", "--help", "-v", "--version"];

/// Options by which a caller says which conversation it is to be.
const CHOOSE: [&str; 9] = [
    "--session-id",
    "-r",
    "--resume",
    "-c",
    "--continue",
    "--fork-session",
    "--from-pr",
    "--teleport",
    "--resume-session-at",
];

/// What hooks are wanted of. Each call of a hook holds the assistant up, so none is without use.
const EVENTS: [&str; 14] = [
    "SessionStart",
    "SessionEnd",
    "UserPromptSubmit",
    "PreToolUse",
    "PostToolUse",
    "PostToolUseFailure",
    "PermissionRequest",
    "Notification",
    "Stop",
    "StopFailure",
    "PreCompact",
    "PostCompact",
    "Elicitation",
    "ElicitationResult",
];
/// Requests that were answered have the first, those that were refused the second.
const TELEMETRY: [&str; 2] = ["request_id", "status_code"];
const HOOK_SECONDS: u32 = 10;
/// A person may be asleep.
const WAIT_SECONDS: u32 = 7 * 24 * 60 * 60;
const SETTINGS: &str = "claude-settings.json";
/// The tool that it asks for permission where nobody is at a screen, and the file that tells of its server.
const ASK: &str = "mcp__stratavore__approve";
const SERVERS: &str = "claude-mcp.json";
/// The longest title, in bytes.
const TITLE_MAX: usize = 120;

pub(super) fn start(start: &Start<'_>) -> Started {
    let (before, given) = start.argv.split_at(start.given.min(start.argv.len()));
    let (program, configured) = before.split_at(before.len().min(1));
    let words = [OPTIONS.read(configured), OPTIONS.read(given)];
    let has = |names: &[&str]| words.iter().flatten().any(|word| word.is(names));
    if has(&NO_CONVERSATION) || is_subcommand(&words) {
        return Started { argv: start.argv.to_vec(), ..Started::default() };
    }

    let resumes = match start.conversation {
        Conversation::Fresh { .. } => false,
        Conversation::Resume { .. } | Conversation::Fork { .. } => true,
    };
    let mut ours: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| ours.extend(words.iter().map(ToString::to_string));
    let session = match start.conversation {
        Conversation::Fresh { .. } if has(&CHOOSE) => chosen(&words),
        Conversation::Fresh { preset } => {
            add(&["--session-id", preset]);
            Some(preset.to_owned())
        }
        Conversation::Resume { session } => {
            add(&["--resume", session]);
            Some(session.to_owned())
        }
        Conversation::Fork { session, preset } => {
            add(&["--resume", session, "--fork-session", "--session-id", preset]);
            Some(preset.to_owned())
        }
    };
    if let Mode::Headless(limits) = start.mode {
        if !has(&["-p", "--print"]) {
            add(&["-p"]);
        }
        if !has(&["--output-format"]) {
            add(&["--output-format", "stream-json"]);
            if !has(&["--verbose"]) {
                add(&["--verbose"]);
            }
        }
        if let Some(turns) = limits.max_turns.filter(|_| !has(&["--max-turns"])) {
            add(&["--max-turns", &turns.to_string()]);
        }
        if let Some(cost) = limits.max_cost.filter(|_| !has(&["--max-budget-usd"])) {
            add(&["--max-budget-usd", &dollars(cost)]);
        }
    }
    let mut files = Vec::new();
    let mut env = BTreeMap::new();
    if let Some(observed) = start.observed {
        let title = title(start.title);
        // With a name it asks the model for none.
        if !title.is_empty() && !has(&["-n", "--name"]) {
            add(&["-n", &title]);
        }
        // A second file of settings would take the place of the caller's.
        if !has(&["--settings"]) {
            add(&["--settings", &observed.dir.join(SETTINGS).to_string_lossy()]);
            let own_line = home::has_status_line(start.env, start.directory);
            files.push((SETTINGS.to_owned(), settings(&observed, !own_line)));
        }
        if matches!(start.mode, Mode::Headless(_)) && !has(&["--permission-prompt-tool"]) {
            let file = observed.dir.join(SERVERS);
            // An option has to follow the files, or what comes next would be one of them.
            let file = file.to_string_lossy();
            add(&["--mcp-config", &file, "--permission-prompt-tool", ASK]);
            files.push((SERVERS.to_owned(), servers(&observed)));
        }
        env = variables(start.env);
    }

    let mut argv = program.to_vec();
    argv.extend(kept(configured, &words[0], resumes, false));
    argv.extend(ours);
    argv.extend(kept(given, &words[1], resumes, resumes));
    if let Some(prompt) = start.prompt.filter(|_| start.mode == Mode::Interactive) {
        // After the dashes no option swallows it, and it is none itself.
        if !words.iter().flatten().any(|word| matches!(word, Word::End { .. })) {
            argv.push("--".into());
        }
        argv.push(prompt.into());
    }
    let telemetry = if env.contains_key("OTEL_LOGS_EXPORTER") { &TELEMETRY[..] } else { &[] };
    Started {
        argv,
        env,
        files,
        session,
        watch_title: start.observed.is_some(),
        telemetry,
        ..Started::default()
    }
}

fn is_subcommand(words: &[Vec<Word<'_>>; 2]) -> bool {
    let ends = |word: &&Word<'_>| !matches!(word, Word::End { .. });
    let first = words.iter().flatten().take_while(ends).find_map(Word::text);
    first.is_some_and(|text| SUBCOMMANDS.contains(&text))
}

/// The id of the conversation that the caller's own options choose, if they tell it.
fn chosen(words: &[Vec<Word<'_>>; 2]) -> Option<String> {
    let word = |names: &[&str]| words.iter().flatten().rev().find(|word| word.is(names));
    let value = |names: &[&str]| word(names).and_then(Word::value);
    let resumed = || value(&["-r", "--resume"]).filter(|_| word(&["--fork-session"]).is_none());
    let is_id = |text: &&str| text.len() == 36 && text.bytes().filter(|b| *b == b'-').count() == 4;
    value(&["--session-id"]).or_else(resumed).filter(is_id).map(String::from)
}

/// The words without those that choose a conversation, if we do, and without a prompt that the
/// conversation has had already.
fn kept<'a>(
    args: &'a [String],
    words: &'a [Word<'a>],
    chosen_by_us: bool,
    without_prompt: bool,
) -> impl Iterator<Item = String> + 'a {
    let prompt = words.iter().find_map(|word| match word {
        Word::Text { sure: true, at, .. } if without_prompt => Some(*at),
        Word::Text { .. } | Word::Option { .. } | Word::End { .. } => None,
    });
    let dropped = move |place: usize| {
        let chooses = |word: &Word<'_>| match word {
            Word::Option { at, .. } => word.is(&CHOOSE) && at.contains(&place),
            Word::Text { .. } | Word::End { .. } => false,
        };
        prompt == Some(place) || (chosen_by_us && words.iter().any(chooses))
    };
    args.iter().enumerate().filter(move |(place, _)| !dropped(*place)).map(|(_, arg)| arg.clone())
}

/// One line, and not long: it is shown in a title bar.
fn title(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clip(line.trim(), TITLE_MAX).trim_start_matches('-').to_owned()
}

fn dollars(micros: i64) -> String {
    let micros = micros.max(1);
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// Hooks in the form that no shell reads. What is used of a subscription is told to the status line only:
/// it is ours where the user has none, and shows nothing.
fn settings(observed: &Observed<'_>, with_line: bool) -> String {
    let Some((program, args)) = observed.hook.split_first() else { return "{}".into() };
    let hook = |event: &&str| {
        let waits = *event == "PermissionRequest";
        let args: Vec<&str> =
            args.iter().map(String::as_str).chain(waits.then_some(WAIT)).collect();
        let timeout = if waits { WAIT_SECONDS } else { HOOK_SECONDS };
        let command =
            json!({ "type": "command", "command": program, "args": args, "timeout": timeout });
        (event.to_string(), json!([{ "hooks": [command] }]))
    };
    let hooks: serde_json::Map<String, Value> = EVENTS.iter().map(hook).collect();
    if !with_line {
        return json!({ "hooks": hooks }).to_string();
    }
    let words = observed.hook.iter().map(String::as_str).chain([PART, WINDOWS]);
    let line = json!({ "type": "command", "command": words.collect::<Vec<_>>().join(" ") });
    json!({ "hooks": hooks, "statusLine": line }).to_string()
}

/// The server of the tool that it asks for permission, besides those that the user has.
fn servers(observed: &Observed<'_>) -> String {
    let Some((program, args)) = observed.hook.split_first() else { return "{}".into() };
    let args: Vec<&str> = args.iter().map(String::as_str).chain([MCP]).collect();
    let milliseconds = u64::from(WAIT_SECONDS) * 1000;
    json!({ "mcpServers": { "stratavore": {
        "type": "stdio", "command": program, "args": args, "timeout": milliseconds,
    } } })
    .to_string()
}

/// Telemetry to us, unless the user has it sent elsewhere; and no dialog that nobody is there to see.
fn variables(env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut ours = vec![
        ("DISABLE_COST_WARNINGS", "1"),
        // Else it offers to resume from a summary, and waits.
        ("CLAUDE_CODE_RESUME_TOKEN_THRESHOLD", "999999999"),
    ];
    let theirs = env.keys().any(|name| {
        name == "CLAUDE_CODE_ENABLE_TELEMETRY"
            || name == "OTEL_LOGS_EXPORTER"
            || (name.starts_with("OTEL_EXPORTER_OTLP") && name.ends_with("ENDPOINT"))
    });
    if !theirs {
        ours.extend([
            ("CLAUDE_CODE_ENABLE_TELEMETRY", "1"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_LOGS_EXPORTER", "otlp"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", OTLP),
            ("OTEL_LOGS_EXPORT_INTERVAL", "1000"),
        ]);
    }
    let pairs = ours.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    pairs.filter(|(name, _)| !env.contains_key(name)).collect()
}
