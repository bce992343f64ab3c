//! T-BUDGET, the ledger's part: whatever is told twice, late, by two at once, by forks, or cut off in
//! the middle, what is in the ledger is what was billed.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use stratavore_core::message::{Message, Place, Role};
use stratavore_core::name::Name;
use stratavore_core::observation::Observation;
use stratavore_core::usage::{
    Priced, Purpose, Quality, Tokens, UsageBy, UsageFilter, UsageRecord, UsageSums,
};
use stratavore_core::{NodeId, ProjectId, RunnerId, Timestamp};
use stratavore_store::testing::TestStore;
use stratavore_store::{
    FileIdentity, Follow, FollowStep, Observed, Store, StoreError, UsagePlace, on_both_databases,
};
use tokio::task::JoinSet;

use crate::given::{self, at};
use crate::raw;

const WRITERS: usize = 8;
const KEYS: usize = 400;
/// Observations that are read of a file at once.
const PIECE: usize = 12;

/// Numbers that look random; the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn count(&mut self) -> u64 {
        self.below(5000) as u64
    }
}

fn price(_: &str, tokens: &Tokens, _: Timestamp) -> Option<Priced> {
    let cost = i64::try_from(tokens.input + 5 * tokens.output + 2 * tokens.cache_write_1h).unwrap();
    Some(Priced { cost, version: "test".into() })
}

/// What was billed: the truth that the ledger is held against.
struct Billed {
    key: String,
    session: usize,
    model: &'static str,
    tokens: Tokens,
    reported: i64,
    at: Timestamp,
}

fn billed(dice: &mut Dice) -> Vec<Billed> {
    (0..KEYS)
        .map(|number| Billed {
            key: format!("req_{number:04}"),
            session: dice.below(5),
            model: ["large", "small"][dice.below(2)],
            tokens: Tokens {
                input: dice.count(),
                output: dice.count(),
                cache_read: dice.count(),
                cache_write: dice.count(),
                cache_write_1h: dice.count(),
                reasoning: dice.count(),
            },
            reported: 1 + dice.below(1000) as i64,
            at: at(dice.below(200_000) as i64),
        })
        .collect()
}

/// The same message as each source tells it.
fn tellings(billed: &Billed, session: &str) -> [UsageRecord; 3] {
    let tokens = billed.tokens;
    let transcript = UsageRecord {
        key: billed.key.clone(),
        session: session.into(),
        request_id: Some(billed.key.clone()),
        message_id: Some("m".into()),
        model: billed.model.into(),
        purpose: Purpose::Main,
        tokens,
        reported_cost: None,
        quality: Quality::Exact,
        at: billed.at,
        place: Place { file: session.into(), offset: 1 },
    };
    // Telemetry knows the cost, and neither the kinds of caches nor reasoning apart.
    let telemetry = UsageRecord {
        tokens: Tokens {
            output: tokens.output + tokens.reasoning,
            reasoning: 0,
            cache_write: tokens.cache_write + tokens.cache_write_1h,
            cache_write_1h: 0,
            ..tokens
        },
        reported_cost: Some(billed.reported),
        at: billed.at + jiff::SignedDuration::from_secs(2),
        ..transcript.clone()
    };
    // What is guessed while the answer comes in.
    let guess = UsageRecord {
        tokens: Tokens { output: 99_999, ..tokens },
        quality: Quality::Estimated,
        ..transcript.clone()
    };
    [transcript, telemetry, guess]
}

/// The files of all writers, each in the order in which it is read.
fn files(dice: &mut Dice, billed: &[Billed]) -> Vec<Vec<Observation>> {
    let mut files: Vec<Vec<Observation>> = (0..WRITERS).map(|_| Vec::new()).collect();
    for one in billed {
        let session = format!("c{}", one.session);
        for told in tellings(one, &session) {
            let file = dice.below(WRITERS);
            if dice.below(10) == 0 {
                let again = dice.below(WRITERS);
                files[again].push(Observation::Usage(told.clone()));
            }
            files[file].push(Observation::Usage(told));
        }
        // A fork has its parent's lines once more.
        if dice.below(10) == 0 {
            let [told, ..] = tellings(one, "fork");
            files[dice.below(WRITERS)].push(Observation::Usage(told));
        }
    }
    for (number, file) in files.iter_mut().enumerate() {
        for place in 1..file.len() {
            if dice.below(10) == 0 {
                let other = dice.below(place);
                file.swap(place, other);
            }
        }
        for (place, line) in (0..file.len()).step_by(7).enumerate() {
            file.insert(line, said(&format!("{number}-{place}")));
        }
    }
    files
}

fn said(id: &str) -> Observation {
    Observation::Message(Message {
        id: id.into(),
        session: "c0".into(),
        role: Role::User,
        at: at(1),
        model: None,
        text: "hello".into(),
        place: Place { file: "c0".into(), offset: 0 },
    })
}

