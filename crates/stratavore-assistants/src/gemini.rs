//! Gemini CLI: `gemini`.
//!
//! It tells of itself by telemetry, which is switched on for one run by variables, by its terminal's
//! title, and by hooks where those can be injected: it takes settings of one run only from a file
//! that root owns, in directories that nobody else can write. We write defaults there and not
//! settings, so that what the user set counts.
//!
//! What a request used is told twice: by the transcript, as a message, and by telemetry, without that
//! message's id. So the transcript counts for what is in it, and telemetry only for what is not: the
//! router of models that works unless `-m` is given, summaries, compression, and answers that were
//! thrown away. The user's choice of model is never changed.
//!
//! Resuming a conversation in a later minute leaves a stub beside its transcript, and the next start of
//! Gemini in that project deletes both, unless `general.sessionRetention.enabled` is false. That is
//! among our defaults; where those cannot be injected the vault has the transcript, which must be
//! whole there before a conversation is resumed.

mod chat;
mod hook;
mod output;
mod telemetry;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use stratavore_core::activity::Source;
use stratavore_core::message::Place;
use stratavore_core::observation::Observation;
use stratavore_core::signal::{Signal, What};
use stratavore_core::usage::Quality;

use crate::adapter::{
    Adapter, Conversation, Headless, Memory, Mode, OTLP, Observed, Outcome, Proves, Start, Started,
    Step,
};
use crate::told::{has_option, option_value, without};
use crate::{Assistant, AssistantError, no_flags};

pub(crate) const ASSISTANT: Assistant = Assistant {
    name: "gemini",
    title: "Gemini CLI",
    program: Some("gemini"),
    flags: no_flags,
    // Otherwise it starts itself a second time, and a signal meets the wrong one of the two.
    env: &[("GEMINI_CLI_NO_RELAUNCH", "true")],
    adapter: &Gemini,
};

/// Set for the tools of a running Gemini.
pub(crate) const MARKS: [&str; 1] = ["GEMINI_CLI"];

/// Prompts stay out of it: the transcript has them.
const TELEMETRY: [(&str, &str); 5] = [
    ("GEMINI_TELEMETRY_ENABLED", "true"),
    ("GEMINI_TELEMETRY_TARGET", "local"),
    ("GEMINI_TELEMETRY_OTLP_ENDPOINT", OTLP),
    ("GEMINI_TELEMETRY_OTLP_PROTOCOL", "http"),
    ("GEMINI_TELEMETRY_LOG_PROMPTS", "false"),
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

pub(crate) struct Gemini;

impl Adapter for Gemini {
    fn proves(&self) -> Proves {
        Proves {
            headless: true,
            preset_session: true,
            resume: true,
            fork: false,
            // Hooks tell more, but can be had by few.
            activity: Some(Source::Screen),
            permission_requests: true,
            permission_answers: false,
            usage: Some(Quality::Exact),
            cost: false,
            transcript: true,
            quit: Some("/quit"),
            mcp: false,
        }
    }

    fn start(&self, start: &Start<'_>) -> Result<Started, AssistantError> {
        let (ours, given) = start.argv.split_at(start.given.min(start.argv.len()));
        let mut argv = ours.to_vec();
        let mut given = given.to_vec();
        if let Mode::Headless(_) = start.mode {
            given = without(&given, &[], &["--output-format", "-o"]);
            argv.extend(["--output-format".into(), "stream-json".into()]);
        }
        let session = match start.conversation {
            Conversation::Fork { .. } => {
                return Err(AssistantError::CannotFork { assistant: ASSISTANT.title });
            }
            Conversation::Fresh { preset } => {
                let own = option_value(&given, &["--session-id"]).map(String::from);
                let is_named = has_option(&given, &["--session-id", "--resume", "-r"]);
                if !is_named && start.observed.is_some() {
                    argv.extend(["--session-id".into(), preset.to_owned()]);
                    Some(preset.to_owned())
                } else {
                    own
                }
            }
            Conversation::Resume { session } => {
                let prompts = ["--prompt", "-p", "--prompt-interactive", "-i"];
                given = without(&given, &[], &["--resume", "-r", "--session-id"]);
                given = without(&given, &[], &prompts);
                argv.extend(["--resume".into(), session.to_owned()]);
                Some(session.to_owned())
            }
        };
        if let (Mode::Interactive, Some(prompt)) = (start.mode, start.prompt) {
            argv.push(format!("--prompt-interactive={prompt}"));
        }
        let mut started = Started { session, ..Started::default() };
        if let Some(observed) = start.observed {
            if !has_option(&given, &["--skip-trust"]) {
                // Nobody may be there to answer whether it trusts the directory.
                argv.push("--skip-trust".into());
            }
            observe(&mut started, start, observed);
        }
        argv.extend(given);
        started.argv = argv;
        Ok(started)
    }

    fn signal(&self, memory: &mut Memory, signal: &Signal, place: &Place) -> Vec<Observation> {
        match &signal.what {
            What::Hook { body, .. } => hook::read(memory, body, signal.at),
            What::HookOver { call } => vec![Observation::AskOver { call: call.clone() }],
            What::Telemetry { record } => telemetry::read(memory, record, signal.at, place),
            What::Title { title } => hook::title(memory, title, signal.at),
            What::Sent { .. } => Vec::new(),
        }
    }

    fn line(&self, memory: &mut Memory, line: &[u8], place: &Place) -> Vec<Observation> {
        chat::read(memory, line, place)
    }

    fn beside(&self, transcript: &Path) -> Option<(PathBuf, &'static str)> {
        chat::subagents(transcript).map(|directory| (directory, ".jsonl"))
    }

    fn found(&self, env: &BTreeMap<String, String>) -> Vec<PathBuf> {
        chat::found(env)
    }

    fn transcripts(&self, session: &str, env: &BTreeMap<String, String>) -> Vec<PathBuf> {
        chat::of_session(session, env)
    }

    fn step(&self, line: &str) -> Vec<Step> {
        output::step(line)
    }

    fn outcome(&self, output: &str, exit: Option<i32>) -> Outcome {
        output::outcome(output, exit)
    }
}

fn observe(started: &mut Started, start: &Start<'_>, observed: Observed<'_>) {
    let has_own = |name: &&str| start.env.contains_key(*name);
    started.watch_title = true;
    if !TELEMETRY.iter().map(|(name, _)| *name).chain(OWN_TELEMETRY).any(|name| has_own(&name)) {
        let ours = TELEMETRY.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        started.env.extend(ours);
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

/// What Gemini asks of a directory before it takes settings from it, all the way up.
fn is_secure(directory: &Path) -> bool {
    directory.is_absolute()
        && directory.ancestors().all(|directory| {
            let is_roots = |meta: &fs::Metadata| meta.uid() == 0;
            let link = fs::symlink_metadata(directory).is_ok_and(|meta| is_roots(&meta));
            link && fs::metadata(directory)
                .is_ok_and(|meta| is_roots(&meta) && meta.mode() & 0o022 == 0)
        })
}
