//! Rows of the ledger, as the databases give and take them.

use serde::Serialize;
use sqlx::types::Text;
use stratavore_core::message::Place;
use stratavore_core::name::Name;
use stratavore_core::usage::{Belongs, LedgerRow, Priced, Purpose, Quality, Tokens, UsageRecord};
use stratavore_core::{ProjectId, RunnerId, SessionId};

use crate::StoreError;
use crate::value::{DbTime, count};

/// A row of the ledger as it is read.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct RecordRow {
    assistant: Text<Name>,
    key: String,
    external_session: String,
    session_id: Option<Text<SessionId>>,
    runner_id: Option<Text<RunnerId>>,
    project_id: Option<Text<ProjectId>>,
    request_id: Option<String>,
    message_id: Option<String>,
    model: String,
    purpose: String,
    input: i64,
    output: i64,
    cache_read: i64,
    cache_write: i64,
    cache_write_1h: i64,
    reasoning: i64,
    reported_cost: Option<i64>,
    cost: Option<i64>,
    price_version: Option<String>,
    quality: String,
    at: DbTime,
    file: String,
    file_offset: i64,
    recorded_at: DbTime,
}

impl RecordRow {
    pub(crate) fn into_row(self) -> Result<LedgerRow, StoreError> {
        let corrupt = |what: &str, text: &str| StoreError::Corrupt {
            what: "a row of the ledger".into(),
            why: format!("`{}` is no {what}", text.escape_debug()),
        };
        let purpose =
            Purpose::parse(&self.purpose).ok_or_else(|| corrupt("purpose", &self.purpose))?;
        let quality =
            Quality::parse(&self.quality).ok_or_else(|| corrupt("quality", &self.quality))?;
        Ok(LedgerRow {
            assistant: self.assistant.0,
            record: UsageRecord {
                key: self.key,
                session: self.external_session,
                request_id: self.request_id,
                message_id: self.message_id,
                model: self.model,
                purpose,
                tokens: Tokens {
                    input: self.input.unsigned_abs(),
                    output: self.output.unsigned_abs(),
                    cache_read: self.cache_read.unsigned_abs(),
                    cache_write: self.cache_write.unsigned_abs(),
                    cache_write_1h: self.cache_write_1h.unsigned_abs(),
                    reasoning: self.reasoning.unsigned_abs(),
                },
                reported_cost: self.reported_cost,
                quality,
                at: self.at.0,
                place: Place { file: self.file, offset: self.file_offset.unsigned_abs() },
            },
            belongs: Belongs {
                project: self.project_id.map(|id| id.0),
                session: self.session_id.map(|id| id.0),
                runner: self.runner_id.map(|id| id.0),
            },
            price: self
                .cost
                .map(|cost| Priced { cost, version: self.price_version.unwrap_or_default() }),
            recorded_at: self.recorded_at.0,
        })
    }
}

/// The row as both databases take it; times in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct NewRecord<'a> {
    assistant: &'a Name,
    key: &'a str,
    external_session: &'a str,
    session_id: Option<SessionId>,
    runner_id: Option<RunnerId>,
    project_id: Option<ProjectId>,
    request_id: Option<&'a str>,
    message_id: Option<&'a str>,
    model: &'a str,
    purpose: &'a str,
    input: i64,
    output: i64,
    cache_read: i64,
    cache_write: i64,
    cache_write_1h: i64,
    reasoning: i64,
    reported_cost: Option<i64>,
    cost: Option<i64>,
    price_version: Option<&'a str>,
    quality: &'a str,
    at: i64,
    file: &'a str,
    file_offset: i64,
    recorded_at: i64,
}

impl<'a> From<&'a LedgerRow> for NewRecord<'a> {
    fn from(row: &'a LedgerRow) -> Self {
        let (record, tokens) = (&row.record, &row.record.tokens);
        NewRecord {
            assistant: &row.assistant,
            key: &record.key,
            external_session: &record.session,
            session_id: row.belongs.session,
            runner_id: row.belongs.runner,
            project_id: row.belongs.project,
            request_id: record.request_id.as_deref(),
            message_id: record.message_id.as_deref(),
            model: &record.model,
            purpose: record.purpose.as_str(),
            input: count(tokens.input),
            output: count(tokens.output),
            cache_read: count(tokens.cache_read),
            cache_write: count(tokens.cache_write),
            cache_write_1h: count(tokens.cache_write_1h),
            reasoning: count(tokens.reasoning),
            reported_cost: record.reported_cost,
            cost: row.price.as_ref().map(|price| price.cost),
            price_version: row.price.as_ref().map(|price| &*price.version),
            quality: record.quality.as_str(),
            at: record.at.as_microsecond(),
            file: &record.place.file,
            file_offset: count(record.place.offset),
            recorded_at: row.recorded_at.as_microsecond(),
        }
    }
}
