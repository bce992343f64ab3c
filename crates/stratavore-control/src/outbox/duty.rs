//! The duty of delivering to a destination: held by one daemon at a time, kept while it works.

use std::future::Future;
use std::time::Duration;

use stratavore_core::destination::Health;
use stratavore_core::lease::{Lease, Trust};
use stratavore_runtime::is_off;

use crate::control::Control;
use crate::error::Error;

/// Why a daemon delivers no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// The daemon stops.
    Stopping,
    /// Another daemon may deliver now.
    Taken,
}

/// How long the duty stays with a daemon that says nothing, and how often it says something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Term {
    pub(crate) ttl: Duration,
    pub(crate) renew: Duration,
}

/// The duty, while this daemon has it.
pub(crate) struct Duty {
    control: Control,
    destination: String,
    term: Term,
    pub(crate) lease: Lease,
    trust: Trust,
    renewed_at: Duration,
    /// What the store knows about how it goes.
    told: Option<(Health, String)>,
}

impl Duty {
    /// `None`: another daemon has it.
    pub(crate) async fn take(
        control: &Control,
        destination: &str,
        term: Term,
    ) -> Result<Option<Self>, Error> {
        let asked_at = control.inner.clock.monotonic();
        let name = super::duty(destination);
        // The seat: a daemon that is started again in place of one that was killed need not wait.
        let taken = control.inner.store.lease_acquire(&name, control.inner.seat, term.ttl).await?;
        Ok(taken.map(|lease| Self {
            control: control.clone(),
            destination: destination.into(),
            term,
            lease,
            trust: Trust::new(asked_at, term.ttl),
            renewed_at: asked_at,
            told: None,
        }))
    }

    /// Says in time that this daemon has the duty still.
    pub(crate) async fn keep(&mut self) -> Result<(), Over> {
        if !self.is_of_this_server() {
            return Err(Over::Taken);
        }
        let now = self.control.inner.clock.monotonic();
        if now < self.renewed_at + self.term.renew {
            return Ok(());
        }
        match self.control.inner.store.lease_renew(&self.lease, self.term.ttl).await {
            Ok(Some(lease)) => {
                (self.lease, self.renewed_at) = (lease, now);
                self.trust = Trust::new(now, self.term.ttl);
                Ok(())
            }
            Ok(None) => Err(Over::Taken),
            // The store may be back before the time is over.
            Err(_) if self.is_trusted() => Ok(()),
            Err(_) => Err(Over::Taken),
        }
    }

    /// False once another server was promoted: it may not have all that was read of the one before, so
    /// whoever has the duty begins anew. What was read before this was asked is of this server.
    pub(crate) fn is_of_this_server(&self) -> bool {
        self.lease.timeline == self.control.inner.store.timeline() || is_off("timeline_check")
    }

    /// False for one that was stopped for a while: another daemon may have the duty.
    pub(crate) fn is_trusted(&self) -> bool {
        self.trust.holds(self.control.inner.clock.monotonic())
    }

    /// Waits for something that is no business of the store's, and keeps the duty meanwhile.
    pub(crate) async fn held<F: Future>(&mut self, future: F) -> Result<F::Output, Over> {
        let mut future = std::pin::pin!(future);
        let stopping = self.control.inner.supervisor.stopping().clone();
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Err(Over::Stopping),
                done = &mut future => return Ok(done),
                () = tokio::time::sleep(self.term.renew / 4) => {}
            }
            self.keep().await?;
        }
    }

    /// Writes down how it goes, if that has changed. What cannot be written now is written later.
    pub(crate) async fn tell(&mut self, health: Health, problem: &str) {
        if self.told.as_ref().is_some_and(|(h, p)| *h == health && p == problem) {
            return;
        }
        let destination = self.destination.as_str();
        match health {
            Health::Connected => {
                tracing::info!(destination, problem, "the destination takes events")
            }
            Health::Stopped => tracing::info!(destination, "delivering ends here"),
            Health::Waiting | Health::Blocked | Health::Misconfigured => {
                let health = health.as_str();
                tracing::warn!(destination, health, problem, "the destination takes no events");
            }
        }
        let (store, now) = (&self.control.inner.store, self.control.now());
        let told = store.destination_tell(&self.lease, destination, health, problem, now).await;
        self.told = told.is_ok().then(|| (health, problem.to_owned()));
    }

    pub(crate) fn is_told(&self, health: Health) -> bool {
        self.told.as_ref().is_some_and(|(told, _)| *told == health)
    }

    /// An orderly end: another daemon need not wait for this one's time to be over.
    pub(crate) async fn release(&mut self) {
        // If this fails, the lease expires by itself.
        self.control.inner.store.lease_release(&self.lease).await.ok();
    }
}
