//! The record, for who reads it: as an export that anybody verifies.

use stratavore_audit::{KeyChange, Line};
use stratavore_core::NodeId;
use stratavore_core::caller::Caller;
use stratavore_core::event::NewEvent;
use stratavore_runtime::failpoint;
use stratavore_store::AuditKey;

use crate::control::Control;
use crate::error::Error;
use crate::seal::SEALER;

const PAGE: u32 = 1000;

/// An export that is being read.
pub struct RecordExport {
    control: Control,
    head: Option<Vec<u8>>,
    after: u64,
    until: u64,
}

impl Control {
    /// The public keys of the record.
    pub async fn audit_keys(&self, caller: &Caller) -> Result<Vec<AuditKey>, Error> {
        self.may_change(caller, "read the record")?;
        Ok(self.inner.store.audit_keys().await?)
    }

    /// Everything that is sealed by now, with the keys and checkpoints. What is published is sealed
    /// and signed first, if that is this daemon's duty.
    pub async fn audit_export(&self, caller: &Caller) -> Result<RecordExport, Error> {
        self.may_change(caller, "read the record")?;
        self.record(caller, "request.export", serde_json::json!({})).await?;
        let export = self.record_export().await?;
        export.ok_or_else(|| Error::invalid("nothing is sealed yet", "try again in some seconds"))
    }

    /// The same, for ourselves; `None`: nothing is sealed yet.
    pub(crate) async fn record_export(&self) -> Result<Option<RecordExport>, Error> {
        // Who reads a record that can no longer be sealed wants to see just that.
        if let Err(error) = self.seal_now(true).await {
            tracing::warn!(error = %crate::supervisor::chain(&error), "could not seal the record before an export");
        }
        let store = &self.inner.store;
        // Before the last position is read: whatever a checkpoint covers is sealed by then.
        let Some(head) = store.audit_export_head().await? else { return Ok(None) };
        let after = store.trimmed_upto().await?.unsigned_abs();
        let until = store.audit_head().await?.map_or(0, |(position, _)| position);
        Ok(Some(RecordExport { control: self.clone(), head: Some(head), after, until }))
    }

    /// The node that seals the record, or that has the key if none does now; this one, if there is no
    /// key yet.
    pub async fn record_keeper(&self) -> Result<NodeId, Error> {
        let store = &self.inner.store;
        if let Some(lease) = store.lease_get(SEALER).await?
            && lease.expires_at > self.now()
            && let Some(daemon) =
                store.daemon_list().await?.into_iter().find(|daemon| daemon.id == lease.holder)
        {
            return Ok(daemon.node);
        }
        let active = store.audit_keys().await?.into_iter().rev().find(|key| key.state == "active");
        Ok(active.map_or_else(|| self.here(), |key| key.node))
    }

    /// Signs with another key from now on. The key before it introduces it.
    pub async fn audit_rotate(&self, caller: &Caller) -> Result<Vec<AuditKey>, Error> {
        self.may_change(caller, "change the key of the record")?;
        self.seal_now(true).await?;
        let mut held = self.inner.sealing.lock().await;
        // Taken: after a failure in between it is begun anew, with the key that the database names.
        let Some(mut sealing) = held.take() else {
            if self.has_key().await? {
                return Err(Error::invalid(
                    "the duty to seal the record is another daemon's, or was the one's that ran here before",
                    "try again in half a minute",
                ));
            }
            return Err(Error::invalid(
                "this host does not have the key of the record",
                "ask where it is: stratavore audit keys",
            ));
        };
        let key = self.make_key(&sealing.origin, "key.next").await?;
        let change =
            KeyChange { size: sealing.chain.size(), new: key.public().clone(), replaces: true };
        let note = change.signed(&sealing.key);
        let public = self.public_key(key.public(), change.size, Some(note.clone()));
        let data = serde_json::json!({
            "old": sealing.key.public().id(), "new": public.id, "size": change.size, "change": note,
        });
        let event = NewEvent::new("node.record_key_changed", data);
        let by = self.by(caller, None);
        self.inner.store.audit_key_add(&sealing.lease, &public, &event, &by).await?;
        self.inner.relay_wake.notify_one();
        failpoint("key_added");
        self.on_files(move |files| {
            files.add_key(&Line::KeyChange(note))?;
            std::fs::rename(files.path("key.next"), files.path("key"))
        })
        .await?;
        sealing.key = key;
        *held = Some(sealing);
        drop(held);
        Ok(self.inner.store.audit_keys().await?)
    }
}

impl RecordExport {
    /// What is up to here is in files.
    pub(crate) fn begins_after(&self) -> u64 {
        self.after
    }

    /// The next lines; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if let Some(head) = self.head.take() {
            return Ok(Some(head));
        }
        if self.after >= self.until {
            return Ok(None);
        }
        let rows = self.control.inner.store.audit_records(self.after, PAGE).await?;
        let mut lines = Vec::new();
        if rows.first().is_some_and(|row| row.position != self.after + 1)
            && self.control.inner.store.trimmed_upto().await?.unsigned_abs() > self.after
        {
            return Err(Error::invalid(
                "a part of the record was moved into a file while it was read",
                "try again",
            ));
        }
        for row in rows.iter().take_while(|row| row.position <= self.until) {
            row.write_line(&mut lines);
            self.after = row.position;
        }
        Ok((!lines.is_empty()).then_some(lines))
    }
}
