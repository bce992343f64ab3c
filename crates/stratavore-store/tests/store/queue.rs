//! Queues: what is begun, by whom, and how often.

use stratavore_core::event::NewEvent;
use stratavore_core::project::Project;
use stratavore_core::queue::{Item, ItemChange, ItemState, ItemWish, QueueSettings};
use stratavore_core::quota::Quota;
use stratavore_core::run::RunOutcome;
use stratavore_core::runner::{Headless, Runner};
use stratavore_core::{ItemId, NodeId, RunnerId, SessionId, Timestamp};
use stratavore_store::testing::TestStore;
use stratavore_store::{ItemFilter, NewRunner, Store, StoreError, on_both_databases};
use tokio::task::JoinSet;

use crate::given::{self, at, entropy, name};
use crate::raw;

fn wish(priority: i32) -> ItemWish {
    ItemWish {
        assistant: None,
        args: vec!["true".into()],
        prompt: None,
        env: Vec::new(),
        name: None,
        priority,
        max_attempts: 2,
        backoff_ms: 1000,
        waits_for_reset: true,
        not_before: None,
        timeout_seconds: None,
        headless: Headless::default(),
        session: None,
    }
}

async fn add(store: &Store, project: &Project, priority: i32, second: i64) -> Item {
    let id = ItemId::from_entropy(entropy());
    let (item, event) = Item::new(id, project.id, wish(priority), "ada".into(), at(second));
    store.item_add(&item, event, "ada", None).await.unwrap()
}

async fn set(store: &Store, project: &Project, concurrency: u32) {
    let next = QueueSettings { concurrency, paused: false };
    let event = || NewEvent::new("project.queue_set", serde_json::json!({}));
    store.queue_set(project.id, |_| (next, event()), "ada", at(0), None).await.unwrap();
}

/// Begins the next attempt of an item, as a daemon does.
async fn begin(
    store: &Store,
    item: &Item,
    node: NodeId,
    now: Timestamp,
) -> Result<Option<(Item, Runner)>, StoreError> {
    let id = RunnerId::from_entropy(entropy());
    let session = item.session.unwrap_or_else(|| SessionId::from_entropy(entropy()));
    let runner = NewRunner {
        id,
        session,
        continues: item.session.is_some(),
        name: stratavore_store::NameWish::Numbered(name("item")),
        ..given::unborn(item.project, node, "unused")
    };
    let ItemChange { next, event } = item.begun(id, session, now);
    let begun = store.item_begin(item, &next, event, runner, "daemon").await?;
    Ok(begun.map(|runner| (next, runner)))
}

async fn settle(store: &Store, item: &Item, outcome: &RunOutcome, now: Timestamp) -> Item {
    let ItemChange { next, event } = item.settled(outcome, now, 0.0);
    store.item_write(item, &next, event, "daemon", None).await.unwrap()
}

fn done() -> RunOutcome {
    RunOutcome::Done { text: "done".into() }
}

async fn running(db: &TestStore) -> i64 {
    raw::number(db, "SELECT count(*) FROM queue_items WHERE runner_id IS NOT NULL").await
}

