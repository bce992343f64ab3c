//! Reads samples as the daemon does: line by line, with a memory that is kept between them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stratavore_assistants::adapter::{
    Conversation, Headless, Memory, Mode, Observed, Start, Started,
};
use stratavore_assistants::{Adapter, adapter};
use stratavore_core::activity::{Activity, Doing};
use stratavore_core::message::{Message, Place};
use stratavore_core::observation::{Asked, Observation, SessionSeen};
use stratavore_core::signal::{Signal, What};
use stratavore_core::usage::{Tokens, UsageRecord};

pub(crate) const SESSION: &str = "0a0a0a0a-1111-4222-8333-444444444444";
pub(crate) const PRESET: &str = "0b0b0b0b-1111-4222-8333-444444444444";

pub(crate) fn of(assistant: &str) -> &'static dyn Adapter {
    adapter(&assistant.parse().unwrap())
}

pub(crate) fn sample(path: &str) -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(path);
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The lines of a file with their offsets.
pub(crate) fn lines(bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut offset = 0;
    let mut lines = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        lines.push((offset, line.strip_suffix(b"\n").unwrap_or(line)));
        offset += line.len() as u64;
    }
    lines
}

/// Reads a whole transcript.
pub(crate) fn read(adapter: &dyn Adapter, file: &str, bytes: &[u8]) -> Vec<Observation> {
    let mut memory = Memory::default();
    let lines = lines(bytes);
    lines
        .iter()
        .flat_map(|(offset, line)| {
            adapter.line(&mut memory, line, &Place { file: file.into(), offset: *offset })
        })
        .collect()
}

pub(crate) fn read_sample(assistant: &str, path: &str) -> Vec<Observation> {
    read(of(assistant), path, &sample(path))
}

/// The same observations come, whatever line the reading goes on from with its memory kept.
pub(crate) fn assert_same_from_any_offset(assistant: &str, path: &str) {
    let adapter = of(assistant);
    let bytes = sample(path);
    let lines = lines(&bytes);
    let mut memory = Memory::default();
    let mut kept = Vec::new();
    for (offset, line) in &lines {
        let place = Place { file: path.into(), offset: *offset };
        // As the store has it.
        let text = serde_json::to_string(&memory).unwrap();
        let mut again: Memory = serde_json::from_str(&text).unwrap();
        let seen = adapter.line(&mut memory, line, &place);
        assert_eq!(adapter.line(&mut again, line, &place), seen, "{path} at {offset}");
        assert_eq!(again, memory);
        assert!(text.len() < 4096, "the memory stays small: {text}");
        kept.extend(seen);
    }
    assert_eq!(kept, read(adapter, path, &bytes));
}

/// One signal after another, as the log of one runner has them.
pub(crate) struct Log {
    adapter: &'static dyn Adapter,
    pub(crate) memory: Memory,
    offset: u64,
}

impl Log {
    pub(crate) fn of(assistant: &str) -> Self {
        Self { adapter: of(assistant), memory: Memory::default(), offset: 0 }
    }

    pub(crate) fn tell(&mut self, second: i64, what: What) -> Vec<Observation> {
        let at = jiff::Timestamp::from_second(second).unwrap();
        let place = Place { file: "signals".into(), offset: self.offset };
        self.offset += 1;
        self.adapter.signal(&mut self.memory, &Signal { at, epoch: 1, what }, &place)
    }

    pub(crate) fn hook(
        &mut self,
        second: i64,
        call: Option<&str>,
        body: Value,
    ) -> Vec<Observation> {
        self.tell(second, What::Hook { call: call.map(String::from), body })
    }

    /// The hooks of a sample, each with its second.
    pub(crate) fn hooks(&mut self, path: &str) -> Vec<(Value, Vec<Observation>)> {
        let records = sample(path);
        let records = lines(&records);
        let records =
            records.iter().map(|(_, line)| serde_json::from_slice::<Value>(line).unwrap());
        records
            .enumerate()
            .map(|(nth, record)| {
                let body = record["body"].clone();
                let waits = body["hook_event_name"] == "PermissionRequest";
                let call = waits.then(|| format!("call-{nth}"));
                let second = record["t"].as_f64().unwrap() as i64;
                let seen = self.hook(second, call.as_deref(), body.clone());
                (body, seen)
            })
            .collect()
    }
}

