//! The duty of looking after a host, where several daemons share a store.
//!
//! A node's id stands in its state directory. A copy of that directory, as on a cloned machine,
//! names the same node: a daemon that served it would find the other one's runners without agents,
//! and take them for lost.
//!
//! Invariant: of all state directories that name one node, at most one is served at a time.

use std::time::Duration;

use stratavore_core::lease::{Lease, Trust};
use tokio::sync::{Notify, watch};

use crate::control::Control;
use crate::error::Error;

/// How long a host stays with a daemon that says nothing.
const TTL: Duration = Duration::from_secs(9);
/// How often a daemon says that it has its host still.
pub(crate) const EVERY: Duration = Duration::from_secs(3);
/// How soon a host that somebody has is asked for again.
const AGAIN: Duration = Duration::from_millis(100);

/// Whether this daemon has its host.
pub(crate) struct Host {
    held: std::sync::Mutex<Option<(Lease, Trust)>>,
    /// False while the store does not answer.
    ready: watch::Sender<bool>,
    lost: Notify,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            held: std::sync::Mutex::default(),
            ready: watch::Sender::new(true),
            lost: Notify::new(),
        }
    }
}

impl Host {
    fn held(&self) -> std::sync::MutexGuard<'_, Option<(Lease, Trust)>> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Control {
    /// Takes this daemon's host before anything else is done. False: another state directory has
    /// the same node, and its daemon lives.
    ///
    /// One that was killed, in another place or before a reboot, has the host for a while longer;
    /// that is waited for.
    pub async fn take_host(&self) -> Result<bool, Error> {
        let mut first: Option<Lease> = None;
        while !self.hold_host().await? {
            let held = self.inner.store.lease_get(&self.host_lease()).await?;
            match (held, &first) {
                (Some(held), Some(first)) if held.expires_at > first.expires_at => {
                    return Ok(false);
                }
                (Some(held), None) => {
                    tracing::info!("another daemon had this host just now; waiting for its end");
                    first = Some(held);
                }
                (Some(_), Some(_)) | (None, _) => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
        Ok(true)
    }

    /// Asks for the host, or for more time with it.
    async fn hold_host(&self) -> Result<bool, Error> {
        if !self.inner.store.is_shared() {
            return Ok(true);
        }
        let asked_at = self.inner.clock.monotonic();
        let lease =
            self.inner.store.lease_acquire(&self.host_lease(), self.inner.seat, TTL).await?;
        let held = lease.map(|lease| (lease, Trust::new(asked_at, TTL)));
        let is_held = held.is_some();
        *self.inner.host.held() = held;
        Ok(is_held)
    }

    /// The periodic task, where the store is shared.
    pub(crate) async fn keep_host(&self) -> Result<String, Error> {
        let held = self.hold_host().await;
        self.inner
            .host
            .ready
            .send_if_modified(|ready| std::mem::replace(ready, held.is_ok()) != held.is_ok());
        if !held? {
            self.inner.host.lost.notify_one();
            return Ok("another daemon has this host".into());
        }
        self.store_works();
        self.look_at_scheduling().await?;
        Ok("this host is ours".into())
    }

    /// Ends when another daemon has taken this one's host: this one was taken for dead.
    pub async fn host_lost(&self) {
        self.inner.host.lost.notified().await;
    }

    /// True while no other daemon can have this host. One that was stopped for a while knows by its
    /// own clock that it has to ask first.
    pub(crate) fn has_host(&self) -> bool {
        let now = self.inner.clock.monotonic();
        !self.inner.store.is_shared()
            || self.inner.host.held().as_ref().is_some_and(|(_, trust)| trust.holds(now))
    }

    /// Whether the store answers, and each change of that. SQLite always does.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.inner.host.ready.subscribe()
    }

    /// So that a daemon of another place need not wait.
    pub(crate) async fn give_host_back(&self) -> Result<(), Error> {
        let held = self.inner.host.held().take();
        if let Some((lease, _)) = held {
            self.inner.store.lease_release(&lease).await?;
        }
        Ok(())
    }

    fn host_lease(&self) -> String {
        format!("host:{}", self.inner.node.id)
    }
}
