//! T-BUDGET: what budgets have counted is what was used, to the last token.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stratavore_core::budget::{Action, Budget, Every, Scope, Step, Unit, Zone};
use stratavore_core::runner::Runner;
use stratavore_core::usage::{Belongs, TokenSums, UsageDelta, UsageSums};
use stratavore_core::{BudgetId, ProjectId, Timestamp};
use stratavore_store::testing::TestStore;
use stratavore_store::{Store, StoreError, on_both_databases};
use stratavore_testkit::trial::{Dice, Trial, scale};
use tokio::task::JoinSet;

use crate::budget::{budget, unborn_budget, used};
use crate::given::{self, at};
use crate::raw;

const WRITERS: usize = 8;
/// Days of 23, 24 and 25 hours, in Berlin.
const MOMENTS: [&str; 3] = ["2026-03-28T20:00:00Z", "2026-10-24T20:00:00Z", "2026-11-27T20:00:00Z"];

type Told = (String, UsageDelta);
/// The sum of each budget and period, by its beginning or its runner.
type Sums = BTreeMap<(BudgetId, String), i64>;

/// When a day began in Berlin, from its rules and not from a table of zones.
fn berlin_day(at: Timestamp) -> String {
    let summer = |second: i64| {
        let (from, to): (Timestamp, Timestamp) =
            ("2026-03-29T01:00:00Z".parse().unwrap(), "2026-10-25T01:00:00Z".parse().unwrap());
        (from.as_second()..to.as_second()).contains(&second)
    };
    let offset = |second: i64| if summer(second) { 7200 } else { 3600 };
    let day = (at.as_second() + offset(at.as_second())).div_euclid(86_400) * 86_400;
    // Midnight is before the change of that day.
    let start = day - offset(day - 3600);
    Timestamp::from_second(start).unwrap().to_string()
}

fn hour(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second().div_euclid(3600) * 3600).unwrap().to_string()
}

struct Rig {
    budgets: Vec<Budget>,
    runners: Vec<Runner>,
}

impl Rig {
    async fn new(store: &Store, round: usize) -> Self {
        let node = given::node(store).await;
        let mut projects = Vec::new();
        for n in 0..2 {
            let quota = stratavore_core::quota::Quota { runners: 1000, ..Default::default() };
            projects.push(given::project_with(store, &format!("p{round}-{n}"), quota).await);
        }
        let mut runners = Vec::new();
        for n in 0..4 {
            runners.push(given::runner(store, &projects[n % 2], node, &format!("r{n}")).await);
        }
        let zone = Zone::parse("Europe/Berlin").unwrap();
        let ladder: BTreeSet<Step> =
            (1..=16).map(|n| Step { percent: n * 6, action: Action::Notify }).collect();
        let made = |called: &str, scope, every, unit, amount| Budget {
            every,
            unit,
            zone: zone.clone(),
            ladder: ladder.clone(),
            created_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            ..unborn_budget(&format!("{called}-{round}"), scope, amount)
        };
        let own = Scope::Runner { runner: runners[0].id, project: runners[0].project };
        let budgets = vec![
            made("all", Scope::Global, Every::Day, Unit::Tokens, 1_000_000),
            made("money", Scope::Global, Every::Hour, Unit::Money, 1_000_000),
            made("project", Scope::Project(projects[0].id), Every::Day, Unit::Money, 2_000_000),
            made("runner", own, Every::Hour, Unit::Tokens, 50_000),
            made("each", Scope::Global, Every::Run, Unit::Tokens, 500_000),
        ];
        for new in &budgets {
            budget(store, new).await;
        }
        Self { budgets, runners }
    }

