//! Taking in a transcript of 100 MB, beside `serde_json` reading the same fields and storing nothing, and
//! beside the database with the same texts and its own index of their words.
//!
//! Ours is what a daemon does with a file that has grown: the adapter's reading of each line, and the store's
//! transaction for each piece, with the ledger, the messages and how far the file was read.

use std::time::Instant;

use anyhow::ensure;
use serde::Deserialize;
use stratavore_assistants::adapter::Memory;
use stratavore_core::message::Place;
use stratavore_core::name::Name;
use stratavore_core::observation::Observation;
use stratavore_core::price::{Prices, VERSION};
use stratavore_core::usage::{Priced, Tokens};
use stratavore_core::{NodeId, ProjectId};
use stratavore_store::testing::TestStore;
use stratavore_store::testing::bare::Bare;
use stratavore_store::{FileIdentity, FollowStep, Observed, Store};
use tokio::runtime::Runtime;

use crate::report::{Row, Target};
use crate::sample::in_turns;
use crate::{Lab, given};

const ASSISTANT: &str = "claude";
const BYTES: usize = 100_000_000;
/// What is read of a file at once, as a daemon does.
const PIECE: usize = 1 << 20;
/// Stands in each id for the round: what was taken in before would not be again.
const ROUND: &str = "R000000";
/// Of each text: answers are short, and what tools give back is long.
const SAID: usize = 700;
const GIVEN_BACK: usize = 6000;

/// A conversation as Claude Code writes it: each answer in two lines, and what the tool gave back.
fn transcript() -> String {
    let mut text = String::with_capacity(BYTES + GIVEN_BACK * 2);
    let said = "a sentence about the relay and its window ".repeat(SAID / 42 + 1);
    let given = "    let found = outbox.claim(now, batch).await?; // and so on\\n"
        .repeat(GIVEN_BACK / 62 + 1);
    let mut turn = 0;
    while text.len() < BYTES {
        turn += 1;
        let line = |kind: &str, number: usize, message: String| {
            format!(
                "{{\"parentUuid\":null,\"isSidechain\":false,\"userType\":\"external\",\"cwd\":\"/work\",\
                 \"sessionId\":\"session-{ROUND}\",\"version\":\"2.1.197\",\"gitBranch\":\"main\",\
                 \"type\":\"{kind}\",\"message\":{message},\"uuid\":\"u-{ROUND}-{turn}-{number}\",\
                 \"timestamp\":\"2026-01-{:02}T{:02}:{:02}:00.000Z\"}}\n",
                turn / 1440 % 28 + 1,
                turn / 60 % 24,
                turn % 60,
            )
        };
        let answer = |content: String| {
            format!(
                "{{\"id\":\"msg_{ROUND}_{turn}\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-opus-4-8\",\
                 \"content\":[{content}],\"stop_reason\":\"tool_use\",\"usage\":{{\"input_tokens\":{turn},\
                 \"cache_creation_input_tokens\":512,\"cache_read_input_tokens\":40000,\"output_tokens\":300,\
                 \"cache_creation\":{{\"ephemeral_5m_input_tokens\":512,\"ephemeral_1h_input_tokens\":0}}}}}}"
            )
        };
        text.push_str(&line(
            "assistant",
            1,
            answer(format!("{{\"type\":\"text\",\"text\":\"{said}\"}}")),
        ));
        let call = format!(
            "{{\"type\":\"tool_use\",\"id\":\"toolu_{ROUND}_{turn}\",\"name\":\"Read\",\"input\":{{\"file_path\":\"/srv/a.rs\"}}}}"
        );
        text.push_str(&line("assistant", 2, answer(call)));
        let back = format!(
            "{{\"role\":\"user\",\"content\":[{{\"type\":\"tool_result\",\"tool_use_id\":\"toolu_{ROUND}_{turn}\",\"content\":\"{given}\"}}]}}"
        );
        text.push_str(&line("user", 3, back));
    }
    text
}

/// What is read of a line, by whoever stores nothing.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    r#type: String,
    uuid: String,
    session_id: String,
    timestamp: String,
    message: Said,
}

