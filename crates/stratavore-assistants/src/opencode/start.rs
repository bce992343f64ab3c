//! How a run of opencode is started.

use std::path::Path;

use serde_json::json;

use crate::adapter::{Conversation, Mode, Observed, Start, Started};
use crate::words::{Options, Word};

/// What `opencode --help` and `opencode run --help` tell.
const OPTIONS: Options = Options {
    alone: &[
        "--auto",
        "-c",
        "--continue",
        "--fork",
        "-h",
        "--help",
        "-i",
        "--interactive",
        "--mdns",
        "--mini",
        "--no-replay",
        "--print-logs",
        "--pure",
        "--share",
        "--thinking",
        "-v",
        "--version",
    ],
    one: &[
        "--agent",
        "--attach",
        "--command",
        "--cors",
        "--dir",
        "--format",
        "--hostname",
        "--log-level",
        "-m",
        "--mdns-domain",
        "--model",
        "-p",
        "--password",
        "--port",
        "--prompt",
        "--replay-limit",
        "-s",
        "--session",
        "--title",
        "-u",
        "--username",
        "--variant",
    ],
    maybe: &[],
    many: &["-f", "--file"],
};

/// Its other commands. In some of them it holds conversations, but which is not ours to say.
const SUBCOMMANDS: [&str; 23] = [
    "acp",
    "agent",
    "attach",
    "auth",
    "completion",
    "db",
    "debug",
    "export",
    "github",
    "import",
    "mcp",
    "models",
    "plug",
    "plugin",
    "pr",
    "providers",
    "run",
    "serve",
    "session",
    "stats",
    "uninstall",
    "upgrade",
    "web",
];

/// Options by which a caller says which conversation it is to be.
const CHOOSE: [&str; 5] = ["--session", "-s", "--continue", "-c", "--fork"];

/// By which configuration is given to one run besides the user's own: as it is, or as the path of a file.
/// What the caller has set stays; so the one is used that is free.
const CONTENT: &str = "OPENCODE_CONFIG_CONTENT";
const PATH: &str = "OPENCODE_CONFIG";

const PLUGIN: &str = include_str!("plugin.js");
const PLUGIN_FILE: &str = "stratavore-opencode.js";
const CONFIG_FILE: &str = "opencode.json";

pub(super) fn started(start: &Start<'_>) -> Started {
    let (ours, given) = start.argv.split_at(start.given.min(start.argv.len()));
    let words = OPTIONS.read(given);
    let has = |names: &[&str]| words.iter().any(|word| word.is(names));
    let first = words.iter().find_map(Word::text);
    let mut started = Started::default();
    if first.is_some_and(|first| SUBCOMMANDS.contains(&first)) {
        started.argv = start.argv.to_vec();
    } else {
        let (resumed, is_fork) = match start.conversation {
            Conversation::Fresh { .. } => (None, false),
            Conversation::Resume { session } => (Some(session), false),
            Conversation::Fork { session, .. } => (Some(session), true),
        };
        let is_headless = matches!(start.mode, Mode::Headless(_));
        let mut argv = ours.to_vec();
        if is_headless {
            argv.extend(["run".into(), "--format".into(), "json".into()]);
        }
        if let Some(session) = resumed {
            argv.extend(["--session".into(), session.to_owned()]);
        } else if is_headless && !has(&["--title"]) && !has(&CHOOSE) {
            // Else the model is asked for one.
            argv.push(format!("--title={}", start.title));
        }
        if is_fork {
            argv.push("--fork".into());
        }
        if let (false, Some(prompt)) = (is_headless, start.prompt) {
            argv.push(format!("--prompt={prompt}"));
        }
        argv.extend(OPTIONS.without(given, |word| {
            let is_said = word.is(&CHOOSE) || word.is(&["--prompt", "--title"]);
            (is_headless && word.is(&["--format"])) || (resumed.is_some() && is_said)
        }));
        started.argv = argv;
        started.session = resumed.filter(|_| !is_fork).map(String::from);
    }
    if let Some(observed) = start.observed {
        observe(&mut started, start, observed);
    }
    started
}

fn observe(started: &mut Started, start: &Start<'_>, observed: Observed<'_>) {
    let is_free = |name: &&str| !start.env.contains_key(*name);
    let Some(variable) = [CONTENT, PATH].into_iter().find(is_free) else { return };
    let (fork, opens) = match start.conversation {
        Conversation::Fork { session, .. } => (session, true),
        Conversation::Resume { .. } => ("", true),
        Conversation::Fresh { .. } => ("", false),
    };
    let plugin = PLUGIN
        .replace("\"{stratavore:hook}\"", &json!(observed.hook).to_string())
        .replace("\"{stratavore:title}\"", &json!(start.title).to_string())
        .replace("\"{stratavore:fork}\"", &json!(fork).to_string())
        .replace("\"{stratavore:opens}\"", &json!(opens).to_string())
        .replace("\"{stratavore:variable}\"", &json!(variable).to_string());
    started.files.push((PLUGIN_FILE.into(), plugin));
    let url = file_url(&observed.dir.join(PLUGIN_FILE));
    // Requests for titles are in no message, so they would not be counted.
    let config = json!({"plugin": [url], "agent": {"title": {"disable": true}}}).to_string();
    if variable == CONTENT {
        started.env.insert(variable.into(), config);
    } else {
        let path = observed.dir.join(CONFIG_FILE);
        started.env.insert(variable.into(), path.to_string_lossy().into_owned());
        started.files.push((CONFIG_FILE.into(), config));
    }
    started.watch_title = true;
}

fn file_url(path: &Path) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(byte);
    let path = path.as_os_str().as_encoded_bytes().iter().map(|byte| {
        if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }
    });
    format!("file://{}", path.collect::<String>())
}
