use std::collections::HashMap;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stratavore_core::EventId;
use stratavore_core::event::{Event, EventFilter, NewEvent};
use stratavore_core::lease::Lease;
use stratavore_core::project::Project;
use stratavore_store::testing::TestStore;
use stratavore_store::{OutboxDepth, Store, on_both_databases};
use stratavore_testkit::trial::{Trial, scale};
use tokio::task::JoinSet;

use crate::given::{self, at};
use crate::lease::{LONG, daemon};
use crate::raw;

async fn relay(store: &Store) -> Lease {
    store.lease_acquire("relay", daemon(), LONG).await.unwrap().unwrap()
}

/// Makes `changes` changes to a new project, and answers how many events that made.
async fn busy(store: &Store, called: &str, changes: i64) -> u64 {
    let mut seen = given::project(store, called).await;
    for _ in 0..changes {
        let next = Project { generation: seen.generation + 1, updated_at: at(2), ..seen.clone() };
        let event = NewEvent::new("project.edited", serde_json::json!({}));
        seen = store.project_write(&seen, &next, event, "ada", None).await.unwrap();
    }
    1 + changes.unsigned_abs()
}

/// Positions 1, 2, 3, … and for each entity the numbers 1, 2, 3, … in this order.
fn check_order(events: &[Event]) {
    let mut last: HashMap<&str, i64> = HashMap::new();
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event.position, Some(i as i64 + 1), "no gap and no repetition");
        let before = last.insert(&event.entity_id, event.seq).unwrap_or(0);
        assert_eq!(event.seq, before + 1, "{event:?} comes too early");
    }
}

