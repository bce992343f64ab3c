//! Blobs as files: `blobs/ab/ab12….zst`, written beside and renamed once they are on the disk.
//!
//! When a file was put here last is its time of modification. Putting the same bytes here again
//! renews it, and whoever removes looks at it again after it has taken the file away from its name.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use stratavore_core::transcript::Digest;

use crate::pack::{pack, unpack};
use crate::{Kept, VaultError, checked, digest};

#[derive(Debug)]
pub(crate) struct Directory {
    blobs: PathBuf,
    /// Where files are written before they get their names.
    new: PathBuf,
    aside: PathBuf,
    /// Tells apart what is written at the same time.
    next: AtomicU64,
}

impl Directory {
    /// Whether there is one here already.
    #[cfg(feature = "s3")]
    pub(crate) fn is_there(root: &Path) -> bool {
        root.join("blobs").is_dir()
    }

    pub(crate) fn open(root: PathBuf) -> Result<Self, VaultError> {
        let [blobs, new, aside] = ["blobs", "new", "aside"].map(|name| root.join(name));
        for path in [&root, &blobs, &new, &aside] {
            make(path)?;
        }
        Ok(Self { blobs, new, aside, next: AtomicU64::new(0) })
    }

    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Kept, VaultError> {
        let length = checked(bytes)?;
        let digest = digest(bytes);
        let path = self.path(digest);
        // Renewed before it is read: from now on nobody takes it away.
        if renew(&path)? {
            match self.read(digest) {
                Ok((_, stored)) => return Ok(Kept { digest, length, stored, is_old: true }),
                // One that cannot be read is no reason to lose the bytes that are here.
                Err(VaultError::Damaged { .. } | VaultError::Missing(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let compressed = pack(bytes).map_err(disk("compress a blob", &path))?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let new = self.new.join(format!("{digest}.{}.{number}", std::process::id()));
        let written = self.write(&new, &path, &compressed);
        if written.is_err() {
            fs::remove_file(&new).ok();
        }
        written?;
        Ok(Kept { digest, length, stored: compressed.len() as u64, is_old: false })
    }

    fn write(&self, new: &Path, path: &Path, bytes: &[u8]) -> Result<(), VaultError> {
        let directory = path.parent().unwrap_or(&self.blobs);
        make(directory)?;
        let doing = "write a blob";
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(new)
            .map_err(disk(doing, new))?;
        file.write_all(bytes).map_err(disk(doing, new))?;
        file.sync_all().map_err(disk(doing, new))?;
        fs::rename(new, path).map_err(disk(doing, path))?;
        sync(directory)
    }

    pub(crate) fn get(&self, wanted: Digest) -> Result<Vec<u8>, VaultError> {
        self.read(wanted).map(|(bytes, _)| bytes)
    }

    /// The bytes, and how long their file is. Both are of one opened file, as its name may go
    /// away at any time.
    fn read(&self, wanted: Digest) -> Result<(Vec<u8>, u64), VaultError> {
        let path = self.path(wanted);
        let aside = self.aside.join(wanted.to_string());
        // It may be put aside for a moment, and be brought back.
        let opened = [&path, &aside, &path].into_iter().find_map(|path| match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => Some(opened),
        });
        let file =
            opened.ok_or(VaultError::Missing(wanted))?.map_err(disk("read a blob", &path))?;
        let stored = file.metadata().map_err(disk("look at a blob", &path))?.len();
        let bytes = unpack(file, wanted).map_err(|why| VaultError::Damaged {
            digest: wanted,
            path,
            why,
        })?;
        Ok((bytes, stored))
    }

    pub(crate) fn list(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, VaultError> {
        let after_text = after.map(|digest| digest.to_string()).unwrap_or_default();
        let mut directories = names(&self.blobs)?;
        directories.sort_unstable();
        let mut found = Vec::new();
        for directory in directories {
            if directory.as_str() < after_text.get(..2).unwrap_or_default() {
                continue;
            }
            let mut digests: Vec<Digest> = names(&self.blobs.join(&directory))?
                .iter()
                .filter_map(|name| name.strip_suffix(".zst")?.parse().ok())
                .filter(|digest| after.is_none_or(|after| *digest > after))
                .collect();
            digests.sort_unstable();
            found.extend(digests);
            if found.len() >= limit {
                found.truncate(limit);
                break;
            }
        }
        Ok(found)
    }

    pub(crate) fn set_aside(&self, digest: Digest, before: SystemTime) -> Result<bool, VaultError> {
        let (path, aside) = (self.path(digest), self.aside.join(digest.to_string()));
        let doing = "put a blob aside";
        let is_old = |path: &Path| match path.metadata().and_then(|found| found.modified()) {
            Ok(at) => Ok(at < before),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(disk(doing, path)(error)),
        };
        if !is_old(&path)? {
            return Ok(false);
        }
        match fs::rename(&path, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            renamed => renamed.map_err(disk(doing, &path))?,
        }
        // Somebody may have put it here between the look and the deed.
        if !is_old(&aside)? {
            self.bring_back(digest)?;
            return Ok(false);
        }
        Ok(true)
    }

    pub(crate) fn bring_back(&self, digest: Digest) -> Result<(), VaultError> {
        let (path, aside) = (self.path(digest), self.aside.join(digest.to_string()));
        // If there is a new one by now, it has the same bytes.
        match fs::rename(&aside, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.map_err(disk("bring a blob back", &path)),
        }
    }

    pub(crate) fn discard(&self, digest: Digest) -> Result<(), VaultError> {
        let aside = self.aside.join(digest.to_string());
        match fs::remove_file(&aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(disk("remove a blob", &aside)),
        }
    }

    pub(crate) fn aside(&self) -> Result<Vec<Digest>, VaultError> {
        Ok(names(&self.aside)?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    pub(crate) fn tidy(&self) -> Result<(), VaultError> {
        for name in names(&self.new)? {
            let path = self.new.join(name);
            fs::remove_file(&path).map_err(disk("remove what was half written", &path))?;
        }
        Ok(())
    }

    fn path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.blobs.join(&name[..2]).join(format!("{name}.zst"))
    }
}

/// Makes a file one that was put here just now. False: there is none.
fn renew(path: &Path) -> Result<bool, VaultError> {
    let file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(disk("open a blob", path))?,
    };
    // By the clock that the kernel stamps files with.
    let now = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        last_modification: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
    };
    rustix::fs::futimens(&file, &now).map_err(|e| disk("renew a blob", path)(e.into()))?;
    // It may have been put aside meanwhile: then it is none that is here.
    Ok(path.exists())
}

fn names(directory: &Path) -> Result<Vec<String>, VaultError> {
    let doing = "look into the vault";
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(disk(doing, directory))? {
        let entry = entry.map_err(disk(doing, directory))?;
        // What has another name is none of ours.
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn make(directory: &Path) -> Result<(), VaultError> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(disk("make a directory of the vault", directory)(error)),
        Ok(()) => directory.parent().map_or(Ok(()), sync),
    }
}

fn sync(directory: &Path) -> Result<(), VaultError> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(disk("sync a directory of the vault", directory))
}

fn disk(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VaultError {
    let path = path.to_owned();
    move |source| {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        if full.contains(&source.kind()) {
            return VaultError::Full { path, source };
        }
        VaultError::Disk { doing, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_that_is_aside_for_a_moment_is_read_with_its_length() {
        let root = tempfile::tempdir().unwrap();
        let vault = Directory::open(root.path().join("vault")).unwrap();
        let kept = vault.put(b"bytes").unwrap();
        // Where whoever tidies up has it between the deed and its second look.
        let aside = vault.aside.join(kept.digest.to_string());
        fs::rename(vault.path(kept.digest), aside).unwrap();
        assert_eq!(vault.read(kept.digest).unwrap(), (b"bytes".to_vec(), kept.stored));
    }
}
