//! What is done to runners because of budgets: who is held, who may go on nevertheless, and for how
//! long each has run.
//!
//! Invariant: a moment of a runner's running time is counted once, whichever daemon counts: each says
//! up to where it was counted when it looked (`no_moment_is_counted_twice`).

use sqlx::types::Text;
use stratavore_core::budget::{Budget, Period, Share, Step};
use stratavore_core::caller::By;
use stratavore_core::event::NewEvent;
use stratavore_core::idempotency::Idempotency;
use stratavore_core::runner::Runner;
use stratavore_core::{BudgetId, NodeId, RunnerId, Timestamp};

use crate::account::{self, Charge, Used};
use crate::error::doing;
use crate::retry::retried;
use crate::tx::{Tx, on};
use crate::value::{DbTime, from_json, to_json};
use crate::{Store, StoreError, budget, event, idempotency, runner};

const HOLDS: &str = "SELECT runner_id, budget_id, period, step, was_paused, at FROM budget_holds
    WHERE node_id = $1 ORDER BY at, runner_id";

const HOLDS_ALL: &str =
    "SELECT runner_id, budget_id, period, step, was_paused, at FROM budget_holds
    ORDER BY at, runner_id";

const HOLD: &str = "INSERT INTO budget_holds
    (runner_id, node_id, budget_id, period, step, was_paused, at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (runner_id) DO UPDATE SET budget_id = excluded.budget_id,
        period = excluded.period, step = excluded.step, at = excluded.at
    WHERE (budget_holds.budget_id, budget_holds.period, budget_holds.step)
        <> (excluded.budget_id, excluded.period, excluded.step)";

const UNHOLD: &str = "DELETE FROM budget_holds WHERE runner_id = $1";

const SHARES: &str = "SELECT s.budget_id, s.period, s.runner_id, s.settled, s.allowed
    FROM budget_reservations AS s JOIN runners AS r ON r.id = s.runner_id
    WHERE r.node_id = $1 AND r.ended_at IS NULL AND s.allowed IS NOT NULL";

const CLOCKS: &str = "SELECT c.counted, r.record FROM budget_clocks AS c
    JOIN runners AS r ON r.id = c.runner_id WHERE c.node_id = $1 ORDER BY c.runner_id";

const CLOCK_START: &str = "INSERT INTO budget_clocks (runner_id, node_id, counted)
    VALUES ($1, $2, $3) ON CONFLICT (runner_id) DO NOTHING";

const CLOCK_MOVE: &str =
    "UPDATE budget_clocks SET counted = $1 WHERE runner_id = $2 AND counted = $3";

const CLOCK_STOP: &str = "DELETE FROM budget_clocks WHERE runner_id = $1 AND counted = $2";

const TIDY_RUNS: &str = "UPDATE budget_periods SET ends_at = $1
    WHERE ends_at IS NULL AND period IN (SELECT id FROM runners WHERE ended_at IS NOT NULL)";

const TIDY_SHARES: &str = "DELETE FROM budget_reservations WHERE (budget_id, period) IN
    (SELECT budget_id, period FROM budget_periods WHERE ends_at < $1)";

const TIDY_PERIODS: &str = "DELETE FROM budget_periods WHERE ends_at < $1 AND updated_at < $1";

statements! { HOLDS, HOLDS_ALL, HOLD, UNHOLD, SHARES, CLOCKS, CLOCK_START, CLOCK_MOVE, CLOCK_STOP, TIDY_RUNS, TIDY_SHARES, TIDY_PERIODS }

/// A runner that a budget holds: paused, until the budget has room or a person lets it go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetHold {
    pub runner: RunnerId,
    pub budget: BudgetId,
    /// The period's key.
    pub period: String,
    pub step: Step,
    /// It was paused already, and stays so.
    pub was_paused: bool,
    pub at: Timestamp,
}

/// What a runner may use although a budget would hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetAllowance {
    pub budget: BudgetId,
    pub period: String,
    pub runner: RunnerId,
    pub share: Share,
}

/// What somebody lets a runner use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewAllowance {
    pub budget: BudgetId,
    pub period: Period,
    /// So much more than it has used; `None`: whatever it uses, to the period's end.
    pub amount: Option<i64>,
}

/// A runner whose running time is counted, and up to when it was.
#[derive(Debug, Clone)]
pub struct BudgetClock {
    pub runner: Runner,
    pub counted: Timestamp,
}

