//! What was committed, told to whoever keeps it beside the database before anybody hears of it.
//!
//! Between its commit and its seal an event can be deleted without a trace in the database. In strict mode
//! each one stands in a file of the daemon's host by the time that its change is answered.
//!
//! Invariant: while the journal cannot be kept, nothing that makes an event is committed; the one change that
//! was committed as it failed is answered as unknown.

use std::io;
use std::sync::Arc;

use stratavore_core::{EventId, Timestamp};

use crate::event::{About, NewRow};
use crate::{Store, StoreError};

/// An event that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub id: EventId,
    pub at: Timestamp,
    /// Its code.
    pub mac: Option<String>,
}

/// Keeps what was committed.
pub trait Journal: Send + Sync {
    /// Returns once it is durable. Waits for the disk.
    fn keep(&self, written: &[Written]) -> io::Result<()>;
    /// False after a failure, until it can be kept again.
    fn is_ready(&self) -> bool;
}

/// The events of one transaction, for a journal if there is one.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) journal: Option<Arc<dyn Journal>>,
    written: Vec<Written>,
}

impl Kept {
    pub(crate) fn with(journal: Option<Arc<dyn Journal>>) -> Self {
        Self { journal, written: Vec::new() }
    }

    /// An event is about to be written.
    pub(crate) fn write(&mut self, about: &About<'_>, row: &NewRow) -> Result<(), StoreError> {
        let Some(journal) = &self.journal else { return Ok(()) };
        if !journal.is_ready() {
            return Err(unavailable(io::Error::other("it could not be written before")));
        }
        self.written.push(Written { id: row.id.0, at: about.at, mac: row.mac.clone() });
        Ok(())
    }

    /// All of it is committed.
    pub(crate) async fn keep(self) -> Result<(), StoreError> {
        let (Some(journal), false) = (self.journal, self.written.is_empty()) else {
            return Ok(());
        };
        let written = self.written;
        let kept = tokio::task::spawn_blocking(move || journal.keep(&written)).await;
        kept.unwrap_or_else(|gone| Err(io::Error::other(gone))).map_err(unavailable)
    }
}

fn unavailable(error: io::Error) -> StoreError {
    StoreError::Unavailable { doing: "keeping the journal of the record", source: error.into() }
}

impl Store {
    /// Has each event kept by a journal from now on. Said once, by the daemon.
    pub fn keep_journal(&self, journal: Arc<dyn Journal>) {
        self.inner.journal.set(journal).ok();
    }

    pub(crate) fn kept(&self) -> Kept {
        Kept::with(self.inner.journal.get().cloned())
    }
}
