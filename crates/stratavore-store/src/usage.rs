//! The ledger: one row for each billed message, and sums of the rows.
//!
//! Invariant: however often and in whatever order a message is told, by whichever daemon, its row holds
//! what [`LedgerRow::merged`] makes of it, and the sums are those of the rows.
//!
//! Rows are made, locked and changed in the order of their keys, some hundreds in a statement. A row that
//! was made by another transaction meanwhile is waited for, and then merged with.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use stratavore_core::Timestamp;
use stratavore_core::name::Name;
use stratavore_core::usage::{Belongs, LedgerRow, TokenSums, UsageDelta, UsageRecord, UsageSums};

use crate::error::doing;
use crate::observed::session_name;
use crate::session_seen::Found;
use crate::tx::{Tx, on};
use crate::usage_row::{NewRecord, RecordRow};
use crate::value::to_json;
use crate::{Observed, StoreError};

/// Rows in one statement.
const PIECE: usize = 500;

/// Microseconds of a quarter of an hour.
pub(crate) const QUARTER: i64 = 15 * 60 * 1_000_000;

/// In the order of keys, so that two that make the same rows wait for each other and not in a ring.
const ADD_POSTGRES: &str = "INSERT INTO usage_records (assistant, key, external_session, session_id, runner_id, project_id,
        request_id, message_id, model, purpose, input, output, cache_read, cache_write, cache_write_1h,
        reasoning, reported_cost, cost, price_version, quality, at, file, file_offset, recorded_at)
    SELECT assistant, key, external_session, session_id, runner_id, project_id, request_id, message_id,
        model, purpose, input, output, cache_read, cache_write, cache_write_1h, reasoning, reported_cost,
        cost, price_version, quality, 'epoch'::timestamptz + at * interval '1 microsecond', file,
        file_offset, 'epoch'::timestamptz + recorded_at * interval '1 microsecond'
    FROM json_to_recordset($1::json) AS new (assistant text, key text, external_session text,
        session_id text, runner_id text, project_id text, request_id text, message_id text, model text,
        purpose text, input bigint, output bigint, cache_read bigint, cache_write bigint,
        cache_write_1h bigint, reasoning bigint, reported_cost bigint, cost bigint, price_version text,
        quality text, at bigint, file text, file_offset bigint, recorded_at bigint)
    ORDER BY key COLLATE \"C\"
    ON CONFLICT (assistant, key) DO NOTHING RETURNING key";

const ADD_SQLITE: &str = "INSERT INTO usage_records (assistant, key, external_session, session_id, runner_id, project_id,
        request_id, message_id, model, purpose, input, output, cache_read, cache_write, cache_write_1h,
        reasoning, reported_cost, cost, price_version, quality, at, file, file_offset, recorded_at)
    SELECT value ->> 'assistant', value ->> 'key', value ->> 'external_session', value ->> 'session_id',
        value ->> 'runner_id', value ->> 'project_id', value ->> 'request_id', value ->> 'message_id',
        value ->> 'model', value ->> 'purpose', value ->> 'input', value ->> 'output',
        value ->> 'cache_read', value ->> 'cache_write', value ->> 'cache_write_1h',
        value ->> 'reasoning', value ->> 'reported_cost', value ->> 'cost', value ->> 'price_version',
        value ->> 'quality', value ->> 'at', value ->> 'file', value ->> 'file_offset',
        value ->> 'recorded_at'
    FROM json_each($1) WHERE true
    ON CONFLICT (assistant, key) DO NOTHING RETURNING key";

const KNOWN_POSTGRES: &str = "SELECT assistant, key, external_session, session_id, runner_id, project_id, request_id,
        message_id, model, purpose, input, output, cache_read, cache_write, cache_write_1h, reasoning,
        reported_cost, cost, price_version, quality, at, file, file_offset, recorded_at
    FROM usage_records
    WHERE assistant = $1 AND key = ANY (ARRAY(SELECT json_array_elements_text($2::json)))
    ORDER BY key FOR NO KEY UPDATE";

const KNOWN_SQLITE: &str = "SELECT assistant, key, external_session, session_id, runner_id, project_id, request_id,
        message_id, model, purpose, input, output, cache_read, cache_write, cache_write_1h, reasoning,
        reported_cost, cost, price_version, quality, at, file, file_offset, recorded_at
    FROM usage_records WHERE assistant = $1 AND key IN (SELECT value FROM json_each($2))";

