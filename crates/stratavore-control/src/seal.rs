//! Sealing the record: one daemon at a time chains what is published, and signs what it has chained.
//!
//! Every host keeps the checkpoints that it sees. A database that no longer fits them was changed or
//! is an older one; then nothing is sealed any more, and the status says so.
//!
//! Invariant: a host signs no checkpoint that contradicts one that it has seen.

use std::time::Duration;

use jiff::SignedDuration;
use stratavore_audit::{
    Chain, Checkpoint, Frontier, Line, NoteError, PrivateKey, PublicKey, Trust,
};
use stratavore_core::lease::{Lease, Trust as Held};
use stratavore_runtime::failpoint;
use stratavore_store::{AuditCheckpoint, AuditKey};

use crate::checkpoint::Telling;
use crate::control::Control;
use crate::error::Error;

/// The duty of sealing.
pub(crate) const SEALER: &str = "audit";
const TTL: Duration = Duration::from_secs(30);
const BATCH: u32 = 500;
/// How much is sealed, and how long, before it is signed.
const CHECKPOINT_RECORDS: u64 = 1000;
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);
/// What is published meanwhile is sealed at once: on SQLite each sealing is a sync of the disk.
const COALESCE: Duration = Duration::from_secs(1);
/// When a daemon that may not seal says that nobody does.
const LATE: SignedDuration = SignedDuration::from_mins(10);
/// How often a daemon that others may publish beside looks.
pub(crate) const LOOK_SHARED: Duration = Duration::from_secs(2);

/// What a sealer goes on from.
pub(crate) struct Sealing {
    pub(crate) lease: Lease,
    held: Held,
    pub(crate) chain: Chain,
    pub(crate) key: PrivateKey,
    pub(crate) origin: String,
    /// The size that was signed last, and when, by the monotonic clock.
    signed: (u64, Duration),
    telling: Telling,
}

/// Why the record is not sealed: it does not fit what this host has seen of it.
#[derive(Debug, thiserror::Error)]
#[error(
    "the record is no longer sealed, since {0}; keep the checkpoints of every host and look: stratavore audit verify"
)]
struct Alarm(String);

fn alarm<T>(why: impl Into<String>) -> Result<T, Error> {
    Err(Error::internal(Alarm(why.into())))
}

fn unsigned(why: NoteError) -> Error {
    Error::internal(Alarm(format!("a checkpoint in the database does not stand: {why}")))
}

impl Control {
    /// The background task.
    pub(crate) async fn seal(&self) -> Result<String, Error> {
        let stopping = self.inner.supervisor.stopping();
        tokio::select! {
            biased;
            () = stopping.cancelled() => return Ok("stopping".into()),
            () = tokio::time::sleep(COALESCE) => {}
        }
        self.seal_now(false).await
    }

    /// Seals what is published. `signs`: and signs it at once.
    pub(crate) async fn seal_now(&self, signs: bool) -> Result<String, Error> {
        let mut sealing = self.inner.sealing.lock().await;
        let sealed = self.seal_as(&mut sealing, signs).await;
        if sealed.is_err() {
            *sealing = None;
        }
        sealed
    }

