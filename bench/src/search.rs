//! Search over 100,000 messages, beside the same index asked without us.

use std::time::Instant;

use anyhow::ensure;
use stratavore_core::SessionId;
use stratavore_core::embedding::{BUILTIN, builtin};
use stratavore_core::message::{Message, Place, Role};
use stratavore_core::search::{Query, RESULTS_MAX, SearchFilter, snippet};
use stratavore_store::Store;
use stratavore_store::testing::TestStore;
use stratavore_store::testing::bare::Bare;

use crate::report::{Row, Target};
use crate::sample::{Samples, in_turns, ms_since};
use crate::{Lab, given};

const MESSAGES: usize = 100_000;
/// Messages of one conversation, and words of one message.
const OF_ONE: usize = 500;
const WORDS: u64 = 60;
/// Different words; few of them are in most messages.
const VOCABULARY: u64 = 20_000;
/// Queries of each side in one round.
const QUERIES: usize = 20;
const PAGE: usize = 20;

/// Numbers that a seed gives.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// A word that is the rarer the greater its number.
    fn word(&mut self) -> String {
        let (a, b) = (self.below(VOCABULARY) + 1, self.below(VOCABULARY) + 1);
        word(a * b / VOCABULARY)
    }
}

fn word(number: u64) -> String {
    const SYLLABLES: [&str; 16] = [
        "ka", "lo", "mi", "ter", "pen", "sa", "vor", "dun", "esh", "gri", "bal", "cu", "fen",
        "hol", "jat", "wix",
    ];
    let at = |shift: u64| SYLLABLES[(number >> shift) as usize % SYLLABLES.len()];
    format!("{}{}{}{}", at(12), at(8), at(4), at(0))
}

async fn filled(store: &Store) -> anyhow::Result<()> {
    let node = given::node(store).await?;
    let project = given::project(store, "talks").await?;
    let mut dice = Dice(1);
    for talk in 0..MESSAGES / OF_ONE {
        let new = vec![given::unborn(project, node, &format!("r{talk}"))?];
        let admitted = store.runners_admit(new, "bench", given::at(0), None).await?;
        let session: Option<SessionId> = admitted.first().and_then(|runner| runner.session);
        let Some(session) = session else { anyhow::bail!("a runner without a session") };
        let messages: Vec<Message> = (0..OF_ONE)
            .map(|number| Message {
                id: format!("m{number}"),
                session: String::new(),
                role: Role::ALL[number % 3],
                at: given::at((talk * OF_ONE + number) as i64),
                model: None,
                text: (0..WORDS).map(|_| dice.word()).collect::<Vec<_>>().join(" "),
                place: Place { file: "/t.jsonl".into(), offset: number as u64 },
            })
            .collect();
        let all: Vec<_> = messages.iter().map(|message| (session, message)).collect();
        store.message_record(&all).await?;
    }
    loop {
        let pending = store.embedding_pending(2000).await?;
        if pending.is_empty() {
            return Ok(());
        }
        let vectors: Vec<_> =
            pending.into_iter().map(|one| (one.clone(), builtin(&one.text))).collect();
        store.embedding_keep(BUILTIN, &vectors).await?;
    }
}

/// What a user is shown: the best of what has the words, with where they stand.
async fn by_words(store: &Store, text: &str) -> anyhow::Result<usize> {
    let query = Query::parse(text)?;
    let found = store.message_search(&query, &SearchFilter::default(), RESULTS_MAX).await?;
    shown(store, &query, found.into_iter().map(|(number, _)| number)).await
}

async fn by_meaning(store: &Store, text: &str) -> anyhow::Result<usize> {
    let query = Query::parse(text)?;
    let filter = SearchFilter::default();
    let found = store.embedding_nearest(BUILTIN, &builtin(text), &filter, 50).await?;
    shown(store, &query, found.into_iter().map(|(number, _)| number)).await
}

async fn shown(
    store: &Store,
    query: &Query,
    numbers: impl Iterator<Item = i64>,
) -> anyhow::Result<usize> {
    let numbers: Vec<i64> = numbers.take(PAGE).collect();
    let kept = store.message_numbered(&numbers).await?;
    Ok(kept.iter().map(|kept| snippet(&kept.message.text, query).len()).sum())
}

pub(crate) fn messages(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let wait = &lab.runtime;
    let open = async { (TestStore::postgres().await, TestStore::sqlite().await) };
    let (postgres, sqlite) = wait.block_on(open);
    let mut rows = Vec::new();
    for (engine, db) in [("PostgreSQL", postgres), ("SQLite", sqlite)] {
        let store = db.store();
        wait.block_on(filled(store))?;
        if let Some(server) = db.server() {
            server.query("VACUUM ANALYZE messages");
        }
        let mut bare = wait.block_on(Bare::open(db.settings()))?;
        let mut bare_scan = wait.block_on(Bare::open(db.settings()))?;
        let [mut asked, mut asked_bare] = [Dice(7), Dice(7)];
        let pair = |dice: &mut Dice| [word(200 + dice.below(2000)), word(20 + dice.below(400))];
        let (mut ours, mut limit) = (Samples::default(), Samples::default());
        in_turns(
            lab.rounds,
            [
                &mut || {
                    for _ in 0..QUERIES {
                        let text = pair(&mut asked).join(" ");
                        let began = Instant::now();
                        wait.block_on(by_words(store, &text))?;
                        ours.0.push(ms_since(began));
                    }
                    Ok(0.0)
                },
                &mut || {
                    for _ in 0..QUERIES {
                        let words = pair(&mut asked_bare);
                        let words = [&*words[0], &*words[1]];
                        let began = Instant::now();
                        wait.block_on(bare.search(&words, PAGE as i64))?;
                        limit.0.push(ms_since(began));
                    }
                    Ok(0.0)
                },
            ],
        )?;
        let what = format!("transcript search, {MESSAGES} messages, by words, {engine}");
        rows.push(
            Row::new(format!("{what}, p50"), "ms", &ours)
                .against("bare index query", &limit)
                .target(Target::AtMost(1.5)),
        );
        rows.push(
            Row::new(format!("{what}, p99"), "ms", &ours).against("bare index query", &limit).p99(),
        );
        let mut dice = Dice(9);
        let [near, scan] = in_turns(
            lab.rounds,
            [
                &mut || {
                    let text = pair(&mut dice).join(" ");
                    let began = Instant::now();
                    ensure!(wait.block_on(by_meaning(store, &text))? > 0, "nothing is alike");
                    Ok(ms_since(began))
                },
                &mut || {
                    let began = Instant::now();
                    ensure!(wait.block_on(bare_scan.vectors())? > 0, "no vectors");
                    Ok(ms_since(began))
                },
            ],
        )?;
        let what = format!("transcript search, {MESSAGES} messages, by meaning, {engine}");
        rows.push(
            Row::new(format!("{what}, p50"), "ms", &near)
                .against("reading all vectors", &scan)
                .target(Target::AtMost(1.5)),
        );
        rows.push(Row::new(format!("{what}, p99"), "ms", &near).p99());
        wait.block_on(bare.close())?;
        wait.block_on(bare_scan.close())?;
    }
    Ok(rows)
}