/// What the ledger keeps: one record for each key, the best of those that were told.
pub(crate) fn ledger(seen: &[Observation]) -> BTreeMap<String, UsageRecord> {
    let mut rows: BTreeMap<String, UsageRecord> = BTreeMap::new();
    for record in seen
        .iter()
        .filter_map(|seen| if let Observation::Usage(record) = seen { Some(record) } else { None })
    {
        match rows.get(&record.key) {
            Some(known) if known.quality > record.quality => {}
            Some(_) | None => drop(rows.insert(record.key.clone(), record.clone())),
        }
    }
    rows
}

pub(crate) fn sum(rows: &BTreeMap<String, UsageRecord>) -> Tokens {
    rows.values().map(|row| row.tokens).sum()
}

pub(crate) fn messages(seen: &[Observation]) -> Vec<&Message> {
    seen.iter()
        .filter_map(
            |seen| if let Observation::Message(message) = seen { Some(message) } else { None },
        )
        .collect()
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

/// What it does after all of this.
pub(crate) fn activity(seen: &[Observation]) -> Option<Activity> {
    let mut doings = doings(seen).into_iter().cloned();
    let first = doings.next()?;
    let doing = doings.fold(first, |doing, told| doing.followed_by(told, jiff::Timestamp::MAX));
    Some(doing.activity)
}

pub(crate) fn asked(seen: &[Observation]) -> Vec<&Asked> {
    seen.iter()
        .filter_map(|seen| if let Observation::Asked(asked) = seen { Some(asked) } else { None })
        .collect()
}

pub(crate) fn over(seen: &[Observation]) -> Vec<&str> {
    seen.iter()
        .filter_map(|seen| {
            if let Observation::AskOver { call } = seen { Some(call.as_str()) } else { None }
        })
        .collect()
}

/// How a run is started: the caller's words after `--`, and what differs from a new one with a screen.
pub(crate) struct Launch {
    pub(crate) argv: Vec<String>,
    pub(crate) given: usize,
    pub(crate) mode: Mode,
    pub(crate) conversation: Conversation<'static>,
    pub(crate) prompt: Option<&'static str>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) bare: bool,
}

pub(crate) fn launch(before: &str, given: &[&str]) -> Launch {
    let mut argv: Vec<String> = before.split(' ').map(String::from).collect();
    let places = argv.len();
    argv.extend(given.iter().map(ToString::to_string));
    Launch {
        argv,
        given: places,
        mode: Mode::Interactive,
        conversation: Conversation::Fresh { preset: PRESET },
        prompt: None,
        env: BTreeMap::new(),
        bare: false,
    }
}

impl Launch {
    pub(crate) fn bare(self) -> Self {
        Self { bare: true, ..self }
    }

    pub(crate) fn headless(self) -> Self {
        Self { mode: Mode::Headless(Headless::default()), ..self }
    }

    pub(crate) fn limited(self, turns: u32, cost: i64) -> Self {
        let limits = Headless { max_turns: Some(turns), max_cost: Some(cost), item: None };
        Self { mode: Mode::Headless(limits), ..self }
    }

    pub(crate) fn resume(self) -> Self {
        Self { conversation: Conversation::Resume { session: SESSION }, ..self }
    }

    pub(crate) fn fork(self) -> Self {
        let conversation = Conversation::Fork { session: SESSION, preset: PRESET };
        Self { conversation, ..self }
    }

    pub(crate) fn prompt(self, prompt: &'static str) -> Self {
        Self { prompt: Some(prompt), ..self }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    pub(crate) fn start(&self, assistant: &str) -> Started {
        let dir = PathBuf::from("/state/runners/r1");
        let hook: Vec<String> =
            ["/opt/stratavore", "hook", "/state/runners/r1"].map(String::from).into();
        let start = Start {
            argv: &self.argv,
            given: self.given,
            mode: self.mode,
            conversation: self.conversation,
            prompt: self.prompt,
            title: "fix the build",
            directory: Path::new("/home/dev/p1"),
            env: &self.env,
            observed: (!self.bare).then_some(Observed { dir: &dir, hook: &hook }),
        };
        of(assistant).start(&start).unwrap()
    }
}
