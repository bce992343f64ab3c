//! T-BLOAT: events go through the outbox while somebody's old snapshot keeps all that was deleted
//! where it was.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stratavore_store::Store;
use stratavore_store::testing::TestStore;
use stratavore_testkit::trial::{Trial, is_long, scale};

use crate::lease::{LONG, daemon};
use crate::raw;

const BATCH: usize = 256;
/// As the relay does.
const LOOK_EVERY: usize = 16;
/// The longest that other transactions are waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the old snapshot is held in a full run.
const HELD: Duration = Duration::from_secs(30 * 60);
/// What two measures of the same differ by.
const SLACK: Duration = Duration::from_millis(5);
/// How many are written at a time.
const CHUNK: usize = BATCH * LOOK_EVERY;

/// Appends so many events at once, of 2,000 different things.
async fn append(conn: &mut PgConnection, from: usize, count: usize) {
    let sql = format!(
        "WITH new AS (
            INSERT INTO events (id, entity, entity_id, name, seq, kind, at, caused_by, data, origin, decision, mac)
            SELECT 'evt_' || lpad(n::text, 20, '0'), 'project', 'prj_' || (n % 2000), 'x', n, 'project.edited', now(), 'ada',
                '{{}}', '{{}}', 'allowed', 'x'
            FROM generate_series({from}, {}) AS n RETURNING id, at
        )
        INSERT INTO outbox (destination, event_id, created_at) SELECT 'bus', id, at FROM new",
        from + count - 1
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.unwrap();
}

/// Publishes all that waits, as the relay does; answers how long each batch took.
async fn publish(store: &Store, lease: &stratavore_core::lease::Lease) -> Vec<Duration> {
    let mut took = Vec::new();
    if store.outbox_is_empty().await.unwrap() {
        return took;
    }
    loop {
        let began = Instant::now();
        let published = store.outbox_publish(lease, BATCH as u32).await.unwrap();
        if !published.is_empty() {
            took.push(began.elapsed());
        }
        if published.len() < BATCH {
            return took;
        }
        if took.len().is_multiple_of(LOOK_EVERY) {
            store.outbox_is_empty().await.unwrap();
        }
    }
}

/// How many blocks are read to find the next batch above this id.
async fn blocks(conn: &mut PgConnection, above: i64) -> i64 {
    let sql = format!(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT id FROM outbox
         WHERE destination = 'bus' AND id > {above} ORDER BY id LIMIT {BATCH}"
    );
    sqlx::raw_sql("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")
        .execute(&mut *conn)
        .await
        .unwrap();
    let plan: serde_json::Value =
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(conn).await.unwrap();
    let plan = &plan[0]["Plan"];
    plan["Shared Hit Blocks"].as_i64().unwrap() + plan["Shared Read Blocks"].as_i64().unwrap()
}

fn p99(took: &[Duration]) -> Duration {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len() * 99).div_ceil(100).max(1) - 1).copied().unwrap_or_default()
}

/// Somebody who looks once and stays.
async fn old_snapshot(db: &TestStore) -> PgConnection {
    let mut conn = raw::postgres(db).await;
    let begin = "SET idle_in_transaction_session_timeout = 0;
        BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM events";
    sqlx::raw_sql(begin).execute(&mut conn).await.unwrap();
    conn
}

