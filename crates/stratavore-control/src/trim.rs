//! Trimming the record: what is older than it is kept is moved into files, and only then removed.
//!
//! The daemon that seals does it, since it has the key: where the record begins from then on is
//! signed. The files are exports like any other, of the host that has the key.
//!
//! Invariant: nothing is removed that was not read back as it was sealed, written to a file and
//! synced, and put on the record.
//! Invariant: nothing is moved that a destination or a dead letter still waits for.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use serde_json::json;
use stratavore_audit::{Checkpoint, Frontier, Line, Trim, Verifier, line};
use stratavore_core::caller::Caller;
use stratavore_core::event::NewEvent;
use stratavore_runtime::failpoint;
use stratavore_store::{AuditCheckpoint, AuditKey, RecordTrim};

use crate::control::Control;
use crate::error::Error;

/// The most checkpoints that one file covers: up to some hundred thousand records.
const CHECKPOINTS: u32 = 100;
const PAGE: u32 = 1000;
/// How many events one transaction removes.
const REMOVED_AT_ONCE: u32 = 2000;
/// Below `audit` in the state directory.
const SEGMENTS: &str = "segments";

impl Control {
    /// The periodic task.
    pub(crate) async fn trim(&self) -> Result<String, Error> {
        let mut removed = self.finish_trim().await?;
        let Some(keep) = self.inner.settings.keep_events else {
            return Ok("events are kept for ever".into());
        };
        let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
        let Ok(cutoff) = self.now_for_expiry().checked_sub(keep) else {
            return Ok("events are kept for ever".into());
        };
        let mut files = 0;
        while !self.inner.supervisor.stopping().is_cancelled() {
            let Some(due) = self.inner.store.trim_due(cutoff, CHECKPOINTS).await? else { break };
            if self.inner.sealing.lock().await.is_none() {
                self.seal_now(false).await?;
            }
            if !self.move_upto(&due).await? {
                return Ok("the daemon that seals moves what is old".into());
            }
            files += 1;
            removed += self.finish_trim().await?;
        }
        Ok(format!("{removed} events removed, after {files} files were written"))
    }

    /// Brings the last trim to its end, wherever it was cut off.
    async fn finish_trim(&self) -> Result<u64, Error> {
        let Some(last) = self.inner.store.trim_last().await? else { return Ok(0) };
        if last.node != self.inner.node.id {
            return Ok(0);
        }
        self.on_files(move |files| {
            let kept = files.path(SEGMENTS).join(&last.file);
            let new = unfinished(&kept);
            // One that an operator has put elsewhere is not missed.
            if !kept.exists() && new.exists() {
                std::fs::rename(&new, &kept)?;
                sync_directory(&kept)?;
            }
            Ok(())
        })
        .await?;
        let mut removed = 0;
        while !self.inner.supervisor.stopping().is_cancelled() {
            match self.inner.store.trim_remove(REMOVED_AT_ONCE).await? {
                0 => break,
                some => removed += some,
            }
            failpoint("trim_removed_some");
        }
        Ok(removed)
    }