    async fn seal_as(&self, sealing: &mut Option<Sealing>, signs: bool) -> Result<String, Error> {
        // What is quiet costs one look.
        if let Some(sealing) = sealing
            && sealing.chain.size() == sealing.signed.0
            && !self.is_to_tell(sealing.telling)
            && self.inner.store.event_last_position().await?.unsigned_abs() == sealing.signed.0
        {
            return Ok(format!("0 sealed, {} in all", sealing.chain.size()));
        }
        let now = self.inner.clock.monotonic();
        if !sealing.as_ref().is_some_and(|sealing| sealing.held.holds(now)) {
            if sealing.is_none() && !self.has_key().await? {
                return self.follow().await;
            }
            let lease = self.inner.store.lease_acquire(SEALER, self.inner.daemon.id, TTL).await?;
            let Some(lease) = lease else {
                *sealing = None;
                return self.follow().await;
            };
            let held = Held::new(now, TTL);
            let is_same =
                |before: &Lease| (before.term, before.timeline) == (lease.term, lease.timeline);
            match sealing.as_mut().filter(|sealing| is_same(&sealing.lease)) {
                Some(sealing) => (sealing.lease, sealing.held) = (lease, held),
                None => *sealing = self.take_over(lease, held).await?,
            }
        }
        let Some(sealing) = sealing else {
            return self.follow().await;
        };
        let mut sealed = 0;
        loop {
            let rows = self.inner.store.audit_unsealed(sealing.chain.size(), BATCH).await?;
            let last = rows.len() < BATCH as usize;
            let (after, mut chain) = (sealing.chain.size(), sealing.chain.clone());
            let mut telling = sealing.telling;
            let mut hashes = Vec::with_capacity(rows.len());
            for row in &rows {
                if row.position != chain.size() + 1 {
                    return alarm(format!("the event of position {} is gone", chain.size() + 1));
                }
                let Some(content) = &row.content else {
                    return alarm(format!(
                        "the event of position {} is none that we wrote",
                        row.position
                    ));
                };
                let mac = row.mac.as_deref().unwrap_or_default();
                if self.inner.writer.judges(content, mac) == Some(false) {
                    let position = row.position;
                    return alarm(format!(
                        "the event of position {position} was changed before it was sealed"
                    ));
                }
                telling.sealed(row.kind.as_deref());
                hashes.push(chain.append(content, mac.as_bytes()));
            }
            let (signed, at) = sealing.signed;
            let waits = chain.size() - signed;
            let due = self.inner.clock.monotonic().saturating_sub(at)
                >= self.inner.settings.checkpoint_every;
            let checkpoint = (waits >= CHECKPOINT_RECORDS || (waits > 0 && last && (due || signs)))
                .then(|| self.checkpoint(sealing, &chain));
            if !hashes.is_empty() || checkpoint.is_some() {
                let (lease, kept) = (&sealing.lease, checkpoint.as_ref());
                failpoint("seal_before_commit");
                self.inner.store.audit_seal(lease, after, &hashes, kept).await?;
                failpoint("seal_committed");
            }
            sealed += hashes.len();
            (sealing.chain, sealing.telling) = (chain, telling);
            if let Some(checkpoint) = checkpoint {
                self.keep_checkpoint(checkpoint.note).await?;
                sealing.signed = (checkpoint.size, self.inner.clock.monotonic());
                sealing.telling.signed();
            }
            if last {
                self.tell_checkpoint(&sealing.lease, &mut sealing.telling).await?;
                return Ok(format!("{sealed} sealed, {} in all", sealing.chain.size()));
            }
        }
    }

    fn checkpoint(&self, sealing: &Sealing, chain: &Chain) -> AuditCheckpoint {
        let origin = sealing.origin.clone();
        let signed = Checkpoint { origin, size: chain.size(), root: chain.root() };
        AuditCheckpoint {
            size: chain.size(),
            note: signed.signed(&sealing.key),
            frontier: chain.frontier().to_bytes(),
            at: self.now(),
        }
    }

    async fn keep_checkpoint(&self, note: String) -> Result<(), Error> {
        self.on_files(move |files| files.add_checkpoint(&note)).await
    }

