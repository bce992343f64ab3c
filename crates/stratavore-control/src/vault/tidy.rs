//! What is kept no longer: conversations that are old enough, and blobs that nobody names.
//!
//! Invariant: what is removed is on the record.
//! Invariant: a blob is removed only after its row is, and only if nobody has put it there since.

use std::time::{Duration, SystemTime};

use jiff::SignedDuration;
use stratavore_core::Timestamp;
use stratavore_core::caller::Caller;
use stratavore_core::transcript::Digest;

use super::intake::Intake;
use crate::control::Control;
use crate::error::Error;

/// How often.
pub(crate) const EVERY: Duration = Duration::from_secs(60 * 60);
/// Whoever has put a blob there has named it by then.
const GRACE: SignedDuration = SignedDuration::from_hours(1);
const PAGE: u32 = 200;
/// Files that are looked at in one activation, to find those that have no row at all.
const LOOKED_AT: usize = 20_000;

impl Control {
    /// The periodic task.
    pub(crate) async fn tidy_vault(&self) -> Result<String, Error> {
        let forgotten = self.forget_old().await?;
        let before = self.now_for_expiry().checked_sub(GRACE).unwrap_or(Timestamp::UNIX_EPOCH);
        let stopping = self.inner.supervisor.stopping();
        let removed = self.intake().remove_unnamed(before, &|| stopping.is_cancelled()).await?;
        Ok(format!("{forgotten} conversations forgotten, {removed} blobs removed"))
    }

    /// Forgets what is older than is wanted of its project.
    async fn forget_old(&self) -> Result<u64, Error> {
        let settings = &self.inner.settings.vault;
        let now = self.now_for_expiry();
        let cutoff = |keep: Duration| {
            let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
            now.checked_sub(keep).unwrap_or(Timestamp::UNIX_EPOCH)
        };
        // Nothing that is younger than the shortest time has to be looked at.
        let Some(shortest) = settings.keep_of.values().copied().chain(settings.keep).min() else {
            return Ok(0);
        };
        let mut names = std::collections::HashMap::new();
        let mut forgotten = 0;
        let mut from = Timestamp::UNIX_EPOCH;
        let by = self.by(&Caller::daemon(), None);
        loop {
            let page = self.inner.store.vault_expired(from, cutoff(shortest), PAGE).await?;
            let Some((last, _)) = page.last().copied() else { return Ok(forgotten) };
            let mut gone = 0;
            for (session, project) in &page {
                if self.inner.supervisor.stopping().is_cancelled() {
                    return Ok(forgotten);
                }
                if !names.contains_key(project) {
                    let known = self.inner.store.project_names(&[*project].into()).await?;
                    names.insert(*project, known.into_values().next());
                }
                let name = names.get(project).and_then(Option::as_ref);
                let of_it = name.and_then(|name| settings.keep_of.get(name.as_str()).copied());
                let Some(keep) = of_it.or(settings.keep) else { continue };
                let before = cutoff(keep);
                if self.inner.store.session_expire(*session, before, &by, self.now()).await? {
                    gone += 1;
                }
            }
            forgotten += gone;
            if gone > 0 {
                self.inner.relay_wake.notify_one();
            }
            if page.len() < PAGE as usize {
                return Ok(forgotten);
            }
            // What is kept is not looked at again.
            let next = self.inner.store.session_get(last).await?.updated_at;
            if next == from && gone == 0 {
                return Ok(forgotten);
            }
            from = next;
        }
    }
}

impl Intake {
    /// Removes blobs of this host that nobody names and nobody has put there since `before`.
    pub(crate) async fn remove_unnamed(
        &self,
        before: Timestamp,
        is_over: &(dyn Fn() -> bool + Sync),
    ) -> Result<u64, Error> {
        let mut removed = 0;
        // What a daemon that died had set aside.
        for digest in self.vault.aside().await? {
            self.settle(digest).await?;
        }
        loop {
            let unnamed = self.store.blob_unnamed(&self.name, before, PAGE).await?;
            for digest in &unnamed {
                if self.store.blob_forget(&self.name, *digest, before).await? {
                    removed += u64::from(self.remove_blob(*digest, before).await?);
                }
            }
            if unnamed.len() < PAGE as usize || is_over() {
                break;
            }
        }
        // Those whose rows were never written, or went before they did.
        let mut after: Option<Digest> = None;
        let mut looked_at = 0;
        while looked_at < LOOKED_AT && !is_over() {
            let page = self.vault.list(after, PAGE as usize).await?;
            let Some(last) = page.last() else { break };
            after = Some(*last);
            looked_at += page.len();
            for digest in page {
                if !self.store.blob_is_known(&self.name, digest).await? {
                    removed += u64::from(self.remove_blob(digest, before).await?);
                }
            }
        }
        Ok(removed)
    }

    async fn remove_blob(&self, digest: Digest, before: Timestamp) -> Result<bool, Error> {
        if !self.vault.set_aside(digest, SystemTime::from(before)).await? {
            return Ok(false);
        }
        self.settle(digest).await
    }

    /// Removes what is set aside, unless somebody has named it meanwhile.
    async fn settle(&self, digest: Digest) -> Result<bool, Error> {
        if self.store.blob_is_known(&self.name, digest).await? {
            self.vault.bring_back(digest).await?;
            return Ok(false);
        }
        self.vault.discard(digest).await?;
        Ok(true)
    }
}
