//! Waking other daemons of the same database, and being woken by them.
//!
//! Whoever writes an event and has not the duty of publishing tells who has; whoever publishes tells
//! all. It is only told that there is something: everybody looks into the store, and looks now and
//! then without being told.
//!
//! Invariant: what was told by another daemon is never told on. Only the holder of the relay's duty
//! minds what is written elsewhere, and none minds its own word.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stratavore_runtime::is_off;
use stratavore_store::{StoreError, Wake};
use tokio::sync::Notify;

use crate::control::Control;
use crate::supervisor::chain;

/// The least time between two things that are told; what comes meanwhile is told as one.
const TELL_GAP: Duration = Duration::from_millis(50);
/// The wait before listening again, once it could not go on.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// What other daemons are still to be told.
#[derive(Default)]
pub(crate) struct Untold {
    written: AtomicBool,
    published: AtomicBool,
    wake: Notify,
}

impl Untold {
    /// An event waits for the daemon that publishes.
    pub(crate) fn written(&self) {
        self.written.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    pub(crate) fn published(&self) {
        self.published.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn take(&self) -> Wake {
        Wake {
            written: self.written.swap(false, Ordering::Acquire),
            published: self.published.swap(false, Ordering::Acquire),
        }
    }
}

impl Control {
    /// How often a task looks for what other daemons do, if it is not woken.
    pub(crate) fn look_every(&self, usual: Duration) -> Duration {
        self.inner.settings.look_every.unwrap_or(usual)
    }

    /// Tells other daemons what there is, until this one stops.
    pub(crate) async fn tell_others(self) {
        let stopping = self.inner.supervisor.stopping().clone();
        let untold = &self.inner.untold;
        while stopping.run_until_cancelled(untold.wake.notified()).await.is_some() {
            let told = self.inner.store.tell_others(untold.take()).await;
            if let Err(error) = told {
                // They find it themselves, a little later.
                tracing::debug!(error = %chain(&error), "other daemons could not be told");
            }
            stopping.run_until_cancelled(tokio::time::sleep(TELL_GAP)).await;
        }
    }

    /// Does what other daemons tell of, until this one stops.
    pub(crate) async fn hear_others(self) {
        if is_off("wakes") {
            return;
        }
        let stopping = self.inner.supervisor.stopping().clone();
        let mut said = None;
        while let Some(Err(error)) = stopping.run_until_cancelled(self.listen(&mut said)).await {
            let text = chain(&error);
            // Said once when it begins, not at every repetition.
            if said.as_ref() != Some(&text) {
                tracing::warn!(error = %text, "other daemons cannot be heard; what they do is seen later");
            }
            said = Some(text);
            stopping.run_until_cancelled(tokio::time::sleep(LISTEN_AGAIN)).await;
        }
    }

    /// Ends with the connection.
    async fn listen(&self, said: &mut Option<String>) -> Result<(), StoreError> {
        let Some(mut listener) = self.inner.store.listen().await? else { return Ok(()) };
        *said = None;
        self.woken(Wake::ALL);
        loop {
            let wake = listener.heard().await?;
            self.woken(wake);
        }
    }

    fn woken(&self, wake: Wake) {
        // Without the lock somebody is asking for the duty just now.
        if wake.written && self.inner.relay_lease.try_lock().map_or(true, |held| held.is_some()) {
            self.inner.relay_wake.notify_one();
        }
        if wake.published {
            self.inner.bus.published_elsewhere();
            self.inner.wishes_wake.notify_one();
        }
    }
}