async fn t_bloat(is_held: bool) {
    let db = TestStore::postgres().await;
    let with =
        if is_held { "while a session holds an old snapshot" } else { "and nobody is in the way" };
    let total = scale(CHUNK * 3, if is_held { 2_000_000 } else { 500_000 });
    let mut trial = Trial::new("T-BLOAT", &format!("events go through the outbox, {with}"));
    let store = db.store();
    let lease = store.lease_acquire("relay", daemon(), LONG).await.unwrap().unwrap();
    let mut conn = raw::postgres(&db).await;
    // The plans are made when there is something.
    append(&mut conn, 1, CHUNK).await;
    publish(store, &lease).await;
    sqlx::raw_sql("VACUUM ANALYZE outbox, events").execute(&mut conn).await.unwrap();
    let held = if is_held { Some(old_snapshot(&db).await) } else { None };
    let (mut took, mut done) = (Vec::new(), CHUNK);
    let began = Instant::now();
    while done < CHUNK + total {
        if is_held && is_long() {
            // As many as a busy day's, in the time of a long report.
            let due = HELD.mul_f64((done - CHUNK) as f64 / total as f64);
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        }
        append(&mut conn, done + 1, CHUNK).await;
        took.extend(publish(store, &lease).await);
        done += CHUNK;
        let published = store.event_last_position().await.unwrap();
        trial.tried_times(
            CHUNK,
            match usize::try_from(published) {
                Ok(published) if published == done => Ok(()),
                _ => Err(format!("{published} of {done} are published")),
            },
        );
    }
    let tenth = (took.len() / 10).max(1);
    let (first, last) = (&took[..tenth], &took[took.len() - tenth..]);
    for (what, took) in [("a batch in the first tenth", first), ("a batch in the last tenth", last)]
    {
        took.iter().for_each(|took| trial.measured(what, *took));
    }
    let number = async |sql: &str| raw::number(&db, sql).await.unsigned_abs();
    let size = number("SELECT pg_total_relation_size('outbox')").await;
    trial.most("bytes of the outbox at the end", size);
    let dead = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'outbox'";
    trial.most("dead rows of the outbox at the end", number(dead).await);

    // The floor follows what is published by some looks; a transaction of any database of the server
    // holds it up.
    let behind = done as i64 - store.outbox_floor();
    trial.most("ids that the floor is behind", behind.unsigned_abs());
    let began = Instant::now();
    while store.outbox_floor() < done as i64 {
        assert!(began.elapsed() < PATIENCE, "it stays at {}", store.outbox_floor());
        assert!(store.outbox_is_empty().await.unwrap());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // What waits now is found where it is.
    append(&mut conn, done + 1, BATCH).await;
    let found = blocks(&mut conn, store.outbox_floor()).await;
    let whole = blocks(&mut conn, 0).await;
    trial.most("blocks to find a batch", found.unsigned_abs());
    trial.most("blocks from the beginning", whole.unsigned_abs());
    trial.tried(match found <= 32 {
        true => Ok(()),
        false => Err(format!("{found} blocks are read to find a batch")),
    });
    if is_held {
        trial.control("a look that begins at the first id", whole > 4 * found);
    }
    if is_long() {
        let (first, last) = (p99(first), p99(last));
        let limit = if is_held { 3.0 } else { 1.2 };
        let grown = last.as_secs_f64() / first.as_secs_f64();
        trial.most("p99 of the last tenth, in percent of the first", (grown * 100.0) as u64);
        let held = |last: Duration| match last <= first.mul_f64(limit) + SLACK {
            true => Ok(()),
            false => Err(format!("a batch took {first:?} at first and {last:?} at last")),
        };
        trial.tried(held(last));
        trial.control("batches that take four times as long", held(first * 4 + SLACK).is_err());
    }
    if let Some(held) = held {
        held.close().await.unwrap();
    }
    trial.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_bloat_an_old_snapshot_does_not_slow_the_outbox_down() {
    t_bloat(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_bloat_the_outbox_without_one() {
    t_bloat(false).await;
}

/// A transaction that is under way keeps the floor below what it has written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_late_is_found_above_the_floor() {
    let db = TestStore::postgres().await;
    let store = db.store();
    let lease = store.lease_acquire("relay", daemon(), LONG).await.unwrap().unwrap();
    let (mut late, mut other) = (raw::postgres(&db).await, raw::postgres(&db).await);
    append(&mut other, 1, 10).await;
    publish(store, &lease).await;
    let began = Instant::now();
    while store.outbox_floor() < 10 {
        assert!(began.elapsed() < PATIENCE);
        assert!(store.outbox_is_empty().await.unwrap());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sqlx::raw_sql("BEGIN").execute(&mut late).await.unwrap();
    append(&mut late, 11, 1).await;
    for n in 0..5 {
        append(&mut other, 12 + n * 10, 10).await;
        publish(store, &lease).await;
        for _ in 0..3 {
            assert!(store.outbox_is_empty().await.unwrap());
        }
    }
    let floor = store.outbox_floor();
    assert_eq!(floor, 10, "one is under way");
    sqlx::raw_sql("COMMIT").execute(&mut late).await.unwrap();
    let pending = "SELECT min(id) FROM outbox";
    let id = raw::number(&db, pending).await;
    // The control: a cursor on the ids that were published has run past it.
    let passed = raw::number(&db, "SELECT max(position) FROM events").await;
    assert!(floor < id && id < passed, "{floor} {id} {passed}");
    assert!(!store.outbox_is_empty().await.unwrap());
    let found = store.outbox_publish(&lease, 10).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    let began = Instant::now();
    while store.outbox_floor() <= id {
        assert!(began.elapsed() < PATIENCE);
        assert!(store.outbox_is_empty().await.unwrap());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
