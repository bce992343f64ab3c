//! Samples of real assistants, and what they are read with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::Value;
use stratavore_assistants::Adapter;
use stratavore_assistants::adapter::{
    Conversation, Headless, Memory, Mode, Observed, Start, Started,
};
use stratavore_core::activity::{Activity, Doing};
use stratavore_core::message::Place;
use stratavore_core::observation::{Observation, SessionSeen};
use stratavore_core::signal::{Signal, What};
use stratavore_core::usage::{Tokens, UsageRecord};

pub(crate) const PRESET: &str = "0197a0b0-1111-4222-8333-444455556666";
pub(crate) const HEADLESS: Mode =
    Mode::Headless(Headless { max_turns: None, max_cost: None, item: None });

pub(crate) fn adapter(name: &str) -> &'static dyn Adapter {
    stratavore_assistants::adapter(&name.parse().unwrap())
}

pub(crate) fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(name);
    std::fs::read_to_string(path).unwrap()
}

pub(crate) fn place(offset: u64) -> Place {
    Place { file: "/runs/r1/signals.jsonl".into(), offset }
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + second).unwrap()
}

/// All lines of a transcript, each with its offset.
pub(crate) fn read(
    adapter: &dyn Adapter,
    memory: &mut Memory,
    file: &str,
    text: &str,
) -> Vec<Observation> {
    read_from(adapter, memory, file, text, 0)
}

/// The same of a piece that begins there.
pub(crate) fn read_from(
    adapter: &dyn Adapter,
    memory: &mut Memory,
    file: &str,
    text: &str,
    begins: u64,
) -> Vec<Observation> {
    let mut offset = begins;
    let mut seen = Vec::new();
    for line in text.split_inclusive('\n') {
        let place = Place { file: file.into(), offset };
        seen.extend(adapter.line(memory, line.trim_end().as_bytes(), &place));
        offset += line.len() as u64;
    }
    seen
}

/// Signals one after the other.
pub(crate) fn told(
    adapter: &dyn Adapter,
    memory: &mut Memory,
    signals: impl IntoIterator<Item = What>,
) -> Vec<Observation> {
    let mut seen = Vec::new();
    for (nth, what) in signals.into_iter().enumerate() {
        let signal = Signal { at: at(nth as i64), epoch: 1, what };
        seen.extend(adapter.signal(memory, &signal, &place(nth as u64)));
    }
    seen
}

pub(crate) fn hook(body: Value) -> What {
    What::Hook { call: None, body }
}

pub(crate) fn title(title: &str) -> What {
    What::Title { title: title.into() }
}

/// One record for each key, as the ledger keeps them: the last.
pub(crate) fn ledger<'a>(
    seen: impl IntoIterator<Item = &'a Observation>,
) -> BTreeMap<String, UsageRecord> {
    let usage = seen.into_iter().filter_map(|seen| {
        if let Observation::Usage(usage) = seen {
            Some((usage.key.clone(), usage.clone()))
        } else {
            None
        }
    });
    usage.collect()
}

pub(crate) fn sum(ledger: &BTreeMap<String, UsageRecord>) -> Tokens {
    ledger.values().map(|usage| usage.tokens).sum()
}

pub(crate) fn sessions(seen: &[Observation]) -> Vec<&SessionSeen> {
    seen.iter()
        .filter_map(
            |seen| if let Observation::Session(session) = seen { Some(session) } else { None },
        )
        .collect()
}

pub(crate) fn doings(seen: &[Observation]) -> Vec<&Doing> {
    seen.iter()
        .filter_map(|seen| if let Observation::Doing(doing) = seen { Some(doing) } else { None })
        .collect()
}

/// What it was seen doing, without what is the same as before.
pub(crate) fn activities(seen: &[Observation]) -> Vec<Activity> {
    let mut activities: Vec<_> = doings(seen).iter().map(|doing| doing.activity).collect();
    activities.dedup();
    activities
}

pub(crate) fn texts(seen: &[Observation]) -> Vec<(&str, String)> {
    seen.iter()
        .filter_map(|seen| {
            if let Observation::Message(said) = seen {
                Some((said.role.as_str(), said.text.clone()))
            } else {
                None
            }
        })
        .collect()
}

/// How a run is asked for.
pub(crate) struct Asked {
    pub(crate) argv: Vec<String>,
    pub(crate) given: usize,
    pub(crate) mode: Mode,
    pub(crate) prompt: Option<&'static str>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) dir: Option<PathBuf>,
}

impl Asked {
    /// The first of `argv` is the program, and all others are what the caller gave.
    pub(crate) fn new(argv: &[&str]) -> Self {
        Self {
            argv: argv.iter().map(ToString::to_string).collect(),
            given: 1,
            mode: Mode::Interactive,
            prompt: None,
            env: BTreeMap::new(),
            dir: None,
        }
    }

    pub(crate) fn headless(self) -> Self {
        Self { mode: HEADLESS, ..self }
    }

    pub(crate) fn prompt(self, prompt: &'static str) -> Self {
        Self { prompt: Some(prompt), ..self }
    }

    pub(crate) fn observed(self, dir: &str) -> Self {
        Self { dir: Some(dir.into()), ..self }
    }

    pub(crate) fn start(
        &self,
        adapter: &dyn Adapter,
        conversation: Conversation<'_>,
    ) -> Result<Started, stratavore_assistants::AssistantError> {
        let hook = ["/opt/stratavore-agent".to_owned(), "hook".to_owned()];
        adapter.start(&Start {
            argv: &self.argv,
            given: self.given,
            mode: self.mode,
            conversation,
            prompt: self.prompt,
            title: "a \"title\"",
            directory: Path::new("/home/dev/p1"),
            env: &self.env,
            observed: self.dir.as_deref().map(|dir| Observed { dir, hook: &hook }),
        })
    }

    pub(crate) fn fresh(&self, adapter: &dyn Adapter) -> Started {
        self.start(adapter, Conversation::Fresh { preset: PRESET }).unwrap()
    }

    pub(crate) fn resumed(&self, adapter: &dyn Adapter, session: &str) -> Started {
        self.start(adapter, Conversation::Resume { session }).unwrap()
    }
}
