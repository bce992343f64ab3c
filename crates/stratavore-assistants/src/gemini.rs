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
mod dialog;
mod hook;
mod output;
mod start;
mod telemetry;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stratavore_core::activity::{Activity, Source};
use stratavore_core::message::Place;
use stratavore_core::observation::Observation;
use stratavore_core::signal::{Signal, What};
use stratavore_core::usage::Quality;

use crate::adapter::{Adapter, Memory, Outcome, Proves, Start, Started, Step};
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

pub(crate) struct Gemini;

impl Adapter for Gemini {
    fn proves(&self) -> Proves {
        Proves {
            headless: true,
            own_limits: false,
            preset_session: true,
            resume: true,
            elsewhere: false,
            resumes_unheard: false,
            fork: false,
            // Hooks tell more, but can be had by few.
            activity: Some(Source::Screen),
            prompts: true,
            permission_requests: true,
            permission_answers: true,
            headless_answers: false,
            usage: Some(Quality::Exact),
            cost: false,
            transcript: true,
            quit: Some("/quit"),
            mcp: false,
        }
    }

    fn start(&self, start: &Start<'_>) -> Result<Started, AssistantError> {
        start::started(start)
    }

    fn signal(&self, memory: &mut Memory, signal: &Signal, place: &Place) -> Vec<Observation> {
        memory.at_epoch(signal.epoch, None);
        match &signal.what {
            What::Hook { body, .. } => hook::read(memory, body, signal.at),
            What::HookOver { call } => vec![Observation::AskOver { call: call.clone() }],
            What::Telemetry { record } => telemetry::read(memory, record, signal.at, place),
            What::Title { title } => hook::title_tells(memory, title, signal.at),
            What::Sent { .. } => Vec::new(),
        }
    }

    fn titled(&self, title: &str) -> Option<Activity> {
        hook::titled(title)
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

    fn transcript_home(&self, env: &BTreeMap<String, String>) -> Option<PathBuf> {
        chat::home(env)
    }

    fn transcripts(&self, session: &str, env: &BTreeMap<String, String>) -> Vec<PathBuf> {
        chat::of_session(session, env)
    }

    fn answer_keys(&self, body: &Value, allow: bool) -> Option<&'static str> {
        hook::answer_keys(body, allow)
    }

    fn dialog(&self) -> Option<&'static str> {
        Some(dialog::CHOICE)
    }

    fn asked_on_screen(&self, screen: &str) -> Option<(String, String)> {
        dialog::read(screen)
    }

    fn step(&self, line: &str) -> Vec<Step> {
        output::step(line)
    }

    fn outcome(&self, output: &str, exit: Option<i32>) -> Outcome {
        output::outcome(output, exit)
    }
}
