//! Budgets: defined, found, changed, and looked at. What they count is in `account.rs`.
//!
//! A change of a budget and a report that is settled exclude one another by the budget's row, so each
//! is decided on the whole of the other, or on nothing of it.

use std::collections::BTreeMap;

use sqlx::QueryBuilder;
use sqlx::types::Text;
use stratavore_core::budget::{Account, Budget, Every, Period, Share};
use stratavore_core::caller::By;
use stratavore_core::event::{Entity, NewEvent};
use stratavore_core::idempotency::Idempotency;
use stratavore_core::name::{Name, Reference};
use stratavore_core::{BudgetId, ProjectId, RunnerId, Timestamp};

use crate::account::{self, AccountRow};
use crate::error::{CANDIDATES_MAX, Unique, doing, violated};
use crate::retry::retried;
use crate::tx::{Reader, Tx, on};
use crate::value::{DbTime, from_json, to_json};
use crate::{Store, StoreError, event, idempotency};

pub(crate) const NOUN: &str = "budget";

const INSERT: &str = "INSERT INTO budgets
    (id, name, project_id, runner_id, generation, created_at, updated_at, removed_at, record)
    VALUES ($1, $2, $3, $4, $5, $6, $7, NULL, $8)";

const UPDATE: &str = "UPDATE budgets
    SET generation = $1, updated_at = $2, removed_at = $3, record = $4
    WHERE id = $5 AND generation = $6 AND removed_at IS NULL";

const BY_ID: &str = "SELECT record FROM budgets WHERE id = $1";

const BY_ID_LOCKED_POSTGRES: &str = "SELECT record FROM budgets WHERE id = $1 FOR NO KEY UPDATE";

const BY_NAME: &str = "SELECT record FROM budgets WHERE name = $1 AND removed_at IS NULL";

/// Ids are lower-case letters and digits, and `~` comes after all of them.
const BY_PREFIX: &str = "SELECT record FROM budgets
    WHERE id >= $1 AND id < $1 || '~' AND removed_at IS NULL ORDER BY id LIMIT $2";

/// The last one of a name that was removed.
const REMOVED_BY_NAME: &str = "SELECT record FROM budgets
    WHERE name = $1 AND removed_at IS NOT NULL ORDER BY removed_at DESC, id LIMIT 1";

const LIST: &str = "SELECT record FROM budgets WHERE removed_at IS NULL ORDER BY name";

const LIST_OF_PROJECT: &str = "SELECT record FROM budgets
    WHERE removed_at IS NULL AND (project_id IS NULL OR project_id = $1) ORDER BY name";

/// Those that are not over, and of a runner's that it has not ended.
const CURRENT: &str = "SELECT budget_id, period, ends_at, used, reserved, reached, updated_at
    FROM budget_periods WHERE ends_at IS NULL OR ends_at > $1";

const HISTORY: &str = "SELECT budget_id, period, ends_at, used, reserved, reached, updated_at
    FROM budget_periods WHERE budget_id = $1 ORDER BY updated_at DESC, period DESC LIMIT $2";

const SHARES: &str = "SELECT s.runner_id, r.name, s.reserved, s.settled, s.allowed, s.released_at
    FROM budget_reservations AS s JOIN runners AS r ON r.id = s.runner_id
    WHERE s.budget_id = $1 AND s.period = $2
    ORDER BY s.settled DESC, s.runner_id LIMIT $3";

statements! { INSERT, UPDATE, BY_ID, BY_ID_LOCKED_POSTGRES, BY_NAME, BY_PREFIX, REMOVED_BY_NAME, LIST, LIST_OF_PROJECT, CURRENT, HISTORY, SHARES }

/// A period of a budget, and what was counted in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetPeriod {
    pub period: Period,
    /// Of a runner's: when that ended.
    pub ended_at: Option<Timestamp>,
    pub account: Account,
    pub updated_at: Timestamp,
}

/// What one runner has of a budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetShare {
    pub runner: RunnerId,
    pub name: Name,
    pub share: Share,
}

#[derive(Debug, sqlx::FromRow)]
struct PeriodRow {
    budget_id: Text<BudgetId>,
    period: String,
    ends_at: Option<DbTime>,
    updated_at: DbTime,
    #[sqlx(flatten)]
    account: AccountRow,
}

