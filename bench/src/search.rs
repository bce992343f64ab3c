//! Search over 100,000 messages, beside the same index asked without us.

use std::time::Instant;

use anyhow::ensure;
use stratavore_core::SessionId;
use stratavore_core::embedding::{BUILTIN, builtin, normalize};
use stratavore_core::message::{Message, Place, Role};
use stratavore_core::search::{Query, RESULTS_MAX, SearchFilter, snippet};
use stratavore_store::testing::bare::Bare;
use stratavore_store::testing::{TestStore, on_server};
use stratavore_store::{PoolSettings, Settings, Store};
use stratavore_testkit::pgvector::{self, VectorServer};

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
/// How many of the nearest are asked for, as a search does, and how many its index looks at for them.
const NEAREST: u32 = 50;
const LOOKED_AT: u32 = 200;
/// The least of the nearest that have to be found, in percent.
const RECALL: f64 = 95.0;
/// Vectors as a model makes them, of so many numbers: texts of one conversation are near each other, and so
/// much of each is its own.
const MODEL: &str = "made-up-1";
const SIZE: usize = 384;
const OWN: f32 = 0.6;
/// How many vectors are put in at once.
const PUT: u32 = 2000;

/// Numbers that a seed gives.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// Of length 1, and of no direction before others.
    fn vector(&mut self) -> Vec<f32> {
        // The sum of a few even ones is near enough to a normal one.
        let mut number =
            || (0..4).map(|_| self.below(1 << 20) as f32).sum::<f32>() - (2 << 20) as f32;
        let mut vector: Vec<f32> = (0..SIZE).map(|_| number()).collect();
        normalize(&mut vector);
        vector
    }

    /// What a model makes of a text of this conversation.
    fn meant(&mut self, talk: u64) -> Vec<f32> {
        let own = self.vector().into_iter().map(|number| number * OWN);
        let about = Dice(1000 + talk).vector();
        let mut vector: Vec<f32> = about.iter().zip(own).map(|(a, b)| a + b).collect();
        normalize(&mut vector);
        vector
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

/// Two words to look for, of which few messages have both.
fn pair(dice: &mut Dice) -> [String; 2] {
    [word(200 + dice.below(2000)), word(20 + dice.below(400))]
}

/// What a user is shown: the best of what has the words, with where they stand.
async fn by_words(store: &Store, text: &str) -> anyhow::Result<usize> {
    let query = Query::parse(text)?;
    let found = store.message_search(&query, &SearchFilter::default(), RESULTS_MAX).await?;
    shown(store, &query, found.into_iter().map(|(number, _)| number)).await
}

/// By the vector that a model makes of a question.
async fn by_meaning(store: &Store, model: &str, asked: &Asked) -> anyhow::Result<usize> {
    let (query, all) = (Query::parse(&asked.text)?, SearchFilter::default());
    let found = store.embedding_nearest(model, &asked.vector, &all, NEAREST).await?;
    ensure!(!found.is_empty(), "nothing is alike");
    shown(store, &query, found.into_iter().map(|(number, _)| number)).await
}

/// A question: its words, and what a model makes of it.
struct Asked {
    text: String,
    vector: Vec<f32>,
}

impl Asked {
    fn built_in(dice: &mut Dice) -> Self {
        let text = pair(dice).join(" ");
        Self { vector: builtin(&text), text }
    }

    fn of_a_model(dice: &mut Dice) -> Self {
        let talk = dice.below((MESSAGES / OF_ONE) as u64);
        Self { vector: dice.meant(talk), text: pair(dice).join(" ") }
    }
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
                    let began = Instant::now();
                    wait.block_on(by_meaning(store, BUILTIN, &Asked::built_in(&mut dice)))?;
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

/// By meaning where PostgreSQL has pgvector: by its index, of a model's vectors, and by having it compare all
/// built-in ones; each beside the same asked without us.
pub(crate) fn nearby(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let what = format!("transcript search, {MESSAGES} messages, by meaning, pgvector");
    if let Err(why) = pgvector::prepare() {
        return Ok(vec![Row::without(format!("{what}, p50"), "ms", why)]);
    }
    let wait = &lab.runtime;
    let server = VectorServer::start();
    let home = server.database();
    // An index that does not fit into it is made much more slowly.
    home.query("ALTER ROLE CURRENT_USER SET maintenance_work_mem = '512MB'");
    let pool = PoolSettings { min_connections: 0, ..PoolSettings::default() };
    let settings = Settings { database: on_server(&home), pool };
    let store = wait.block_on(Store::open(settings.clone()))?;
    ensure!(store.has_vector_index(), "the server has pgvector, and it is not used");
    wait.block_on(filled(&store))?;
    let mut bare = wait.block_on(Bare::open(&settings))?;
    wait.block_on(bare.look_at(LOOKED_AT))?;
    let tidy = || {
        for table in ["messages", "_message_vectors"] {
            home.query(&format!("VACUUM ANALYZE {table}"));
        }
    };

    while wait.block_on(store.nearby_fill(BUILTIN, PUT))? > 0 {}
    tidy();
    let built_in = format!("{what}, all built-in vectors compared");
    let mut rows = nearest(lab, &store, &mut bare, &built_in, BUILTIN, Asked::built_in)?;

    let numbers = home.query("SELECT id FROM messages ORDER BY id");
    let numbers: Vec<i64> = numbers.lines().map(str::parse).collect::<Result<_, _>>()?;
    let mut dice = Dice(5);
    for (talk, numbers) in (0..).zip(numbers.chunks(OF_ONE)) {
        let vectors: Vec<_> = numbers.iter().map(|number| (*number, dice.meant(talk))).collect();
        wait.block_on(bare.replace_vectors(MODEL, &vectors))?;
    }
    let began = Instant::now();
    while wait.block_on(store.nearby_fill(MODEL, PUT))? > 0 {}
    let put = Samples(vec![began.elapsed().as_secs_f64()]);
    tidy();
    let indexed = format!("{what}'s HNSW");
    rows.extend(nearest(lab, &store, &mut bare, &indexed, MODEL, Asked::of_a_model)?);
    rows.push(Row::new(format!("{indexed}, until all are put in and indexed"), "s", &put));
    wait.block_on(bare.close())?;
    drop(store);
    // Before its server.
    drop(home);
    Ok(rows)
}

/// What a search by a model's vectors takes, and how much of what is nearest it finds.
fn nearest(
    lab: &Lab,
    store: &Store,
    bare: &mut Bare,
    what: &str,
    model: &str,
    ask: fn(&mut Dice) -> Asked,
) -> anyhow::Result<Vec<Row>> {
    let wait = &lab.runtime;
    let [mut asked, mut asked_bare] = [Dice(9), Dice(9)];
    let (mut ours, mut limit) = (Samples::default(), Samples::default());
    in_turns(
        lab.rounds,
        [
            &mut || {
                for _ in 0..QUERIES {
                    let asked = ask(&mut asked);
                    let began = Instant::now();
                    wait.block_on(by_meaning(store, model, &asked))?;
                    ours.0.push(ms_since(began));
                }
                Ok(0.0)
            },
            &mut || {
                for _ in 0..QUERIES {
                    let asked = ask(&mut asked_bare);
                    let (nearest, page) = (i64::from(NEAREST), PAGE as i64);
                    let (of, by_index) = ((model, &asked.vector[..]), model == MODEL);
                    let began = Instant::now();
                    ensure!(
                        wait.block_on(bare.nearest(of, by_index, nearest, page))? > 0,
                        "nothing"
                    );
                    limit.0.push(ms_since(began));
                }
                Ok(0.0)
            },
        ],
    )?;

    // A filter that everything passes is answered by comparing one by one.
    let one_by_one = SearchFilter { since: Some(given::at(-1)), ..SearchFilter::default() };
    let mut recall = Samples::default();
    let mut dice = Dice(11);
    for _ in 0..lab.rounds * 2 {
        let Asked { vector, .. } = ask(&mut dice);
        let near = async |filter: &SearchFilter| {
            anyhow::Ok(store.embedding_nearest(model, &vector, filter, NEAREST).await?)
        };
        let found = wait.block_on(near(&SearchFilter::default()))?;
        let by_all = wait.block_on(near(&one_by_one))?;
        // Of several that are as near, any is as good.
        let least = by_all.last().map_or(0.0, |(_, likeness)| *likeness) - 1e-4;
        let good = found.iter().filter(|(_, near)| *near >= least).count();
        recall.0.push(100.0 * good as f64 / by_all.len().max(1) as f64);
    }
    let against = "the bare query";
    Ok(vec![
        Row::new(format!("{what}, p50"), "ms", &ours)
            .against(against, &limit)
            .target(Target::AtMost(1.5)),
        Row::new(format!("{what}, p99"), "ms", &ours).against(against, &limit).p99(),
        Row::new(format!("{what}, of the {NEAREST} nearest it finds"), "%", &recall)
            .target(Target::Above(RECALL)),
    ])
}
