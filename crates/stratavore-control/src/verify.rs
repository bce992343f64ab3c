//! Verifying the record once a day, without anybody asking: all of it is hashed anew, and compared with the
//! checkpoints and keys that this host has kept beside the database.
//!
//! One daemon does it for all, under a lease. What it found stands in its state directory, in the status, and
//! on the record itself.
//!
//! Invariant: what does not fit is believed when it was found twice: a part of the record may be moved into a
//! file while it is read.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use stratavore_audit::{Fault, Pieces, Report, Verifier};
use stratavore_core::Timestamp;
use stratavore_core::caller::Caller;
use stratavore_core::event::NewEvent;

use crate::control::Control;
use crate::error::Error;

/// The duty, and the task.
const VERIFIER: &str = "verify";
/// How often it is looked whether the time has come.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(300);
const TTL: Duration = Duration::from_secs(3600);
/// How many pieces of the record wait to be hashed.
const QUEUE: usize = 8;
/// In `audit` of the state directory.
const FILE: &str = "verified";

/// What this host has found last, or since when it waits for the first time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verified {
    pub(crate) at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) records: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<String>,
}

/// The last look of this host.
#[derive(Default)]
pub(crate) struct LastVerified(Mutex<Option<Verified>>);

impl LastVerified {
    fn set(&self, verified: Verified) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(verified);
    }

    /// Why the record did not stand, if it did not.
    pub(crate) fn problem(&self) -> Option<String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Verified { at, fault, .. } = last.as_ref()?;
        Some(format!(
            "the record did not stand when it was verified at {at}: {}; keep the database, the exports and \
             every host's checkpoints as they are, and look: stratavore audit verify",
            fault.as_ref()?
        ))
    }
}

impl Control {
    /// The periodic task.
    pub(crate) async fn verify_daily(&self) -> Result<String, Error> {
        let Some((daily, zone)) = &self.inner.settings.verify else {
            return Ok("it is switched off".into());
        };
        let now = self.now();
        let Some(last) = self.last_verified().await? else {
            self.keep_verified(Verified { at: now, records: None, fault: None }).await?;
            return Ok("it will be, for the first time".into());
        };
        // Whoever has found something looks again, until it is mended or was found to be well.
        let doubted = last.fault.is_some();
        // Kept for as long as this daemon lives, or another one would do the same an hour later.
        let duty = self.inner.store.lease_acquire(VERIFIER, self.inner.seat, TTL).await?;
        if duty.is_none() && !doubted {
            return Ok("another daemon does".into());
        }
        if !daily.is_due(zone, last.at, now) {
            return Ok(told(&last));
        }
        let began = self.inner.clock.monotonic();
        let mut found = self.verify_record().await?;
        if found.is_err() {
            found = self.verify_record().await?;
        }
        let took = self.inner.clock.monotonic().saturating_sub(began);
        let verified = match &found {
            Ok(report) => Verified { at: now, records: Some(report.records), fault: None },
            Err(fault) => Verified { at: now, records: None, fault: Some(fault.to_string()) },
        };
        self.keep_verified(verified.clone()).await?;
        let mut data = json!({
            "stands": found.is_ok(),
            "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
        match &found {
            Ok(report) => {
                data["records"] = json!(report.records);
                data["covered"] = json!(report.covered);
                data["checkpoints"] = json!(report.checkpoints);
                data["in_files"] = json!(report.trimmed);
            }
            Err(fault) => {
                data["position"] = json!(fault.position);
                data["what"] = json!(fault.what.replace('\0', ""));
            }
        }
        let by = self.by(&Caller::daemon(), None);
        let event = NewEvent::new("node.record_verified", data);
        self.inner.store.node_event(self.inner.node.id, &event, &by, self.now()).await?;
        self.inner.relay_wake.notify_one();
        Ok(told(&verified))
    }

    async fn last_verified(&self) -> Result<Option<Verified>, Error> {
        let last = self.on_files(|files| files.read_json::<Verified>(FILE)).await?;
        if let Some(last) = &last {
            self.inner.verified.set(last.clone());
        }
        Ok(last)
    }

    async fn keep_verified(&self, verified: Verified) -> Result<(), Error> {
        self.inner.verified.set(verified.clone());
        self.on_files(move |files| files.write_json(FILE, &verified)).await
    }

    /// Verifies all that there is now, with what this host has kept.
    async fn verify_record(&self) -> Result<Result<Report, Fault>, Error> {
        // Before the record: what they cover is in it.
        let checks = self.on_files(|files| files.checks()).await?;
        let Some(mut export) = self.record_export().await? else {
            return Ok(Ok(Report::default()));
        };
        let begins = export.begins_after();
        let files = self.on_files(move |files| files.segments_upto(begins)).await?;
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<Vec<u8>>(QUEUE);
        let verifying = tokio::task::spawn_blocking(move || {
            let open = |path: PathBuf| File::open(path).map(|file| Box::new(file) as Box<dyn Read>);
            let rest: Box<dyn Read> = Box::new(Pieces::new(move || receiver.blocking_recv()));
            let exports = files.into_iter().map(open).chain([io::Result::Ok(rest)]);
            // One thread: whoever works meanwhile is not to wait for this.
            Verifier::exports(exports, &checks, 1)
        });
        let mut cut = false;
        while let Some(lines) = export.next().await? {
            cut = self.inner.supervisor.stopping().is_cancelled();
            // A verifier that has found something reads no further.
            if cut || sender.send(lines).await.is_err() {
                break;
            }
        }
        drop(sender);
        let verified = verifying.await.map_err(Error::internal)?.map_err(Error::internal)?;
        if cut { Err(Error::Stopping) } else { Ok(verified) }
    }
}

fn told(last: &Verified) -> String {
    let Verified { at, records, fault } = last;
    match (records, fault) {
        (_, Some(fault)) => format!("at {at} it did not stand: {fault}"),
        (Some(records), None) => format!("at {at} it stood: {records} records"),
        (None, None) => "it will be, for the first time".into(),
    }
}
