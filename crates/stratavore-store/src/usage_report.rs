//! What was used, put together, and the rows that it is made of.
//!
//! A report reads sums of quarters of an hour, however long the history is, and rows of the ledger only
//! for the parts of a quarter at either end.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use sqlx::QueryBuilder;
use sqlx::types::Text;
use stratavore_core::name::Name;
use stratavore_core::usage::{
    LedgerRow, TokenSums, UsageBy, UsageFilter, UsageGroup, UsageSums, by_day,
};
use stratavore_core::{RunnerId, SessionId, Timestamp};

use crate::error::doing;
use crate::tx::{Reader, on};
use crate::usage::{QUARTER, quarter};
use crate::usage_row::RecordRow;
use crate::value::{DbTime, to_json, without_nul};
use crate::{Store, StoreError};

/// The sums of a report, whatever they are of: see [`report_query`].
const SUMS: &str = ", CAST(sum(input) AS bigint) AS input, CAST(sum(output) AS bigint) AS output,
    CAST(sum(cache_read) AS bigint) AS cache_read, CAST(sum(cache_write) AS bigint) AS cache_write,
    CAST(sum(cache_write_1h) AS bigint) AS cache_write_1h, CAST(sum(reasoning) AS bigint) AS reasoning,
    CAST(sum(cost) AS bigint) AS cost, CAST(sum(reported) AS bigint) AS reported,
    CAST(sum(messages) AS bigint) AS messages, CAST(sum(unpriced) AS bigint) AS unpriced,
    CAST(sum(reporting) AS bigint) AS reporting, CAST(sum(estimated) AS bigint) AS estimated,
    CAST(sum(lost) AS bigint) AS lost
    FROM (";

const QUARTERS: &str =
    "SELECT quarter, project_id, session_id, runner_id, assistant, model, input, output,
        cache_read, cache_write, cache_write_1h, reasoning, cost, reported, messages, unpriced,
        reporting, estimated, lost
    FROM usage_quarters WHERE 1 = 1";

/// Rows of the ledger as if each were a sum; those of a part of a quarter.
const EDGE_POSTGRES: &str = "SELECT date_bin('15 minutes', at, 'epoch'::timestamptz), coalesce(project_id, ''),
        coalesce(session_id, ''), coalesce(runner_id, ''), assistant, model, input, output,
        cache_read, cache_write, cache_write_1h, reasoning, coalesce(cost, 0),
        coalesce(reported_cost, 0), 1, CASE WHEN cost IS NULL THEN 1 ELSE 0 END,
        CASE WHEN reported_cost IS NULL THEN 0 ELSE 1 END,
        CASE WHEN quality = 'estimated' THEN 1 ELSE 0 END, CASE WHEN quality = 'lost' THEN 1 ELSE 0 END
    FROM usage_records WHERE 1 = 1";

const EDGE_SQLITE: &str = "SELECT at / 900000000 * 900000000, coalesce(project_id, ''),
        coalesce(session_id, ''), coalesce(runner_id, ''), assistant, model, input, output,
        cache_read, cache_write, cache_write_1h, reasoning, coalesce(cost, 0),
        coalesce(reported_cost, 0), 1, CASE WHEN cost IS NULL THEN 1 ELSE 0 END,
        CASE WHEN reported_cost IS NULL THEN 0 ELSE 1 END,
        CASE WHEN quality = 'estimated' THEN 1 ELSE 0 END, CASE WHEN quality = 'lost' THEN 1 ELSE 0 END
    FROM usage_records WHERE 1 = 1";

const ROWS: &str = "SELECT assistant, key, external_session, session_id, runner_id, project_id, request_id,
        message_id, model, purpose, input, output, cache_read, cache_write, cache_write_1h, reasoning,
        reported_cost, cost, price_version, quality, at, file, file_offset, recorded_at
    FROM usage_records WHERE 1 = 1";

const RUNNER_NAMES_POSTGRES: &str = "SELECT id, name FROM runners
    WHERE id IN (SELECT json_array_elements_text($1::json))";

const RUNNER_NAMES_SQLITE: &str =
    "SELECT id, name FROM runners WHERE id IN (SELECT value FROM json_each($1))";

const SESSION_LABELS_POSTGRES: &str =
    "SELECT id, coalesce(title, first_prompt, external_id, '') FROM sessions
    WHERE id IN (SELECT json_array_elements_text($1::json))";

const SESSION_LABELS_SQLITE: &str =
    "SELECT id, coalesce(title, first_prompt, external_id, '') FROM sessions
    WHERE id IN (SELECT value FROM json_each($1))";

statements! { QUARTERS, EDGE_POSTGRES, EDGE_SQLITE, ROWS, RUNNER_NAMES_POSTGRES, RUNNER_NAMES_SQLITE, SESSION_LABELS_POSTGRES, SESSION_LABELS_SQLITE }

/// Where a page of the ledger goes on: after this row, which was the last of the page before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsagePlace {
    pub at: Timestamp,
    pub assistant: String,
    pub key: String,
}