#[derive(Debug, sqlx::FromRow)]
struct ShareRow {
    runner_id: Text<RunnerId>,
    name: Text<Name>,
    #[sqlx(flatten)]
    share: account::ShareRow,
}

impl PeriodRow {
    fn into_period(self) -> Result<(BudgetId, BudgetPeriod), StoreError> {
        let ends_at = self.ends_at.map(|at| at.0);
        let period = match (self.period.parse::<RunnerId>(), self.period.parse(), ends_at) {
            (Ok(runner), _, _) => Period::Run(runner),
            (Err(_), Ok(starts), Some(ends)) => Period::Span { starts, ends },
            (Err(_), _, _) => {
                return Err(StoreError::Corrupt {
                    what: format!("a period of {}", self.budget_id.0),
                    why: format!("`{}` is none", self.period.escape_debug()),
                });
            }
        };
        let ended_at = match period {
            Period::Run(_) => ends_at,
            Period::Span { .. } => None,
        };
        let account = self.account.into_account()?;
        let updated_at = self.updated_at.0;
        Ok((self.budget_id.0, BudgetPeriod { period, ended_at, account, updated_at }))
    }
}

impl Store {
    /// Creates a budget, at generation 1. It counts what is reported from then on.
    pub async fn budget_create(
        &self,
        budget: &Budget,
        by: impl Into<By>,
        idempotency: Option<&Idempotency>,
    ) -> Result<Budget, StoreError> {
        let by = &self.author(by)?;
        check(budget, 1)?;
        retried!({
            let mut tx = self.begin().await?;
            if let Some(answer) =
                idempotency::claim(&mut tx, idempotency, budget.created_at).await?
            {
                return Ok(answer);
            }
            on!(tx, |conn| sqlx::query(INSERT)
                .bind(Text(budget.id))
                .bind(budget.name.as_str())
                .bind(budget.scope.project().map(Text))
                .bind(budget.scope.runner().map(Text))
                .bind(budget.generation)
                .bind(DbTime(budget.created_at))
                .bind(DbTime(budget.updated_at))
                .bind(to_json(budget))
                .execute(conn)
                .await
                .map(drop))
            .map_err(|error| name_taken(budget, error))?;
            let created = NewEvent::new("budget.created", definition(budget));
            event::append(&mut tx, about(budget, by), &created).await?;
            idempotency::record(&mut tx, idempotency, budget).await?;
            tx.commit().await?;
            Ok(budget.clone())
        })
    }

    /// Replaces the budget `seen` by `next`, with the event that says so, and tells of the steps that
    /// are reached by it in periods that are not over.
    ///
    /// If it has changed since `seen` was read, as it does with each step that is reached, it is left
    /// alone, and the answer is [`StoreError::Conflict`].
    pub async fn budget_write(
        &self,
        seen: &Budget,
        next: &Budget,
        event: NewEvent,
        by: impl Into<By>,
        idempotency: Option<&Idempotency>,
    ) -> Result<Budget, StoreError> {
        let by = &self.author(by)?;
        check(next, seen.generation + 1)?;
        let same = seen.id == next.id
            && seen.name == next.name
            && seen.scope == next.scope
            && seen.unit == next.unit
            && (seen.every, &seen.zone) == (next.every, &next.zone);
        if !same {
            let why = "what a budget counts stays as it was made";
            return Err(StoreError::invalid(seen.id.to_string(), why));
        }
        retried!({
            let mut tx = self.begin().await?;
            if let Some(answer) = idempotency::claim(&mut tx, idempotency, next.updated_at).await? {
                return Ok(answer);
            }
            // The row is held from here on.
            update(&mut tx, next, seen.generation).await?;
            event::append(&mut tx, about(next, by), &event).await?;
            let mut budget = next.clone();
            if budget.removed_at.is_none() {
                account::reconsider(&mut tx, &mut budget, by, next.updated_at).await?;
            }
            idempotency::record(&mut tx, idempotency, &budget).await?;
            tx.commit().await?;
            Ok(budget)
        })
    }

