//! How a run of Gemini is started.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;

use super::ASSISTANT;
use crate::AssistantError;
use crate::adapter::{Conversation, Headless, Mode, OTLP, Observed, Start, Started};
use crate::words::{Options, Word};

/// What `gemini --help` tells.
const OPTIONS: Options = Options {
    alone: &[
        "--accept-raw-output-risk",
        "--acp",
        "-d",
        "--debug",
        "--experimental-acp",
        "-h",
        "--help",
        "-l",
        "--list-extensions",
        "--list-sessions",
        "--raw-output",
        "-s",
        "--sandbox",
        "--screen-reader",
        "--skip-trust",
        "-v",
        "--version",
        "-y",
        "--yolo",
    ],
    one: &[
        "--approval-mode",
        "--delete-session",
        "-i",
        "-m",
        "--model",
        "-o",
        "--output-format",
        "-p",
        "--prompt",
        "--prompt-interactive",
        "--session-file",
        "--session-id",
    ],
    maybe: &["-r", "--resume", "-w", "--worktree"],
    many: &[
        "--admin-policy",
        "--allowed-mcp-server-names",
        "--allowed-tools",
        "-e",
        "--extensions",
        "--include-directories",
        "--policy",
    ],
};

/// Subcommands and options: what they do is no conversation, or none of ours.
const SUBCOMMANDS: [&str; 8] =
    ["mcp", "extensions", "extension", "skills", "skill", "hooks", "hook", "gemma"];
const NO_CONVERSATION: [&str; 10] = [
    "-h",
    "--help",
    "-v",
    "--version",
    "-l",
    "--list-extensions",
    "--list-sessions",
    "--delete-session",
    "--acp",
    "--experimental-acp",
];

/// Options by which a caller says which conversation it is to be, and what is said first.
const CHOOSE: [&str; 4] = ["--session-id", "--resume", "-r", "--session-file"];
const PROMPT: [&str; 4] = ["--prompt", "-p", "--prompt-interactive", "-i"];

/// Prompts stay out of it: the transcript has them.
const TELEMETRY: [(&str, &str); 5] = [
    ("GEMINI_TELEMETRY_ENABLED", "true"),
    ("GEMINI_TELEMETRY_TARGET", "local"),
    ("GEMINI_TELEMETRY_OTLP_ENDPOINT", OTLP),
    ("GEMINI_TELEMETRY_OTLP_PROTOCOL", "http"),
    ("GEMINI_TELEMETRY_LOG_PROMPTS", "false"),
];
/// Of these [`super::telemetry`] makes something.
const TELLING: [&str; 6] = [
    "attempt_number",
    "embedding_model",
    "error",
    "final_error_type",
    "input_token_count",
    "prompt_length",
];
/// Whoever sets one of these has a receiver of his own.
const OWN_TELEMETRY: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "GEMINI_TELEMETRY_OUTFILE"];

const DEFAULTS: &str = "GEMINI_CLI_SYSTEM_DEFAULTS_PATH";
const DEFAULTS_FILE: &str = "gemini-defaults.json";
/// Where an administrator may have put such a file.
const ADMIN_DEFAULTS: &str = "/etc/gemini-cli/system-defaults.json";
const ADMIN_SETTINGS: &str = "GEMINI_CLI_SYSTEM_SETTINGS_PATH";

/// It waits for each of them.
const HOOKS: [&str; 5] =
    ["SessionStart", "SessionEnd", "BeforeAgent", "AfterAgent", "Notification"];
const HOOK_TIMEOUT_MS: u64 = 5000;

