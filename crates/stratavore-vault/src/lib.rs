//! Where transcripts are kept: blobs by the SHA-256 of their bytes, compressed.
//!
//! It knows bytes and digests. Which blob is which piece of which file, and which are still named by
//! anybody, is in the database.
//!
//! Invariant: what is read has the digest that it was asked for by, or nothing is answered.
//! Invariant: once a blob is said to be kept, it outlives a loss of power.
//! Invariant: a blob that is being put there again is not removed at the same time.

mod directory;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use stratavore_core::transcript::Digest;

use crate::directory::Directory;

/// The most bytes of one blob.
pub const BLOB_MAX: usize = 64 << 20;

/// Why a blob is not kept, or not read.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("a blob of {0} bytes is too long: the limit is {BLOB_MAX}")]
    TooLong(usize),
    #[error("blob {0} is not in the vault")]
    Missing(Digest),
    #[error("blob {digest} is damaged ({path}): {why}; restore the file from a backup")]
    Damaged { digest: Digest, path: PathBuf, why: String },
    #[error("no space is left for the vault ({path})")]
    Full { path: PathBuf, source: io::Error },
    #[error("{doing} ({path})")]
    Disk { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the work on the vault was cut off")]
    CutOff(#[source] tokio::task::JoinError),
}

/// A blob that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub digest: Digest,
    pub length: u64,
    /// What it takes on the disk.
    pub stored: u64,
    /// It was there already.
    pub is_old: bool,
}

/// The digest of some bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// A directory of blobs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault {
    directory: Arc<Directory>,
}

impl Vault {
    /// Opens a directory, which is made if it is not there, for its owner only.
    pub fn open(directory: PathBuf) -> Result<Self, VaultError> {
        Ok(Self { directory: Arc::new(Directory::open(directory)?) })
    }

    /// Keeps bytes. Those that are there already are not kept twice.
    pub async fn put(&self, bytes: Vec<u8>) -> Result<Kept, VaultError> {
        self.blocking(move |directory| directory.put(&bytes)).await
    }

    /// The bytes of this digest.
    pub async fn get(&self, digest: Digest) -> Result<Vec<u8>, VaultError> {
        self.blocking(move |directory| directory.get(digest)).await
    }

    /// Blobs with digests after this one, in order, at most so many.
    pub async fn list(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, VaultError> {
        self.blocking(move |directory| directory.list(after, limit)).await
    }

    /// Puts a blob aside that was not put here since `before`: the first step of removing it.
    /// False: it is young, or not there. Whoever puts it here meanwhile puts it here anew.
    pub async fn set_aside(&self, digest: Digest, before: SystemTime) -> Result<bool, VaultError> {
        self.blocking(move |directory| directory.set_aside(digest, before)).await
    }

    /// Brings back what was set aside.
    pub async fn bring_back(&self, digest: Digest) -> Result<(), VaultError> {
        self.blocking(move |directory| directory.bring_back(digest)).await
    }

    /// Removes what was set aside.
    pub async fn discard(&self, digest: Digest) -> Result<(), VaultError> {
        self.blocking(move |directory| directory.discard(digest)).await
    }

    /// What was set aside and neither discarded nor brought back, by a daemon that died meanwhile.
    pub async fn aside(&self) -> Result<Vec<Digest>, VaultError> {
        self.blocking(Directory::aside).await
    }

    /// Removes what a daemon that died has half written. Nobody may be writing.
    pub async fn tidy(&self) -> Result<(), VaultError> {
        self.blocking(Directory::tidy).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> Result<T, VaultError> + Send + 'static,
    ) -> Result<T, VaultError> {
        let directory = self.directory.clone();
        tokio::task::spawn_blocking(move || work(&directory)).await.map_err(VaultError::CutOff)?
    }
}
