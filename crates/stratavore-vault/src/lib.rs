//! Where transcripts are kept: blobs by the SHA-256 of their bytes, compressed; in a directory, or, with
//! the feature `s3`, in a bucket.
//!
//! It knows bytes and digests. Which blob is which piece of which file, and which are still named by
//! anybody, is in the database.
//!
//! Invariant: what is read has the digest that it was asked for by, or nothing is answered.
//! Invariant: once a blob is said to be kept, it outlives a loss of power.
//! Invariant: a blob that is being put there again is not removed at the same time.

mod directory;
mod pack;
#[cfg(feature = "s3")]
mod s3;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use stratavore_core::transcript::Digest;

use crate::directory::Directory;
#[cfg(feature = "s3")]
pub use crate::s3::{Credentials, ReadCredentials, S3Settings};

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
    /// Of a bucket: what was answered, or that nothing was.
    #[error("{doing} ({place}): {why}")]
    Bucket { doing: &'static str, place: String, why: String },
    #[error("the work on the vault was cut off")]
    CutOff(#[source] tokio::task::JoinError),
}

/// A blob that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub digest: Digest,
    pub length: u64,
    /// What it takes where it is kept.
    pub stored: u64,
    /// It was there already.
    pub is_old: bool,
}

/// The digest of some bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// How many bytes there are, if they are not too many.
fn checked(bytes: &[u8]) -> Result<u64, VaultError> {
    if bytes.len() > BLOB_MAX {
        Err(VaultError::TooLong(bytes.len()))
    } else {
        Ok(bytes.len() as u64)
    }
}

/// Where the blobs are.
#[derive(Debug, Clone)]
enum Place {
    Directory(Arc<Directory>),
    #[cfg(feature = "s3")]
    Bucket(Arc<s3::Bucket>),
}

/// A place of blobs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault {
    place: Place,
}

/// Asks the place, whichever it is: a directory in a thread that may wait.
macro_rules! at {
    ($vault:expr, $method:ident($($argument:expr),*)) => {
        match &$vault.place {
            Place::Directory(directory) => {
                blocking(directory, move |directory| directory.$method($($argument),*)).await
            }
            #[cfg(feature = "s3")]
            Place::Bucket(bucket) => bucket.$method($($argument),*).await,
        }
    };
}

impl Vault {
    /// Opens a directory, which is made if it is not there, for its owner only.
    pub fn open(directory: PathBuf) -> Result<Self, VaultError> {
        Ok(Self { place: Place::Directory(Arc::new(Directory::open(directory)?)) })
    }

    /// Opens a part of a bucket that one vault alone writes to. What a vault in `before` has stays
    /// readable.
    ///
    /// Nobody is asked yet.
    #[cfg(feature = "s3")]
    pub fn open_bucket(settings: S3Settings, before: PathBuf) -> Result<Self, VaultError> {
        Ok(Self { place: Place::Bucket(Arc::new(s3::Bucket::open(settings, before)?)) })
    }

    /// Keeps bytes. Those that are there already are not kept twice.
    pub async fn put(&self, bytes: Vec<u8>) -> Result<Kept, VaultError> {
        at!(self, put(&bytes))
    }

    /// The bytes of this digest.
    pub async fn get(&self, digest: Digest) -> Result<Vec<u8>, VaultError> {
        at!(self, get(digest))
    }

    /// True where several vaults are in one place, and each reads what the others have.
    pub fn is_shared(&self) -> bool {
        match &self.place {
            Place::Directory(_) => false,
            #[cfg(feature = "s3")]
            Place::Bucket(_) => true,
        }
    }

    /// The bytes of this digest as the vault of another name has them. `None`: it has none, or not in
    /// this place.
    pub async fn get_of(&self, name: &str, digest: Digest) -> Result<Option<Vec<u8>>, VaultError> {
        match &self.place {
            Place::Directory(_) => {
                let (_, _) = (name, digest);
                Ok(None)
            }
            #[cfg(feature = "s3")]
            Place::Bucket(bucket) => bucket.get_of(name, digest).await,
        }
    }

    /// Blobs with digests after this one, in order, at most so many.
    pub async fn list(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, VaultError> {
        at!(self, list(after, limit))
    }

    /// Puts a blob aside that was not put here since `before`: the first step of removing it.
    /// False: it is young, or not there. Whoever puts it here meanwhile puts it here anew.
    pub async fn set_aside(&self, digest: Digest, before: SystemTime) -> Result<bool, VaultError> {
        at!(self, set_aside(digest, before))
    }

    /// Brings back what was set aside.
    pub async fn bring_back(&self, digest: Digest) -> Result<(), VaultError> {
        at!(self, bring_back(digest))
    }

    /// Removes what was set aside.
    pub async fn discard(&self, digest: Digest) -> Result<(), VaultError> {
        at!(self, discard(digest))
    }

    /// What was set aside and neither discarded nor brought back, by a daemon that died meanwhile.
    pub async fn aside(&self) -> Result<Vec<Digest>, VaultError> {
        at!(self, aside())
    }

    /// Removes what a daemon that died has half written. Nobody may be writing.
    pub async fn tidy(&self) -> Result<(), VaultError> {
        at!(self, tidy())
    }

    /// What is wrong with the place, if the latest attempt at it failed. Of a directory nothing is told.
    pub fn problem(&self) -> Option<String> {
        match &self.place {
            Place::Directory(_) => None,
            #[cfg(feature = "s3")]
            Place::Bucket(bucket) => bucket.problem(),
        }
    }
}

/// Works on a directory, in a thread that may wait.
async fn blocking<T: Send + 'static>(
    directory: &Arc<Directory>,
    work: impl FnOnce(&Directory) -> Result<T, VaultError> + Send + 'static,
) -> Result<T, VaultError> {
    let directory = directory.clone();
    tokio::task::spawn_blocking(move || work(&directory)).await.map_err(VaultError::CutOff)?
}