#[derive(Clone)]
struct Whose {
    assistant: Name,
    node: NodeId,
    project: ProjectId,
    runner: RunnerId,
}

/// Reads a file to its end, as a follower does: piece by piece, from where the store says that it was
/// read to. Now and then it is killed in the middle of a piece.
async fn follow(
    store: Store,
    of: Whose,
    path: String,
    lines: Vec<Observation>,
    mut dice: Dice,
) -> usize {
    let identity = FileIdentity { device: "1".into(), inode: path.clone() };
    let mut killed = 0;
    loop {
        let seen: Option<Follow> = store.follow_get(of.node, &path).await.unwrap();
        let from = seen.as_ref().map_or(0, |seen| usize::try_from(seen.read_to).unwrap());
        if from == lines.len() {
            return killed;
        }
        let to = (from + PIECE).min(lines.len());
        let batch = Observed {
            assistant: &of.assistant,
            node: of.node,
            project: Some(of.project),
            runner: Some(of.runner),
            epoch: None,
            follow: Some(FollowStep {
                path: &path,
                seen: seen.as_ref(),
                read_to: to as u64,
                memory: "{}",
                identity: &identity,
            }),
            observations: &lines[from..to],
            price: &price,
            now: at(300_000),
        };
        let steps = if dice.below(4) == 0 { dice.below(60) } else { usize::MAX };
        tokio::select! {
            biased;
            done = store.observed(&batch, "agent") => match done {
                Ok(_) | Err(StoreError::Conflict { .. } | StoreError::Busy { .. }) => {}
                Err(error) => panic!("{error:?}"),
            },
            () = yields(steps) => killed += 1,
        }
    }
}

async fn yields(steps: usize) {
    for _ in 0..steps {
        tokio::task::yield_now().await;
    }
}

/// Has all of it told, by two daemons where that can be. Answers how many messages were said.
async fn tell_all(db: &TestStore, files: Vec<Vec<Observation>>, seed: u64) -> usize {
    let store = db.store();
    let node = given::node(store).await;
    let project = given::project(store, "alpha").await;
    let runner = given::runner(store, &project, node, "one").await;
    let assistant = runner.command.assistant.clone();
    let of = Whose { assistant, node, project: project.id, runner: runner.id };
    let second = if db.server().is_some() { db.another().await } else { store.clone() };
    let is_said = |line: &&Observation| matches!(line, Observation::Message(_));
    let said = files.iter().flatten().filter(is_said).count();
    let mut writers = JoinSet::new();
    for (number, lines) in files.into_iter().enumerate() {
        let store = if number % 2 == 0 { store.clone() } else { second.clone() };
        let path = format!("/t/{number}.jsonl");
        writers.spawn(follow(store, of.clone(), path, lines, Dice(seed + number as u64)));
    }
    let killed: usize = writers.join_all().await.into_iter().sum();
    assert!(killed > 0, "nobody was killed, with seed {seed}");
    said
}

fn truth(billed: &[Billed]) -> UsageSums {
    billed
        .iter()
        .map(|one| UsageSums {
            tokens: one.tokens.into(),
            cost: price("", &one.tokens, one.at).unwrap().cost,
            reported: one.reported,
            messages: 1,
            reporting: 1,
            ..UsageSums::default()
        })
        .sum()
}

/// All rows of the ledger, page by page: their sum, and the sums by session and model.
async fn ledger(store: &Store) -> (UsageSums, Sums, Sums) {
    let (mut all, mut by_session, mut by_model) = (UsageSums::default(), Sums::new(), Sums::new());
    let mut before: Option<UsagePlace> = None;
    loop {
        let rows = store.usage_rows(&UsageFilter::default(), before.as_ref(), 70).await.unwrap();
        for row in &rows {
            all += row.sums();
            let session = row.belongs.session.map(|id| id.to_string()).unwrap_or_default();
            *by_session.entry(session).or_default() += row.sums();
            *by_model.entry(row.record.model.clone()).or_default() += row.sums();
        }
        let Some(last) = rows.last() else { return (all, by_session, by_model) };
        before = Some(UsagePlace {
            at: last.record.at,
            assistant: last.assistant.to_string(),
            key: last.record.key.clone(),
        });
    }
}

type Sums = BTreeMap<String, UsageSums>;

async fn report(store: &Store, by: UsageBy, filter: &UsageFilter) -> Sums {
    let groups = store.usage_report(by, filter, &TimeZone::UTC).await.unwrap();
    groups.into_iter().map(|group| (group.of, group.sums)).collect()
}

