//! Taking in a file that grows, and reading it back.
//!
//! A piece is put into the vault before the database says so. Whoever dies in between leaves a blob
//! that nobody names, which is tidied up; whoever is second finds that the file has been taken in
//! further, and goes on from there.
//!
//! Invariant: what is read back of a version is what its file held, byte for byte.
//! Invariant: a file that is no longer what was taken in begins a new version; the old one stays.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use stratavore_core::transcript::{FileMark, HEAD_MAX, Transcript};
use stratavore_core::{NodeId, SessionId, Timestamp, TranscriptId};
use stratavore_store::{BlobRow, KeptSegment, Store, StoreError};
use stratavore_vault::{BLOB_MAX, Vault, digest};

use crate::error::Error;

/// A file that still grows is taken in once so much of it is new.
pub(crate) const PIECE_MIN: u64 = 64 << 10;
/// The most that is taken in at once.
const PIECE_MAX: u64 = 1 << 20;
/// So many pieces become one, of each of these sizes.
const MERGED_AT_ONCE: u32 = 16;
const SIZES: [u64; 2] = [1 << 20, 16 << 20];
/// How often it is begun anew because somebody else was first.
const CONFLICTS: usize = 8;

/// How much care is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// It grows: what is new is taken in once that is worth a piece.
    WhileItGrows,
    /// It pauses: what is new is taken in, however little that is.
    Now,
    /// It is over: the same, and all that was taken in before is compared with what the file holds.
    ToItsEnd,
}

/// What has come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// How many bytes are new.
    pub bytes: u64,
    /// How many bytes of the file are here.
    pub size: u64,
    pub version: u64,
}

/// Takes files of one host into its vault.
#[derive(Clone)]
pub(crate) struct Intake {
    pub(crate) store: Store,
    pub(crate) vault: Vault,
    pub(crate) node: NodeId,
    /// What its blobs are listed under.
    pub(crate) name: String,
    /// 16 random bytes.
    pub(crate) entropy: Arc<dyn Fn() -> [u8; 16] + Send + Sync>,
}

impl Intake {
    /// Takes in what is new of a file.
    pub(crate) async fn take_in(
        &self,
        session: SessionId,
        path: &Path,
        care: Care,
        now: Timestamp,
    ) -> Result<Taken, Error> {
        let mut last = None;
        for _ in 0..CONFLICTS {
            match self.take_in_once(session, path, care, now).await {
                Err(Error::Store(error @ StoreError::Conflict { .. })) => last = Some(error),
                answer => return answer,
            }
        }
        Err(last.map_or_else(|| Error::internal("no attempt was made"), Error::from))
    }

    async fn take_in_once(
        &self,
        session: SessionId,
        path: &Path,
        care: Care,
        now: Timestamp,
    ) -> Result<Taken, Error> {
        let shown = path.to_string_lossy().into_owned();
        let latest = self.store.transcript_latest(self.node, &shown).await?;
        let Some(file) = read(path, SourceFile::open).await? else {
            // It is gone; what is here stays.
            return Ok(latest.map(|known| taken(&known, 0)).unwrap_or_default());
        };
        let file = Arc::new(file);
        let fresh = |version| Transcript {
            id: TranscriptId::from_entropy((self.entropy)()),
            session,
            node: self.node,
            path: shown.clone(),
            version,
            identity: file.mark.clone(),
            size: 0,
            created_at: now,
            updated_at: now,
            is_replaced: false,
        };
        let mut seen = match latest {
            None if file.size == 0 => return Ok(Taken::default()),
            None => self.begun(fresh(1)).await?,
            // Not worth a look into it.
            Some(known) if care == Care::WhileItGrows && file.is_little_more_than(&known) => {
                return Ok(taken(&known, 0));
            }
            Some(known) if self.is_same(&known, &file, path, care).await? => known,
            Some(known) => self.begun(fresh(known.version + 1)).await?,
        };
        let begin = seen.size;
        let new = file.size.saturating_sub(begin);
        if new == 0 || (new < PIECE_MIN && care == Care::WhileItGrows) {
            return Ok(taken(&seen, 0));
        }
        while seen.size < file.size {
            let length = (file.size - seen.size).min(PIECE_MAX);
            let (source, offset) = (file.clone(), seen.size);
            let bytes = read(path, move |_| source.piece(offset, length)).await?;
            // It was cut short while it was read: the next look begins a new version.
            let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else { break };
            let row = self.put(bytes).await?;
            seen = self.store.transcript_append(&seen, &row, &file.mark, now).await?;
            self.merge(&seen, now).await?;
        }
        Ok(taken(&seen, seen.size - begin))
    }

