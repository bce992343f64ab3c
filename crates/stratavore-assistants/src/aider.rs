//! aider: `aider`.
//!
//! It has no sessions and keeps no state that it would tell. What can be had is its log of analytics,
//! which is written into the runner's directory and sent nowhere, and the command that it calls when it
//! wants its user back. A conversation is called what we call it.
//!
//! The log has exact figures only if answers are not streamed: so they are not, unless the caller wants
//! them to be, and then what was used is an estimate. The log's name says which it is, and of which
//! conversation.
//!
//! What was said is in a file for people, in the directory that it was said in: `history.rs`.

mod history;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};
use stratavore_core::activity::{Activity, Confidence, Doing, Source};
use stratavore_core::message::Place;
use stratavore_core::observation::{Observation, SessionSeen};
use stratavore_core::signal::{Signal, What};
use stratavore_core::usage::{Purpose, Quality, Tokens, UsageRecord};

use crate::adapter::{
    Adapter, Conversation, Memory, Mode, Observed, Outcome, Proves, Start, Started, Step,
};
use crate::told::{count, is_rate_limit, micros, text};
use crate::words::Options;
use crate::{Assistant, AssistantError, no_flags};

pub(crate) const ASSISTANT: Assistant = Assistant {
    name: "aider",
    title: "aider",
    program: Some("aider"),
    flags: no_flags,
    // A runner must stay the program that was started.
    env: &[("AIDER_CHECK_UPDATE", "false")],
    adapter: &Aider,
};

/// Those of its many options that we have to know.
const OPTIONS: Options = Options {
    alone: &["--stream", "--git", "--no-git"],
    one: &["--message", "--msg", "-m", "--message-file", "-f", "--notifications-command"],
    maybe: &[],
    many: &[],
};
/// With one of these it ends after its answer.
const MESSAGE: [&str; 5] = ["--message", "--msg", "-m", "--message-file", "-f"];

const EXACT: &str = "aider-exact-";
const ESTIMATED: &str = "aider-estimated-";
const LOG_END: &str = ".jsonl";

/// What it prints when an answer is whole.
const ANSWERED: &str = "Tokens: ";
/// Begins what it prints of itself at its start, up to an empty line.
const BANNER: &str = "Aider v";
/// With what the library that it asks models by begins its errors.
const REFUSED: &str = "litellm.";

pub(crate) struct Aider;

impl Adapter for Aider {
    fn proves(&self) -> Proves {
        Proves {
            headless: true,
            own_limits: false,
            preset_session: true,
            resume: true,
            elsewhere: false,
            resumes_unheard: true,
            fork: false,
            activity: Some(Source::Events),
            prompts: false,
            permission_requests: false,
            permission_answers: false,
            headless_answers: false,
            usage: Some(Quality::Exact),
            cost: true,
            transcript: true,
            quit: Some("/exit"),
            mcp: false,
        }
    }

    fn start(&self, start: &Start<'_>) -> Result<Started, AssistantError> {
        let (ours, given) = start.argv.split_at(start.given.min(start.argv.len()));
        let is_headless = matches!(start.mode, Mode::Headless(_));
        let is_resumed = matches!(start.conversation, Conversation::Resume { .. });
        let given = OPTIONS.without(given, |word| (is_headless || is_resumed) && word.is(&MESSAGE));
        let mut argv = ours.to_vec();
        let session = match start.conversation {
            Conversation::Fresh { preset } => preset,
            Conversation::Resume { session } => {
                argv.push("--restore-chat-history".into());
                session
            }
            Conversation::Fork { .. } => {
                return Err(AssistantError::CannotFork { assistant: ASSISTANT.title });
            }
        };
        if is_headless {
            let flags = ["--yes-always", "--no-pretty", "--no-gitignore", "--message-file"];
            argv.extend(flags.map(Into::into));
            argv.push("/dev/stdin".into());
            let has_git = start.directory.ancestors().any(|up| up.join(".git").exists());
            if !has_git && !has(&given, &["--git", "--no-git"]) {
                // Else it makes a repository, with every question answered yes.
                argv.push("--no-git".into());
            }
        }
        // It has no way to be given a prompt and to stay.
        let unsaid = start.prompt.is_some() && !is_headless;
        let mut started = Started { unsaid, ..Started::default() };
        if let Some(observed) = start.observed {
            started.session = Some(session.into());
            observe(&mut argv, &mut started, observed, session, &given);
        }
        argv.extend(given);
        started.argv = argv;
        Ok(started)
    }