#[derive(Deserialize)]
struct Said {
    id: Option<String>,
    model: Option<String>,
    content: Vec<Part>,
    usage: Option<Used>,
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
    content: Option<String>,
    name: Option<String>,
    input: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Used {
    input_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    output_tokens: u64,
}

fn bare(text: &str) -> anyhow::Result<u64> {
    let mut sum = 0;
    for line in text.lines() {
        let line: Line = serde_json::from_str(line)?;
        let Line { r#type, uuid, session_id, timestamp, message } = &line;
        sum += (r#type.len() + uuid.len() + session_id.len() + timestamp.len()) as u64;
        let Said { id, model, content, usage } = message;
        sum += (id.iter().chain(model).map(String::len).sum::<usize>()) as u64;
        for Part { r#type, text, content, name, input } in content {
            let texts = text.iter().chain(content).chain(name).map(String::len).sum::<usize>();
            sum += (r#type.len() + texts + usize::from(input.is_some())) as u64;
        }
        if let Some(used) = usage {
            sum += used.input_tokens
                + used.cache_creation_input_tokens
                + used.cache_read_input_tokens
                + used.output_tokens;
        }
    }
    Ok(sum)
}

/// What the adapter reads in it, piece by piece, each with where it ends and with what the adapter has
/// in mind then.
fn read(
    path: &str,
    text: &str,
    mut taken: impl FnMut(usize, &Memory, Vec<Observation>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let adapter = stratavore_assistants::adapter(&ASSISTANT.parse()?);
    let (mut memory, mut from) = (Memory::default(), 0);
    while from < text.len() {
        let end = text.floor_char_boundary((from + PIECE).min(text.len()));
        let end = text[from..end].rfind('\n').map_or(text.len(), |at| from + at + 1);
        let mut offset = from;
        let mut observations = Vec::new();
        for line in text[from..end].split_inclusive('\n') {
            let place = Place { file: path.into(), offset: offset as u64 };
            observations.extend(adapter.line(&mut memory, line.trim_end().as_bytes(), &place));
            offset += line.len();
        }
        taken(end, &memory, observations)?;
        from = end;
    }
    Ok(())
}

/// Takes all of it in. Answers how many rows the ledger has more.
fn take_in(
    wait: &Runtime,
    store: &Store,
    (node, project): (NodeId, ProjectId),
    path: &str,
    text: &str,
) -> anyhow::Result<usize> {
    let assistant: Name = ASSISTANT.parse()?;
    let prices = Prices::default();
    let price = |model: &str, tokens: &Tokens, _| {
        Some(Priced { cost: prices.cost(model, tokens)?, version: VERSION.into() })
    };
    let identity = FileIdentity { device: "1".into(), inode: path.into() };
    let mut rows = 0;
    read(path, text, |end, memory, observations| {
        let seen = wait.block_on(store.follow_get(node, path))?;
        let told = serde_json::to_string(memory)?;
        let batch = Observed {
            assistant: &assistant,
            node,
            project: Some(project),
            runner: None,
            epoch: None,
            follow: Some(FollowStep {
                path,
                seen: seen.as_ref(),
                read_to: end as u64,
                memory: &told,
                identity: &identity,
            }),
            observations: &observations,
            price: &price,
            now: given::at(0),
        };
        rows += wait.block_on(store.observed(&batch, "bench"))?.deltas.len();
        Ok(())
    })?;
    Ok(rows)
}

/// The texts of its messages, a piece at a time.
fn texts(text: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let mut pieces = Vec::new();
    read("/t.jsonl", text, |_, _, observations| {
        let said = observations.into_iter().filter_map(|observation| {
            let Observation::Message(message) = observation else { return None };
            Some(message.text)
        });
        pieces.push(said.collect());
        Ok(())
    })?;
    Ok(pieces)
}

pub(crate) fn intake(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let text = transcript();
    let turns = text.matches("\"role\":\"user\"").count();
    let megabytes = text.len() as f64 / 1e6;
    let wait = &lab.runtime;
    let mut observed = 0;
    let [reading, limit] = in_turns(
        lab.rounds.min(7),
        [
            &mut || {
                let began = Instant::now();
                read("/t.jsonl", &text, |_, _, observations| {
                    observed += observations.len();
                    Ok(())
                })?;
                Ok(megabytes / began.elapsed().as_secs_f64())
            },
            &mut || {
                let began = Instant::now();
                std::hint::black_box(bare(&text)?);
                Ok(megabytes / began.elapsed().as_secs_f64())
            },
        ],
    )?;
    ensure!(observed > turns, "{observed} observations in {turns} answers");
    let plain = "serde_json reading the same fields, storing nothing";
    let mut rows = vec![
        Row::new("a transcript of 100 MB read, storing nothing", "MB/s", &reading)
            .against(plain, &limit)
            .target(Target::AtLeast(0.8)),
    ];
    let pieces = texts(&text)?;
    let open = async { (TestStore::postgres().await, TestStore::sqlite().await) };
    let (postgres, sqlite) = wait.block_on(open);
    for (engine, db) in [("PostgreSQL", postgres), ("SQLite", sqlite)] {
        let store = db.store();
        let node = wait.block_on(given::node(store))?;
        let project = wait.block_on(given::project(store, "talks"))?;
        let mut indexed = wait.block_on(Bare::open(db.settings()))?;
        wait.block_on(indexed.make_index())?;
        let mut round = 0;
        let [ours, index] = in_turns(
            // Each is a hundred megabytes more in the store.
            lab.rounds.min(7),
            [
                &mut || {
                    round += 1;
                    let text = text.replace(ROUND, &format!("R{round:06}"));
                    let path = format!("/home/ada/{round}.jsonl");
                    let began = Instant::now();
                    let new = take_in(wait, store, (node, project), &path, &text)?;
                    let took = began.elapsed().as_secs_f64();
                    ensure!(new >= turns, "{new} rows of {turns} answers");
                    Ok(megabytes / took)
                },
                &mut || {
                    let began = Instant::now();
                    for piece in &pieces {
                        wait.block_on(indexed.index(piece))?;
                    }
                    Ok(megabytes / began.elapsed().as_secs_f64())
                },
            ],
        )?;
        let what = format!("usage ledger and messages from a transcript of 100 MB, {engine}");
        rows.push(
            Row::new(&what, "MB/s", &ours).against(plain, &limit).target(Target::AtLeast(0.8)),
        );
        rows.push(
            Row::new(what, "MB/s", &ours)
                .against("its texts alone, with the database's index of words", &index),
        );
        wait.block_on(indexed.close())?;
    }
    Ok(rows)
}
