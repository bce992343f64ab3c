//! How a run of opencode is started.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

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

/// Configuration that counts for one run, in opencode's own language.
const CONFIG: &str = "OPENCODE_CONFIG_CONTENT";
const PLUGIN: &str = include_str!("plugin.js");
const PLUGIN_FILE: &str = "stratavore-opencode.js";

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
    if let Some(observed) = start.observed
        && let Some(config) = config(start.env, observed)
    {
        let fork = match start.conversation {
            Conversation::Fork { session, .. } => session,
            Conversation::Fresh { .. } | Conversation::Resume { .. } => "",
        };
        started.env.insert(CONFIG.into(), config);
        started.watch_title = true;
        started.files.push((PLUGIN_FILE.into(), plugin(observed.hook, start.title, fork)));
    }
    started
}

/// The configuration of the user's variable, if there is one, with our own in it. `None` where that
/// cannot be read: then it is left as it is, and the run is not observed.
fn config(env: &BTreeMap<String, String>, observed: Observed<'_>) -> Option<String> {
    let mut config = match env.get(CONFIG).map(|text| text.trim()).filter(|text| !text.is_empty()) {
        Some(text) => serde_json::from_str(text).ok().filter(Value::is_object)?,
        None => json!({}),
    };
    let url = Value::String(file_url(&observed.dir.join(PLUGIN_FILE)));
    if let Value::Array(plugins) = &mut config["plugin"] {
        plugins.push(url);
    } else {
        config["plugin"] = json!([url]);
    }
    if let agents @ (Value::Null | Value::Object(_)) = &mut config["agent"]
        && let title @ (Value::Null | Value::Object(_)) = &mut agents["title"]
        && title["disable"].is_null()
    {
        title["disable"] = json!(true);
    }
    Some(config.to_string())
}

fn plugin(hook: &[String], title: &str, fork: &str) -> String {
    PLUGIN
        .replace("\"{stratavore:hook}\"", &json!(hook).to_string())
        .replace("\"{stratavore:title}\"", &json!(title).to_string())
        .replace("\"{stratavore:fork}\"", &json!(fork).to_string())
}

fn file_url(path: &Path) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(byte);
    let path = path.as_os_str().as_encoded_bytes().iter().map(|byte| {
        if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }
    });
    format!("file://{}", path.collect::<String>())
}
