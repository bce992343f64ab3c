//! Codex CLI: `codex`.
//!
//! It names its conversations itself, and tells the name with its first hook, which is at the first
//! prompt. What it used is in its rollouts, response by response.

mod headless;
mod home;
mod line;
mod rollout;
mod signal;
mod start;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use stratavore_core::activity::{Activity, Source};
use stratavore_core::message::Place;
use stratavore_core::observation::Observation;
use stratavore_core::signal::Signal;
use stratavore_core::usage::Quality;

use crate::adapter::{Adapter, Memory, Outcome, Proves, Start, Started, Step};
use crate::{Assistant, AssistantError, hooks};

pub(crate) const ASSISTANT: Assistant = Assistant {
    name: "codex",
    title: "Codex CLI",
    program: Some("codex"),
    flags,
    env: &[],
    adapter: &Codex,
};

/// Set for the tools of a running Codex.
pub(crate) const MARKS: [&str; 3] = ["CODEX_THREAD_ID", "CODEX_SESSION_ID", "CODEX_CI"];

/// Subcommands and options that start no screen, and therefore no daemon behind it.
const WITHOUT_SCREEN: [&str; 20] = [
    "exec",
    "e",
    "review",
    "login",
    "logout",
    "mcp",
    "mcp-server",
    "app-server",
    "completion",
    "sandbox",
    "debug",
    "apply",
    "a",
    "cloud",
    "features",
    "help",
    "--help",
    "-h",
    "--version",
    "-V",
];

/// Its screen is by default the client of a daemon that all share. That daemon would outlive the
/// runner, and finish the turn of one that was killed.
fn flags(configured: &[String], args: &[String]) -> &'static [&'static str] {
    let first = [configured.first(), args.first()];
    let without_screen =
        first.into_iter().flatten().any(|first| WITHOUT_SCREEN.contains(&first.as_str()));
    // What follows `--` is the text of a prompt.
    let options = configured.iter().chain(args.iter().take_while(|arg| *arg != "--"));
    let said_already = options.into_iter().any(|arg| arg == "--no-daemon");
    if without_screen || said_already { &[] } else { &["--no-daemon"] }
}

struct Codex;

impl Adapter for Codex {
    fn proves(&self) -> Proves {
        Proves {
            headless: true,
            own_limits: false,
            preset_session: false,
            resume: true,
            elsewhere: true,
            resumes_unheard: false,
            fork: true,
            activity: Some(Source::Events),
            prompts: true,
            permission_requests: true,
            permission_answers: true,
            headless_answers: false,
            usage: Some(Quality::Exact),
            cost: false,
            transcript: true,
            quit: Some("/quit"),
            mcp: true,
        }
    }

    fn start(&self, start: &Start<'_>) -> Result<Started, AssistantError> {
        Ok(start::start(start))
    }

    fn signal(&self, memory: &mut Memory, signal: &Signal, place: &Place) -> Vec<Observation> {
        signal::read(memory, signal, place)
    }

    fn titled(&self, title: &str) -> Option<Activity> {
        signal::titled(title)
    }

    fn line(&self, memory: &mut Memory, line: &[u8], place: &Place) -> Vec<Observation> {
        rollout::read(memory, line, place)
    }

    fn found(&self, env: &BTreeMap<String, String>) -> Vec<PathBuf> {
        home::rollouts(env)
    }

    fn transcript_home(&self, env: &BTreeMap<String, String>) -> Option<PathBuf> {
        home::sessions(env)
    }

    fn answer(&self, body: &Value, allow: bool, message: Option<&str>) -> Option<String> {
        Some(hooks::decision(body, allow, message)?.to_string())
    }

    fn answer_keys(&self, body: &Value, allow: bool) -> Option<&'static str> {
        (body.get("hook_event_name")? == "PermissionRequest").then_some(if allow {
            "y"
        } else {
            "\u{1b}"
        })
    }

    fn dialog(&self) -> Option<&'static str> {
        Some("Yes, proceed (y)")
    }

    fn step(&self, line: &str) -> Vec<Step> {
        headless::steps(line)
    }

    fn outcome(&self, output: &str, exit: Option<i32>) -> Outcome {
        headless::outcome(output, exit)
    }
}
