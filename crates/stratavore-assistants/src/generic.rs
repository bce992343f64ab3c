//! Any program: the caller's arguments are the whole command.

use stratavore_core::message::Place;
use stratavore_core::observation::Observation;
use stratavore_core::signal::Signal;

use crate::adapter::{Adapter, Memory, Outcome, Proves, Start, Started};
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

    fn start(&self, start: &Start<'_>) -> Result<Started, AssistantError> {
        let argv = start.argv.iter().cloned().chain(start.prompt.map(String::from)).collect();
        Ok(Started { argv, ..Started::default() })
    }

    fn signal(&self, _: &mut Memory, _: &Signal, _: &Place) -> Vec<Observation> {
        Vec::new()
    }

    fn line(&self, _: &mut Memory, _: &[u8], _: &Place) -> Vec<Observation> {
        Vec::new()
    }

    fn outcome(&self, output: &str, exit: Option<i32>) -> Outcome {
        match exit {
            Some(0) => Outcome::Done { text: output.trim().into() },
            Some(code) => Outcome::Failed { why: format!("exit {code}") },
            None => Outcome::Cut,
        }
    }
}
