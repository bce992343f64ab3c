//! The code that a daemon gives each event it writes, so that nobody else can change one before it
//! is sealed.
//!
//! Invariant: the key of a day cannot be told from the key of a later one, and is gone from the disk
//! before the later one is used: who steals a key can write nothing into the days before.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{hex, unhex};

/// A day has this many microseconds, and begins by UTC.
const DAY_US: i64 = 86_400_000_000;

/// The key of one day. The next day's is made of it; it cannot be made of the next day's.
#[derive(Clone)]
pub struct MacKey {
    /// Names the first key, and with it all that are made of it.
    id: String,
    /// Since 1970.
    day: i64,
    key: [u8; 32],
}

/// Why an event could not be given a code.
#[derive(Debug, thiserror::Error)]
#[error("keep the key of the record's codes in {path}")]
pub struct MacError {
    path: String,
    source: io::Error,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    id: String,
    day: i64,
    key: String,
}

impl MacKey {
    pub fn new(entropy: [u8; 32], at_us: i64) -> Self {
        let id = hex(&Sha256::digest(entropy)[..4]);
        Self { id, day: at_us.div_euclid(DAY_US), key: entropy }
    }

    /// The key of the day of `at_us`, or this one if that day is over.
    fn at(&self, at_us: i64) -> Self {
        let mut key = self.clone();
        while key.day < at_us.div_euclid(DAY_US) {
            let next = sign(&key.key, b"stratavore audit: the key of the next day");
            key = Self { id: key.id, day: key.day + 1, key: next };
        }
        key
    }

    fn code(&self, content: &[u8]) -> String {
        format!("{}.{}:{}", self.id, self.day, hex(&sign(&self.key, content)))
    }

    /// Whether `code` is that of `content`. `None`: it was made with another daemon's key, or with
    /// one of an earlier day than this.
    pub fn judges(&self, content: &[u8], code: &str) -> Option<bool> {
        let (name, _) = code.split_once(':')?;
        let (id, day) = name.split_once('.')?;
        let day: i64 = day.parse().ok()?;
        if id != self.id || day < self.day || day - self.day > 366_000 {
            return None;
        }
        Some(self.at(day.saturating_mul(DAY_US)).code(content) == code)
    }

    pub fn parse(text: &str) -> Option<Self> {
        let kept: Kept = serde_json::from_str(text).ok()?;
        Some(Self { key: unhex(kept.key.as_bytes())?, id: kept.id, day: kept.day })
    }

    fn text(&self) -> String {
        let kept = Kept { id: self.id.clone(), day: self.day, key: hex(&self.key) };
        serde_json::to_string(&kept).expect("three plain fields are JSON") + "\n"
    }
}

fn sign(key: &[u8; 32], text: &[u8]) -> [u8; 32] {
    let mut code = [0; 32];
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    code.copy_from_slice(tag.as_ref());
    code
}

/// Gives codes to the events of one daemon. Its key stands in a file that only the owner reads.
pub struct Writer {
    path: PathBuf,
    key: Mutex<MacKey>,
}

impl Writer {
    /// Takes the key of an earlier daemon of the same state directory, or makes one.
    pub fn open(path: &Path, entropy: [u8; 32], at_us: i64) -> Result<Self, MacError> {
        let failed = |source| MacError { path: path.display().to_string(), source };
        let key = match std::fs::read_to_string(path) {
            Ok(text) => {
                MacKey::parse(&text).ok_or_else(|| failed(io::Error::other("it is damaged")))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = MacKey::new(entropy, at_us);
                write_private(path, key.text().as_bytes()).map_err(failed)?;
                key
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { path: path.into(), key: Mutex::new(key) })
    }

    /// The code of an event that happened at `at_us`. The first one of a day makes that day's key.
    pub fn code(&self, content: &[u8], at_us: i64) -> Result<String, MacError> {
        let mut key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        if key.day < at_us.div_euclid(DAY_US) {
            let next = key.at(at_us);
            write_private(&self.path, next.text().as_bytes())
                .map_err(|source| MacError { path: self.path.display().to_string(), source })?;
            *key = next;
        }
        Ok(key.code(content))
    }

    /// Whether `code` is that of `content`. `None`: another daemon wrote it, or on another day.
    pub fn judges(&self, content: &[u8], code: &str) -> Option<bool> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).judges(content, code)
    }
}

/// Replaces a file that only the owner reads, whole or not at all, and lastingly.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_day_judges_that_day_and_later_ones() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("mac");
        let first = MacKey::new([7; 32], 0);
        let writer = Writer::open(&path, [7; 32], 0).unwrap();
        let monday = writer.code(b"a", 1).unwrap();
        let thief = MacKey::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let wednesday = writer.code(b"b", 2 * DAY_US).unwrap();
        assert_ne!(std::fs::read_to_string(&path).unwrap(), thief.text(), "the old key is gone");
        for key in [&first, &thief] {
            assert_eq!(key.judges(b"a", &monday), Some(true));
            assert_eq!(key.judges(b"b", &wednesday), Some(true));
            assert_eq!(key.judges(b"c", &wednesday), Some(false));
        }
        assert_eq!(writer.judges(b"a", &monday), None, "the key of that day is gone");
        // A clock that is set back does not bring a key back.
        assert!(writer.code(b"c", 5).unwrap().contains(".2:"));
        let again = Writer::open(&path, [9; 32], 0).unwrap();
        assert_eq!(again.judges(b"b", &wednesday), Some(true), "the next daemon has the same key");
        let mode = std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }
}