    /// Reports of one writer in the order in which they are told: a tenth are told again, and a tenth
    /// come late.
    fn reports(&self, writer: usize, count: usize, dice: &mut Dice) -> Vec<Told> {
        let mut told = Vec::with_capacity(count + count / 8);
        for n in 0..count {
            let from: Timestamp = MOMENTS[dice.below(MOMENTS.len())].parse().unwrap();
            let tokens = dice.below(500) as u64;
            let runner = &self.runners[dice.below(self.runners.len())];
            let by_none = dice.below(8) == 0;
            let delta = UsageDelta {
                assistant: "claude".parse().unwrap(),
                belongs: Belongs {
                    project: Some(runner.project),
                    session: None,
                    runner: (!by_none).then_some(runner.id),
                },
                model: "model".into(),
                change: UsageSums {
                    tokens: TokenSums { output: tokens as i64, ..TokenSums::default() },
                    cost: tokens as i64 * 7 + 1,
                    ..UsageSums::default()
                },
                at: from + Duration::from_secs(dice.below(12 * 3600) as u64),
            };
            told.push((format!("{writer}-{n}"), delta));
        }
        for _ in 0..count / 10 {
            let again = told[dice.below(told.len())].clone();
            told.insert(dice.below(told.len()), again);
        }
        for _ in 0..count / 10 {
            let (a, b) = (dice.below(told.len()), dice.below(told.len()));
            told.swap(a, b);
        }
        told
    }

    fn oracle(&self, told: &BTreeMap<String, UsageDelta>) -> Sums {
        let mut sums = Sums::new();
        for delta in told.values() {
            for budget in &self.budgets {
                let covers = match budget.scope {
                    Scope::Global => true,
                    Scope::Project(project) => delta.belongs.project == Some(project),
                    Scope::Runner { runner, .. } => delta.belongs.runner == Some(runner),
                };
                let period = match budget.every {
                    Every::Hour => Some(hour(delta.at)),
                    Every::Day => Some(berlin_day(delta.at)),
                    Every::Run => delta.belongs.runner.map(|runner| runner.to_string()),
                    Every::Week | Every::Month => None,
                };
                let amount = match budget.unit {
                    Unit::Tokens => delta.change.tokens.output,
                    Unit::Money => delta.change.cost,
                    Unit::Time => 0,
                };
                if let (true, Some(period), true) = (covers, period, amount != 0) {
                    *sums.entry((budget.id, period)).or_default() += amount;
                }
            }
        }
        sums
    }

    /// What the budgets have counted, and what is wrong with how they tell of it.
    async fn counted(&self, db: &TestStore) -> (Sums, Vec<String>) {
        let (mut sums, mut wrong) = (Sums::new(), Vec::new());
        // The connections of the others may be gone.
        let store = db.another().await;
        for budget in &self.budgets {
            let mut steps = 0;
            for period in store.budget_history(budget.id, 100_000).await.unwrap() {
                let account = &period.account;
                sums.insert((budget.id, period.period.key()), account.used);
                let due: BTreeSet<_> = budget
                    .ladder
                    .iter()
                    .filter(|step| account.used * 100 >= budget.amount * i64::from(step.percent))
                    .copied()
                    .collect();
                if account.reached != due {
                    wrong.push(format!("{} in {:?}: {:?}", budget.name, period.period, account));
                }
                steps += due.len() as i64;
            }
            // Each step has its event, once, and the events are numbered without a gap.
            let events = |what: &str| {
                format!(
                    "SELECT {what} FROM events WHERE entity_id = '{}' AND kind <> 'budget.created'",
                    budget.id
                )
            };
            let told = raw::number(db, &events("count(*)")).await;
            let last = raw::number(db, &events("coalesce(max(seq), 1)")).await;
            if told != steps || last != steps + 1 {
                wrong.push(format!("{}: {steps} steps, {told} events up to {last}", budget.name));
            }
        }
        let reserved = "SELECT count(*) FROM budget_periods AS p WHERE reserved <> (
            SELECT coalesce(sum(CASE WHEN s.reserved > s.settled THEN s.reserved - s.settled ELSE 0 END), 0)
            FROM budget_reservations AS s WHERE s.budget_id = p.budget_id AND s.period = p.period AND s.released_at IS NULL)";
        let settled = "SELECT count(*) FROM budget_periods AS p WHERE p.used < (
            SELECT coalesce(sum(s.settled), 0) FROM budget_reservations AS s
            WHERE s.budget_id = p.budget_id AND s.period = p.period)";
        for (what, sql) in [("reserved", reserved), ("settled", settled)] {
            if raw::number(db, sql).await != 0 {
                wrong.push(format!("what is {what} is not that of the runners"));
            }
        }
        (sums, wrong)
    }
}

