//! opencode: `opencode`.
//!
//! It tells of itself through a [plugin](plugin.js) of ours that is injected into one run by a
//! variable, and that calls our hook with opencode's own events. It keeps conversations in a database
//! and not in files, so what is imported of the past is what `opencode export` prints.
//!
//! A message of its assistant is one request to the model, and its id is the key of what was used.
//! Requests for titles are in no message; in observed runs there are none, for our plugin names
//! conversations itself.

mod ask;
mod document;
mod event;
mod output;
mod record;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use stratavore_core::activity::Source;
use stratavore_core::message::Place;
use stratavore_core::observation::Observation;
use stratavore_core::signal::Signal;
use stratavore_core::usage::Quality;

use crate::adapter::{
    Adapter, Conversation, Export, Memory, Mode, Observed, Outcome, Proves, Start, Started, Step,
};
use crate::told::{has_option, without};
use crate::{Assistant, AssistantError, no_flags};

pub(crate) const ASSISTANT: Assistant = Assistant {
    name: "opencode",
    title: "opencode",
    program: Some("opencode"),
    flags: no_flags,
    // A runner must stay the program that was started.
    env: &[("OPENCODE_DISABLE_AUTOUPDATE", "1")],
    adapter: &OpenCode,
};

/// Set for the tools of a running opencode.
pub(crate) const MARKS: [&str; 2] = ["OPENCODE", "OPENCODE_PID"];

/// Configuration that counts for one run, in opencode's own language.
const CONFIG: &str = "OPENCODE_CONFIG_CONTENT";
const PLUGIN: &str = include_str!("opencode/plugin.js");
const PLUGIN_FILE: &str = "stratavore-opencode.js";

pub(crate) struct OpenCode;

impl Adapter for OpenCode {
    fn proves(&self) -> Proves {
        Proves {
            headless: true,
            preset_session: false,
            resume: true,
            fork: true,
            activity: Some(Source::Events),
            permission_requests: true,
            permission_answers: true,
            usage: Some(Quality::Exact),
            cost: true,
            transcript: false,
            quit: Some("/exit"),
            mcp: true,
        }
    }

    fn start(&self, start: &Start<'_>) -> Result<Started, AssistantError> {
        let (ours, given) = start.argv.split_at(start.given.min(start.argv.len()));
        let mut argv = ours.to_vec();
        if let Mode::Headless(_) = start.mode {
            argv.extend(["run".into(), "--format".into(), "json".into()]);
            if let Conversation::Fresh { .. } = start.conversation
                && !has_option(given, &["--title"])
            {
                // Else the model is asked for one.
                argv.push(format!("--title={}", start.title));
            }
        }
        let (resumed, session) = match start.conversation {
            Conversation::Fresh { .. } => (None, None),
            Conversation::Resume { session } => (Some(session), Some(session.to_owned())),
            Conversation::Fork { session, .. } => (Some(session), None),
        };
        if let Some(session) = resumed {
            argv.extend(["--session".into(), session.to_owned()]);
        }
        if let Conversation::Fork { .. } = start.conversation {
            argv.push("--fork".into());
        }
        match (start.mode, start.prompt) {
            (Mode::Interactive, Some(prompt)) => argv.push(format!("--prompt={prompt}")),
            (Mode::Interactive | Mode::Headless(_), _) => {}
        }
        argv.extend(match resumed {
            None => given.to_vec(),
            Some(_) => {
                let plain = ["--continue", "-c", "--fork"];
                without(given, &plain, &["--session", "-s", "--prompt", "--title"])
            }
        });
        let mut started = Started { argv, session, ..Started::default() };
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
        Ok(started)
    }

    fn signal(&self, memory: &mut Memory, signal: &Signal, place: &Place) -> Vec<Observation> {
        event::read(memory, signal, place)
    }

    fn line(&self, _: &mut Memory, _: &[u8], _: &Place) -> Vec<Observation> {
        Vec::new()
    }

    fn document(&self, text: &str, place: &Place) -> Vec<Observation> {
        document::read(text, place)
    }

    fn export(&self) -> Option<Export> {
        Some(Export {
            list: &["session", "list", "--format", "json"],
            listed: document::listed,
            one: &["export"],
        })
    }

    fn answer(&self, body: &Value, allow: bool, message: Option<&str>) -> Option<String> {
        ask::answer(body, allow, message)
    }

    fn step(&self, line: &str) -> Vec<Step> {
        output::step(line)
    }

    fn outcome(&self, output: &str, exit: Option<i32>) -> Outcome {
        output::outcome(output, exit)
    }
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
