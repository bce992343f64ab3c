//! Budgets: reserved at a launch, settled as it is reported, and told of once.

use std::collections::BTreeSet;

use stratavore_core::budget::{Action, Budget, Every, Period, Scope, Share, Step, Unit, Zone};
use stratavore_core::event::NewEvent;
use stratavore_core::project::Project;
use stratavore_core::runner::Runner;
use stratavore_core::usage::{Belongs, TokenSums, UsageDelta, UsageSums};
use stratavore_core::{BudgetId, NodeId, ProjectId, RunnerId};
use stratavore_store::testing::TestStore;
use stratavore_store::{
    BudgetHold, BudgetPeriod, BudgetTime, NewAllowance, Store, StoreError, on_both_databases,
};
use tokio::task::JoinSet;

use crate::given::{self, at, name, reference};
use crate::raw;

/// A budget of tokens a day, in UTC; `at(0)` is the beginning of one.
pub(crate) fn unborn_budget(called: &str, scope: Scope, amount: i64) -> Budget {
    Budget {
        id: BudgetId::from_entropy(given::entropy()),
        name: name(called),
        scope,
        every: Every::Day,
        zone: Zone::utc(),
        unit: Unit::Tokens,
        amount,
        reserve: 10,
        ladder: [(50, Action::Notify), (100, Action::StopNow)]
            .map(|(percent, action)| Step { percent, action })
            .into(),
        generation: 1,
        created_at: at(0),
        updated_at: at(0),
        removed_at: None,
    }
}

pub(crate) async fn budget(store: &Store, new: &Budget) -> Budget {
    store.budget_create(new, "ada", None).await.unwrap()
}

pub(crate) fn used(
    project: ProjectId,
    runner: Option<RunnerId>,
    tokens: u64,
    second: i64,
) -> UsageDelta {
    UsageDelta {
        assistant: "claude".parse().unwrap(),
        belongs: Belongs { project: Some(project), session: None, runner },
        model: "model".into(),
        at: at(second),
        change: UsageSums {
            tokens: TokenSums { input: tokens as i64, ..TokenSums::default() },
            cost: tokens as i64 * 3,
            ..UsageSums::default()
        },
    }
}

async fn settle(store: &Store, deltas: &[UsageDelta], second: i64) {
    let told: Vec<_> = deltas
        .iter()
        .map(|delta| (RunnerId::from_entropy(given::entropy()).to_string(), delta.clone()))
        .collect();
    store.ledger_make().await.unwrap();
    store.ledger_tell(&told, at(second), true).await.unwrap();
}

async fn current(store: &Store, id: BudgetId, second: i64) -> Option<BudgetPeriod> {
    store.budget_current(at(second)).await.unwrap().remove(&id).and_then(|mut all| all.pop())
}

/// Used and reserved.
async fn counted(store: &Store, id: BudgetId, second: i64) -> (i64, i64) {
    let account = current(store, id, second).await.unwrap().account;
    (account.used, account.reserved)
}

/// Kinds of the events of a budget with their percents, and the sequence numbers.
async fn told(db: &TestStore, id: BudgetId) -> Vec<String> {
    let sql = format!(
        "SELECT seq || ' ' || kind || ' ' || data FROM events WHERE entity_id = '{id}' ORDER BY seq"
    );
    let short = |text: String| {
        let (before, data) = text.split_once(" {").unwrap();
        match data.split_once("\"percent\":") {
            // A definition has a list of them.
            Some((_, percent)) if !data.contains("\"steps\"") => {
                format!("{before} {}", percent.split([',', '}']).next().unwrap())
            }
            Some(_) | None => before.to_owned(),
        }
    };
    raw::texts(db, &sql).await.into_iter().map(short).collect()
}

