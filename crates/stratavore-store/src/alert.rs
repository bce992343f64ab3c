//! Alerts that were raised and are not over.
//!
//! Invariant: of each problem one event tells that it has begun, and one that it is over, whoever looks
//! and however often.

use stratavore_core::alert::{Alert, Key, Scope};
use stratavore_core::caller::By;
use stratavore_core::lease::Lease;
use stratavore_core::notify::Severity;
use stratavore_core::{NodeId, Timestamp};

use crate::error::doing;
use crate::retry::retried;
use crate::tx::on;
use crate::value::{DbTime, without_nul};
use crate::{Store, StoreError, lease, node};

const LIST: &str = "SELECT problem, about, severity, words, raised_at FROM alerts
    WHERE scope = $1 ORDER BY problem, about";

const RAISE: &str = "INSERT INTO alerts (scope, problem, about, severity, words, raised_at)
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (scope, problem, about) DO NOTHING";

const CLEAR: &str = "DELETE FROM alerts WHERE scope = $1 AND problem = $2 AND about = $3
    RETURNING raised_at";

statements! { LIST, RAISE, CLEAR }

const CLUSTER: &str = "cluster";

/// Which column value a scope has.
fn place(scope: Scope) -> String {
    match scope {
        Scope::Cluster => CLUSTER.into(),
        Scope::Host(node) => node.to_string(),
    }
}

/// Who tells of a problem.
#[derive(Debug, Clone, Copy)]
pub struct Teller<'t> {
    /// The host whose daemon has noticed it.
    pub node: NodeId,
    /// Of the cluster's problems one daemon tells, under this lease.
    pub lease: Option<&'t Lease>,
}

impl Store {
    /// What was raised in a scope and is not over, by its key.
    pub async fn alert_list(&self, scope: Scope) -> Result<Vec<Alert>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<(String, String, String, String, DbTime)> =
            on!(reader, |conn| sqlx::query_as(LIST).bind(place(scope)).fetch_all(conn).await)
                .map_err(doing("listing alerts"))?;
        rows.into_iter()
            .map(|(problem, about, severity, words, _)| {
                let severity = Severity::parse(&severity).ok_or_else(|| StoreError::Corrupt {
                    what: format!("the alert {problem}"),
                    why: format!("`{}` is no severity", severity.escape_debug()),
                })?;
                Ok(Alert { key: Key { scope, problem, about }, severity, words })
            })
            .collect()
    }

    /// Writes down that there is a problem, with the event that tells of it. False: it was known.
    pub async fn alert_raise(
        &self,
        teller: Teller<'_>,
        alert: &Alert,
        by: impl Into<By>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let by = &self.author(by)?;
        without_nul("an alert", &alert.words)?;
        without_nul("what an alert is about", &alert.key.about)?;
        retried!({
            let mut tx = self.begin().await?;
            if let Some(lease) = teller.lease {
                lease::check(self, &mut tx, lease).await?;
            }
            let held = node::hold(&mut tx, teller.node).await?;
            let raised = on!(tx, |conn| sqlx::query(RAISE)
                .bind(place(alert.key.scope))
                .bind(&alert.key.problem)
                .bind(&alert.key.about)
                .bind(alert.severity.as_str())
                .bind(&alert.words)
                .bind(DbTime(now))
                .execute(conn)
                .await
                .map(|done| done.rows_affected() > 0))
            .map_err(doing("raising an alert"))?;
            if raised {
                node::append(&mut tx, &held, &alert.raised(), by, now).await?;
                tx.commit().await?;
            }
            Ok(raised)
        })
    }

    /// Writes down that it is over, with the event that tells so. False: it was over.
    pub async fn alert_clear(
        &self,
        teller: Teller<'_>,
        alert: &Alert,
        by: impl Into<By>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let by = &self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            if let Some(lease) = teller.lease {
                lease::check(self, &mut tx, lease).await?;
            }
            let held = node::hold(&mut tx, teller.node).await?;
            let raised_at: Option<DbTime> = on!(tx, |conn| sqlx::query_scalar(CLEAR)
                .bind(place(alert.key.scope))
                .bind(&alert.key.problem)
                .bind(&alert.key.about)
                .fetch_optional(conn)
                .await)
            .map_err(doing("ending an alert"))?;
            if let Some(DbTime(raised_at)) = raised_at {
                node::append(&mut tx, &held, &alert.cleared(raised_at, now), by, now).await?;
                tx.commit().await?;
            }
            Ok(raised_at.is_some())
        })
    }
}