#[derive(Debug, sqlx::FromRow)]
struct SumsRow<T> {
    part: T,
    input: i64,
    output: i64,
    cache_read: i64,
    cache_write: i64,
    cache_write_1h: i64,
    reasoning: i64,
    cost: i64,
    reported: i64,
    messages: i64,
    unpriced: i64,
    reporting: i64,
    estimated: i64,
    lost: i64,
}

impl<T> SumsRow<T> {
    fn sums(&self) -> UsageSums {
        UsageSums {
            tokens: TokenSums {
                input: self.input,
                output: self.output,
                cache_read: self.cache_read,
                cache_write: self.cache_write,
                cache_write_1h: self.cache_write_1h,
                reasoning: self.reasoning,
            },
            cost: self.cost,
            reported: self.reported,
            messages: self.messages,
            unpriced: self.unpriced,
            reporting: self.reporting,
            estimated: self.estimated,
            lost: self.lost,
        }
    }
}

/// The whole quarters of a span, in microseconds, and whether there is a part of one at either end.
struct Span {
    first: Option<i64>,
    last: Option<i64>,
    before: bool,
    after: bool,
}

impl Span {
    fn of(filter: &UsageFilter) -> Span {
        let until = filter.until.map(|at| at.as_microsecond());
        let first = filter.since.map(|at| {
            let whole = quarter(at);
            if whole == at.as_microsecond() { whole } else { whole + QUARTER }
        });
        // Of a span within one quarter all is before the first whole one.
        let first = match (first, until) {
            (Some(first), Some(until)) => Some(first.min(until)),
            (first, _) => first,
        };
        let last = filter.until.map(quarter).map(|last| last.max(first.unwrap_or(last)));
        Span {
            first,
            last,
            before: first.is_some() && first != filter.since.map(|at| at.as_microsecond()),
            after: last.is_some() && last < until,
        }
    }
}

/// Adds who and what `$filter` asks for; `$nobody` is how the table has what belongs to nobody.
macro_rules! push_filter {
    ($query:expr, $filter:expr) => {
        if let Some(project) = $filter.project {
            $query.push(" AND project_id = ").push_bind(Text(project));
        }
        if let Some(session) = $filter.session {
            $query.push(" AND session_id = ").push_bind(Text(session));
        }
        if let Some(runner) = $filter.runner {
            $query.push(" AND runner_id = ").push_bind(Text(runner));
        }
        if let Some(assistant) = &$filter.assistant {
            $query.push(" AND assistant = ").push_bind(assistant.clone());
        }
        if let Some(model) = &$filter.model {
            $query.push(" AND model = ").push_bind(model.clone());
        }
    };
}

/// Sums by `$part`; `$edge` is the statement that has single rows as sums.
macro_rules! report_query {
    ($part:expr, $filter:expr, $edge:expr) => {{
        let span = Span::of($filter);
        let time = |micros: i64| DbTime(Timestamp::from_microsecond(micros).unwrap_or_default());
        let mut query = QueryBuilder::new("SELECT ");
        query.push($part).push(" AS part").push(SUMS).push(QUARTERS);
        if let Some(first) = span.first {
            query.push(" AND quarter >= ").push_bind(time(first));
        }
        if let Some(last) = span.last {
            query.push(" AND quarter < ").push_bind(time(last));
        }
        push_filter!(query, $filter);
        if let (true, Some(since), Some(first)) = (span.before, $filter.since, span.first) {
            query.push(" UNION ALL ").push($edge).push(" AND at >= ").push_bind(DbTime(since));
            query.push(" AND at < ").push_bind(time(first));
            push_filter!(query, $filter);
        }
        if let (true, Some(last), Some(until)) = (span.after, span.last, $filter.until) {
            query.push(" UNION ALL ").push($edge).push(" AND at >= ").push_bind(time(last));
            query.push(" AND at < ").push_bind(DbTime(until));
            push_filter!(query, $filter);
        }
        query.push(") AS parts GROUP BY 1 HAVING sum(messages) <> 0");
        query
    }};
}

/// Runs [`report_query`] on whichever database it is.
macro_rules! report {
    ($reader:expr, $part:expr, $filter:expr) => {
        match $reader {
            Reader::Postgres(conn, deadline) => {
                let mut query = report_query!($part, $filter, EDGE_POSTGRES);
                deadline.keep(query.build_query_as().fetch_all(&mut **conn)).await
            }
            Reader::Sqlite(conn) => {
                let mut query = report_query!($part, $filter, EDGE_SQLITE);
                query.build_query_as().fetch_all(&mut **conn).await
            }
        }
        .map_err(doing("adding up what was used"))
    };
}