    /// Moves what comes next up to a checkpoint. False: another daemon seals.
    async fn move_upto(&self, due: &AuditCheckpoint) -> Result<bool, Error> {
        let store = &self.inner.store;
        let last = store.trim_last().await?;
        let begins = last.as_ref().map_or(0, |last| last.upto) + 1;
        let keys = store.audit_keys().await?;
        let trust = self.trust(&keys).await?;
        let Some(origin) = keys.first().map(|key| key.origin.clone()) else { return Ok(false) };
        let notes: Vec<String> = store
            .audit_checkpoints(begins - 1, CHECKPOINTS + 1)
            .await?
            .into_iter()
            .filter(|kept| (begins..=due.size).contains(&kept.size))
            .map(|kept| kept.note)
            .collect();
        let trim = last.as_ref().map(|last| last.note.as_str());
        let verifier = Verifier::new(&origin, &trust, trim, &notes, &[], None);
        let verifier = verifier.map_err(Error::internal)?;

        let file = format!("record-{begins:020}-{:020}.jsonl", due.size);
        let path = self.inner.audit.path(SEGMENTS).join(&file);
        let head = head(&origin, &keys, trim, &notes);
        let hash = self.write_segment(&path, head, verifier, begins - 1, due.size).await?;

        let checkpoint = Checkpoint::read(&due.note).map_err(Error::internal)?;
        let frontier = Frontier::from_bytes(due.size, &due.frontier);
        let Some(frontier) = frontier.filter(|frontier| frontier.root() == checkpoint.root) else {
            return Err(Error::internal("the tree of a checkpoint is not the one that was signed"));
        };
        let held = self.inner.sealing.lock().await;
        let Some(sealing) = held.as_ref() else { return Ok(false) };
        let (size, lease) = (sealing.chain.size(), sealing.lease.clone());
        let trim = Trim { origin, size, upto: due.size, hash, frontier };
        let note = trim.signed(&sealing.key);
        drop(held);

        let root = crate::launch::hex(&checkpoint.root);
        let data = json!({ "begins": begins, "upto": due.size, "root": root, "file": file });
        let event = NewEvent::new("node.record_trimmed", data);
        let by = self.by(&Caller::daemon(), None);
        let (node, at) = (self.inner.node.id, self.now());
        let trim = RecordTrim { begins, upto: due.size, note, file, node, at };
        failpoint("trim_before_commit");
        store.trim_add(&lease, &trim, &event, by).await?;
        failpoint("trim_committed");
        self.inner.relay_wake.notify_one();
        Ok(true)
    }

    /// Writes what is sealed after a position to a file that is not the final one yet, and verifies
    /// it as it is written. Answers the hash of the last record.
    async fn write_segment(
        &self,
        path: &Path,
        head: String,
        mut verifier: Verifier,
        mut after: u64,
        upto: u64,
    ) -> Result<[u8; 32], Error> {
        let new = unfinished(path);
        let mut file = on_disk(move || {
            let directory = new.parent().unwrap_or(&new);
            if !directory.exists() {
                std::fs::create_dir(directory)?;
                sync_directory(directory)?;
            }
            let mut file =
                File::options().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(head.as_bytes())?;
            Ok(file)
        })
        .await?;
        let mut hash = None;
        while after < upto {
            let rows = self.inner.store.audit_records(after, PAGE).await?;
            let mut lines = Vec::new();
            for row in rows.iter().take_while(|row| row.position <= upto) {
                row.write_line(&mut lines);
                (after, hash) = (row.position, row.hash);
            }
            if lines.is_empty() {
                break;
            }
            (file, verifier) = on_disk(move || {
                verifier.lines(&lines, 1).map_err(io::Error::other)?;
                file.write_all(&lines)?;
                Ok((file, verifier))
            })
            .await?;
        }
        verifier.end().map_err(Error::internal)?;
        let path = path.to_owned();
        on_disk(move || {
            file.sync_all()?;
            sync_directory(&path)
        })
        .await?;
        hash.filter(|_| after == upto)
            .ok_or_else(|| Error::internal(format!("the record ends at {after}, before {upto}")))
    }
}

/// The lines before those of the records.
fn head(origin: &str, keys: &[AuditKey], trim: Option<&str>, notes: &[String]) -> String {
    let mut head = line(&Line::StratavoreRecord { origin: origin.into() });
    for first in keys.iter().take(1) {
        head.push_str(&line(&Line::Key(first.public.clone())));
    }
    for change in keys.iter().filter_map(|key| key.change.clone()) {
        head.push_str(&line(&Line::KeyChange(change)));
    }
    if let Some(trim) = trim {
        head.push_str(&line(&Line::Trimmed(trim.into())));
    }
    for note in notes {
        head.push_str(&line(&Line::Checkpoint(note.clone())));
    }
    head
}

/// Works with a file, on a thread that may wait for the disk.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(Error::internal)?.map_err(Error::internal)
}

/// What a file is called before the trim is on the record.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Makes the names in the directory of a file durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