    fn signal(&self, memory: &mut Memory, signal: &Signal, _: &Place) -> Vec<Observation> {
        memory.at_epoch(signal.epoch, None);
        match &signal.what {
            What::Hook { body, .. } => waits(memory, body, signal.at),
            What::HookOver { call } => vec![Observation::AskOver { call: call.clone() }],
            What::Telemetry { .. } | What::Title { .. } | What::Sent { .. } => Vec::new(),
        }
    }

    fn found_in(&self, directory: &Path) -> Option<PathBuf> {
        history::found_in(directory)
    }

    fn line(&self, memory: &mut Memory, line: &[u8], place: &Place) -> Vec<Observation> {
        if history::is_one(place) {
            return history::line(memory, line, place);
        }
        let Ok(line) = serde_json::from_slice::<Value>(line) else { return Vec::new() };
        let (Some(event), Some(session)) = (text(&line, "/event"), session(memory, place)) else {
            return Vec::new();
        };
        let at = line.get("time").and_then(Value::as_i64);
        let at = at.and_then(|at| Timestamp::from_second(at).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
        let told = line.get("properties").unwrap_or(&Value::Null);
        let doing = |activity| {
            let doing = Doing::told(activity, at, event);
            Observation::Doing(Doing { confidence: Confidence::Likely, ..doing })
        };
        match event {
            "launched" => vec![about(&session, None, Some(place), at)],
            "cli session" => {
                let model = text(told, "/main_model");
                vec![about(&session, model, Some(place), at), doing(Activity::Idle)]
            }
            "message_send_starting" => vec![doing(Activity::Working)],
            "message_send" => {
                let model = text(told, "/main_model").unwrap_or_default();
                let mut seen = Vec::new();
                if memory.model.as_deref() != Some(model) {
                    memory.model = Some(model.into());
                    seen.push(about(&session, Some(model), None, at));
                }
                seen.extend(usage(told, session, model, at, place).map(Observation::Usage));
                seen
            }
            _ => Vec::new(),
        }
    }

    fn step(&self, line: &str) -> Vec<Step> {
        let text = line.trim_end();
        let is_retry = text.starts_with(REFUSED) || text.starts_with("Retrying in ");
        match (text.is_empty(), is_retry) {
            (true, _) => Vec::new(),
            (false, true) => vec![Step::Retry { why: text.into() }],
            (false, false) => vec![Step::Text { text: text.into() }],
        }
    }

    /// It prints for people, and ends with 0 after an error too.
    fn outcome(&self, output: &str, exit: Option<i32>) -> Outcome {
        let lines: Vec<_> = output.lines().map(str::trim).collect();
        let last = |start: &str| lines.iter().rposition(|line| line.starts_with(start));
        let (answered, refused) = (last(ANSWERED), last(REFUSED));
        match (exit, answered, refused) {
            (Some(0), Some(answered), refused)
                if refused.is_none_or(|refused| refused < answered) =>
            {
                Outcome::Done { text: said(&lines[..answered]) }
            }
            (_, _, Some(refused)) => {
                let why = lines[refused].to_owned();
                if is_rate_limit(&why) || why.contains("RateLimitError") {
                    Outcome::RateLimited { why }
                } else {
                    Outcome::Failed { why }
                }
            }
            (Some(code), _, None) if !matches!(code, 0 | 129..=143) => {
                let why = lines.iter().rfind(|line| !line.is_empty());
                Outcome::Failed {
                    why: format!("exit {code}: {}", why.unwrap_or(&"it said nothing")),
                }
            }
            (Some(_) | None, _, _) => Outcome::Cut,
        }
    }
}

/// What it said last, of the lines before what that has used: what comes after what it says of itself at its
/// start, and after what an answer before has used.
fn said(lines: &[&str]) -> String {
    let banner = lines.iter().rposition(|line| line.starts_with(BANNER));
    let start = banner.map_or(0, |banner| {
        let own = lines[banner..].iter().take_while(|line| !line.is_empty());
        banner + own.count()
    });
    let before = lines.iter().rposition(|line| line.starts_with(ANSWERED));
    let begins = before.map_or(start, |at| start.max(at + 1));
    lines[begins..].join("\n").trim().to_owned()
}

fn has(given: &[String], options: &[&str]) -> bool {
    OPTIONS.read(given).iter().any(|word| word.is(options))
}

fn observe(
    argv: &mut Vec<String>,
    started: &mut Started,
    observed: Observed<'_>,
    session: &str,
    given: &[String],
) {
    let is_streamed = has(given, &["--stream"]);
    if !is_streamed {
        argv.push("--no-stream".into());
    }
    let start = if is_streamed { ESTIMATED } else { EXACT };
    // It becomes part of a path.
    let name = session.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_");
    let log = observed.dir.join(format!("{start}{name}{LOG_END}"));
    argv.extend(["--no-show-release-notes".into(), "--no-analytics".into()]);
    argv.extend(["--analytics-log".into(), log.to_string_lossy().into_owned()]);
    started.transcript = Some(log);
    if !has(given, &["--notifications-command"]) {
        let body = json!({"hook_event_name": "waits", "session_id": session});
        // A shell runs it. Neither has a quote in it.
        let command = format!("{} --body '{body}'", observed.hook.join(" "));
        argv.extend(["--notifications".into(), "--notifications-command".into(), command]);
    }
}

/// It rings for its user when it is done, and also when it asks something: which, is not told.
fn waits(memory: &mut Memory, body: &Value, at: Timestamp) -> Vec<Observation> {
    let (Some("waits"), Some(session)) =
        (text(body, "/hook_event_name"), text(body, "/session_id"))
    else {
        return Vec::new();
    };
    let mut seen = Vec::new();
    if memory.session.as_deref() != Some(session) {
        memory.session = Some(session.into());
        seen.push(about(session, None, None, at));
    }
    let doing = Doing::told(Activity::Idle, at, "notifications-command");
    seen.push(Observation::TurnOver { session: session.into(), text: None, failure: None, at });
    seen.push(Observation::Doing(Doing { confidence: Confidence::Likely, ..doing }));
    seen
}

fn about(session: &str, model: Option<&str>, log: Option<&Place>, at: Timestamp) -> Observation {
    Observation::Session(SessionSeen {
        session: session.into(),
        transcript: log.map(|place| place.file.clone()),
        model: model.filter(|model| !model.is_empty()).map(Into::into),
        at: Some(at),
        is_current: true,
        ..SessionSeen::default()
    })
}

fn session(memory: &mut Memory, place: &Place) -> Option<String> {
    if memory.session.is_none() {
        let name = log_name(place)?;
        let name = name.strip_prefix(EXACT).or_else(|| name.strip_prefix(ESTIMATED))?;
        memory.session = Some(name.strip_suffix(LOG_END)?.into());
    }
    memory.session.clone()
}

fn log_name(place: &Place) -> Option<&str> {
    Path::new(&place.file).file_name()?.to_str()
}

fn usage(
    told: &Value,
    session: String,
    model: &str,
    at: Timestamp,
    place: &Place,
) -> Option<UsageRecord> {
    let tokens = Tokens {
        input: count(told, "/prompt_tokens"),
        output: count(told, "/completion_tokens"),
        ..Tokens::default()
    };
    let is_estimated = log_name(place).is_some_and(|name| name.starts_with(ESTIMATED));
    let second = at.as_second();
    (!tokens.is_zero()).then(|| UsageRecord {
        // A conversation that was resumed has a log for each time.
        key: format!("{session}/{second}/{}", place.offset),
        session,
        request_id: None,
        message_id: None,
        model: model.into(),
        purpose: Purpose::Main,
        tokens,
        reported_cost: micros(told, "/cost").filter(|cost| *cost > 0),
        quality: if is_estimated { Quality::Estimated } else { Quality::Exact },
        at,
        place: place.clone(),
    })
}
