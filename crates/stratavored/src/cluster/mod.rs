//! Daemons of several hosts: who they are to each other, and how they talk.
//!
//! Each node has a key of its own and a certificate of the cluster's CA. Daemons speak TLS 1.3 with
//! certificates on both sides; what a person asks of one daemon about another's runner is passed on
//! with that person's name.
//!
//! Invariant: a listener for other hosts serves nobody without a certificate but to sign one, and
//! for that a join token is needed.
//! Invariant: a node whose key the store does not have is no node, whatever certificate it shows.

mod certificate;
mod join;
mod listen;
mod peers;
#[cfg(test)]
mod strangers;
mod tls;

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sha2::{Digest, Sha256};
use stratavore_control::{Control, Error};
use stratavore_core::NodeId;
use stratavore_core::caller::Caller;
use stratavore_core::clock::Clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::times::or_as_tested;
use certificate::{Authority, Identity, node_life};
pub(crate) use listen::serve;
pub(crate) use peers::Peers;
use tls::Tls;

/// How often it is looked whether the certificate has to be renewed, or the cluster has a CA by now;
/// more often if that is a large part of its life.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How soon it is looked again after that has failed: until the first look of a daemon's life succeeds,
/// it neither reaches other nodes nor serves them.
const AGAIN: Duration = Duration::from_secs(2);
/// How long a node that was removed may still be served over a connection that stood before.
const GUESTS_EVERY: Duration = Duration::from_secs(3);

/// This node's place in its cluster. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    control: Control,
    clock: Arc<dyn Clock>,
    ca_dir: PathBuf,
    own_dir: PathBuf,
    state: Mutex<State>,
    /// Nodes that are connected to this one.
    guests: Mutex<Vec<Guest>>,
    /// What connections are made with; `None` until this node has joined.
    tls: watch::Sender<Option<Arc<Tls>>>,
}

/// A node that is served, as long as it is one.
struct Guest {
    node: NodeId,
    key_digest: String,
    /// Cuts its connection; gone with it.
    cut: Weak<CancellationToken>,
}

struct State {
    identity: Identity,
    authority: Option<Authority>,
}

impl Cluster {
    /// Reads this node's key and certificate; makes a key if there is none.
    pub(crate) fn open(
        control: Control,
        clock: Arc<dyn Clock>,
        state_dir: &Path,
    ) -> io::Result<Self> {
        let (ca_dir, own_dir) = (state_dir.join("ca"), state_dir.join("tls"));
        let state =
            State { identity: Identity::load(&own_dir)?, authority: Authority::load(&ca_dir)? };
        let tls = watch::Sender::new(None);
        Ok(Self {
            inner: Arc::new(Inner {
                control,
                clock,
                ca_dir,
                own_dir,
                state: Mutex::new(state),
                guests: Mutex::default(),
                tls,
            }),
        })
    }

