//! A store that cannot be used is told once when that begins and once when it is over, and not for
//! each runner and each try.

use std::sync::atomic::{AtomicBool, Ordering};

use stratavore_core::RunnerId;
use stratavore_store::StoreError;

use crate::control::Control;
use crate::error::Error;
use crate::supervisor::chain;

#[derive(Default)]
pub(crate) struct Outage {
    told: AtomicBool,
}

impl Control {
    /// Logs that something about a runner could not be done, unless that is one more trace of a
    /// store that is known to be away.
    pub(crate) fn not_done(&self, runner: RunnerId, what: &str, error: &Error) {
        let error_text = chain(error);
        if !of_the_store(error) {
            tracing::warn!(%runner, error = %error_text, "{what}");
            return;
        }
        if !self.inner.outage.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(error = %error_text, "the store cannot be used; runners go on, and are looked after when it can");
        }
        tracing::debug!(%runner, error = %error_text, "{what}");
    }

    /// Something was written.
    pub(crate) fn store_works(&self) {
        if self.inner.outage.told.swap(false, Ordering::Relaxed) {
            tracing::info!("the store can be used again");
        }
    }
}

/// True for an error that says nothing of what was asked for: the store cannot be used for a while.
pub(crate) fn of_the_store(error: &Error) -> bool {
    matches!(
        error,
        Error::Store(
            StoreError::Busy { .. }
                | StoreError::Unavailable { .. }
                | StoreError::WrongServer { .. }
                | StoreError::Full { .. }
        )
    )
}