    /// Finds a budget by its name, its id, or the beginning of its id, in this order. Of a name, one
    /// that is not removed is meant; if there is none, the one that was removed last.
    pub async fn budget_find(&self, wanted: &Reference) -> Result<Budget, StoreError> {
        let not_found = || StoreError::NotFound { noun: NOUN, wanted: wanted.text.clone() };
        let mut reader = self.read().await?;
        if let Some(name) = &wanted.name {
            for sql in [BY_NAME, REMOVED_BY_NAME] {
                if let Some(found) = several(&mut reader, sql, name.as_str(), None).await?.pop() {
                    return Ok(found);
                }
            }
        }
        let prefix = wanted.id_prefix.as_deref().ok_or_else(not_found)?;
        if prefix.parse::<BudgetId>().is_ok() {
            return several(&mut reader, BY_ID, prefix, None).await?.pop().ok_or_else(not_found);
        }
        let limit = Some(CANDIDATES_MAX as i64);
        let mut found = several(&mut reader, BY_PREFIX, prefix, limit).await?;
        if found.len() > 1 {
            let candidates = found.iter().map(|b| format!("{} ({})", b.id, b.name)).collect();
            let wanted = wanted.text.clone();
            return Err(StoreError::Ambiguous { noun: NOUN, wanted, candidates });
        }
        found.pop().ok_or_else(not_found)
    }

    /// The budgets that are not removed, by name: all, or those that count what a project uses.
    pub async fn budget_list(&self, project: Option<ProjectId>) -> Result<Vec<Budget>, StoreError> {
        let mut reader = self.read().await?;
        let records: Vec<String> = match project {
            Some(id) => on!(reader, |conn| sqlx::query_scalar(LIST_OF_PROJECT)
                .bind(Text(id))
                .fetch_all(conn)
                .await),
            None => on!(reader, |conn| sqlx::query_scalar(LIST).fetch_all(conn).await),
        }
        .map_err(doing("listing budgets"))?;
        records.iter().map(|record| parse(record)).collect()
    }

    /// What every budget has counted in the periods that are not over; one that has counted nothing
    /// is left out.
    pub async fn budget_current(
        &self,
        now: Timestamp,
    ) -> Result<BTreeMap<BudgetId, Vec<BudgetPeriod>>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<PeriodRow> =
            on!(reader, |conn| sqlx::query_as(CURRENT).bind(DbTime(now)).fetch_all(conn).await)
                .map_err(doing("reading what budgets have counted"))?;
        let mut found: BTreeMap<BudgetId, Vec<BudgetPeriod>> = BTreeMap::new();
        for row in rows {
            let (id, period) = row.into_period()?;
            found.entry(id).or_default().push(period);
        }
        Ok(found)
    }

    /// What a budget has counted, the latest first.
    pub async fn budget_history(
        &self,
        id: BudgetId,
        limit: u32,
    ) -> Result<Vec<BudgetPeriod>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<PeriodRow> = on!(reader, |conn| sqlx::query_as(HISTORY)
            .bind(Text(id))
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)
        .map_err(doing("reading what a budget has counted"))?;
        rows.into_iter().map(|row| row.into_period().map(|(_, period)| period)).collect()
    }

    /// What each runner has of a budget in a period, who has used the most first.
    pub async fn budget_shares(
        &self,
        id: BudgetId,
        period: Period,
        limit: u32,
    ) -> Result<Vec<BudgetShare>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<ShareRow> = on!(reader, |conn| sqlx::query_as(SHARES)
            .bind(Text(id))
            .bind(period.key())
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)
        .map_err(doing("reading who has used a budget"))?;
        let share = |row: ShareRow| BudgetShare {
            runner: row.runner_id.0,
            name: row.name.0,
            share: row.share.into(),
        };
        Ok(rows.into_iter().map(share).collect())
    }
}

/// Replaces the row of a budget, and holds it until the transaction ends.
pub(crate) async fn update(tx: &mut Tx, next: &Budget, seen: i64) -> Result<(), StoreError> {
    let written = on!(tx, |conn| sqlx::query(UPDATE)
        .bind(next.generation)
        .bind(DbTime(next.updated_at))
        .bind(next.removed_at.map(DbTime))
        .bind(to_json(next))
        .bind(Text(next.id))
        .bind(seen)
        .execute(conn)
        .await
        .map(|done| done.rows_affected()))
    .map_err(doing("changing a budget"))?;
    match written {
        0 => Err(StoreError::Conflict { what: format!("budget {}", next.name) }),
        _ => Ok(()),
    }
}

