//! Reserving a part of each budget for a launch, and freeing at its runner's end what it has not used.
//!
//! Invariant: a launch is admitted only with its reservation in every budget that counts what it will
//! use, in the same transaction (`two_daemons_never_spend_the_last_of_it_twice`).

use sqlx::QueryBuilder;
use sqlx::types::Text;
use stratavore_core::budget::{Budget, BudgetExceeded, Period, Reserved, Share};
use stratavore_core::name::Name;
use stratavore_core::runner::Runner;
use stratavore_core::{ProjectId, RunnerId, Timestamp};

use crate::account::{read, write, write_share};
use crate::error::doing;
use crate::tx::{Tx, on};
use crate::value::DbTime;
use crate::{StoreError, budget};

const HOLDERS: &str = "SELECT s.runner_id, r.name, s.reserved - s.settled AS open
    FROM budget_reservations AS s JOIN runners AS r ON r.id = s.runner_id
    WHERE s.budget_id = $1 AND s.period = $2 AND s.released_at IS NULL AND s.reserved > s.settled
    ORDER BY open DESC, s.runner_id LIMIT 100";

statements! { HOLDERS }

/// Reserves for runners that are admitted in this transaction, which holds their project. `lock` is
/// false only in a negative control.
pub(crate) async fn reserve(
    tx: &mut Tx,
    project: ProjectId,
    admitted: &[Runner],
    now: Timestamp,
    lock: bool,
) -> Result<(), StoreError> {
    let launches = i64::try_from(admitted.len()).unwrap_or(i64::MAX);
    for budget in budget::hold(tx, &[project], &[], lock).await? {
        if !budget.reserves() {
            continue;
        }
        let Some(period) = budget.period(now, None) else { continue };
        let mut account = read(tx, &budget, &period).await?;
        let Some(asked) = budget.fits(&account, launches) else {
            let holders = holders(tx, &budget, &period).await?;
            let refusal = BudgetExceeded { budget, period, account, launches, holders };
            return Err(StoreError::Budget(Box::new(refusal)));
        };
        account.reserved = account.reserved.saturating_add(asked);
        write(tx, &budget, &period, &account, now).await?;
        for runner in admitted {
            let share = Share { reserved: budget.reserve, ..Share::default() };
            write_share(tx, &budget, &period, runner.id, &share).await?;
        }
    }
    Ok(())
}

/// Frees what runners that end in this transaction have reserved and not used. The last thing that
/// the transaction does: whoever settles holds budgets last as well.
pub(crate) async fn release(
    tx: &mut Tx,
    ended: &[RunnerId],
    now: Timestamp,
) -> Result<(), StoreError> {
    if ended.is_empty() {
        return Ok(());
    }
    let suffix = tx.either(" FOR NO KEY UPDATE", "");
    macro_rules! push_ended {
        ($query:expr) => {{
            let mut list = $query.push(" runner_id IN (").separated(", ");
            for id in ended {
                list.push_bind(Text(*id));
            }
            $query.push(") AND released_at IS NULL");
        }};
    }
    let what = "freeing what was reserved";
    let held: Vec<String> = on!(tx, |conn| {
        let mut query = QueryBuilder::new(
            "SELECT id FROM budgets WHERE id IN (SELECT budget_id FROM budget_reservations WHERE",
        );
        push_ended!(query);
        query.push(") ORDER BY id").push(suffix);
        query.build_query_scalar().fetch_all(conn).await
    })
    .map_err(doing(what))?;
    if held.is_empty() {
        return Ok(());
    }
    on!(tx, |conn| {
        let mut query = QueryBuilder::new(
            "UPDATE budget_periods SET reserved = reserved - (
                SELECT coalesce(sum(CASE WHEN s.reserved > s.settled THEN s.reserved - s.settled ELSE 0 END), 0)
                FROM budget_reservations AS s
                WHERE s.budget_id = budget_periods.budget_id AND s.period = budget_periods.period AND",
        );
        push_ended!(query);
        query.push(
            ") WHERE (budget_id, period) IN (SELECT budget_id, period FROM budget_reservations WHERE",
        );
        push_ended!(query);
        query.push(")");
        query.build().execute(conn).await.map(drop)
    })
    .map_err(doing(what))?;
    // A runner's own period ends with it.
    on!(tx, |conn| {
        let mut query = QueryBuilder::new("UPDATE budget_periods SET ends_at = ");
        query.push_bind(DbTime(now)).push(" WHERE ends_at IS NULL AND period IN (");
        let mut list = query.separated(", ");
        for id in ended {
            list.push_bind(Text(*id));
        }
        query.push(")").build().execute(conn).await.map(drop)
    })
    .map_err(doing(what))?;
    on!(tx, |conn| {
        let mut query = QueryBuilder::new("UPDATE budget_reservations SET released_at = ");
        query.push_bind(DbTime(now)).push(" WHERE");
        push_ended!(query);
        query.build().execute(conn).await.map(drop)
    })
    .map_err(doing(what))
}

async fn holders(
    tx: &mut Tx,
    budget: &Budget,
    period: &Period,
) -> Result<Vec<Reserved>, StoreError> {
    let rows: Vec<(Text<RunnerId>, Text<Name>, i64)> = on!(tx, |conn| sqlx::query_as(HOLDERS)
        .bind(Text(budget.id))
        .bind(period.key())
        .fetch_all(conn)
        .await)
    .map_err(doing("reading who holds a budget"))?;
    let holder = |(runner, name, open): (Text<RunnerId>, Text<Name>, i64)| Reserved {
        runner: runner.0,
        name: name.0,
        open,
    };
    Ok(rows.into_iter().map(holder).collect())
}