on_both_databases! {
    async fn events_are_readable_once_they_are_published(db: TestStore) {
        let store = db.store();
        let lease = relay(store).await;
        assert_eq!(store.outbox_depth().await.unwrap(), OutboxDepth { pending: 0, oldest: None });
        assert!(store.outbox_publish(&lease, 10).await.unwrap().is_empty());

        busy(store, "alpha", 2).await;
        assert_eq!(store.outbox_depth().await.unwrap(), OutboxDepth { pending: 3, oldest: Some(at(0)) });
        assert!(store.event_list(0, &EventFilter::default(), 10).await.unwrap().is_empty());
        assert_eq!(store.event_last_position().await.unwrap(), 0);

        let published = store.outbox_publish(&lease, 2).await.unwrap();
        assert_eq!(published.len(), 2, "at most the limit");
        assert_eq!(store.event_last_position().await.unwrap(), 2);
        assert_eq!(store.event_list(0, &EventFilter::default(), 10).await.unwrap(), published);
        let rest = store.outbox_publish(&lease, 2).await.unwrap();
        assert_eq!(rest[0].position, Some(3));
        assert_eq!(store.event_list(2, &EventFilter::default(), 10).await.unwrap(), rest);
        assert_eq!(store.event_latest(&EventFilter::default(), 2).await.unwrap(), [published[1].clone(), rest[0].clone()]);
        assert_eq!(store.outbox_depth().await.unwrap().pending, 0);
    }

    /// A daemon of a later version may write into the same database, and this one may be the one that publishes.
    async fn events_about_what_only_a_later_version_knows_are_published_and_read_as_they_are(db: TestStore) {
        let store = db.store();
        let lease = relay(store).await;
        busy(store, "alpha", 1).await;
        let time = if db.file().is_some() { "1000000" } else { "to_timestamp(1)" };
        raw::execute(&db, &format!("INSERT INTO events (id, entity, entity_id, name, seq, kind, at, caused_by, data)
            VALUES ('{}', 'gadget', 'gad_1', 'one', 1, 'gadget.made', {time}, 'ada', '{{}}')",
            EventId::from_entropy([7; 16]))).await.unwrap();
        raw::execute(&db, "INSERT INTO outbox (destination, event_id, created_at)
            SELECT 'bus', id, at FROM events WHERE entity = 'gadget'").await.unwrap();
        busy(store, "beta", 1).await;

        let published = store.outbox_publish(&lease, 10).await.unwrap();
        assert_eq!(published.len(), 5, "nobody's events wait for one that is not understood");
        let listed = store.event_list(0, &EventFilter::default(), 10).await.unwrap();
        assert_eq!(listed, published);
        let gadget = listed.iter().find(|event| event.entity == "gadget").unwrap();
        assert_eq!((&*gadget.entity_id, &*gadget.kind), ("gad_1", "gadget.made"));
    }

    /// T-OUTBOX, the store's part.
    async fn positions_have_no_gap_and_keep_each_entitys_order_under_concurrent_writers(db: TestStore) {
        let daemons = [db.store().clone(), db.another().await];
        let lease = relay(db.store()).await;
        let mut writers = JoinSet::new();
        for n in 0..8 {
            let store = daemons[n % 2].clone();
            writers.spawn(async move { busy(&store, &format!("p{n}"), 15).await });
        }
        // Two publishers believe in the same term, as after a pause within it.
        let mut publishers = JoinSet::new();
        for store in daemons.clone() {
            let lease = lease.clone();
            publishers.spawn(async move {
                let (mut seen, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(20));
                // 8 projects of 16 events.
                while store.event_last_position().await.unwrap() < 128 {
                    seen.extend(store.outbox_publish(&lease, 7).await.unwrap());
                    assert!(Instant::now() < deadline, "still at {:?}", store.outbox_depth().await);
                }
                seen
            });
        }
        let written: u64 = writers.join_all().await.into_iter().sum();
        let mut told: Vec<Event> = publishers.join_all().await.into_iter().flatten().collect();
        told.sort_by_key(|event| event.position);
        assert_eq!(told.len() as u64, written, "each was told once");
        check_order(&told);
        assert_eq!(db.store().event_list(0, &EventFilter::default(), 1000).await.unwrap(), told);
        assert_eq!(raw::number(&db, "SELECT count(*) FROM outbox").await, 0);
    }

    async fn a_filter_picks_by_project_entity_and_kind(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let (alpha, beta) = (given::project(store, "alpha").await, given::project(store, "beta").await);
        let runner = given::runner(store, &alpha, node, "one").await;
        given::end(store, &runner).await;
        given::runner(store, &beta, node, "two").await;
        store.outbox_publish(&relay(store).await, 100).await.unwrap();

        let kinds = |filter: EventFilter| async move {
            let events = store.event_list(0, &filter, 100).await.unwrap();
            let latest = store.event_latest(&filter, 100).await.unwrap();
            assert_eq!(events, latest);
            assert!(events.iter().all(|event| filter.matches(event)));
            events.into_iter().map(|event| event.kind).collect::<Vec<_>>()
        };
        let all = EventFilter::default();
        assert_eq!(kinds(all.clone()).await.len(), 5);
        let of_alpha = EventFilter { project: Some(alpha.id), ..all.clone() };
        assert_eq!(kinds(of_alpha.clone()).await, ["project.created", "runner.accepted", "runner.exited"]);
        let of_one = EventFilter { entity_id: Some(runner.id.to_string()), ..all.clone() };
        assert_eq!(kinds(of_one).await, ["runner.accepted", "runner.exited"]);
        let of_kinds = |kinds: &[&str]| EventFilter { kinds: kinds.iter().map(|k| (*k).into()).collect(), ..all.clone() };
        assert_eq!(kinds(of_kinds(&["runner."])).await.len(), 3);
        assert_eq!(kinds(of_kinds(&["runner.exited", "project."])).await.len(), 3);
        for nothing in ["runner", "%", "runner.%", "_", ".", "runner.e", "zzz."] {
            assert!(kinds(of_kinds(&[nothing])).await.is_empty(), "{nothing}");
        }
        let both = EventFilter { kinds: vec!["runner.".into()], ..of_alpha };
        assert_eq!(kinds(both).await, ["runner.accepted", "runner.exited"]);
    }

    async fn an_event_never_changes_not_even_by_hand(db: TestStore) {
        let store = db.store();
        busy(store, "alpha", 1).await;
        for sql in [
            "UPDATE events SET kind = 'x', position = 9",
            "UPDATE events SET data = '{}' WHERE position IS NULL",
            "DELETE FROM events",
        ] {
            let said = raw::execute(&db, sql).await.unwrap_err();
            assert!(said.contains("event"), "{sql}: {said}");
        }
        store.outbox_publish(&relay(store).await, 100).await.unwrap();
        for sql in ["UPDATE events SET position = position + 10", "UPDATE events SET position = NULL"] {
            let said = raw::execute(&db, sql).await.unwrap_err();
            assert!(said.contains("never changes"), "{sql}: {said}");
        }
    }
}

const LATE: &str =
    "INSERT INTO events (id, entity, entity_id, name, seq, kind, at, caused_by, data)
    VALUES ($1, 'node', 'node_late', 'late', 1, 'node.late', now(), 'ada', '{}')";
const QUEUE: &str =
    "INSERT INTO outbox (destination, event_id, created_at) VALUES ('bus', $1, now())";

/// A transaction that has taken its outbox id and has not committed.
async fn uncommitted<'c>(
    conn: &'c mut PgConnection,
    event: EventId,
) -> sqlx::Transaction<'c, sqlx::Postgres> {
    let mut tx = conn.begin_with("BEGIN").await.unwrap();
    for sql in [LATE, QUEUE] {
        sqlx::query(sql).bind(event.to_string()).execute(&mut *tx).await.unwrap();
    }
    tx
}