impl Store {
    /// What was used, by what is asked for: the days in their order, all else by how much it was, the
    /// most first. What belongs to none has an empty name.
    pub async fn usage_report(
        &self,
        by: UsageBy,
        filter: &UsageFilter,
        zone: &TimeZone,
    ) -> Result<Vec<UsageGroup>, StoreError> {
        check(filter)?;
        let part = match by {
            UsageBy::Project => "project_id",
            UsageBy::Runner => "runner_id",
            UsageBy::Session => "session_id",
            UsageBy::Model => "model",
            UsageBy::Assistant => "assistant",
            UsageBy::Day => {
                let mut reader = self.read().await?;
                let rows: Vec<SumsRow<DbTime>> = report!(&mut reader, "quarter", filter)?;
                let quarters: Vec<_> = rows.iter().map(|row| (row.part.0, row.sums())).collect();
                return Ok(by_day(&quarters, zone));
            }
        };
        let mut reader = self.read().await?;
        let rows: Vec<SumsRow<String>> = report!(&mut reader, part, filter)?;
        let mut groups: Vec<UsageGroup> =
            rows.into_iter().map(|row| UsageGroup { sums: row.sums(), of: row.part }).collect();
        groups.sort_by(|a, b| {
            let much = |group: &UsageGroup| (group.sums.cost, group.sums.tokens.total());
            much(b).cmp(&much(a)).then_with(|| a.of.cmp(&b.of))
        });
        Ok(groups)
    }

    /// Rows of the ledger, the latest first.
    pub async fn usage_rows(
        &self,
        filter: &UsageFilter,
        before: Option<&UsagePlace>,
        limit: u32,
    ) -> Result<Vec<LedgerRow>, StoreError> {
        check(filter)?;
        if let Some(place) = before {
            without_nul("a page of the ledger", &place.assistant)?;
            without_nul("a page of the ledger", &place.key)?;
        }
        let mut reader = self.read().await?;
        let rows: Vec<RecordRow> = on!(reader, |conn| {
            let mut query = QueryBuilder::new(ROWS);
            push_filter!(query, filter);
            if let Some(since) = filter.since {
                query.push(" AND at >= ").push_bind(DbTime(since));
            }
            if let Some(until) = filter.until {
                query.push(" AND at < ").push_bind(DbTime(until));
            }
            if let Some(place) = before {
                query.push(" AND (at, assistant, key) < (").push_bind(DbTime(place.at));
                query.push(", ").push_bind(place.assistant.clone());
                query.push(", ").push_bind(place.key.clone()).push(")");
            }
            query.push(" ORDER BY at DESC, assistant DESC, key DESC LIMIT ");
            query.push_bind(i64::from(limit)).build_query_as().fetch_all(conn).await
        })
        .map_err(doing("reading the ledger"))?;
        rows.into_iter().map(RecordRow::into_row).collect()
    }

    /// What runners are called, of those that are asked for.
    pub async fn runner_names(
        &self,
        ids: &BTreeSet<RunnerId>,
    ) -> Result<BTreeMap<RunnerId, Name>, StoreError> {
        let mut reader = self.read().await?;
        let sql = reader.either(RUNNER_NAMES_POSTGRES, RUNNER_NAMES_SQLITE);
        let names: Vec<(Text<RunnerId>, Text<Name>)> =
            on!(reader, |conn| sqlx::query_as(sql).bind(to_json(&ids)).fetch_all(conn).await)
                .map_err(doing("reading the names of runners"))?;
        Ok(names.into_iter().map(|(id, name)| (id.0, name.0)).collect())
    }

    /// What sessions are called for people, of those that are asked for; as the assistants told it.
    pub async fn session_labels(
        &self,
        ids: &BTreeSet<SessionId>,
    ) -> Result<BTreeMap<SessionId, String>, StoreError> {
        let mut reader = self.read().await?;
        let sql = reader.either(SESSION_LABELS_POSTGRES, SESSION_LABELS_SQLITE);
        let labels: Vec<(Text<SessionId>, String)> =
            on!(reader, |conn| sqlx::query_as(sql).bind(to_json(&ids)).fetch_all(conn).await)
                .map_err(doing("reading what sessions are called"))?;
        Ok(labels.into_iter().map(|(id, label)| (id.0, label)).collect())
    }
}

fn check(filter: &UsageFilter) -> Result<(), StoreError> {
    let texts = filter.assistant.iter().chain(&filter.model);
    texts.into_iter().try_for_each(|text| without_nul("a filter of what was used", text))
}
