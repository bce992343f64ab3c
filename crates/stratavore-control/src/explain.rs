//! Why a runner is said to do what it is said to do: the signals, and what was made of them.

use stratavore_assistants as assistants;
use stratavore_assistants::adapter::{Memory, Proves};
use stratavore_core::ask::Ask;
use stratavore_core::caller::{Caller, Principal};
use stratavore_core::message::Place;
use stratavore_core::observation::Observation;
use stratavore_core::runner::Runner;
use stratavore_core::signal::{Signal, What};
use stratavore_core::{RunnerId, Timestamp};
use stratavore_runtime::signal_log;

use crate::control::Control;
use crate::error::Error;
use crate::runner::RunnerView;

/// How much of the log is looked at, and how many signals are shown.
const LOOKED_AT: u64 = 256 << 10;
const SHOWN_MAX: usize = 50;
const ASKS_MAX: u32 = 10;

/// What is known of a runner's assistant, and whence.
#[derive(Debug, Clone)]
pub struct Explanation {
    pub runner: RunnerView,
    pub proves: Proves,
    /// The latest signals, the newest last.
    pub signals: Vec<SignalRead>,
    pub asks: Vec<Ask>,
    /// Observing was switched off, or there is nothing to observe.
    pub observed: bool,
}

/// A signal and what its adapter made of it.
#[derive(Debug, Clone)]
pub struct SignalRead {
    pub at: Timestamp,
    pub epoch: i64,
    /// Such as `hook Stop`.
    pub signal: String,
    /// In words; empty if it means nothing to us.
    pub meaning: String,
}

impl Control {
    /// Explains a runner of this host.
    pub async fn explain(&self, caller: &Caller, id: RunnerId) -> Result<Explanation, Error> {
        let own = matches!(&caller.principal, Principal::Inside(inside) if *inside == id);
        if !own {
            self.may_change(caller, "see the signals of other runners")?;
        }
        let runner = self.inner.store.runner_get(id).await?;
        let adapter = assistants::adapter(&runner.command.assistant);
        let dir = self.inner.runtime.dir(id).signals();
        let of = runner.clone();
        let read = tokio::task::spawn_blocking(move || signals(&of, &dir));
        let signals = read.await.map_err(Error::internal)?;
        let asks = self.inner.store.asks_of(id, ASKS_MAX).await?;
        let observed = !runner.command.bare && adapter.proves().activity.is_some();
        let runner = self.runner_view(caller, runner).await?;
        Ok(Explanation { runner, proves: adapter.proves(), signals, asks, observed })
    }
}

fn signals(runner: &Runner, dir: &std::path::Path) -> Vec<SignalRead> {
    let adapter = assistants::adapter(&runner.command.assistant);
    let from = signal_log::end(dir).unwrap_or(0).saturating_sub(LOOKED_AT);
    // A log that cannot be read has nothing to show.
    let lines = signal_log::read(dir, from, LOOKED_AT as usize).unwrap_or_default().lines;
    let mut memory = Memory::default();
    let mut read = Vec::new();
    for (offset, line) in lines {
        let Ok(signal) = serde_json::from_slice::<Signal>(&line) else { continue };
        let place = Place { file: String::new(), offset };
        let observations = adapter.signal(&mut memory, &signal, &place);
        let meaning: Vec<String> = observations.iter().filter_map(meaning).collect();
        read.push(SignalRead {
            at: signal.at,
            epoch: signal.epoch,
            signal: name(&signal.what),
            meaning: meaning.join("; "),
        });
    }
    let skip = read.len().saturating_sub(SHOWN_MAX);
    read.split_off(skip)
}

fn name(what: &What) -> String {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("").chars().take(80).collect();
    match what {
        What::Hook { body, .. } => {
            let name: String = ["hook_event_name", "event", "type"]
                .iter()
                .find_map(|key| body.get(key))
                .map_or_else(String::new, text);
            format!("hook {name}")
        }
        What::HookOver { .. } => "hook over".into(),
        What::Telemetry { record } => {
            let named = record.get("attributes").and_then(|of| of.get("event.name"));
            let name: String = record
                .get("body")
                .filter(|body| body.is_string())
                .or(named)
                .map_or_else(String::new, text);
            format!("telemetry {name}")
        }
        What::Title { title } => format!("title {title}"),
        What::Sent { bytes } => format!("typed {bytes} bytes"),
    }
}

fn meaning(observation: &Observation) -> Option<String> {
    Some(match observation {
        Observation::Doing(doing) => match &doing.question {
            Some(question) => format!("{}: {question}", doing.activity.as_str()),
            None => doing.activity.as_str().into(),
        },
        Observation::Session(session) if session.is_current => {
            format!("holds session {}", session.session)
        }
        Observation::Session(_) => return None,
        Observation::Message(message) => format!("a message of {}", message.role.as_str()),
        Observation::Usage(usage) => format!("{} tokens", usage.tokens.total()),
        Observation::Asked(asked) => format!("asks for {}", asked.tool),
        Observation::AskOver { .. } => "waits no longer".into(),
        Observation::Window(window) => {
            format!("{} % of the {} window", window.used_percent.round(), window.name)
        }
        Observation::PromptTaken { .. } => "has a prompt".into(),
        Observation::TurnOver { failure: Some(why), .. } => format!("its turn failed: {why}"),
        Observation::TurnOver { failure: None, .. } => "its turn is over".into(),
    })
}
