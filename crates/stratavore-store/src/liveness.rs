//! Heartbeats: one narrow row for each runner, written in batches.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::postgres::PgArguments;
use sqlx::{ColumnIndex, Decode, Postgres, QueryBuilder, Type};
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

/// What almost every heartbeat is: a later one of the same epoch. The row was made for an epoch that
/// its runner had, and a list shows it only if the runner still has it.
const LATER_POSTGRES: &str = "UPDATE runner_liveness AS kept SET
        at = new.at, cpu_ms = new.cpu_ms, memory = new.memory, processes = new.processes,
        output_bytes = new.output_bytes, output_at = new.output_at, viewers = new.viewers
    FROM unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[],
            $7::bigint[], $8::timestamptz[], $9::bigint[])
        AS new (runner_id, epoch, at, cpu_ms, memory, processes, output_bytes, output_at, viewers)
    WHERE kept.runner_id = new.runner_id AND kept.epoch = new.epoch AND kept.at <= new.at";

/// The same, before and after the rows: values are bound four times as fast as JSON is read.
const LATER_SQLITE: [&str; 2] = [
    "WITH new (runner_id, epoch, at, cpu_ms, memory, processes, output_bytes, output_at, viewers) AS (",
    ") UPDATE runner_liveness AS kept SET
        at = new.at, cpu_ms = new.cpu_ms, memory = new.memory, processes = new.processes,
        output_bytes = new.output_bytes, output_at = new.output_at, viewers = new.viewers
    FROM new
    WHERE kept.runner_id = new.runner_id AND kept.epoch = new.epoch AND kept.at <= new.at",
];

/// Rows in one statement on SQLite. The rest of a batch is cut into powers of two, so that there are
/// few statements to prepare.
const PIECE: usize = 128;

statements! { RECORD_POSTGRES, RECORD_SQLITE, LATER_POSTGRES }

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

/// The latest heartbeat of `runner`, from the eight columns beginning with `first`, in the order of
/// the table without its key. All of them are null if there was none yet.
pub(crate) fn read<'r, R: sqlx::Row>(
    row: &'r R,
    first: usize,
    runner: RunnerId,
) -> Result<Option<Liveness>, sqlx::Error>
where
    usize: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    DbTime: Decode<'r, R::Database> + Type<R::Database>,
{
    let Some(epoch) = row.try_get(first)? else { return Ok(None) };
    let at: DbTime = row.try_get(first + 1)?;
    let number = |place| row.try_get::<i64, _>(first + place);
    let small = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
    let output_at: Option<DbTime> = row.try_get(first + 6)?;
    Ok(Some(Liveness {
        runner,
        epoch,
        at: at.0,
        cpu_ms: number(2)?.unsigned_abs(),
        memory: number(3)?.unsigned_abs(),
        processes: small(number(4)?),
        output_bytes: number(5)?.unsigned_abs(),
        output_at: output_at.map(|at| at.0),
        viewers: small(number(7)?),
    }))
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

/// The later ones of known epochs by themselves; if that was not all, all of them the thorough way,
/// which changes nothing of what has been done.
async fn record(tx: &mut Tx, rows: &[&Liveness]) -> Result<(), sqlx::Error> {
    match tx {
        Tx::Postgres(tx, deadline, _) => {
            let columns = Columns::of(rows);
            let later = columns.bind_to(sqlx::query(LATER_POSTGRES)).execute(&mut **tx);
            if deadline.keep(later).await?.rows_affected() == rows.len() as u64 {
                return Ok(());
            }
            let recorded = columns.bind_to(sqlx::query(RECORD_POSTGRES)).execute(&mut **tx);
            deadline.keep(recorded).await.map(drop)
        }
        Tx::Sqlite(tx, _, _) => {
            let rows: Vec<_> = rows.iter().map(|l| Row::from(**l)).collect();
            let (mut later, mut rest) = (0, &rows[..]);
            while !rest.is_empty() {
                let (piece, others) = rest.split_at(1 << rest.len().min(PIECE).ilog2());
                let mut query = QueryBuilder::new(LATER_SQLITE[0]);
                query.push_values(piece, |mut row, new| {
                    row.push_bind(&new.runner_id).push_bind(new.epoch).push_bind(new.at);
                    row.push_bind(new.cpu_ms).push_bind(new.memory).push_bind(new.processes);
                    row.push_bind(new.output_bytes).push_bind(new.output_at);
                    row.push_bind(new.viewers);
                });
                query.push(LATER_SQLITE[1]);
                later += query.build().execute(&mut **tx).await?.rows_affected();
                rest = others;
            }
            if later == rows.len() as u64 {
                return Ok(());
            }
            sqlx::query(RECORD_SQLITE).bind(to_json(&rows)).execute(&mut **tx).await.map(drop)
        }
    }
}

/// The rows as PostgreSQL takes them.
struct Columns {
    runner: Vec<String>,
    epoch: Vec<i64>,
    at: Vec<DbTime>,
    cpu_ms: Vec<i64>,
    memory: Vec<i64>,
    processes: Vec<i64>,
    output_bytes: Vec<i64>,
    output_at: Vec<Option<DbTime>>,
    viewers: Vec<i64>,
}

impl Columns {
    fn of(rows: &[&Liveness]) -> Self {
        let numbers = |of: fn(&Liveness) -> i64| rows.iter().map(|l| of(l)).collect();
        Self {
            runner: rows.iter().map(|l| l.runner.to_string()).collect(),
            epoch: numbers(|l| l.epoch),
            at: rows.iter().map(|l| DbTime(l.at)).collect(),
            cpu_ms: numbers(|l| count(l.cpu_ms)),
            memory: numbers(|l| count(l.memory)),
            processes: numbers(|l| i64::from(l.processes)),
            output_bytes: numbers(|l| count(l.output_bytes)),
            output_at: rows.iter().map(|l| l.output_at.map(DbTime)).collect(),
            viewers: numbers(|l| i64::from(l.viewers)),
        }
    }

    fn bind_to<'q>(
        &'q self,
        query: sqlx::query::Query<'q, Postgres, PgArguments>,
    ) -> sqlx::query::Query<'q, Postgres, PgArguments> {
        query
            .bind(&self.runner)
            .bind(&self.epoch)
            .bind(&self.at)
            .bind(&self.cpu_ms)
            .bind(&self.memory)
            .bind(&self.processes)
            .bind(&self.output_bytes)
            .bind(&self.output_at)
            .bind(&self.viewers)
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