/// Tells all of it, in batches, some of which are given up in the middle and told again. Answers how many.
async fn write(store: Store, told: Vec<Told>, mut dice: Dice, lock: bool) -> u64 {
    let mut gone = 0;
    let now: Timestamp = "2026-11-29T00:00:00Z".parse().unwrap();
    let mut rest = &told[..];
    while !rest.is_empty() {
        let (batch, after) = rest.split_at((1 + dice.below(20)).min(rest.len()));
        let telling = store.ledger_tell(batch, now, lock);
        let answer = match dice.below(10) {
            // The caller is gone at any moment: what became of it is unknown.
            0 => {
                let patience = Duration::from_micros(dice.below(20_000) as u64);
                tokio::time::timeout(patience, telling).await.ok()
            }
            _ => Some(telling.await),
        };
        match answer {
            Some(Ok(())) => rest = after,
            None => gone += 1,
            Some(Err(error)) if error.is_transient() => {}
            Some(Err(StoreError::Conflict { .. })) if !lock => {}
            Some(Err(error)) => panic!("{error}: {error:?}"),
        }
    }
    gone
}

/// Waits until all writers are done. Answers how often one was given up in the middle, and how many connections
/// were ended meanwhile, of a database that has some.
async fn disturb(db: &TestStore, mut dice: Dice, working: &mut JoinSet<u64>) -> (u64, u64) {
    let (mut gone, mut killed) = (0, 0);
    loop {
        let pause = Duration::from_millis(20 + dice.below(60) as u64);
        match tokio::time::timeout(pause, working.join_next()).await {
            Ok(None) => return (gone, killed),
            Ok(Some(ended)) => gone += ended.unwrap(),
            Err(_) if db.file().is_some() => {}
            Err(_) => {
                let sql =
                    "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid()
                        AND backend_type = 'client backend' ORDER BY random() LIMIT 1) AS one";
                killed += raw::number(db, sql).await.unsigned_abs();
            }
        }
    }
}