async fn changed(store: &Store, seen: &Budget, change: impl Fn(&mut Budget)) -> Budget {
    let mut next = Budget { generation: seen.generation + 1, updated_at: at(50), ..seen.clone() };
    change(&mut next);
    let event = NewEvent::new("budget.changed", serde_json::json!({}));
    store.budget_write(seen, &next, event, "ada", None).await.unwrap()
}

on_both_databases! {
    async fn a_budget_is_made_found_changed_and_removed(db: TestStore) {
        let store = db.store();
        let (alpha, beta) = (given::project(store, "alpha").await, given::project(store, "beta").await);
        let all = budget(store, &unborn_budget("all", Scope::Global, 1000)).await;
        let of_alpha = budget(store, &unborn_budget("alphas", Scope::Project(alpha.id), 100)).await;
        let again = store.budget_create(&unborn_budget("all", Scope::Global, 50), "ada", None).await;
        assert!(matches!(again, Err(StoreError::NameTaken { noun: "budget", .. })), "{again:?}");
        assert_eq!(store.budget_find(&reference("all", "bud")).await.unwrap(), all);
        let beginning = &all.id.to_string()[..10];
        assert_eq!(store.budget_find(&reference(beginning, "bud")).await.unwrap(), all);
        assert_eq!(store.budget_find(&reference(&all.id.to_string(), "bud")).await.unwrap(), all);
        assert!(matches!(store.budget_find(&reference("none", "bud")).await, Err(StoreError::NotFound { .. })));
        assert_eq!(store.budget_list(None).await.unwrap(), [all.clone(), of_alpha.clone()]);
        assert_eq!(store.budget_list(Some(beta.id)).await.unwrap(), std::slice::from_ref(&all));

        let raised = changed(store, &all, |next| next.amount = 2000).await;
        let stale = store.budget_write(&all, &raised, NewEvent::new("budget.changed", serde_json::json!({})), "ada", None).await;
        assert!(matches!(stale, Err(StoreError::Conflict { .. })), "{stale:?}");
        let other = Budget { scope: Scope::Project(beta.id), generation: 3, ..raised.clone() };
        let stays = store.budget_write(&raised, &other, NewEvent::new("budget.changed", serde_json::json!({})), "ada", None).await;
        assert!(matches!(stays, Err(StoreError::Invalid { .. })), "{stays:?}");

        let removed = changed(store, &raised, |next| next.removed_at = Some(at(50))).await;
        assert_eq!(store.budget_list(Some(beta.id)).await.unwrap(), []);
        assert_eq!(store.budget_find(&reference("all", "bud")).await.unwrap(), removed, "for its history");
        budget(store, &unborn_budget("all", Scope::Global, 50)).await;
        assert_eq!(told(&db, all.id).await, ["1 budget.created", "2 budget.changed", "3 budget.changed"]);
    }

    async fn a_launch_reserves_and_an_end_frees_what_was_not_used(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let (alpha, beta) = (given::project(store, "alpha").await, given::project(store, "beta").await);
        let all = budget(store, &unborn_budget("all", Scope::Global, 35)).await;
        let of_alpha = budget(store, &unborn_budget("alphas", Scope::Project(alpha.id), 25)).await;
        let one = given::runner(store, &alpha, node, "one").await;
        let two = given::runner(store, &alpha, node, "two").await;
        assert_eq!(counted(store, of_alpha.id, 1).await, (0, 20));
        let refused = store.runners_admit(vec![given::unborn(alpha.id, node, "three")], "ada", at(1), None).await;
        let Err(StoreError::Budget(refusal)) = refused else { panic!("{refused:?}") };
        assert_eq!((refusal.budget.id, refusal.account.reserved), (of_alpha.id, 20));
        let holders: BTreeSet<_> = refusal.holders.iter().map(|h| (h.name.to_string(), h.open)).collect();
        assert_eq!(holders, [("one".to_string(), 10), ("two".to_string(), 10)].into());
        assert!(refusal.to_string().contains("`alphas`") && refusal.hint().contains("2026-01-02"), "{refusal}");
        assert_eq!(counted(store, all.id, 1).await, (0, 20), "nothing of what was refused stays");
        assert_eq!(raw::number(&db, "SELECT count(*) FROM runners").await, 2);

        // All of a batch, or none of it.
        let batch = (0..2).map(|n| given::unborn(beta.id, node, &format!("b{n}"))).collect();
        let refused = store.runners_admit(batch, "ada", at(1), None).await;
        assert!(matches!(refused, Err(StoreError::Budget(_))), "{refused:?}");
        given::runner(store, &beta, node, "b").await;
        assert_eq!(counted(store, all.id, 1).await, (0, 30));

        // What is used comes from the reservation first.
        settle(store, &[used(alpha.id, Some(one.id), 4, 2), used(alpha.id, Some(two.id), 14, 2)], 3).await;
        assert_eq!(counted(store, of_alpha.id, 3).await, (18, 6));
        assert_eq!(counted(store, all.id, 3).await, (18, 16));
        given::end(store, &one).await;
        assert_eq!(counted(store, of_alpha.id, 3).await, (18, 0));
        given::end(store, &two).await;
        assert_eq!(counted(store, all.id, 3).await, (18, 10));
        // A late report of one that has ended.
        settle(store, &[used(alpha.id, Some(one.id), 1, 2)], 20).await;
        assert_eq!(counted(store, all.id, 20).await, (19, 10));
        let shares = store.budget_shares(of_alpha.id, current(store, of_alpha.id, 20).await.unwrap().period, 10).await.unwrap();
        let shares: Vec<_> = shares.iter().map(|s| (s.name.as_str(), s.share.settled, s.share.open())).collect();
        assert_eq!(shares, [("two", 14, 0), ("one", 5, 0)]);
    }

    /// Two projects, each with its own lock, and one budget for both.
    async fn two_daemons_never_spend_the_last_of_it_twice(db: TestStore) {
        let daemons = [db.store().clone(), db.another().await];
        let node = given::node(db.store()).await;
        let projects = [given::project(db.store(), "alpha").await, given::project(db.store(), "beta").await];
        let all = budget(db.store(), &unborn_budget("all", Scope::Global, 59)).await;
        for round in 0..3 {
            let answers = rush(&daemons, &projects, node, round).await;
            let (admitted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
            assert_eq!(admitted.len(), 5, "round {round}: {refused:?}");
            assert!(refused.iter().all(|r| matches!(r, Err(StoreError::Budget(_)))), "{refused:?}");
            assert_eq!(counted(db.store(), all.id, 1).await, (0, 50));
            for runner in admitted {
                given::end(db.store(), &runner.unwrap()).await;
            }
            assert_eq!(counted(db.store(), all.id, 1).await, (0, 0));
        }
    }

    async fn what_is_used_counts_in_its_own_period_scope_and_unit(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let (alpha, beta) = (given::project(store, "alpha").await, given::project(store, "beta").await);
        let one = given::runner(store, &alpha, node, "one").await;
        let all = budget(store, &unborn_budget("all", Scope::Global, 1000)).await;
        let money = Budget { unit: Unit::Money, reserve: 1, ..unborn_budget("money", Scope::Project(beta.id), 1000) };
        let money = budget(store, &money).await;
        let scope = Scope::Runner { runner: one.id, project: alpha.id };
        let own = budget(store, &Budget { every: Every::Run, ..unborn_budget("own", scope, 1000) }).await;
        let each = budget(store, &Budget { every: Every::Run, ..unborn_budget("each", Scope::Global, 1000) }).await;
        const DAY: i64 = 86_400;
        let deltas = [
            used(alpha.id, Some(one.id), 1, DAY + 5),
            used(beta.id, None, 10, DAY + 5),
            used(beta.id, None, 100, 7), // late, of the day before
            used(beta.id, None, 20, 9 * DAY), // by a clock that is ahead
            used(beta.id, None, 500, -7), // of a day that was over before there was a budget
            UsageDelta { belongs: Belongs::default(), ..used(alpha.id, None, 40, DAY + 6) },
        ];
        settle(store, &deltas, DAY + 10).await;
        let history = store.budget_history(all.id, 10).await.unwrap();
        let days: BTreeSet<_> = history.iter().map(|p| (p.period.key(), p.account.used)).collect();
        assert_eq!(days, [("2026-01-01T00:00:00Z".to_string(), 100), ("2026-01-02T00:00:00Z".to_string(), 71)].into());
        assert_eq!(counted(store, money.id, DAY + 10).await, (90, 0));
        assert_eq!(counted(store, own.id, DAY + 10).await, (1, 0));
        let runs = &store.budget_current(at(DAY + 10)).await.unwrap()[&each.id];
        assert_eq!(runs.len(), 1, "what is used by no runner is in no runner's period");
        assert_eq!((runs[0].period, runs[0].account.used), (Period::Run(one.id), 1));
        given::end(store, &one).await;
        let runs = store.budget_history(each.id, 10).await.unwrap();
        assert_eq!(runs[0].ended_at, Some(at(10)), "it ends with its runner");
    }

    async fn each_step_is_told_once_in_a_period_and_again_after_a_raise(db: TestStore) {
        let store = db.store();
        let project = given::project(store, "alpha").await;
        let all = budget(store, &unborn_budget("all", Scope::Global, 100)).await;
        settle(store, &[used(project.id, None, 49, 1)], 2).await;
        assert_eq!(told(&db, all.id).await.len(), 1);
        settle(store, &[used(project.id, None, 1, 1)], 2).await;
        settle(store, &[used(project.id, None, 20, 1)], 2).await;
        assert_eq!(told(&db, all.id).await[1..], ["2 budget.threshold 50"]);
        settle(store, &[used(project.id, None, 50, 1)], 2).await;
        assert_eq!(told(&db, all.id).await[2..], ["3 budget.exhausted 100"]);
        // Both at once, in the next period.
        settle(store, &[used(project.id, None, 100, 86_400)], 86_401).await;
        assert_eq!(told(&db, all.id).await[3..], ["4 budget.threshold 50", "5 budget.exhausted 100"]);

        // Raised, at a time when only that period is not over; then a new step is behind already.
        let seen = store.budget_find(&reference("all", "bud")).await.unwrap();
        assert_eq!(seen.generation, 5);
        let raised = Budget { amount: 150, generation: 6, updated_at: at(86_402), ..seen.clone() };
        let event = NewEvent::new("budget.changed", serde_json::json!({}));
        let raised = store.budget_write(&seen, &raised, event.clone(), "ada", None).await.unwrap();
        let reached = current(store, all.id, 86_403).await.unwrap().account.reached;
        assert_eq!(reached.iter().map(|step| step.percent).collect::<Vec<_>>(), [50]);
        let mut ladder = raised.ladder.clone();
        ladder.insert(Step { percent: 60, action: Action::Ask });
        let more = Budget { ladder, generation: 7, updated_at: at(86_404), ..raised.clone() };
        let more = store.budget_write(&raised, &more, event, "ada", None).await.unwrap();
        assert_eq!(more.generation, 8, "with the event of the step");
        settle(store, &[used(project.id, None, 50, 86_405)], 86_406).await;
        assert_eq!(told(&db, all.id).await[5..], ["6 budget.changed", "7 budget.changed", "8 budget.threshold 60", "9 budget.exhausted 100"]);
    }

    async fn who_is_held_is_noted_and_asked_for_once(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let one = given::runner(store, &project, node, "one").await;
        let all = budget(store, &unborn_budget("all", Scope::Global, 100)).await;
        let period = all.period(at(1), None).unwrap();
        let step = Step { percent: 100, action: Action::Ask };
        let hold = BudgetHold { runner: one.id, budget: all.id, period: period.key(), step, was_paused: false, at: at(2) };
        for _ in 0..2 {
            store.budget_hold(&all, &one, &hold, Some("raise it"), "daemon").await.unwrap();
        }
        assert_eq!(store.budget_holds(Some(node)).await.unwrap(), std::slice::from_ref(&hold));
        assert_eq!(store.budget_holds(None).await.unwrap().len(), 1);
        assert_eq!(told(&db, all.id).await[1..], ["2 budget.ask 100"]);

        settle(store, &[used(project.id, Some(one.id), 30, 3)], 4).await;
        let share = store.budget_allow(&one, NewAllowance { budget: all.id, period, amount: Some(20) }, "ada", at(5), None).await.unwrap();
        assert_eq!((share.settled, share.allowed), (30, Some(50)));
        let allowed = store.budget_allowances(node).await.unwrap();
        assert_eq!(allowed.len(), 1);
        assert_eq!((allowed[0].share, allowed[0].period.clone()), (Share { reserved: 0, ..share }, period.key()));
        store.budget_unhold(one.id).await.unwrap();
        assert_eq!(store.budget_holds(None).await.unwrap(), []);
    }

    async fn no_moment_is_counted_twice(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let one = given::runner(store, &project, node, "one").await;
        let time = |called: &str, every| Budget { unit: Unit::Time, every, ..unborn_budget(called, Scope::Global, 10_000_000) };
        let hours = budget(store, &time("hours", Every::Hour)).await;
        let run = budget(store, &time("run", Every::Run)).await;
        let ran = |seen: Option<i64>, from: i64, until: i64| BudgetTime {
            runner: &one,
            seen: seen.map(at),
            ran: vec![(at(from), at(until))],
            counted: Some(at(until)),
        };
        // Two daemons count the same at the same time, then one that has not looked again.
        let first = [ran(None, 100, 200)];
        let (a, b) = tokio::join!(
            store.budget_ran(&first, "daemon", at(200)),
            store.budget_ran(&first, "daemon", at(200))
        );
        a.unwrap();
        b.unwrap();
        store.budget_ran(&[ran(None, 100, 300)], "daemon", at(300)).await.unwrap();
        store.budget_ran(&[ran(Some(100), 100, 300)], "daemon", at(300)).await.unwrap();
        assert_eq!(counted(store, run.id, 300).await, (100_000, 0));
        // Over the end of an hour.
        store.budget_ran(&[ran(Some(200), 200, 3700)], "daemon", at(3700)).await.unwrap();
        let history = store.budget_history(hours.id, 10).await.unwrap();
        let by_hour: BTreeSet<_> = history.iter().map(|p| p.account.used).collect();
        assert_eq!(by_hour, [3_500_000, 100_000].into());
        assert_eq!(store.budget_clocks(node).await.unwrap()[0].counted, at(3700));
        let end = BudgetTime { counted: None, ..ran(Some(3700), 3700, 3710) };
        for _ in 0..2 {
            store.budget_ran(std::slice::from_ref(&end), "daemon", at(3720)).await.unwrap();
        }
        assert_eq!(counted(store, run.id, 3720).await, (3_610_000, 0));
        assert!(store.budget_clocks(node).await.unwrap().is_empty());
    }

    async fn what_was_over_long_ago_is_forgotten(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let one = given::runner(store, &project, node, "one").await;
        let all = budget(store, &unborn_budget("all", Scope::Global, 1000)).await;
        let each = budget(store, &Budget { every: Every::Run, ..unborn_budget("each", Scope::Global, 1000) }).await;
        settle(store, &[used(project.id, Some(one.id), 1, 5)], 6).await;
        given::end(store, &one).await;
        // Told of only after its runner had ended, so nothing has ended its period.
        let two = given::end(store, &given::runner(store, &project, node, "two").await).await;
        settle(store, &[used(project.id, Some(two.id), 1, 5)], 20).await;
        const DAY: i64 = 86_400;
        settle(store, &[used(project.id, None, 1, 3 * DAY)], 3 * DAY).await;
        store.budget_tidy(at(2 * DAY), at(-DAY), at(3 * DAY)).await.unwrap();
        assert_eq!(raw::number(&db, "SELECT count(*) FROM budget_reservations WHERE period < '3'").await, 0);
        assert_eq!(store.budget_history(all.id, 10).await.unwrap().len(), 2);
        assert!(store.budget_history(each.id, 10).await.unwrap().iter().all(|p| p.ended_at.is_some()));
        store.budget_tidy(at(2 * DAY), at(2 * DAY), at(3 * DAY)).await.unwrap();
        assert_eq!(store.budget_history(all.id, 10).await.unwrap().len(), 1);
    }
}

/// Sixteen clients of two daemons want a runner each, in two projects by turns.
async fn rush(
    daemons: &[Store],
    projects: &[Project],
    node: NodeId,
    round: usize,
) -> Vec<Result<Runner, StoreError>> {
    let mut asking = JoinSet::new();
    for n in 0..16 {
        let store = daemons[n % daemons.len()].clone();
        let new =
            given::unborn(projects[n / 2 % projects.len()].id, node, &format!("r{round}-{n}"));
        asking.spawn(async move {
            Ok(store.runners_admit(vec![new], "ada", at(1), None).await?.remove(0))
        });
    }
    asking.join_all().await
}

/// The control: without the rows' locks the same rush reserves more than there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_lock_more_is_reserved_than_there_is() {
    let db = TestStore::postgres().await;
    let node = given::node(db.store()).await;
    let daemons =
        [db.store().without_admission_lock(), db.another().await.without_admission_lock()];
    let mut seen: Option<Budget> = None;
    for round in 0..50 {
        let projects = [
            given::project(db.store(), &format!("a{round}")).await,
            given::project(db.store(), &format!("b{round}")).await,
        ];
        if let Some(seen) = seen.take() {
            changed(db.store(), &seen, |next| next.removed_at = Some(at(50))).await;
        }
        seen =
            Some(budget(db.store(), &unborn_budget(&format!("g{round}"), Scope::Global, 59)).await);
        let answers = rush(&daemons, &projects, node, round).await;
        if answers.iter().filter(|answer| answer.is_ok()).count() > 5 {
            return;
        }
    }
    panic!("50 rushes without the lock never got more than fit: the test would not notice");
}