/// How long a runner ran since its time was counted last.
#[derive(Debug, Clone)]
pub struct BudgetTime<'a> {
    pub runner: &'a Runner,
    /// As it was read; `None`: it was never counted.
    pub seen: Option<Timestamp>,
    /// What is counted now; begins and ends of times that it ran.
    pub ran: Vec<(Timestamp, Timestamp)>,
    /// Up to when it is counted then; `None`: it has ended.
    pub counted: Option<Timestamp>,
}

#[derive(Debug, sqlx::FromRow)]
struct HoldRow {
    runner_id: Text<RunnerId>,
    budget_id: Text<BudgetId>,
    period: String,
    step: String,
    was_paused: i64,
    at: DbTime,
}

impl Store {
    /// The runners that budgets hold: of a node, or all.
    pub async fn budget_holds(&self, node: Option<NodeId>) -> Result<Vec<BudgetHold>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<HoldRow> = match node {
            Some(node) => {
                on!(reader, |conn| sqlx::query_as(HOLDS).bind(Text(node)).fetch_all(conn).await)
            }
            None => on!(reader, |conn| sqlx::query_as(HOLDS_ALL).fetch_all(conn).await),
        }
        .map_err(doing("reading who is held by a budget"))?;
        let hold = |row: HoldRow| {
            Ok(BudgetHold {
                runner: row.runner_id.0,
                budget: row.budget_id.0,
                period: row.period,
                step: from_json("the step of a budget", &row.step)?,
                was_paused: row.was_paused != 0,
                at: row.at.0,
            })
        };
        rows.into_iter().map(hold).collect()
    }

    /// Notes that a budget holds a runner. `asks`: an event says that somebody is waited for, and what
    /// would lift it. If it is held for the same already, nothing is changed, and nobody is told twice.
    pub async fn budget_hold(
        &self,
        budget: &Budget,
        runner: &Runner,
        hold: &BudgetHold,
        asks: Option<&str>,
        by: impl Into<By>,
    ) -> Result<(), StoreError> {
        let by = &self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            let noted = on!(tx, |conn| sqlx::query(HOLD)
                .bind(Text(hold.runner))
                .bind(Text(runner.node))
                .bind(Text(hold.budget))
                .bind(&hold.period)
                .bind(to_json(&hold.step))
                .bind(i64::from(hold.was_paused))
                .bind(DbTime(hold.at))
                .execute(conn)
                .await
                .map(|done| done.rows_affected()))
            .map_err(doing("recording who is held by a budget"))?;
            if let Some(lift) = asks.filter(|_| noted > 0) {
                let mut of = budget::held(&mut tx, budget.id).await?;
                let data = serde_json::json!({
                    "runner": runner.id, "runner_name": runner.name, "project": runner.project,
                    "percent": hold.step.percent, "limit_text": of.limit(), "lift": lift,
                });
                account::next(&mut tx, &mut of, hold.at).await?;
                let asked = NewEvent::new("budget.ask", data);
                event::append(&mut tx, budget::about(&of, by), &asked).await?;
            }
            tx.commit().await
        })
    }

    /// Nothing holds the runner any more.
    pub async fn budget_unhold(&self, runner: RunnerId) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        on!(tx, |conn| sqlx::query(UNHOLD).bind(Text(runner)).execute(conn).await.map(drop))
            .map_err(doing("recording that a budget lets go"))?;
        tx.commit().await
    }

    /// Lets a runner go on in a period, whatever the budget says.
    pub async fn budget_allow(
        &self,
        runner: &Runner,
        wish: NewAllowance,
        by: impl Into<By>,
        now: Timestamp,
        idempotency: Option<&Idempotency>,
    ) -> Result<Share, StoreError> {
        let by = &self.author(by)?;
        let NewAllowance { budget, period, amount } = wish;
        retried!({
            let mut tx = self.begin().await?;
            if let Some(answer) = idempotency::claim(&mut tx, idempotency, now).await? {
                return Ok(answer);
            }
            let mut of = budget::held(&mut tx, budget).await?;
            let mut share = account::read_share(&mut tx, &of, &period, runner.id).await?;
            let upto = amount.map_or(i64::MAX, |amount| share.settled.saturating_add(amount));
            share.allowed = Some(upto);
            account::write_share(&mut tx, &of, &period, runner.id, &share).await?;
            account::next(&mut tx, &mut of, now).await?;
            let data = serde_json::json!({
                "runner": runner.id, "runner_name": runner.name, "amount": amount,
                "unit": of.unit.as_str(), "ends": period.ends(),
            });
            let allowed = NewEvent::new("budget.allowed", data);
            event::append(&mut tx, budget::about(&of, by), &allowed).await?;
            idempotency::record(&mut tx, idempotency, &share).await?;
            tx.commit().await?;
            Ok(share)
        })
    }

    /// What live runners of a node may use although a budget would hold them.
    pub async fn budget_allowances(
        &self,
        node: NodeId,
    ) -> Result<Vec<BudgetAllowance>, StoreError> {
        type Row = (Text<BudgetId>, String, Text<RunnerId>, i64, Option<i64>);
        let mut reader = self.read().await?;
        let rows: Vec<Row> =
            on!(reader, |conn| sqlx::query_as(SHARES).bind(Text(node)).fetch_all(conn).await)
                .map_err(doing("reading what budgets allow"))?;
        let allowance = |(budget, period, runner, settled, allowed): Row| BudgetAllowance {
            budget: budget.0,
            period,
            runner: runner.0,
            share: Share { settled, allowed, ..Share::default() },
        };
        Ok(rows.into_iter().map(allowance).collect())
    }

    /// The runners of a node whose running time is counted, those too that have ended since.
    pub async fn budget_clocks(&self, node: NodeId) -> Result<Vec<BudgetClock>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<(DbTime, String)> =
            on!(reader, |conn| sqlx::query_as(CLOCKS).bind(Text(node)).fetch_all(conn).await)
                .map_err(doing("reading how long runners ran"))?;
        let clock = |(counted, record): (DbTime, String)| {
            Ok(BudgetClock { runner: runner::parse(&record)?, counted: counted.0 })
        };
        rows.into_iter().map(clock).collect()
    }

    /// Counts how long runners ran. Of one that another daemon has counted meanwhile, nothing.
    pub async fn budget_ran(
        &self,
        times: &[BudgetTime<'_>],
        by: impl Into<By>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let by = &self.author(by)?;
        let mut ordered: Vec<_> = times.iter().collect();
        ordered.sort_by_key(|time| time.runner.id);
        retried!({
            let mut tx = self.begin().await?;
            let mut charges = Vec::new();
            for &time in &ordered {
                if move_clock(&mut tx, time).await? {
                    charges.extend(time.ran.iter().map(|&(at, until)| Charge {
                        project: Some(time.runner.project),
                        runner: Some(time.runner.id),
                        at,
                        what: Used::Ran { until },
                    }));
                }
            }
            account::charge(&mut tx, &charges, by, now, true).await?;
            tx.commit().await
        })
    }

    /// Forgets what budgets counted in periods that were over before `before`, and who has used it in
    /// those that were over before `shares_before`.
    pub async fn budget_tidy(
        &self,
        shares_before: Timestamp,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for (sql, at) in [(TIDY_RUNS, now), (TIDY_SHARES, shares_before), (TIDY_PERIODS, before)] {
            on!(tx, |conn| sqlx::query(sql).bind(DbTime(at)).execute(conn).await.map(drop))
                .map_err(doing("forgetting what budgets have counted"))?;
        }
        tx.commit().await
    }
}

/// False: somebody else has moved it.
async fn move_clock(tx: &mut Tx, time: &BudgetTime<'_>) -> Result<bool, StoreError> {
    let runner = time.runner;
    let moved = match (time.seen, time.counted) {
        (None, Some(counted)) => on!(tx, |conn| sqlx::query(CLOCK_START)
            .bind(Text(runner.id))
            .bind(Text(runner.node))
            .bind(DbTime(counted))
            .execute(conn)
            .await
            .map(|done| done.rows_affected())),
        (Some(seen), Some(counted)) => on!(tx, |conn| sqlx::query(CLOCK_MOVE)
            .bind(DbTime(counted))
            .bind(Text(runner.id))
            .bind(DbTime(seen))
            .execute(conn)
            .await
            .map(|done| done.rows_affected())),
        (Some(seen), None) => on!(tx, |conn| sqlx::query(CLOCK_STOP)
            .bind(Text(runner.id))
            .bind(DbTime(seen))
            .execute(conn)
            .await
            .map(|done| done.rows_affected())),
        (None, None) => Ok(0),
    }
    .map_err(doing("counting how long a runner ran"))?;
    Ok(moved > 0)
}