    fn control(&self) -> &Control {
        &self.inner.control
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What connections are made with, and each change of it.
    pub(crate) fn tls(&self) -> watch::Receiver<Option<Arc<Tls>>> {
        self.inner.tls.subscribe()
    }

    fn tls_now(&self) -> Option<Arc<Tls>> {
        self.inner.tls.borrow().clone()
    }

    /// Makes the cluster's CA on this host, and this node its first member.
    pub(crate) async fn init_ca(&self, caller: &Caller) -> Result<(String, String), Error> {
        self.control().may_administer(caller, "make the cluster's CA")?;
        if !self.control().is_shared() {
            return Err(Error::invalid(
                "a cluster needs a database that its daemons share, and this one is SQLite",
                "set store.url to postgres; see docs/operations/team.md",
            ));
        }
        // A CA that is on this host already, of another database perhaps, is never touched.
        let refused = || {
            Error::invalid(
                "the cluster has its CA already, on another host",
                "see which node signs: stratavore nodes; to join it: stratavore nodes join",
            )
        };
        let of_cluster = self.control().cluster_certificate().await?;
        let here = Authority::load(&self.inner.ca_dir).map_err(Error::internal)?;
        let (authority, is_new) = match (here, &of_cluster) {
            (Some(here), Some(pem)) if here.pem == *pem => (here, false),
            (_, Some(_)) => return Err(refused()),
            (Some(here), None) => (here, false),
            (None, None) => {
                let made = Authority::create(&self.inner.ca_dir, self.inner.clock.now());
                (made.map_err(Error::internal)?, true)
            }
        };
        let (pem, pin) = (authority.pem.clone(), authority.pin());
        let founded = self.control().found_cluster(caller, &pem).await?;
        if !founded && self.control().cluster_certificate().await?.as_deref() != Some(&pem) {
            // Another host was faster; what was made for nothing goes.
            if is_new {
                std::fs::remove_dir_all(&self.inner.ca_dir).map_err(Error::internal)?;
            }
            return Err(refused());
        }
        self.state().authority = Some(authority);
        let key_digest = self.state().identity.key_digest();
        self.control().bind_own_key(caller, &key_digest).await?;
        self.sign_own().map_err(Error::internal)?;
        self.look().await?;
        Ok((pem, pin))
    }

    /// The cluster's certificate and its digest.
    pub(crate) async fn ca(&self) -> Result<(String, String), Error> {
        let pem = self.control().cluster_certificate().await?;
        let pem = pem.ok_or_else(|| {
            Error::invalid(
                "this cluster has no CA yet",
                "make one on the host that is to keep it: stratavore ca init",
            )
        })?;
        let chain = certificate::certificates(pem.as_bytes()).map_err(Error::internal)?;
        let first = chain.first().ok_or_else(|| Error::internal("an empty certificate"))?;
        Ok((pem, digest(first)))
    }

    /// With the CA's key on this host, its own certificate needs nobody else.
    fn sign_own(&self) -> io::Result<()> {
        let now = self.inner.clock.now();
        let node = self.control().here();
        let mut state = self.state();
        let State { identity, authority } = &mut *state;
        let Some(authority) = authority else { return Ok(()) };
        let what = node.to_string();
        let (key, proof) = identity.prove(&what)?;
        let pem = authority.sign(node, &key, &proof, &what, now)?;
        identity.keep(&self.inner.own_dir, &pem)
    }

    /// The periodic task: renews the certificate in time, and gets ready once there is one.
    pub(crate) async fn keep(self) {
        let stopping = self.control().supervisor().stopping().clone();
        let mut said = None;
        loop {
            let result = self.look().await;
            let now = result.err().map(|error| stratavore_control::chain(&error));
            if now != said
                && let Some(error) = &now
            {
                tracing::warn!(error, "this node's place in the cluster could not be looked after");
            }
            let pause = pause_after(now.is_none());
            said = now;
            if stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Serves a node until it is none any more; its connection is cut by what is answered.
    fn welcome(&self, node: NodeId, key_digest: String) -> Arc<CancellationToken> {
        let cut = Arc::new(CancellationToken::new());
        self.guests().push(Guest { node, key_digest, cut: Arc::downgrade(&cut) });
        cut
    }

    fn guests(&self) -> MutexGuard<'_, Vec<Guest>> {
        self.inner.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The periodic task: cuts the connections of those who were removed, or joined by another key.
    pub(crate) async fn watch_guests(self) {
        let stopping = self.control().supervisor().stopping().clone();
        while stopping.run_until_cancelled(tokio::time::sleep(GUESTS_EVERY)).await.is_some() {
            let served: Vec<(NodeId, String)> = {
                let mut guests = self.guests();
                guests.retain(|guest| guest.cut.strong_count() > 0);
                guests.iter().map(|guest| (guest.node, guest.key_digest.clone())).collect()
            };
            for (node, key_digest) in served {
                // A store that does not answer says nothing of anybody.
                if let Ok(false) = self.control().is_bound(node, &key_digest).await {
                    tracing::warn!(%node, "a host that is no node any more is cut off");
                    let is_it =
                        |guest: &&Guest| guest.node == node && guest.key_digest == key_digest;
                    for guest in self.guests().iter().filter(is_it) {
                        if let Some(cut) = guest.cut.upgrade() {
                            cut.cancel();
                        }
                    }
                }
            }
        }
    }

    async fn look(&self) -> Result<(), Error> {
        let Some(ca) = self.control().cluster_certificate().await? else { return Ok(()) };
        let signs = {
            let mut state = self.state();
            // A CA that was made and never became the cluster's signs nothing.
            state.authority.take_if(|authority| authority.pem != ca);
            state.authority.is_some()
        };
        self.control().tell_profile(signs).await?;
        if self.is_due() {
            if signs {
                self.sign_own().map_err(Error::internal)?;
            } else if self.tls_now().is_some() {
                self.renew().await?;
            }
        }
        self.get_ready(&ca).map_err(Error::internal)
    }

    /// Whether this node has a certificate, which may not be in use yet.
    fn has_certificate(&self) -> bool {
        self.state().identity.chain.is_some()
    }

    /// Two thirds of a certificate's life are over. Its file is as old as it is.
    fn is_due(&self) -> bool {
        let written = certificate::written(&self.inner.own_dir);
        let now = self.inner.clock.now();
        written.is_some_and(|at| now.duration_since(at).unsigned_abs() > renew_after())
    }

    fn get_ready(&self, ca: &str) -> io::Result<()> {
        let state = self.state();
        let Some(chain) = &state.identity.chain else { return Ok(()) };
        if self.tls_now().is_some_and(|tls| tls.is_of(chain)) {
            return Ok(());
        }
        let tls = Tls::new(ca, chain.clone(), state.identity.private_key())?;
        self.inner.tls.send_replace(Some(Arc::new(tls)));
        Ok(())
    }
}

/// How old a certificate is when it is renewed.
fn renew_after() -> Duration {
    or_as_tested("renew_after", node_life() * 2 / 3)
}

/// How long the periodic task waits.
fn pause_after(succeeded: bool) -> Duration {
    let usual = LOOK_EVERY.min(renew_after() / 8);
    if succeeded { usual } else { usual.min(AGAIN) }
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(error)
}

/// SHA-256 as hex.
fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a text does not fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_failed_is_repeated_soon() {
        assert!(pause_after(false) <= AGAIN && pause_after(false) < pause_after(true));
    }
}