/// One round: all writers at once. Answers what is wrong.
async fn round(
    db: &TestStore,
    rig: &Rig,
    count: usize,
    dice: &mut Dice,
    lock: bool,
    trial: &mut Trial,
) -> Result<(), String> {
    let daemons = [db.store().clone(), db.another().await];
    let (mut working, mut all) = (JoinSet::new(), BTreeMap::new());
    for writer in 0..WRITERS {
        let told = rig.reports(writer, count, dice);
        all.extend(told.iter().cloned());
        let (store, own) = (daemons[writer % 2].clone(), Dice::of(dice.number()));
        working.spawn(write(store, told, own, lock));
    }
    let (gone, killed) = disturb(db, Dice::of(dice.number()), &mut working).await;
    trial.counted("callers gone", gone);
    if db.file().is_none() {
        trial.counted("connections killed", killed);
    }
    let (sums, mut wrong) = rig.counted(db).await;
    let oracle = rig.oracle(&all);
    let drift: i64 = sums
        .keys()
        .chain(oracle.keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|key| (sums.get(key).unwrap_or(&0) - oracle.get(key).unwrap_or(&0)).abs())
        .sum();
    if lock {
        trial.counted("drift", drift.unsigned_abs());
        trial.counted("periods", oracle.len() as u64);
    }
    if drift != 0 {
        wrong.push(format!("it has drifted by {drift}"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

on_both_databases! {
    async fn t_budget_what_is_counted_is_what_was_used(db: TestStore) {
        // SQLite has no connections that another one could end.
        let faults = match db.file() {
            Some(_) => "callers that go away, on SQLite",
            None => "callers that go away, connections killed, on PostgreSQL",
        };
        let promise = format!("{WRITERS} writers, 10 % told twice, 10 % late, {faults}: the sums are those of an oracle");
        let mut trial = Trial::new("T-BUDGET", &promise);
        let mut dice = trial.dice();
        db.store().ledger_make().await.unwrap();
        let rig = Rig::new(db.store(), 0).await;
        let count = scale(150, 50_000);
        let held = round(&db, &rig, count, &mut dice, true, &mut trial).await;
        trial.tried_times(WRITERS * count, held);
        trial.end();
    }

    /// Launches, use and ends beside one another at a budget that is too small for all.
    async fn t_budget_no_more_is_used_than_the_amount_and_what_is_under_way(db: TestStore) {
        let database = if db.file().is_some() { "SQLite" } else { "PostgreSQL" };
        let promise = format!("{WRITERS} writers at the last of a budget, on {database}: used <= amount + one response for each live runner, and one");
        let mut trial = Trial::new("T-BUDGET", &promise);
        let mut dice = trial.dice();
        db.store().ledger_make().await.unwrap();
        let daemons = [db.store().clone(), db.another().await];
        let node = given::node(db.store()).await;
        let (mut beyond, mut bounds) = (0, 0);
        for n in 0..scale(4, 100) {
            let quota = stratavore_core::quota::Quota { runners: 100, ..Default::default() };
            let project = given::project_with(db.store(), &format!("p{n}"), quota).await;
            let amount = 400 + dice.below(400) as i64;
            let small = unborn_budget(&format!("b{n}"), Scope::Project(project.id), amount);
            let small = budget(db.store(), &small).await;
            let response = 5 + dice.below(40) as u64;
            let mut working = JoinSet::new();
            for writer in 0..WRITERS {
                let store = daemons[writer % 2].clone();
                working.spawn(spend(store, small.clone(), project.id, node, (n, writer), response));
            }
            let live = working.join_all().await;
            let spent: i64 = live.iter().sum();
            let account = db.store().budget_history(small.id, 1).await.unwrap().remove(0).account;
            let bound = Action::StopNow.overshoot(WRITERS as u64, response, 0).unwrap() as i64;
            let held = if account.used != spent {
                Err(format!("{} counted, {spent} used", account.used))
            } else if account.reserved != 0 {
                Err(format!("{} stay reserved", account.reserved))
            } else if account.used > amount + bound {
                Err(format!("{} used of {amount}, and {bound} may be beyond it", account.used))
            } else {
                Ok(())
            };
            beyond = beyond.max(account.used - amount);
            bounds = bounds.max(bound);
            trial.most("most used beyond the amount", beyond.unsigned_abs());
            trial.most("most that may be", bounds.unsigned_abs());
            trial.tried(held);
        }
        trial.end();
    }
}

/// Launches runners one after another; each makes responses until the budget stops it. Answers what
/// was used.
async fn spend(
    store: Store,
    small: Budget,
    project: ProjectId,
    node: stratavore_core::NodeId,
    (round, writer): (usize, usize),
    response: u64,
) -> i64 {
    let mut spent = 0;
    for launch in 0.. {
        let new = given::unborn(project, node, &format!("r{round}-{writer}-{launch}"));
        let runner = match store.runners_admit(vec![new], "ada", at(1), None).await {
            Ok(mut admitted) => admitted.remove(0),
            Err(StoreError::Budget(_)) => return spent,
            Err(error) => panic!("{error}"),
        };
        for message in 0..3 {
            let now = store.budget_current(at(1)).await.unwrap();
            let used_up = now.get(&small.id).is_some_and(|periods| {
                small.in_force(periods[0].account.used, &Default::default()).is_some()
            });
            if used_up {
                break;
            }
            // It is under way, whatever becomes of the budget meanwhile.
            let key = format!("{}-{message}", runner.id);
            let delta = used(project, Some(runner.id), response, 1);
            store.ledger_tell(&[(key, delta)], at(2), true).await.unwrap();
            spent += response as i64;
        }
        given::end(&store, &runner).await;
    }
    spent
}

/// The control of T-BUDGET: whoever reads, adds and writes without the lock loses what others add.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_budget_without_the_lock_the_sum_drifts() {
    let db = TestStore::postgres().await;
    db.store().ledger_make().await.unwrap();
    let mut trial =
        Trial::new("T-BUDGET", "sums that are read, changed and written without a lock");
    let mut dice = trial.dice();
    let rig = Rig::new(db.store(), 0).await;
    let caught = round(&db, &rig, 60, &mut dice, false, &mut trial).await.is_err();
    trial.control("read, add and write without the lock", caught);
    trial.end();
}

#[test]
fn the_oracle_knows_the_days_of_berlin() {
    let day = |at: &str| berlin_day(at.parse().unwrap());
    assert_eq!(day("2026-03-29T12:00:00Z"), "2026-03-28T23:00:00Z");
    assert_eq!(day("2026-03-29T22:00:00Z"), "2026-03-29T22:00:00Z");
    assert_eq!(day("2026-10-25T22:59:59Z"), "2026-10-24T22:00:00Z");
    assert_eq!(day("2026-11-29T00:00:00Z"), "2026-11-28T23:00:00Z");
}