const CHANGE_POSTGRES: &str = "UPDATE usage_records AS kept SET external_session = new.external_session,
        session_id = new.session_id, runner_id = new.runner_id, project_id = new.project_id,
        request_id = new.request_id, message_id = new.message_id, model = new.model,
        purpose = new.purpose, input = new.input, output = new.output, cache_read = new.cache_read,
        cache_write = new.cache_write, cache_write_1h = new.cache_write_1h, reasoning = new.reasoning,
        reported_cost = new.reported_cost, cost = new.cost, price_version = new.price_version,
        quality = new.quality, at = 'epoch'::timestamptz + new.at * interval '1 microsecond'
    FROM json_to_recordset($1::json) AS new (assistant text, key text, external_session text,
        session_id text, runner_id text, project_id text, request_id text, message_id text, model text,
        purpose text, input bigint, output bigint, cache_read bigint, cache_write bigint,
        cache_write_1h bigint, reasoning bigint, reported_cost bigint, cost bigint, price_version text,
        quality text, at bigint)
    WHERE kept.assistant = new.assistant AND kept.key = new.key";

const CHANGE_SQLITE: &str =
    "UPDATE usage_records AS kept SET external_session = new.value ->> 'external_session',
        session_id = new.value ->> 'session_id', runner_id = new.value ->> 'runner_id',
        project_id = new.value ->> 'project_id', request_id = new.value ->> 'request_id',
        message_id = new.value ->> 'message_id', model = new.value ->> 'model',
        purpose = new.value ->> 'purpose', input = new.value ->> 'input',
        output = new.value ->> 'output', cache_read = new.value ->> 'cache_read',
        cache_write = new.value ->> 'cache_write', cache_write_1h = new.value ->> 'cache_write_1h',
        reasoning = new.value ->> 'reasoning', reported_cost = new.value ->> 'reported_cost',
        cost = new.value ->> 'cost', price_version = new.value ->> 'price_version',
        quality = new.value ->> 'quality', at = new.value ->> 'at'
    FROM json_each($1) AS new
    WHERE kept.assistant = new.value ->> 'assistant' AND kept.key = new.value ->> 'key'";

const SUM_POSTGRES: &str = "INSERT INTO usage_quarters AS kept (quarter, project_id, session_id, runner_id, assistant,
        model, input, output, cache_read, cache_write, cache_write_1h, reasoning, cost, reported,
        messages, unpriced, reporting, estimated, lost)
    SELECT 'epoch'::timestamptz + quarter * interval '1 microsecond', project_id, session_id, runner_id,
        assistant, model, input, output, cache_read, cache_write, cache_write_1h, reasoning, cost,
        reported, messages, unpriced, reporting, estimated, lost
    FROM json_to_recordset($1::json) AS new (quarter bigint, project_id text, session_id text,
        runner_id text, assistant text, model text, input bigint, output bigint, cache_read bigint,
        cache_write bigint, cache_write_1h bigint, reasoning bigint, cost bigint, reported bigint,
        messages bigint, unpriced bigint, reporting bigint, estimated bigint, lost bigint)
    ON CONFLICT (quarter, project_id, session_id, runner_id, assistant, model) DO UPDATE SET
        input = kept.input + excluded.input, output = kept.output + excluded.output,
        cache_read = kept.cache_read + excluded.cache_read,
        cache_write = kept.cache_write + excluded.cache_write,
        cache_write_1h = kept.cache_write_1h + excluded.cache_write_1h,
        reasoning = kept.reasoning + excluded.reasoning, cost = kept.cost + excluded.cost,
        reported = kept.reported + excluded.reported, messages = kept.messages + excluded.messages,
        unpriced = kept.unpriced + excluded.unpriced, reporting = kept.reporting + excluded.reporting,
        estimated = kept.estimated + excluded.estimated, lost = kept.lost + excluded.lost";

