//! What budgets have counted: settled as it is reported. Reservations are in `reserve.rs`.
//!
//! Invariant: whoever changes what a budget has counted holds the budget's row, so none decides on
//! what another one is changing (`t_budget_without_the_lock_the_sum_drifts` shows what came of it otherwise).
//! Invariant: what is counted, the steps that it reaches and the events of them commit together, and
//! with the report that it comes from.
//! Invariant: `reserved` of a period is the sum of what its runners have reserved and not used.

use std::collections::BTreeMap;

use sqlx::types::Text;
use stratavore_core::budget::{Account, Action, Budget, Period, Share, Step, Unit};
use stratavore_core::event::NewEvent;
use stratavore_core::usage::UsageDelta;
use stratavore_core::{ProjectId, RunnerId, Timestamp};

use crate::error::doing;
use crate::event::{self, Author};
use crate::tx::{Tx, on};
use crate::value::{DbTime, from_json, to_json};
use crate::{StoreError, budget};

const ACCOUNT: &str = "SELECT used, reserved, reached FROM budget_periods
    WHERE budget_id = $1 AND period = $2";

const ACCOUNT_WRITE: &str = "INSERT INTO budget_periods
    (budget_id, period, ends_at, used, reserved, reached, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (budget_id, period) DO UPDATE SET used = excluded.used,
        reserved = excluded.reserved, reached = excluded.reached, updated_at = excluded.updated_at";

/// Periods that are not over.
const ACCOUNTS: &str = "SELECT period, ends_at, used, reserved, reached FROM budget_periods
    WHERE budget_id = $1 AND (ends_at IS NULL OR ends_at > $2) ORDER BY period";

const STEPS_WRITE: &str = "UPDATE budget_periods SET reached = $1, updated_at = $2
    WHERE budget_id = $3 AND period = $4";

const SHARE: &str = "SELECT reserved, settled, allowed, released_at FROM budget_reservations
    WHERE budget_id = $1 AND period = $2 AND runner_id = $3";

const SHARE_WRITE: &str = "INSERT INTO budget_reservations
    (budget_id, period, runner_id, reserved, settled, allowed, released_at)
    VALUES ($1, $2, $3, $4, $5, $6, NULL)
    ON CONFLICT (budget_id, period, runner_id) DO UPDATE SET reserved = excluded.reserved,
        settled = excluded.settled, allowed = excluded.allowed";

statements! { ACCOUNT, ACCOUNT_WRITE, ACCOUNTS, STEPS_WRITE, SHARE, SHARE_WRITE }

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct AccountRow {
    used: i64,
    reserved: i64,
    reached: String,
}

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct ShareRow {
    reserved: i64,
    settled: i64,
    allowed: Option<i64>,
    released_at: Option<DbTime>,
}

#[derive(Debug, sqlx::FromRow)]
struct CurrentRow {
    period: String,
    #[sqlx(flatten)]
    account: AccountRow,
}

impl AccountRow {
    pub(crate) fn into_account(self) -> Result<Account, StoreError> {
        let reached = from_json("the steps of a budget", &self.reached)?;
        Ok(Account { used: self.used, reserved: self.reserved, reached })
    }
}

impl From<ShareRow> for Share {
    fn from(row: ShareRow) -> Share {
        let ShareRow { reserved, settled, allowed, released_at } = row;
        Share { reserved, settled, allowed, released: released_at.is_some() }
    }
}

/// Something that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) project: Option<ProjectId>,
    pub(crate) runner: Option<RunnerId>,
    pub(crate) at: Timestamp,
    pub(crate) what: Used,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Used {
    Message {
        tokens: i64,
        cost: i64,
    },
    /// A runner ran from `at` until then.
    Ran {
        until: Timestamp,
    },
}

/// Counts what a ledger has really grown by, in the transaction in which it does.
///
/// The ledger sees to it that each message comes here once.
pub(crate) async fn settle(
    tx: &mut Tx,
    deltas: &[UsageDelta],
    by: &Author,
    now: Timestamp,
) -> Result<(), StoreError> {
    charge(tx, &charges(deltas), by, now, true).await
}

pub(crate) fn charges(deltas: &[UsageDelta]) -> Vec<Charge> {
    let charge = |delta: &UsageDelta| Charge {
        project: delta.belongs.project,
        runner: delta.belongs.runner,
        at: delta.at,
        what: Used::Message { tokens: delta.change.tokens.total(), cost: delta.change.cost },
    };
    deltas.iter().map(charge).collect()
}

/// `lock` is false only in the negative control of T-BUDGET.
pub(crate) async fn charge(
    tx: &mut Tx,
    charges: &[Charge],
    by: &Author,
    now: Timestamp,
    lock: bool,
) -> Result<(), StoreError> {
    if charges.is_empty() {
        return Ok(());
    }
    let mut projects: Vec<ProjectId> = charges.iter().filter_map(|c| c.project).collect();
    let mut runners: Vec<RunnerId> = charges.iter().filter_map(|c| c.runner).collect();
    projects.sort_unstable();
    projects.dedup();
    runners.sort_unstable();
    runners.dedup();
    for mut budget in budget::hold(tx, &projects, &runners, lock).await? {
        for (period, by_runner) in parts(&budget, charges, now) {
            let mut account = read(tx, &budget, &period).await?;
            let mut sum: i64 = 0;
            for (runner, amount) in by_runner {
                sum = sum.saturating_add(amount);
                if let Some(runner) = runner {
                    let mut share = read_share(tx, &budget, &period, runner).await?;
                    let change = share.settle(amount);
                    account.reserved = account.reserved.saturating_add(change).max(0);
                    write_share(tx, &budget, &period, runner, &share).await?;
                }
            }
            let reached = budget.charge(&mut account, sum);
            write(tx, &budget, &period, &account, now).await?;
            tell(tx, &mut budget, &period, &account, &reached, by, now).await?;
        }
    }
    Ok(())
}

type ByRunner = BTreeMap<Option<RunnerId>, i64>;

/// What counts in a budget, by its periods and who has used it.
fn parts(budget: &Budget, charges: &[Charge], now: Timestamp) -> BTreeMap<Period, ByRunner> {
    let mut parts: BTreeMap<Period, ByRunner> = BTreeMap::new();
    let mut add = |charge: &Charge, at: Timestamp, amount: i64| -> Option<Period> {
        let period = budget.period(at, charge.runner)?;
        // What was over before the budget was made is none of its business: an import of old
        // conversations would tell of steps that nobody could do anything about.
        if amount != 0 && period.is_current(budget.created_at) {
            let sum = parts.entry(period).or_default().entry(charge.runner).or_default();
            *sum = sum.saturating_add(amount);
        }
        Some(period)
    };
    for charge in charges.iter().filter(|c| budget.scope.covers(c.project, c.runner)) {
        // A clock that is ahead is no way into a period that nobody looks at yet.
        let at = charge.at.clamp(Timestamp::UNIX_EPOCH, now.max(Timestamp::UNIX_EPOCH));
        match &charge.what {
            Used::Message { tokens, cost } => {
                let _ = add(charge, at, budget.unit.of(*tokens, *cost));
            }
            Used::Ran { until } if budget.unit == Unit::Time => {
                let (mut from, until) = (at.max(budget.created_at), (*until).min(now));
                while from < until {
                    let Some(period) = budget.period(from, charge.runner) else { break };
                    let upto = period.ends().map_or(until, |ends| ends.min(until));
                    // Of the moments, not of what lies between: so nothing is lost by rounding.
                    let _ = add(charge, from, upto.as_millisecond() - from.as_millisecond());
                    from = upto;
                }
            }
            Used::Ran { .. } => {}
        }
    }
    parts
}

/// After the budget was changed, in its transaction: steps that are not reached any more, and those
/// that are now.
pub(crate) async fn reconsider(
    tx: &mut Tx,
    budget: &mut Budget,
    by: &Author,
    now: Timestamp,
) -> Result<(), StoreError> {
    let rows: Vec<CurrentRow> = on!(tx, |conn| sqlx::query_as(ACCOUNTS)
        .bind(Text(budget.id))
        .bind(DbTime(now))
        .fetch_all(conn)
        .await)
    .map_err(doing("reading what a budget has counted"))?;
    for CurrentRow { period: key, account } in rows {
        let period = match key.parse::<RunnerId>() {
            Ok(runner) => Some(Period::Run(runner)),
            Err(_) => key.parse().ok().and_then(|starts| budget.period(starts, None)),
        };
        let Some(period) = period else { continue };
        let mut account = account.into_account()?;
        let before = account.reached.clone();
        let reached = budget.changed(&mut account);
        if account.reached == before {
            continue;
        }
        on!(tx, |conn| sqlx::query(STEPS_WRITE)
            .bind(to_json(&account.reached))
            .bind(DbTime(now))
            .bind(Text(budget.id))
            .bind(&key)
            .execute(conn)
            .await
            .map(drop))
        .map_err(doing("recording the steps of a budget"))?;
        tell(tx, budget, &period, &account, &reached, by, now).await?;
    }
    Ok(())
}

/// Appends an event for each step. The budget's row is held.
async fn tell(
    tx: &mut Tx,
    budget: &mut Budget,
    period: &Period,
    account: &Account,
    reached: &[Step],
    by: &Author,
    now: Timestamp,
) -> Result<(), StoreError> {
    for step in reached {
        let kind = if step.percent >= 100 { "budget.exhausted" } else { "budget.threshold" };
        let (starts, runner) = match period {
            Period::Span { starts, .. } => (Some(*starts), budget.scope.runner()),
            Period::Run(runner) => (None, Some(*runner)),
        };
        let data = serde_json::json!({
            "percent": step.percent,
            "action": step.action.as_str(),
            "unit": budget.unit.as_str(),
            "amount": budget.amount,
            "used": account.used,
            "used_text": budget.unit.show(account.used),
            "limit_text": budget.limit(),
            "scope": budget.scope.as_str(),
            "runner": runner,
            "starts": starts,
            "ends": period.ends(),
            "over": !period.is_current(now),
            "lift": (step.action > Action::Notify).then(|| budget.lift(period, None)),
        });
        next(tx, budget, now).await?;
        event::append(tx, budget::about(budget, by), &NewEvent::new(kind, data)).await?;
    }
    Ok(())
}

/// Gives the budget, whose row is held, its next generation.
pub(crate) async fn next(
    tx: &mut Tx,
    budget: &mut Budget,
    now: Timestamp,
) -> Result<(), StoreError> {
    let seen = budget.generation;
    budget.generation += 1;
    budget.updated_at = now;
    budget::update(tx, budget, seen).await
}

pub(crate) async fn read(
    tx: &mut Tx,
    budget: &Budget,
    period: &Period,
) -> Result<Account, StoreError> {
    let row: Option<AccountRow> = on!(tx, |conn| sqlx::query_as(ACCOUNT)
        .bind(Text(budget.id))
        .bind(period.key())
        .fetch_optional(conn)
        .await)
    .map_err(doing("reading what a budget has counted"))?;
    row.map_or_else(|| Ok(Account::default()), AccountRow::into_account)
}

pub(crate) async fn write(
    tx: &mut Tx,
    budget: &Budget,
    period: &Period,
    account: &Account,
    now: Timestamp,
) -> Result<(), StoreError> {
    on!(tx, |conn| sqlx::query(ACCOUNT_WRITE)
        .bind(Text(budget.id))
        .bind(period.key())
        .bind(period.ends().map(DbTime))
        .bind(account.used)
        .bind(account.reserved)
        .bind(to_json(&account.reached))
        .bind(DbTime(now))
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("recording what a budget has counted"))
}

pub(crate) async fn read_share(
    tx: &mut Tx,
    budget: &Budget,
    period: &Period,
    runner: RunnerId,
) -> Result<Share, StoreError> {
    let row: Option<ShareRow> = on!(tx, |conn| sqlx::query_as(SHARE)
        .bind(Text(budget.id))
        .bind(period.key())
        .bind(Text(runner))
        .fetch_optional(conn)
        .await)
    .map_err(doing("reading what a runner has of a budget"))?;
    Ok(row.map(Share::from).unwrap_or_default())
}

pub(crate) async fn write_share(
    tx: &mut Tx,
    budget: &Budget,
    period: &Period,
    runner: RunnerId,
    share: &Share,
) -> Result<(), StoreError> {
    on!(tx, |conn| sqlx::query(SHARE_WRITE)
        .bind(Text(budget.id))
        .bind(period.key())
        .bind(Text(runner))
        .bind(share.reserved)
        .bind(share.settled)
        .bind(share.allowed)
        .execute(conn)
        .await
        .map(drop))
    .map_err(doing("recording what a runner has of a budget"))
}