    /// Takes in a document as a whole: what differs from the latest version of that name is the next one.
    pub(crate) async fn take_in_document(
        &self,
        session: SessionId,
        name: &str,
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<Taken, Error> {
        let latest = self.store.transcript_latest(self.node, name).await?;
        let size = bytes.len() as u64;
        if let Some(known) = latest.as_ref().filter(|known| known.size == size) {
            let segments = self.store.transcript_segments(known.id).await?;
            let is_same = |kept: &KeptSegment| {
                let begin = usize::try_from(kept.segment.offset).unwrap_or(usize::MAX);
                let length = usize::try_from(kept.segment.length).unwrap_or(usize::MAX);
                let piece = bytes.get(begin..begin.saturating_add(length));
                piece.is_some_and(|piece| digest(piece) == kept.segment.blob)
            };
            if known.session == session && segments.iter().all(is_same) {
                self.store.transcript_seen(known.id, now).await?;
                return Ok(taken(known, 0));
            }
        }
        let head = &bytes[..bytes.len().min(HEAD_MAX)];
        let mark = FileMark {
            file: "document".into(),
            head: digest(head),
            head_length: head.len() as u64,
        };
        let mut seen = self
            .begun(Transcript {
                id: TranscriptId::from_entropy((self.entropy)()),
                session,
                node: self.node,
                path: name.into(),
                version: latest.map_or(1, |known| known.version + 1),
                identity: mark.clone(),
                size: 0,
                created_at: now,
                updated_at: now,
                is_replaced: false,
            })
            .await?;
        for piece in bytes.chunks(usize::try_from(PIECE_MAX).unwrap_or(usize::MAX)) {
            let row = self.put(piece.to_vec()).await?;
            seen = self.store.transcript_append(&seen, &row, &mark, now).await?;
            self.merge(&seen, now).await?;
        }
        Ok(taken(&seen, size))
    }

    async fn begun(&self, new: Transcript) -> Result<Transcript, Error> {
        self.store.transcript_begin(&new).await?;
        Ok(new)
    }

    /// Puts bytes into the vault.
    pub(crate) async fn put(&self, bytes: Vec<u8>) -> Result<BlobRow, Error> {
        let kept = self.vault.put(bytes).await?;
        Ok(BlobRow {
            store: self.name.clone(),
            digest: kept.digest,
            length: kept.length,
            stored: kept.stored,
        })
    }

    /// Whether a file is the one that was taken in, and still has what was taken in of it: how it
    /// begins and its last piece, or all of it.
    async fn is_same(
        &self,
        known: &Transcript,
        file: &Arc<SourceFile>,
        path: &Path,
        care: Care,
    ) -> Result<bool, Error> {
        let mark = &known.identity;
        if mark.file != file.mark.file || file.size < known.size {
            return Ok(false);
        }
        let compared = match care {
            Care::ToItsEnd => self.store.transcript_segments(known.id).await?,
            Care::Now | Care::WhileItGrows => {
                self.store.transcript_last_segments(known.id, 1).await?
            }
        };
        let (file, mark) = (file.clone(), mark.clone());
        let same = read(path, move |_| {
            let has = |offset, length, wanted| {
                file.piece(offset, length).map(|bytes| digest(&bytes) == wanted)
            };
            if !has(0, mark.head_length, mark.head)? {
                return Ok(false);
            }
            for KeptSegment { segment, .. } in compared {
                if !has(segment.offset, segment.length, segment.blob)? {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        Ok(same.await?.unwrap_or(false))
    }

    /// Makes one piece of the last ones, if they are many and small: a long conversation has some
    /// dozens of blobs so, and each of its bytes is written three times at most.
    async fn merge(&self, seen: &Transcript, now: Timestamp) -> Result<(), Error> {
        let mut floor = 0;
        for size in SIZES {
            let last = self.store.transcript_last_segments(seen.id, MERGED_AT_ONCE).await?;
            let length: u64 = last.iter().map(|kept| kept.segment.length).sum();
            let is_due = last.len() == MERGED_AT_ONCE as usize
                && length <= BLOB_MAX as u64
                && last.iter().all(|kept| (floor..size).contains(&kept.segment.length));
            if is_due {
                let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
                for kept in &last {
                    bytes.extend(self.piece(kept).await?);
                }
                let row = self.put(bytes).await?;
                match self.store.transcript_merge(seen.id, &last, &row, now).await {
                    // Somebody else did, or has added to it: the next piece is the next try.
                    Err(StoreError::Conflict { .. }) => return Ok(()),
                    merged => merged?,
                }
            }
            floor = size;
        }
        Ok(())
    }

    /// The bytes of a piece, of this vault or of another one in the same place.
    pub(crate) async fn piece(&self, kept: &KeptSegment) -> Result<Vec<u8>, Error> {
        if kept.store == self.name {
            return Ok(self.vault.get(kept.segment.blob).await?);
        }
        let found = self.vault.get_of(&kept.store, kept.segment.blob).await?;
        found.ok_or_else(|| Error::Absent {
            message: format!("a part of it is in the vault of {}", kept.store),
            hint: "ask the daemon of that node".into(),
        })
    }
}

/// True if a file of this host has what was taken in of one, be it here or elsewhere; `whole`: and nothing
/// more.
pub(crate) async fn holds(
    path: &Path,
    size: u64,
    segments: Vec<KeptSegment>,
    whole: bool,
) -> Result<bool, Error> {
    let same = read(path, move |path| {
        let file = SourceFile::open(path)?;
        if file.size < size || (whole && file.size != size) {
            return Ok(false);
        }
        for KeptSegment { segment, .. } in segments {
            if digest(&file.piece(segment.offset, segment.length)?) != segment.blob {
                return Ok(false);
            }
        }
        Ok(true)
    });
    Ok(same.await?.unwrap_or(false))
}

fn taken(transcript: &Transcript, bytes: u64) -> Taken {
    Taken { bytes, size: transcript.size, version: transcript.version }
}

/// A file as it is now.
struct SourceFile {
    file: File,
    size: u64,
    mark: FileMark,
}

impl SourceFile {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        let file =
            OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        let size = found.len();
        let mut head = vec![0; usize::try_from(size).unwrap_or(HEAD_MAX).min(HEAD_MAX)];
        let length = read_at(&file, &mut head, 0)?;
        let mark = FileMark {
            file: format!("{}:{}", found.dev(), found.ino()),
            head: digest(&head[..length]),
            head_length: length as u64,
        };
        Ok(Self { file, size, mark })
    }

    /// It is the same file by its place on the disk, and has hardly grown.
    fn is_little_more_than(&self, known: &Transcript) -> bool {
        self.mark.file == known.identity.file
            && (known.size..known.size + PIECE_MIN).contains(&self.size)
    }

    /// A piece of it, or as much of that as there is.
    fn piece(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        let found = read_at(&self.file, &mut bytes, offset)?;
        bytes.truncate(found);
        Ok(bytes)
    }
}

fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut found = 0;
    while found < bytes.len() {
        match file.read_at(&mut bytes[found..], offset + found as u64) {
            Ok(0) => break,
            Ok(read) => found += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Reads of a file, in a thread that may wait. `None`: it is not there.
async fn read<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<Option<T>, Error> {
    let owned = path.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&owned)).await.map_err(Error::internal)?;
    match done {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::Absent {
            message: format!(
                "{} cannot be read: {error}",
                path.display().to_string().escape_debug()
            ),
            hint: "a transcript is a regular file that the daemon's user may read".into(),
        }),
    }
}

#[cfg(test)]
mod tests;
