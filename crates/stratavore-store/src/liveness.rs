//! Heartbeats: one narrow row for each runner, written in batches.

use std::collections::BTreeMap;

use serde::Serialize;
use stratavore_core::RunnerId;
use stratavore_core::liveness::Liveness;

use crate::error::doing;
use crate::retry::retried;
use crate::tx::{Lane, Tx};
use crate::value::{DbTime, count, to_json};
use crate::{Store, StoreError};

/// The join drops what speaks of an epoch that is over or of a runner that does not exist. Ordered,
/// so that two batches lock their rows in the same order.
const RECORD_POSTGRES: &str = "INSERT INTO runner_liveness AS kept
        (runner_id, epoch, at, cpu_ms, memory, processes, output_bytes, output_at, viewers)
    SELECT new.runner_id, new.epoch, new.at, new.cpu_ms, new.memory, new.processes, new.output_bytes,
        new.output_at, new.viewers
    FROM unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[],
            $7::bigint[], $8::timestamptz[], $9::bigint[])
        AS new (runner_id, epoch, at, cpu_ms, memory, processes, output_bytes, output_at, viewers)
    JOIN runners ON runners.id = new.runner_id AND runners.epoch = new.epoch
    ORDER BY new.runner_id
    ON CONFLICT (runner_id) DO UPDATE SET
        epoch = excluded.epoch, at = excluded.at, cpu_ms = excluded.cpu_ms, memory = excluded.memory,
        processes = excluded.processes, output_bytes = excluded.output_bytes,
        output_at = excluded.output_at, viewers = excluded.viewers
    WHERE (kept.epoch, kept.at) <= (excluded.epoch, excluded.at)";

const RECORD_SQLITE: &str = "INSERT INTO runner_liveness AS kept
        (runner_id, epoch, at, cpu_ms, memory, processes, output_bytes, output_at, viewers)
    SELECT value ->> 'runner_id', value ->> 'epoch', value ->> 'at', value ->> 'cpu_ms', value ->> 'memory',
        value ->> 'processes', value ->> 'output_bytes', value ->> 'output_at', value ->> 'viewers'
    FROM json_each($1)
    JOIN runners ON runners.id = value ->> 'runner_id' AND runners.epoch = value ->> 'epoch'
    WHERE true
    ON CONFLICT (runner_id) DO UPDATE SET
        epoch = excluded.epoch, at = excluded.at, cpu_ms = excluded.cpu_ms, memory = excluded.memory,
        processes = excluded.processes, output_bytes = excluded.output_bytes,
        output_at = excluded.output_at, viewers = excluded.viewers
    WHERE (kept.epoch, kept.at) <= (excluded.epoch, excluded.at)";

/// The row as both databases take it; times in microseconds.
#[derive(Debug, Serialize)]
struct Row {
    runner_id: String,
    epoch: i64,
    at: i64,
    cpu_ms: i64,
    memory: i64,
    processes: i64,
    output_bytes: i64,
    output_at: Option<i64>,
    viewers: i64,
}

/// The columns beside a runner in a list, all of them null if there was no heartbeat yet.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct LivenessColumns {
    epoch: Option<i64>,
    at: Option<DbTime>,
    cpu_ms: Option<i64>,
    memory: Option<i64>,
    processes: Option<i64>,
    output_bytes: Option<i64>,
    output_at: Option<DbTime>,
    viewers: Option<i64>,
}

impl LivenessColumns {
    pub(crate) fn into_liveness(self, runner: RunnerId) -> Option<Liveness> {
        let small = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        Some(Liveness {
            runner,
            epoch: self.epoch?,
            at: self.at?.0,
            cpu_ms: self.cpu_ms?.unsigned_abs(),
            memory: self.memory?.unsigned_abs(),
            processes: small(self.processes?),
            output_bytes: self.output_bytes?.unsigned_abs(),
            output_at: self.output_at.map(|at| at.0),
            viewers: small(self.viewers?),
        })
    }
}

impl Store {
    /// Records the latest heartbeats, many in one statement.
    ///
    /// What is older than what is known is dropped: an epoch that is over, an earlier time, a runner
    /// that does not exist.
    pub async fn liveness_record(&self, batch: &[Liveness]) -> Result<(), StoreError> {
        // One row for each runner, the latest: a statement cannot write a row twice.
        let mut latest: BTreeMap<RunnerId, &Liveness> = BTreeMap::new();
        for new in batch {
            let kept = latest.entry(new.runner).or_insert(new);
            if (kept.epoch, kept.at) <= (new.epoch, new.at) {
                *kept = new;
            }
        }
        if latest.is_empty() {
            return Ok(());
        }
        let rows: Vec<&Liveness> = latest.into_values().collect();
        retried!({
            let mut tx = self.begin_in(Lane::Vital).await?;
            record(&mut tx, &rows).await.map_err(doing("recording heartbeats"))?;
            tx.commit().await
        })
    }
}

async fn record(tx: &mut Tx, rows: &[&Liveness]) -> Result<(), sqlx::Error> {
    match tx {
        Tx::Postgres(tx, deadline) => {
            let recorded = sqlx::query(RECORD_POSTGRES)
                .bind(rows.iter().map(|l| l.runner.to_string()).collect::<Vec<_>>())
                .bind(rows.iter().map(|l| l.epoch).collect::<Vec<_>>())
                .bind(rows.iter().map(|l| DbTime(l.at)).collect::<Vec<_>>())
                .bind(rows.iter().map(|l| count(l.cpu_ms)).collect::<Vec<_>>())
                .bind(rows.iter().map(|l| count(l.memory)).collect::<Vec<_>>())
                .bind(rows.iter().map(|l| i64::from(l.processes)).collect::<Vec<_>>())
                .bind(rows.iter().map(|l| count(l.output_bytes)).collect::<Vec<_>>())
                .bind(rows.iter().map(|l| l.output_at.map(DbTime)).collect::<Vec<_>>())
                .bind(rows.iter().map(|l| i64::from(l.viewers)).collect::<Vec<_>>())
                .execute(&mut **tx);
            deadline.keep(recorded).await.map(drop)
        }
        Tx::Sqlite(tx, _) => {
            let rows: Vec<_> = rows.iter().map(|l| Row::from(**l)).collect();
            sqlx::query(RECORD_SQLITE).bind(to_json(&rows)).execute(&mut **tx).await.map(drop)
        }
    }
}

impl From<Liveness> for Row {
    fn from(l: Liveness) -> Self {
        Self {
            runner_id: l.runner.to_string(),
            epoch: l.epoch,
            at: l.at.as_microsecond(),
            cpu_ms: count(l.cpu_ms),
            memory: count(l.memory),
            processes: i64::from(l.processes),
            output_bytes: count(l.output_bytes),
            output_at: l.output_at.map(|at| at.as_microsecond()),
            viewers: i64::from(l.viewers),
        }
    }
}
