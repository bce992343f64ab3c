//! Nodes: what they are for, whether they take runners, where a launch goes, and who may join.

use std::sync::PoisonError;
use std::time::Duration;

use stratavore_core::NodeId;
use stratavore_core::caller::Caller;
use stratavore_core::join::{JoinToken, Redeemed, TTL_MAX, TokenRecord};
use stratavore_core::node::{NodeView, Scheduling, Wish, place};

use crate::control::Control;
use crate::error::Error;
use crate::launch::sha256;
use crate::project::nearest;

/// How long a token that is over is still listed.
const TOKENS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

impl Control {
    /// The node of this daemon.
    pub fn here(&self) -> NodeId {
        self.inner.node.id
    }

    /// Says what this node is for, and whether it signs certificates.
    pub async fn tell_profile(&self, signs: bool) -> Result<(), Error> {
        let profile = &self.inner.settings.profile;
        Ok(self.inner.store.node_profile(self.here(), profile, signs).await?)
    }

    pub async fn nodes(&self) -> Result<Vec<NodeView>, Error> {
        Ok(self.inner.store.node_list().await?)
    }

    /// One node, unless it was removed.
    pub async fn node_by_id(&self, id: NodeId) -> Result<Option<NodeView>, Error> {
        Ok(self.inner.store.node_get(id).await?)
    }

    /// The node that a person means: by host name, id, or the beginning of one.
    pub async fn node(&self, wanted: &str) -> Result<NodeView, Error> {
        let nodes = self.nodes().await?;
        let named: Vec<&NodeView> = nodes.iter().filter(|node| node.hostname == wanted).collect();
        let meant = match named.as_slice() {
            [] => {
                let begins = |node: &&NodeView| node.id.to_string().starts_with(wanted);
                nodes.iter().filter(begins).filter(|_| wanted.starts_with("node_")).collect()
            }
            _ => named,
        };
        match meant.as_slice() {
            [one] => Ok((*one).clone()),
            [] => {
                let names = nodes.iter().map(|node| node.hostname.clone()).collect();
                let nearest = nearest(wanted, names);
                Err(Error::NotFound { noun: "node", wanted: wanted.into(), nearest })
            }
            several => {
                let ids: Vec<String> = several.iter().map(|node| node.id.to_string()).collect();
                Err(Error::invalid(
                    format!("`{}` could be any of {}", wanted.escape_debug(), ids.join(", ")),
                    "give more of the id",
                ))
            }
        }
    }

    /// Lets a node take runners, or none. Those that live there go on: on other nodes where that can be, if
    /// it `moves` them.
    pub async fn schedule_node(
        &self,
        caller: &Caller,
        wanted: &str,
        scheduling: Scheduling,
        moves: bool,
    ) -> Result<NodeView, Error> {
        self.may_change(caller, "cordon nodes")?;
        let node = self.node(wanted).await?;
        if moves && scheduling != Scheduling::Draining {
            return Err(Error::invalid(
                format!("a node that is {} moves nothing", scheduling.as_str()),
                "drain it: stratavore nodes drain NODE --move",
            ));
        }
        if moves && !self.inner.store.is_shared() {
            return Err(Error::invalid(
                format!("{} is the only node: nothing can go on elsewhere", node.hostname),
                "several daemons share one PostgreSQL: docs/operations/team.md",
            ));
        }
        let by = self.by(caller, None);
        self.inner.store.node_schedule(node.id, scheduling, moves, &by, self.now()).await?;
        self.inner.relay_wake.notify_one();
        if node.id == self.here() {
            self.scheduled(scheduling);
        }
        let moving = moves.then(|| by.name.clone());
        Ok(NodeView { scheduling, moving, ..node })
    }

    pub async fn remove_node(&self, caller: &Caller, wanted: &str) -> Result<NodeView, Error> {
        self.may_change(caller, "remove nodes")?;
        let node = self.node(wanted).await?;
        if node.id == self.here() {
            return Err(Error::invalid(
                format!("{} is the node of this daemon", node.hostname),
                "ask another node's daemon to remove it",
            ));
        }
        self.inner.store.node_remove(node.id, &self.by(caller, None), self.now()).await?;
        self.inner.relay_wake.notify_one();
        Ok(node)
    }

    /// The node for `count` new runners.
    ///
    /// Where nothing is asked for, and this node takes runners and has no capacity, nobody else is
    /// looked at: it is what a launch on a single host comes to.
    pub async fn place(&self, wish: &Wish, count: u32) -> Result<NodeId, Error> {
        let open = *self.scheduling() == Scheduling::Open;
        if wish.is_any() && open && self.inner.settings.profile.capacity.is_none() {
            return Ok(self.here());
        }
        Ok(place(wish, self.here(), u64::from(count.max(1)), &self.nodes().await?)?)
    }

    /// The node that a conversation is resumed on if nothing else is asked for: the one that has its files.
    /// Where no daemon holds that one it is this one, if it can read a copy that can be put in its place.
    pub async fn node_of_session(
        &self,
        caller: &Caller,
        wanted: &str,
    ) -> Result<Option<NodeId>, Error> {
        let session = self.session(caller, wanted).await?;
        let Some(node) = session.node else { return Ok(None) };
        let Some(its) = self.node_by_id(node).await? else { return Ok(None) };
        if its.ready || its.id == self.here() {
            return Ok(Some(its.id));
        }
        if self.has_copy(&session).await? {
            return Ok(Some(self.here()));
        }
        Err(Error::Absent {
            message: format!(
                "the files of {} are on {}, where no daemon runs",
                session.id,
                its.hostname.escape_debug()
            ),
            hint: "start the daemon there; or bring a copy that was exported before: \
                   stratavore sessions import DIR"
                .into(),
        })
    }