pub(super) fn started(start: &Start<'_>) -> Result<Started, AssistantError> {
    let (ours, given) = start.argv.split_at(start.given.min(start.argv.len()));
    let words = OPTIONS.read(given);
    let has = |names: &[&str]| words.iter().any(|word| word.is(names));
    let first = words.iter().find_map(Word::text);
    if first.is_some_and(|first| SUBCOMMANDS.contains(&first)) || has(&NO_CONVERSATION) {
        return Ok(Started { argv: start.argv.to_vec(), ..Started::default() });
    }
    let is_headless = matches!(start.mode, Mode::Headless(_));
    let is_resumed = matches!(start.conversation, Conversation::Resume { .. });
    let kept = OPTIONS.without(given, |word| {
        let is_said = word.is(&CHOOSE) || word.is(&PROMPT) || word.is_text();
        (is_headless && word.is(&["--output-format", "-o"])) || (is_resumed && is_said)
    });
    let mut argv = ours.to_vec();
    if is_headless {
        argv.extend(["--output-format".into(), "stream-json".into()]);
    }
    let session = match start.conversation {
        Conversation::Fork { .. } => {
            return Err(AssistantError::CannotFork { assistant: ASSISTANT.title });
        }
        Conversation::Fresh { preset } if !has(&CHOOSE) && start.observed.is_some() => {
            argv.extend(["--session-id".into(), preset.to_owned()]);
            Some(preset.to_owned())
        }
        Conversation::Fresh { .. } => {
            let own = words.iter().filter(|word| word.is(&["--session-id"]));
            own.filter_map(Word::value).next_back().map(String::from)
        }
        Conversation::Resume { session } => {
            argv.extend(["--resume".into(), session.to_owned()]);
            Some(session.to_owned())
        }
    };
    if let (Mode::Interactive, Some(prompt)) = (start.mode, start.prompt) {
        argv.push(format!("--prompt-interactive={prompt}"));
    }
    let mut started = Started { session, ..Started::default() };
    if let Some(observed) = start.observed {
        if !has(&["--skip-trust"]) {
            // Nobody may be there to answer whether it trusts the directory.
            argv.push("--skip-trust".into());
        }
        observe(&mut started, start, observed);
    }
    argv.extend(kept);
    started.argv = argv;
    Ok(started)
}

fn observe(started: &mut Started, start: &Start<'_>, observed: Observed<'_>) {
    let has_own = |name: &&str| start.env.contains_key(*name);
    started.watch_title = true;
    if !TELEMETRY.iter().map(|(name, _)| *name).chain(OWN_TELEMETRY).any(|name| has_own(&name)) {
        let ours = TELEMETRY.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        started.env.extend(ours);
        started.telemetry = &TELLING;
    }
    let has_admin =
        [DEFAULTS, ADMIN_SETTINGS].iter().any(has_own) || Path::new(ADMIN_DEFAULTS).exists();
    if !has_admin && is_secure(observed.dir) {
        let path = observed.dir.join(DEFAULTS_FILE);
        started.env.insert(DEFAULTS.into(), path.to_string_lossy().into_owned());
        started.files.push((DEFAULTS_FILE.into(), defaults(observed.hook, start.mode)));
    }
}

fn defaults(hook: &[String], mode: Mode) -> String {
    let command = json!([{
        "matcher": "*",
        "hooks": [{
            "name": "stratavore",
            "type": "command",
            "command": hook.join(" "),
            "timeout": HOOK_TIMEOUT_MS,
        }],
    }]);
    let hooks: BTreeMap<_, _> = HOOKS.iter().map(|event| (event, &command)).collect();
    let mut defaults = json!({
        "general": {"enableAutoUpdate": false, "sessionRetention": {"enabled": false}},
        "hooks": hooks,
        "hooksConfig": {"notifications": false},
    });
    if let Mode::Headless(Headless { max_turns: Some(turns), .. }) = mode {
        defaults["model"] = json!({"maxSessionTurns": turns});
    }
    defaults.to_string()
}

/// What Gemini asks of a directory before it takes settings from it, all the way up. One that is not there
/// yet will be its maker's, who can only be root if what is above it is so.
fn is_secure(directory: &Path) -> bool {
    let is_safe = |meta: &fs::Metadata| meta.uid() == 0 && meta.mode() & 0o022 == 0;
    let is_roots = |directory: &Path| match fs::symlink_metadata(directory) {
        // What a link leads to counts; who owns the link as well.
        Ok(link) if link.is_symlink() => {
            link.uid() == 0 && fs::metadata(directory).is_ok_and(|meta| is_safe(&meta))
        }
        Ok(meta) => is_safe(&meta),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    directory.is_absolute() && directory.ancestors().all(is_roots)
}