/// Reads budgets and holds their rows until the transaction ends, in the order of their ids.
///
/// `of`: those that count what these projects and runners use, and all that is used by nobody.
pub(crate) async fn hold(
    tx: &mut Tx,
    projects: &[ProjectId],
    runners: &[RunnerId],
    lock: bool,
) -> Result<Vec<Budget>, StoreError> {
    let suffix = if lock { tx.either(" FOR NO KEY UPDATE", "") } else { "" };
    let records: Vec<String> = on!(tx, |conn| {
        let mut query = QueryBuilder::new(
            "SELECT record FROM budgets WHERE removed_at IS NULL AND (project_id IS NULL",
        );
        if !projects.is_empty() {
            let mut list = query.push(" OR project_id IN (").separated(", ");
            for id in projects {
                list.push_bind(Text(*id));
            }
            query.push(")");
        }
        query.push(") AND (runner_id IS NULL");
        if !runners.is_empty() {
            let mut list = query.push(" OR runner_id IN (").separated(", ");
            for id in runners {
                list.push_bind(Text(*id));
            }
            query.push(")");
        }
        query.push(") ORDER BY id").push(suffix);
        query.build_query_scalar().fetch_all(conn).await
    })
    .map_err(doing("holding budgets"))?;
    records.iter().map(|record| parse(record)).collect()
}

/// One budget, held until the transaction ends.
pub(crate) async fn held(tx: &mut Tx, id: BudgetId) -> Result<Budget, StoreError> {
    let sql = tx.either(BY_ID_LOCKED_POSTGRES, BY_ID);
    let record: Option<String> =
        on!(tx, |conn| sqlx::query_scalar(sql).bind(Text(id)).fetch_optional(conn).await)
            .map_err(doing("holding a budget"))?;
    let record =
        record.ok_or_else(|| StoreError::NotFound { noun: NOUN, wanted: id.to_string() })?;
    parse(&record)
}

pub(crate) fn about<'a>(budget: &'a Budget, by: &'a event::Author) -> event::About<'a> {
    event::About {
        entity: Entity::Budget,
        entity_id: budget.id.to_string(),
        name: budget.name.as_str(),
        project: budget.scope.project(),
        seq: budget.generation,
        at: budget.updated_at,
        by,
    }
}

/// What an event says of a budget that was made or changed.
pub fn definition(budget: &Budget) -> serde_json::Value {
    serde_json::json!({
        "scope": budget.scope.as_str(),
        "runner": budget.scope.runner(),
        "every": budget.every.as_str(),
        "zone": (budget.every != Every::Run).then(|| budget.zone.as_str()),
        "unit": budget.unit.as_str(),
        "amount": budget.amount,
        "reserve": budget.reserve,
        "steps": budget.ladder,
    })
}

fn check(budget: &Budget, generation: i64) -> Result<(), StoreError> {
    let id = budget.id.to_string();
    budget.check().map_err(|why| StoreError::invalid(id.clone(), why))?;
    match budget.generation == generation {
        true => Ok(()),
        false => Err(StoreError::invalid(id, "a change raises the generation by one")),
    }
}

fn name_taken(budget: &Budget, error: sqlx::Error) -> StoreError {
    match violated(&error) {
        Some(Unique::BudgetName) => StoreError::NameTaken { noun: NOUN, name: budget.name.clone() },
        Some(
            Unique::ProjectName
            | Unique::RunnerName
            | Unique::RunnerSession
            | Unique::RunnerSuccessor
            | Unique::Other,
        )
        | None => doing("creating a budget")(error),
    }
}

async fn several(
    reader: &mut Reader,
    sql: &'static str,
    text: &str,
    limit: Option<i64>,
) -> Result<Vec<Budget>, StoreError> {
    let records: Vec<String> = on!(reader, |conn| {
        let query = sqlx::query_scalar(sql).bind(text);
        match limit {
            Some(limit) => query.bind(limit).fetch_all(conn).await,
            None => query.fetch_all(conn).await,
        }
    })
    .map_err(doing("looking for a budget"))?;
    records.iter().map(|record| parse(record)).collect()
}

fn parse(record: &str) -> Result<Budget, StoreError> {
    from_json("a budget", record)
}
