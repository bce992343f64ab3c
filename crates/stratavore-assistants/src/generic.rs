//! Any program: the caller's arguments are the whole command.

use stratavore_core::message::Place;
use stratavore_core::observation::Observation;
use stratavore_core::signal::Signal;

use crate::adapter::{Adapter, Memory, Mode, Outcome, Proves, Start, Started, Step};
use crate::{Assistant, AssistantError, no_flags};

pub(crate) const ASSISTANT: Assistant = Assistant {
    name: "generic",
    title: "any command",
    program: None,
    flags: no_flags,
    env: &[],
    adapter: &Generic,
};

/// A program of which nothing is known: it runs, and what it prints and how it ends is all there is.
pub(crate) struct Generic;

impl Adapter for Generic {
    fn proves(&self) -> Proves {
        Proves { headless: true, ..Proves::default() }
    }

    /// A conversation means nothing to it: to resume one is to run it again.
    fn start(&self, start: &Start<'_>) -> Result<Started, AssistantError> {
        let prompt = match start.mode {
            Mode::Interactive => start.prompt,
            Mode::Headless(_) => None,
        };
        let argv = start.argv.iter().cloned().chain(prompt.map(String::from)).collect();
        Ok(Started { argv, ..Started::default() })
    }

    fn signal(&self, _: &mut Memory, _: &Signal, _: &Place) -> Vec<Observation> {
        Vec::new()
    }

    fn line(&self, _: &mut Memory, _: &[u8], _: &Place) -> Vec<Observation> {
        Vec::new()
    }

    fn step(&self, line: &str) -> Vec<Step> {
        let text = line.trim_end();
        if text.is_empty() { Vec::new() } else { vec![Step::Text { text: text.into() }] }
    }

    /// Codes above 128 are those of signals.
    fn outcome(&self, output: &str, exit: Option<i32>) -> Outcome {
        let last = output.lines().map(str::trim).rfind(|line| !line.is_empty());
        match (exit, last) {
            (Some(0), _) => Outcome::Done { text: output.trim().into() },
            (Some(129..=159) | None, _) => Outcome::Cut,
            (Some(code), Some(last)) => Outcome::Failed { why: format!("exit {code}: {last}") },
            (Some(code), None) => Outcome::Failed { why: format!("exit {code}") },
        }
    }
}
