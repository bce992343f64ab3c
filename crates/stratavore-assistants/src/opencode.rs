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
mod home;
mod output;
mod record;
mod start;

use serde_json::Value;
use stratavore_core::activity::Source;
use stratavore_core::message::Place;
use stratavore_core::observation::Observation;
use stratavore_core::signal::Signal;
use stratavore_core::usage::Quality;

use crate::adapter::{Adapter, Export, Memory, Outcome, Proves, Start, Started, Step};
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

pub(crate) struct OpenCode;

impl Adapter for OpenCode {
    fn proves(&self) -> Proves {
        Proves {
            headless: true,
            own_limits: false,
            preset_session: false,
            resume: true,
            elsewhere: false,
            resumes_unheard: false,
            fork: true,
            activity: Some(Source::Events),
            prompts: true,
            permission_requests: true,
            permission_answers: true,
            headless_answers: false,
            usage: Some(Quality::Exact),
            cost: true,
            transcript: true,
            quit: Some("/exit"),
            mcp: true,
        }
    }

    fn start(&self, start: &Start<'_>) -> Result<Started, AssistantError> {
        Ok(start::started(start))
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
            is_used: home::is_used,
            // `session list` has those of one project only.
            list: &[
                "--pure",
                "db",
                "SELECT id FROM session ORDER BY time_created, id",
                "--format",
                "json",
            ],
            listed: document::listed,
            one: &["--pure", "export"],
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
