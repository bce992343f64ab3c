//! The cluster itself: its CA, which is made once.

use serde_json::json;
use stratavore_core::caller::By;
use stratavore_core::event::NewEvent;
use stratavore_core::{NodeId, Timestamp};

use crate::error::doing;
use crate::retry::retried;
use crate::tx::on;
use crate::value::{DbTime, without_nul};
use crate::{Store, StoreError, node};

const CERTIFICATE: &str = "SELECT certificate FROM clusters WHERE name = 'cluster'";

const FOUND: &str =
    "INSERT INTO clusters (name, certificate, created_at) VALUES ('cluster', $1, $2)
    ON CONFLICT (name) DO NOTHING";

statements! { CERTIFICATE, FOUND }

impl Store {
    /// The certificate of the cluster's CA, as PEM, if there is one.
    pub async fn cluster_certificate(&self) -> Result<Option<String>, StoreError> {
        let mut reader = self.read().await?;
        on!(reader, |conn| sqlx::query_scalar(CERTIFICATE).fetch_optional(conn).await)
            .map_err(doing("reading the cluster's certificate"))
    }

    /// Founds the cluster, with who did on the record. False: it was before, by another certificate or
    /// this one.
    pub async fn cluster_found(
        &self,
        pem: &str,
        here: NodeId,
        by: &By,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        without_nul("a certificate", pem)?;
        let by = self.author(by)?;
        retried!({
            let mut tx = self.begin().await?;
            let held = node::hold(&mut tx, here).await?;
            let made = on!(tx, |conn| sqlx::query(FOUND)
                .bind(pem)
                .bind(DbTime(at))
                .execute(conn)
                .await
                .map(|done| done.rows_affected()))
            .map_err(doing("founding the cluster"))?;
            if made == 0 {
                return Ok(false);
            }
            let event = NewEvent::new("node.ca_made", json!({}));
            node::append(&mut tx, &held, &event, &by, at).await?;
            tx.commit().await?;
            Ok(true)
        })
    }
}