/// Works a queue off, with the others; answers what it has begun, and the most that ran at once.
async fn work_off(store: Store, project: Project, node: NodeId) -> (Vec<ItemId>, usize) {
    let (mut begun, mut most) = (Vec::new(), 0);
    loop {
        let Some(item) = store.item_next(project.id, at(100)).await.unwrap() else {
            let open = ItemFilter { open_only: true, ..ItemFilter::default() };
            if store.item_list(&open).await.unwrap().is_empty() {
                return (begun, most);
            }
            tokio::task::yield_now().await;
            continue;
        };
        match begin(&store, &item, node, at(100)).await {
            Ok(Some((item, runner))) => {
                begun.push(item.id);
                most = most.max(store.items_running().await.unwrap().len());
                given::end(&store, &runner).await;
                settle(&store, &item, &done(), at(101)).await;
            }
            Ok(None) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

on_both_databases! {
    async fn many_daemons_begin_each_item_once_and_never_too_many(db: TestStore) {
        const ITEMS: usize = 24;
        let store = db.store();
        let node = given::node(store).await;
        let quota = Quota { runners: 100, ..Quota::default() };
        let project = given::project_with(store, "alpha", quota).await;
        set(store, &project, 2).await;
        for number in 0..ITEMS {
            add(store, &project, 0, number as i64).await;
        }
        let mut daemons = JoinSet::new();
        for daemon in [store.clone(), db.another().await, store.clone(), db.another().await] {
            daemons.spawn(work_off(daemon, project.clone(), node));
        }
        let worked = daemons.join_all().await;
        let mut begun: Vec<ItemId> = worked.iter().flat_map(|(begun, _)| begun.clone()).collect();
        assert_eq!(begun.len(), ITEMS);
        begun.sort_unstable();
        begun.dedup();
        assert_eq!(begun.len(), ITEMS, "each once");
        let most = worked.iter().map(|(_, most)| *most).max();
        assert!(most.is_some_and(|most| (1..=2).contains(&most)), "{most:?}");
        assert_eq!(raw::number(&db, "SELECT count(*) FROM runners").await, ITEMS as i64);
        // Each change of an item is one event of the project, in their order.
        let events = raw::number(&db, "SELECT count(*) FROM events WHERE entity = 'project'").await;
        assert_eq!(events, 2 + 3 * ITEMS as i64);
        let last = raw::number(&db, "SELECT max(seq) FROM events WHERE entity = 'project'").await;
        assert_eq!(last, events);
    }

    /// What was read before the lock counts for nothing.
    async fn what_was_next_a_moment_ago_takes_no_place_that_is_gone(db: TestStore) {
        for locked in [true, false] {
            let store = if locked { db.store().clone() } else { db.store().without_admission_lock() };
            let node = given::node(&store).await;
            let project = given::project(&store, if locked { "alpha" } else { "beta" }).await;
            add(&store, &project, 0, 1).await;
            let one = store.item_next(project.id, at(5)).await.unwrap().unwrap();
            add(&store, &project, 9, 2).await;
            let other = store.item_next(project.id, at(5)).await.unwrap().unwrap();
            assert_ne!(one.id, other.id, "the one with the higher priority is next by now");
            if locked {
                let late = begin(&store, &one, node, at(5)).await;
                assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
            }
            assert!(begin(&store, &other, node, at(5)).await.unwrap().is_some());
            let late = begin(&store, &one, node, at(6)).await.unwrap();
            assert_eq!(late.is_none(), locked, "the control begins one too many");
            assert_eq!(running(&db).await, if locked { 1 } else { 2 });
            let all = store.items_running().await.unwrap();
            for item in all {
                let runner = store.runner_get(item.state.runner().unwrap()).await.unwrap();
                given::end(&store, &runner).await;
                settle(&store, &item, &done(), at(7)).await;
            }
        }
    }

    async fn the_highest_priority_comes_first_then_the_oldest_and_what_is_not_due_not_at_all(db: TestStore) {
        let store = db.store();
        let project = given::project(store, "alpha").await;
        let node = given::node(store).await;
        let low = add(store, &project, -5, 1).await;
        let second = add(store, &project, 0, 3).await;
        let first = add(store, &project, 0, 2).await;
        let wish = ItemWish { not_before: Some(at(50)), ..wish(9) };
        let id = ItemId::from_entropy(entropy());
        let (later, event) = Item::new(id, project.id, wish, "ada".into(), at(4));
        store.item_add(&later, event, "ada", None).await.unwrap();
        for (now, expected) in [(10, first.id), (11, second.id), (60, later.id), (61, low.id)] {
            assert_eq!(store.queues_due(at(now)).await.unwrap(), [project.id]);
            let item = store.item_next(project.id, at(now)).await.unwrap().unwrap();
            assert_eq!(item.id, expected);
            let (item, runner) = begin(store, &item, node, at(now)).await.unwrap().unwrap();
            assert_eq!(store.item_next(project.id, at(now)).await.unwrap(), None, "one at once");
            given::end(store, &runner).await;
            settle(store, &item, &done(), at(now)).await;
        }
        assert!(store.queues_due(at(99)).await.unwrap().is_empty());
    }

    async fn an_attempt_and_its_runner_are_there_both_or_neither(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let quota = Quota { runners: 1, ..Quota::default() };
        let project = given::project_with(store, "alpha", quota).await;
        let other = given::runner(store, &project, node, "other").await;
        let item = add(store, &project, 0, 1).await;
        let refused = begin(store, &item, node, at(2)).await;
        assert!(matches!(refused, Err(StoreError::Quota(_))), "{refused:?}");
        assert_eq!(store.item_get(item.id).await.unwrap(), item, "it waits as before");
        given::end(store, &other).await;
        let (begun, runner) = begin(store, &item, node, at(3)).await.unwrap().unwrap();
        assert_eq!(begun.state.runner(), Some(runner.id));
        // The same attempt is not begun again, whoever still believes in it.
        set(store, &project, 9).await;
        let again = begin(store, &item, node, at(4)).await;
        assert!(matches!(again, Err(StoreError::Conflict { .. })), "{again:?}");
        assert_eq!(raw::number(&db, "SELECT count(*) FROM runners").await, 2);
    }

    async fn an_attempt_is_settled_once_and_the_next_one_waits_and_goes_on_in_its_session(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let item = add(store, &project, 0, 1).await;
        let (begun, runner) = begin(store, &item, node, at(2)).await.unwrap().unwrap();
        given::end(store, &runner).await;
        let failure = RunOutcome::Failed { why: "exit 1".into() };
        let waits = settle(store, &begun, &failure, at(10)).await;
        assert_eq!(waits.state, ItemState::Queued { not_before: Some(at(11)) });
        let ItemChange { next, event } = begun.settled(&done(), at(10), 0.0);
        let twice = store.item_write(&begun, &next, event, "daemon", None).await;
        assert!(matches!(twice, Err(StoreError::Conflict { .. })), "{twice:?}");
        assert!(store.item_next(project.id, at(10)).await.unwrap().is_none());
        let item = store.item_next(project.id, at(11)).await.unwrap().unwrap();
        let (begun, second) = begin(store, &item, node, at(11)).await.unwrap().unwrap();
        assert_eq!(second.session, runner.session);
        given::end(store, &second).await;
        let failed = settle(store, &begun, &failure, at(12)).await;
        assert!(matches!(failed.state, ItemState::Failed { .. }), "{failed:?}");
        assert_eq!(store.items_running().await.unwrap(), []);
    }

    async fn a_paused_queue_and_an_archived_project_begin_nothing(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let project = given::project(store, "alpha").await;
        let item = add(store, &project, 0, 1).await;
        let paused = QueueSettings { paused: true, ..QueueSettings::default() };
        let event = || NewEvent::new("project.queue_set", serde_json::json!({}));
        let key = given::idempotency("set-1", 1);
        for _ in 0..2 {
            let set = store.queue_set(project.id, |_| (paused, event()), "ada", at(2), Some(&key));
            assert_eq!(set.await.unwrap(), paused);
        }
        assert_eq!(raw::number(&db, "SELECT count(*) FROM events").await, 3, "set once");
        assert_eq!(store.item_next(project.id, at(3)).await.unwrap(), None);
        assert_eq!(begin(store, &item, node, at(3)).await.unwrap(), None);
        let now = store.project_find(&given::reference("alpha", "prj")).await.unwrap();
        given::archive(store, &now).await;
        let begun = begin(store, &item, node, at(30)).await;
        assert!(matches!(begun, Err(StoreError::ProjectArchived(_))), "{begun:?}");
        let (another, event) =
            Item::new(ItemId::from_entropy(entropy()), project.id, wish(0), "ada".into(), at(31));
        let added = store.item_add(&another, event, "ada", None).await;
        assert!(matches!(added, Err(StoreError::ProjectArchived(_))), "{added:?}");
    }

    async fn items_are_found_by_the_beginning_of_their_id_and_listed_in_pages(db: TestStore) {
        let store = db.store();
        let project = given::project(store, "alpha").await;
        let mut ids = Vec::new();
        for second in 0..5 {
            ids.insert(0, add(store, &project, 0, second).await.id);
        }
        let found = store.item_find(&given::reference(&ids[0].to_string()[..12], "item")).await;
        assert_eq!(found.unwrap().id, ids[0]);
        let none = store.item_find(&given::reference("item_zzzzzzzzzzzzzzzzzzzz", "item")).await;
        assert!(matches!(none, Err(StoreError::NotFound { .. })), "{none:?}");
        let page = ItemFilter { limit: Some(2), project: Some(project.id), ..ItemFilter::default() };
        let mut seen = Vec::new();
        let mut filter = page.clone();
        loop {
            let items = store.item_list(&filter).await.unwrap();
            let Some(last) = items.last() else { break };
            filter = ItemFilter { before: Some((last.created_at, last.id)), ..page.clone() };
            seen.extend(items.iter().map(|item| item.id));
        }
        assert_eq!(seen, ids);
    }
}