/// A launch is decided on while there is no budget, and one is made before it is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_that_saw_no_budget_reserves_if_there_is_one_by_then() {
    let db = TestStore::postgres().await;
    let (store, node) = (db.store(), given::node(db.store()).await);
    let project = given::project(store, "alpha").await;
    for round in 0..20 {
        let new = unborn_budget(&format!("b{round}"), Scope::Project(project.id), 10);
        let key = given::idempotency(&format!("key-{round}"), 1);
        let runner = vec![given::unborn(project.id, node, &format!("r{round}"))];
        let (made, launched) = tokio::join!(
            store.budget_create(&new, "ada", None),
            store.runners_admit(runner, "ada", at(1), Some(&key))
        );
        let made = made.unwrap();
        let runner = launched.unwrap().remove(0);
        let reserved = current(store, made.id, 1).await.map_or(0, |p| p.account.reserved);
        // After it, or before it.
        assert!(reserved == 0 || reserved == 10);
        let refused = store
            .runners_admit(
                vec![given::unborn(project.id, node, &format!("s{round}"))],
                "ada",
                at(1),
                None,
            )
            .await;
        assert_eq!(refused.is_err(), reserved == 10, "{refused:?}");
        given::end(store, &runner).await;
        if let Ok(mut runners) = refused {
            given::end(store, &runners.remove(0)).await;
        }
        assert_eq!(current(store, made.id, 1).await.map_or(0, |p| p.account.reserved), 0);
        changed(store, &made, |next| next.removed_at = Some(at(50))).await;
    }
}