    /// Works with this host's files, on a thread that may wait for the disk.
    pub(crate) async fn on_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&crate::audit_file::AuditFiles) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let files = self.inner.audit.clone();
        let done = tokio::task::spawn_blocking(move || work(&files)).await;
        done.map_err(Error::internal)?.map_err(Error::internal)
    }

    /// False: the key that signs is on another host.
    pub(crate) async fn has_key(&self) -> Result<bool, Error> {
        let keys = self.inner.store.audit_keys().await?;
        let Some(active) = keys.into_iter().rev().find(|key| key.state == "active") else {
            return Ok(true);
        };
        let public = active.public;
        let found = self.on_files(move |files| {
            let own = [read_key(&files.path("key"))?, read_key(&files.path("key.next"))?];
            Ok(own.into_iter().flatten().any(|key| key.public().text() == public))
        });
        match found.await? {
            false if active.node == self.inner.node.id => {
                alarm("the key that signs it is gone from `audit` in this host's state directory")
            }
            found => Ok(found),
        }
    }

    /// Goes on where the last sealer has ended. `None`: this host does not have the key.
    async fn take_over(&self, lease: Lease, held: Held) -> Result<Option<Sealing>, Error> {
        let keys = self.inner.store.audit_keys().await?;
        let mine = self.on_files(|files| read_key(&files.path("key"))).await?;
        let next = self.on_files(|files| read_key(&files.path("key.next"))).await?;
        let Some(active) = keys.iter().rev().find(|key| key.state == "active") else {
            return self.begin_record(lease, held, mine).await.map(Some);
        };
        let is_active = |key: &PrivateKey| key.public().text() == active.public;
        let key = match (mine.filter(is_active), next.filter(is_active)) {
            (Some(key), _) => key,
            // A change of keys that was cut off between the database and the disk.
            (None, Some(key)) => {
                self.on_files(|files| std::fs::rename(files.path("key.next"), files.path("key")))
                    .await?;
                key
            }
            (None, None) => return Ok(None),
        };
        let trust = self.trust(&keys).await?;
        let origin = active.origin.clone();
        let chain = self.chain(&origin, &trust).await?;
        let signed = (self.known_size().await?, self.inner.clock.monotonic());
        let telling = Telling::unknown();
        Ok(Some(Sealing { lease, held, chain, key, origin, signed, telling }))
    }

    /// The keys that this host trusts. The first that it meets is believed, and written down.
    pub(crate) async fn trust(&self, keys: &[AuditKey]) -> Result<Trust, Error> {
        let changes: Vec<String> = keys.iter().filter_map(|key| key.change.clone()).collect();
        let first = keys.first().map(|key| Line::Key(key.public.clone()));
        self.on_files(move |files| {
            if files.trust(&[])?.is_none()
                && let Some(first) = first
            {
                files.add_key(&first)?;
            }
            for change in &changes {
                files.add_key(&Line::KeyChange(change.clone()))?;
            }
            Ok(files.trust(&changes)?.unwrap_or_default())
        })
        .await
    }

    async fn known_size(&self) -> Result<u64, Error> {
        let known = self.on_files(|files| files.last_checkpoint()).await?;
        Ok(known.map_or(0, |known| known.size))
    }

    /// The first sealer of a database names the log and makes its key.
    async fn begin_record(
        &self,
        lease: Lease,
        held: Held,
        mine: Option<PrivateKey>,
    ) -> Result<Sealing, Error> {
        if self.known_size().await? > 0 {
            return alarm("this host has signed checkpoints of it, and the database knows of none");
        }
        let key = match mine {
            Some(key) => key,
            None => {
                let origin = format!("stratavore/{}", crate::launch::hex(&self.entropy()));
                self.make_key(&origin, "key").await?
            }
        };
        let origin = key.public().name().to_owned();
        let public = self.public_key(key.public(), 0, None);
        self.inner.store.audit_key_begin(&lease, &public).await?;
        self.trust(&[public]).await?;
        let (chain, signed) = (Chain::new(&origin), (0, Duration::ZERO));
        Ok(Sealing { lease, held, chain, key, origin, signed, telling: Telling::default() })
    }

    pub(crate) async fn make_key(
        &self,
        origin: &str,
        file: &'static str,
    ) -> Result<PrivateKey, Error> {
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(&self.entropy());
        seed[16..].copy_from_slice(&self.entropy());
        let key = PrivateKey::new(origin, seed)
            .ok_or_else(|| Error::internal("a key could not be made of random bytes"))?;
        self.on_files(move |files| key.write(&files.path(file)).map(|()| key)).await
    }

    pub(crate) fn public_key(
        &self,
        key: &PublicKey,
        since: u64,
        change: Option<String>,
    ) -> AuditKey {
        AuditKey {
            id: key.id(),
            origin: key.name().into(),
            public: key.text(),
            state: "active".into(),
            node: self.inner.node.id,
            since_size: since,
            change,
            created_at: self.now(),
        }
    }

    /// The chain as the database has it, compared with all that this host knows of it.
    async fn chain(&self, origin: &str, trust: &Trust) -> Result<Chain, Error> {
        const HASHES: u32 = 10_000;
        let store = &self.inner.store;
        let known = self.on_files(|files| files.last_checkpoint()).await?;
        let latest = store.audit_checkpoint_latest().await?;
        // What was moved into files is not looked at here any more.
        let trim = match store.trim_last().await? {
            Some(kept) => match trust.trim(&kept.note) {
                Ok(trim) if trim.origin == origin => Some(trim),
                Ok(_) => return alarm("it begins where another log does"),
                Err(why) => return alarm(format!("it says that a part of it was moved: {why}")),
            },
            None => None,
        };
        let moved = trim.as_ref().map_or(0, |trim| trim.upto);
        let mut chain = trim.map_or_else(|| Chain::new(origin), |trim| trim.chain());
        if let Some(known) = known.as_ref().filter(|known| known.size >= moved) {
            let size = known.size;
            let Some(kept) = store.audit_checkpoint(size).await? else {
                let latest = latest.map_or(0, |latest| latest.size);
                return alarm(format!(
                    "this host knows a checkpoint of {size} records, and the database has none of that size \
                     (its last one is of {latest}): it was restored from an older state, or cut"
                ));
            };
            let frontier = Frontier::from_bytes(size, &kept.frontier);
            let last = store.audit_hashes(size.saturating_sub(1), 1).await?;
            let (Some(frontier), Some(last)) = (frontier, last.first()) else {
                return alarm(format!("what is sealed at position {size} cannot be read"));
            };
            if known.origin != origin || frontier.root() != known.root {
                return alarm(format!(
                    "it contradicts the checkpoint of {size} records that this host knows"
                ));
            }
            chain = Chain::resumed(*last, frontier);
        }
        loop {
            let hashes = store.audit_hashes(chain.size(), HASHES).await?;
            for hash in &hashes {
                chain.append_hash(*hash);
                if let Some(latest) = latest.as_ref().filter(|latest| latest.size == chain.size()) {
                    let signed = trust.checkpoint(&latest.note).map_err(unsigned)?;
                    if signed.root != chain.root() || signed.origin != origin {
                        return alarm(format!(
                            "its seals contradict its checkpoint of {} records",
                            latest.size
                        ));
                    }
                }
            }
            if hashes.len() < HASHES as usize {
                break;
            }
        }
        if let Some(latest) = latest
            && latest.size > chain.size()
        {
            return alarm(format!(
                "its checkpoint covers {} records, and {} are sealed",
                latest.size,
                chain.size()
            ));
        }
        self.keep_seen(trust).await?;
        Ok(chain)
    }

    /// Another daemon seals: keeps the checkpoints that it has signed.
    async fn follow(&self) -> Result<String, Error> {
        let keys = self.inner.store.audit_keys().await?;
        let Some(active) = keys.iter().rev().find(|key| key.state == "active") else {
            return Ok("nothing is sealed yet".into());
        };
        let trust = self.trust(&keys).await?;
        let kept = self.keep_seen(&trust).await?;
        if let Some(latest) = self.inner.store.audit_checkpoint_latest().await?
            && self.inner.store.event_last_position().await?.unsigned_abs() > latest.size
            && self.now().duration_since(latest.at) > LATE
        {
            let (at, node) = (latest.at, active.node);
            return alarm(format!(
                "nothing was signed after {at}, and the key is on {node}, whose daemon does not run"
            ));
        }
        Ok(format!("the daemon of {} seals; {kept} checkpoints kept", active.node))
    }

    /// Writes down the checkpoints that came since the last that this host has seen.
    async fn keep_seen(&self, trust: &Trust) -> Result<u64, Error> {
        let (store, mut kept) = (&self.inner.store, 0);
        let mut known = self.known_size().await?;
        let latest = store.audit_checkpoint_latest().await?.map_or(0, |latest| latest.size);
        if latest < known {
            return alarm(format!(
                "this host knows a checkpoint of {known} records, and the database's last one is of {latest}"
            ));
        }
        loop {
            let new = store.audit_checkpoints(known, BATCH).await?;
            let Some(last) = new.last() else { return Ok(kept) };
            known = last.size;
            kept += new.len() as u64;
            for checkpoint in new {
                trust.checkpoint(&checkpoint.note).map_err(unsigned)?;
                self.keep_checkpoint(checkpoint.note).await?;
            }
        }
    }

    /// So that another daemon need not wait.
    pub(crate) async fn give_sealing_back(&self) -> Result<(), Error> {
        if let Some(lease) = self.inner.store.lease_get(SEALER).await?
            && lease.holder == self.inner.daemon.id
        {
            self.inner.store.lease_release(&lease).await?;
        }
        Ok(())
    }
}

fn read_key(path: &std::path::Path) -> std::io::Result<Option<PrivateKey>> {
    match PrivateKey::read(path) {
        Ok(key) => Ok(Some(key)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
