//! A ledger for tests of budgets: it knows which messages were told before, and nothing else.

use stratavore_core::Timestamp;
use stratavore_core::usage::UsageDelta;

use crate::error::doing;
use crate::retry::retried;
use crate::tx::on;
use crate::{Store, StoreError, account};

const MAKE: &str = "CREATE TABLE IF NOT EXISTS test_ledger (key TEXT PRIMARY KEY)";
const TELL: &str = "INSERT INTO test_ledger (key) VALUES ($1) ON CONFLICT (key) DO NOTHING";

impl Store {
    /// Makes it, if there is none.
    ///
    /// # Errors
    /// With what the database said, if it refuses.
    pub async fn ledger_make(&self) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        on!(tx, |conn| sqlx::query(MAKE).execute(conn).await.map(drop))
            .map_err(doing("making a test's ledger"))?;
        tx.commit().await
    }

    /// Takes in messages by their keys, and counts those that are new. Without `lock` it is the
    /// negative control of T-BUDGET.
    ///
    /// # Errors
    /// As the real ledger's.
    pub async fn ledger_tell(
        &self,
        told: &[(String, UsageDelta)],
        now: Timestamp,
        lock: bool,
    ) -> Result<(), StoreError> {
        let by = &self.author("daemon")?;
        retried!({
            let mut tx = self.begin().await?;
            let mut new = Vec::new();
            for (key, delta) in told {
                let taken = on!(tx, |conn| sqlx::query(TELL)
                    .bind(key)
                    .execute(conn)
                    .await
                    .map(|done| done.rows_affected()))
                .map_err(doing("telling a test's ledger"))?;
                if taken > 0 {
                    new.push(delta.clone());
                }
            }
            match lock {
                true => account::settle(&mut tx, &new, by, now).await?,
                false => account::charge(&mut tx, &account::charges(&new), by, now, false).await?,
            }
            tx.commit().await
        })
    }
}