on_both_databases! {
    async fn the_ledger_is_what_was_billed(db: TestStore) {
        let seed = u64::from_be_bytes(given::entropy()[..8].try_into().unwrap()) >> 1;
        let mut dice = Dice(seed);
        let billed = billed(&mut dice);
        let files = files(&mut dice, &billed);
        let said = tell_all(&db, files, seed).await;

        let store = db.store();
        let truth = truth(&billed);
        let (all, by_session, by_model) = ledger(store).await;
        assert_eq!(all, truth, "the ledger, with seed {seed}");
        let whole = UsageFilter::default();
        assert_eq!(report(store, UsageBy::Session, &whole).await, by_session, "with seed {seed}");
        assert_eq!(report(store, UsageBy::Model, &whole).await, by_model, "with seed {seed}");
        for by in UsageBy::ALL {
            let sums = report(store, by, &UsageFilter::default()).await;
            let sum: UsageSums = sums.values().copied().sum();
            assert_eq!(sum, truth, "by {}, with seed {seed}", by.as_str());
        }
        let large: Vec<_> = billed.iter().filter(|one| one.model == "large").collect();
        let tokens: i64 = large.iter().map(|one| i64::try_from(one.tokens.total()).unwrap()).sum();
        assert_eq!(report(store, UsageBy::Model, &UsageFilter::default()).await["large"].tokens.total(), tokens);
        let told = raw::number(&db, "SELECT CAST(sum(user_messages) AS bigint) FROM sessions").await;
        assert_eq!(told, said as i64, "each line was read once, with seed {seed}");

        // Any span of time, to the microsecond, though sums are of quarters.
        for _ in 0..40 {
            let (one, other) = (dice.below(200_000) as i64, dice.below(200_000) as i64);
            let near = one + dice.below(900) as i64;
            for (since, until) in [(one.min(other), one.max(other)), (one, near), (one - one % 900, near)] {
                let filter = UsageFilter { since: Some(at(since)), until: Some(at(until)), ..UsageFilter::default() };
                let sum: UsageSums = report(store, UsageBy::Day, &filter).await.into_values().sum();
                let within = billed.iter().filter(|one| one.at >= at(since) && one.at < at(until));
                let tokens: i64 = within.map(|one| i64::try_from(one.tokens.total()).unwrap()).sum();
                assert_eq!(sum.tokens.total(), tokens, "from {since} to {until}, with seed {seed}");
            }
        }
    }

    /// The control: without keys, each telling would be one more message.
    async fn without_keys_it_is_noticed(db: TestStore) {
        let mut dice = Dice(7);
        let billed = billed(&mut dice);
        let mut files = files(&mut dice, &billed);
        let mut number = 0;
        for line in files.iter_mut().flatten() {
            if let Observation::Usage(record) = line {
                number += 1;
                record.key = format!("{}-{number}", record.key);
            }
        }
        tell_all(&db, files, 7).await;
        let ((found, ..), truth) = (ledger(db.store()).await, truth(&billed));
        assert!(found.tokens.total() > 2 * truth.tokens.total(), "{found:?}");
        assert!(found.messages > 3 * truth.messages, "{found:?}");
    }

    /// Sums are read, and not the messages that they are of.
    async fn a_report_reads_no_more_when_ten_times_as_much_was_told(db: TestStore) {
        let store = db.another().await;
        let node = given::node(&store).await;
        let project = given::project(&store, "alpha").await;
        let runner = given::runner(&store, &project, node, "one").await;
        let tell = |store: Store, from: usize, to: usize| {
            let assistant = runner.command.assistant.clone();
            async move {
                let lines: Vec<Observation> = (from..to)
                    .map(|number| {
                        let record = crate::observed::usage("c1", &format!("k{number}"), 1);
                        let second = number as i64 * 9 % 3600;
                        Observation::Usage(UsageRecord { at: at(second), ..record })
                    })
                    .collect();
                let batch = Observed {
                    assistant: &assistant,
                    node,
                    project: Some(project.id),
                    runner: Some(runner.id),
                    epoch: None,
                    follow: None,
                    observations: &lines,
                    price: &price,
                    now: at(300_000),
                };
                store.observed(&batch, "agent").await.unwrap();
                store.close().await;
            }
        };
        let whole = UsageFilter::default();
        let report_of = |expected: i64| {
            let whole = whole.clone();
            async move |store: Store| {
                let sums = report(&store, UsageBy::Model, &whole).await;
                assert_eq!(sums["large"].messages, expected);
            }
        };
        tell(store, 0, 400).await;
        let few = db.work(report_of(400)).await.1;
        tell(db.another().await, 400, 4000).await;
        let many = db.work(report_of(4000)).await.1;
        assert!(many <= few + few / 5 + 20, "{few}, and then {many}");
        // The control: to go through the rows costs ten times as much.
        let rows = async |store: Store| ledger(&store).await.0.messages;
        let (messages, through) = db.work(rows).await;
        assert_eq!(messages, 4000);
        assert!(through > 5 * many, "{many}, and {through} row by row");
    }
}