/// What a relay that remembers the last id would do, in place of taking what is there.
async fn after_cursor(db: &TestStore, cursor: &mut i64) -> Vec<String> {
    let sql = format!("SELECT event_id FROM outbox WHERE id > {cursor} ORDER BY id");
    let found = raw::texts(db, &sql).await;
    let newest = format!("SELECT max(id) FROM outbox WHERE id > {cursor}");
    if !found.is_empty() {
        *cursor = sqlx::query_scalar(AssertSqlSafe(newest))
            .fetch_one(&mut raw::postgres(db).await)
            .await
            .unwrap();
    }
    found
}

/// On PostgreSQL only: SQLite has one writer, so nothing commits out of order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_outbox_an_event_that_commits_late_is_not_lost() {
    let mut trial =
        Trial::new("T-OUTBOX", "an event commits after one with a greater id: it is published");
    for _ in 0..scale(2, 50) {
        let db = TestStore::postgres().await;
        let store = db.store();
        let lease = relay(store).await;
        let mut conn = raw::postgres(&db).await;
        let id = EventId::from_entropy(given::entropy());
        let late = uncommitted(&mut conn, id).await;
        given::project(store, "alpha").await;
        let mut cursor = 0;
        assert_eq!(after_cursor(&db, &mut cursor).await.len(), 1);
        assert_eq!(store.outbox_publish(&lease, 10).await.unwrap().len(), 1, "alpha overtakes it");
        late.commit().await.unwrap();
        let found = after_cursor(&db, &mut cursor).await;
        trial.control("a relay with a cursor", found.is_empty());
        let published = store.outbox_publish(&lease, 10).await.unwrap();
        let published: Vec<_> = published.iter().map(|event| (event.id, event.position)).collect();
        trial.tried(match published[..] == [(id, Some(2))] {
            true => Ok(()),
            false => Err(format!("published were {published:?}")),
        });
    }
    trial.end();
}

/// The same while the relay looks again and again, with others that are over before it and without: no
/// number above it may be taken for a sign that it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_commits_late_is_not_passed_by_the_floor() {
    for others in [0, 3] {
        let db = TestStore::postgres().await;
        let store = db.store();
        let lease = relay(store).await;
        let mut conn = raw::postgres(&db).await;
        let id = EventId::from_entropy(given::entropy());
        let late = uncommitted(&mut conn, id).await;
        for n in 0..4 {
            if n < others {
                given::project(store, &format!("other-{n}")).await;
            }
            // As the relay: what is not seen to wait is not published.
            if !store.outbox_is_empty().await.unwrap() {
                assert_eq!(store.outbox_publish(&lease, 10).await.unwrap().len(), 1);
            }
        }
        late.commit().await.unwrap();
        assert!(!store.outbox_is_empty().await.unwrap(), "{others} others: it is seen");
        let published = store.outbox_publish(&lease, 10).await.unwrap();
        assert_eq!(published.iter().map(|e| e.id).collect::<Vec<_>>(), [id], "{others} others");
    }
}