const SUM_SQLITE: &str = "INSERT INTO usage_quarters AS kept (quarter, project_id, session_id, runner_id, assistant,
        model, input, output, cache_read, cache_write, cache_write_1h, reasoning, cost, reported,
        messages, unpriced, reporting, estimated, lost)
    SELECT value ->> 'quarter', value ->> 'project_id', value ->> 'session_id', value ->> 'runner_id',
        value ->> 'assistant', value ->> 'model', value ->> 'input', value ->> 'output',
        value ->> 'cache_read', value ->> 'cache_write', value ->> 'cache_write_1h',
        value ->> 'reasoning', value ->> 'cost', value ->> 'reported', value ->> 'messages',
        value ->> 'unpriced', value ->> 'reporting', value ->> 'estimated', value ->> 'lost'
    FROM json_each($1) WHERE true
    ON CONFLICT (quarter, project_id, session_id, runner_id, assistant, model) DO UPDATE SET
        input = kept.input + excluded.input, output = kept.output + excluded.output,
        cache_read = kept.cache_read + excluded.cache_read,
        cache_write = kept.cache_write + excluded.cache_write,
        cache_write_1h = kept.cache_write_1h + excluded.cache_write_1h,
        reasoning = kept.reasoning + excluded.reasoning, cost = kept.cost + excluded.cost,
        reported = kept.reported + excluded.reported, messages = kept.messages + excluded.messages,
        unpriced = kept.unpriced + excluded.unpriced, reporting = kept.reporting + excluded.reporting,
        estimated = kept.estimated + excluded.estimated, lost = kept.lost + excluded.lost";

statements! { ADD_POSTGRES, ADD_SQLITE, KNOWN_POSTGRES, KNOWN_SQLITE, CHANGE_POSTGRES, CHANGE_SQLITE, SUM_POSTGRES, SUM_SQLITE }

/// Takes messages into the ledger and its sums, and answers what is new.
pub(crate) async fn merge(
    tx: &mut Tx,
    batch: &Observed<'_>,
    told: &[UsageRecord],
    sessions: &BTreeMap<&str, Found>,
) -> Result<Vec<UsageDelta>, StoreError> {
    let mut rows: BTreeMap<String, LedgerRow> = BTreeMap::new();
    for record in told {
        let row = new_row(batch, record, sessions);
        rows.entry(record.key.clone())
            .and_modify(|known| *known = priced(batch, known.merged(&row), None))
            .or_insert(row);
    }
    let rows: Vec<LedgerRow> = rows.into_values().collect();
    let mut deltas = Vec::new();
    for piece in rows.chunks(PIECE) {
        deltas.extend(merge_piece(tx, batch, piece).await?);
    }
    add_up(tx, &deltas).await?;
    Ok(deltas)
}

fn new_row(
    batch: &Observed<'_>,
    record: &UsageRecord,
    sessions: &BTreeMap<&str, Found>,
) -> LedgerRow {
    let session = session_name(&record.session).and_then(|name| sessions.get(&*name));
    // Who runs it pays for it, though the conversation may have begun elsewhere.
    let project = batch.project.or(session.map(Found::project));
    let belongs = Belongs { project, session: session.map(Found::id), runner: batch.runner };
    let row = LedgerRow {
        assistant: batch.assistant.clone(),
        record: record.clone(),
        belongs,
        price: None,
        recorded_at: batch.now,
    };
    priced(batch, row, None)
}

/// The row with what it costs; `before` is what was known of it, whose price stays if nothing that it
/// was for has changed.
fn priced(batch: &Observed<'_>, row: LedgerRow, before: Option<&LedgerRow>) -> LedgerRow {
    let for_what = |row: &LedgerRow| (row.record.model.clone(), row.record.tokens, row.record.at);
    if let Some(before) = before
        && before.price.is_some()
        && for_what(before) == for_what(&row)
    {
        return LedgerRow { price: before.price.clone(), ..row };
    }
    let price = (batch.price)(&row.record.model, &row.record.tokens, row.record.at);
    LedgerRow { price, ..row }
}