    /// True if this node is to get something new.
    pub(crate) fn takes_new(&self) -> bool {
        *self.scheduling() == Scheduling::Open
    }

    fn scheduling(&self) -> std::sync::MutexGuard<'_, Scheduling> {
        self.inner.scheduling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn scheduled(&self, scheduling: Scheduling) {
        *self.scheduling() = scheduling;
    }

    /// Looks whether this node takes runners still; another daemon may have been told otherwise.
    pub(crate) async fn look_at_scheduling(&self) -> Result<(), Error> {
        if let Some(node) = self.node_by_id(self.here()).await? {
            self.scheduled(node.scheduling);
        }
        Ok(())
    }

    /// The certificate of the cluster's CA, as PEM.
    pub async fn cluster_certificate(&self) -> Result<Option<String>, Error> {
        Ok(self.inner.store.cluster_certificate().await?)
    }

    /// Makes the certificate that of the cluster's CA. False: the cluster has one.
    pub async fn found_cluster(&self, caller: &Caller, pem: &str) -> Result<bool, Error> {
        self.may_change(caller, "make the cluster's CA")?;
        let by = self.by(caller, None);
        let founded = self.inner.store.cluster_found(pem, self.here(), &by, self.now()).await?;
        self.inner.relay_wake.notify_one();
        Ok(founded)
    }

    /// Makes a join token. It is in the answer, and nowhere else.
    pub async fn mint_join_token(
        &self,
        caller: &Caller,
        ttl: Option<Duration>,
        pin: &str,
    ) -> Result<(JoinToken, TokenRecord), Error> {
        self.may_change(caller, "make join tokens")?;
        let ttl = ttl.unwrap_or(TTL_MAX);
        if ttl > TTL_MAX {
            return Err(Error::invalid(
                format!("a join token of {} s would live too long", ttl.as_secs()),
                format!("give it at most {} minutes", TTL_MAX.as_secs() / 60),
            ));
        }
        let mut accessor = [0; 6];
        accessor.copy_from_slice(&self.entropy()[..6]);
        let mut secret = [0; 32];
        secret[..16].copy_from_slice(&self.entropy());
        secret[16..].copy_from_slice(&self.entropy());
        let token = JoinToken::new(accessor, secret, pin);
        let digest = sha256(token.secret.as_bytes());
        let (store, by) = (&self.inner.store, self.by(caller, None));
        let (accessor, here) = (&token.accessor, self.here());
        let record = store.join_token_add(accessor, &digest, ttl, here, &by, self.now()).await?;
        self.inner.relay_wake.notify_one();
        Ok((token, record))
    }

    pub async fn join_tokens(&self, caller: &Caller) -> Result<Vec<TokenRecord>, Error> {
        self.may_change(caller, "list join tokens")?;
        Ok(self.inner.store.join_token_list().await?)
    }

    pub async fn revoke_join_token(&self, caller: &Caller, accessor: &str) -> Result<bool, Error> {
        self.may_change(caller, "revoke join tokens")?;
        let (here, by) = (self.here(), self.by(caller, None));
        let revoked = self.inner.store.join_token_revoke(accessor, here, &by, self.now()).await?;
        self.inner.relay_wake.notify_one();
        Ok(revoked)
    }

    /// Uses a token for a node and its key; the node is bound to the key if this answers.
    pub async fn redeem_join_token(
        &self,
        caller: &Caller,
        token: &JoinToken,
        node: NodeId,
        key_digest: &str,
    ) -> Result<(), Error> {
        let (secret, by) = (sha256(token.secret.as_bytes()), self.by(caller, None));
        let (store, accessor) = (&self.inner.store, &token.accessor);
        let redeemed =
            store.node_join(accessor, &secret, node, key_digest, &by, self.now()).await?;
        self.inner.relay_wake.notify_one();
        let refused = match redeemed {
            Redeemed::Bound | Redeemed::Again => return Ok(()),
            Redeemed::Stolen { .. } => {
                tracing::error!(%node, accessor = token.accessor, "a join token was used by two hosts");
                redeemed.to_string()
            }
            Redeemed::Refused(why) => {
                tracing::warn!(%node, accessor = token.accessor, why, "a join token was refused");
                why.to_owned()
            }
        };
        Err(Error::Forbidden { message: format!("the join token is not good: {refused}") })
    }

    /// Binds this node to its key without a token: it holds the CA's key.
    pub async fn bind_own_key(&self, caller: &Caller, key_digest: &str) -> Result<(), Error> {
        self.may_change(caller, "make this node join")?;
        let by = self.by(caller, None);
        self.inner.store.node_bind(self.here(), key_digest, &by, self.now()).await?;
        self.inner.relay_wake.notify_one();
        Ok(())
    }

    /// Whether a node is bound to the key of this digest.
    pub async fn is_bound(&self, node: NodeId, key_digest: &str) -> Result<bool, Error> {
        Ok(self.inner.store.node_key(node).await?.as_deref() == Some(key_digest))
    }

    pub(crate) async fn purge_join_tokens(&self) -> Result<(), Error> {
        let before = self.now_for_expiry() - TOKENS_KEPT;
        self.inner.store.join_token_purge(before).await?;
        Ok(())
    }
}