/// `rows` are of different keys, in their order.
async fn merge_piece(
    tx: &mut Tx,
    batch: &Observed<'_>,
    rows: &[LedgerRow],
) -> Result<Vec<UsageDelta>, StoreError> {
    let add = tx.either(ADD_POSTGRES, ADD_SQLITE);
    let new: Vec<NewRecord<'_>> = rows.iter().map(NewRecord::from).collect();
    let added: Vec<String> =
        on!(tx, |conn| sqlx::query_scalar(add).bind(to_json(&new)).fetch_all(conn).await)
            .map_err(doing("adding to the ledger"))?;
    let added: BTreeSet<&str> = added.iter().map(String::as_str).collect();
    let (new, again): (Vec<_>, Vec<_>) =
        rows.iter().partition(|row| added.contains(&*row.record.key));
    let mut deltas: Vec<UsageDelta> = new.into_iter().map(|row| delta(row, row.sums())).collect();
    if again.is_empty() {
        return Ok(deltas);
    }

    let keys: Vec<&str> = again.iter().map(|row| &*row.record.key).collect();
    let known = tx.either(KNOWN_POSTGRES, KNOWN_SQLITE);
    let known: Vec<RecordRow> = on!(tx, |conn| sqlx::query_as(known)
        .bind(batch.assistant.as_str())
        .bind(to_json(&keys))
        .fetch_all(conn)
        .await)
    .map_err(doing("reading the ledger"))?;
    let again: BTreeMap<&str, &LedgerRow> =
        again.into_iter().map(|row| (&*row.record.key, row)).collect();
    let mut changed = Vec::new();
    for row in known {
        let before = row.into_row()?;
        let Some(told) = again.get(&*before.record.key) else { continue };
        let after = priced(batch, before.merged(told), Some(&before));
        if after != before {
            deltas.extend(differ(&before, &after));
            changed.push(after);
        }
    }
    if !changed.is_empty() {
        let change = tx.either(CHANGE_POSTGRES, CHANGE_SQLITE);
        let changed: Vec<NewRecord<'_>> = changed.iter().map(NewRecord::from).collect();
        on!(tx, |conn| sqlx::query(change).bind(to_json(&changed)).execute(conn).await.map(drop))
            .map_err(doing("changing the ledger"))?;
    }
    Ok(deltas)
}

fn delta(row: &LedgerRow, change: UsageSums) -> UsageDelta {
    UsageDelta {
        assistant: row.assistant.clone(),
        belongs: row.belongs,
        model: row.record.model.clone(),
        at: row.record.at,
        change,
    }
}

/// What is to be added to sums that hold `before` for them to hold `after`.
fn differ(before: &LedgerRow, after: &LedgerRow) -> Vec<UsageDelta> {
    let place = |row: &LedgerRow| (row.belongs, row.record.model.clone(), quarter(row.record.at));
    if place(before) == place(after) {
        let change = after.sums() - before.sums();
        return if change.is_zero() { Vec::new() } else { vec![delta(after, change)] };
    }
    let taken = UsageSums::default() - before.sums();
    vec![delta(before, taken), delta(after, after.sums())]
}

/// The beginning of the quarter of an hour, in microseconds.
pub(crate) fn quarter(at: Timestamp) -> i64 {
    at.as_microsecond().div_euclid(QUARTER) * QUARTER
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Sum<'a> {
    quarter: i64,
    project_id: String,
    session_id: String,
    runner_id: String,
    assistant: &'a Name,
    model: &'a str,
}

#[derive(Debug, Serialize)]
struct SumRow<'a> {
    #[serde(flatten)]
    of: &'a Sum<'a>,
    #[serde(flatten)]
    tokens: TokenSums,
    cost: i64,
    reported: i64,
    messages: i64,
    unpriced: i64,
    reporting: i64,
    estimated: i64,
    lost: i64,
}

async fn add_up(tx: &mut Tx, deltas: &[UsageDelta]) -> Result<(), StoreError> {
    let mut sums: BTreeMap<Sum<'_>, UsageSums> = BTreeMap::new();
    for delta in deltas {
        let sum = Sum {
            quarter: quarter(delta.at),
            project_id: delta.belongs.project.map(|id| id.to_string()).unwrap_or_default(),
            session_id: delta.belongs.session.map(|id| id.to_string()).unwrap_or_default(),
            runner_id: delta.belongs.runner.map(|id| id.to_string()).unwrap_or_default(),
            assistant: &delta.assistant,
            model: &delta.model,
        };
        *sums.entry(sum).or_default() += delta.change;
    }
    // In their order, so that no two that add to the same ones wait in a ring.
    let rows: Vec<SumRow<'_>> = sums
        .iter()
        .filter(|(_, change)| !change.is_zero())
        .map(|(of, change)| SumRow {
            of,
            tokens: change.tokens,
            cost: change.cost,
            reported: change.reported,
            messages: change.messages,
            unpriced: change.unpriced,
            reporting: change.reporting,
            estimated: change.estimated,
            lost: change.lost,
        })
        .collect();
    let sql = tx.either(SUM_POSTGRES, SUM_SQLITE);
    for piece in rows.chunks(PIECE) {
        on!(tx, |conn| sqlx::query(sql).bind(to_json(&piece)).execute(conn).await.map(drop))
            .map_err(doing("adding up the ledger"))?;
    }
    Ok(())
}
