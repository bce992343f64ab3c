//! Transcripts: the files that assistants write their conversations to, as they are kept here.
//!
//! A file that grows is taken in piece by piece, from where the last piece has ended. One that was
//! cut short, or is another one under its old name, begins a new version; what was taken in of the
//! old one stays.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{NodeId, SessionId, TranscriptId};

/// The first bytes of a file by which it is known again.
pub const HEAD_MAX: usize = 4 << 10;

/// The SHA-256 of some bytes, by which they are found. Written in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no SHA-256: it has 64 hexadecimal digits in lower case", .0.escape_debug())]
pub struct NoDigest(String);

impl FromStr for Digest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        let digits = text.as_bytes();
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        let is_good = digits.len() == 64
            && bytes.iter_mut().zip(digits.chunks(2)).all(|(byte, two)| {
                match (value(two[0]), value(two[1])) {
                    (Some(high), Some(low)) => {
                        *byte = high << 4 | low;
                        true
                    }
                    (None, _) | (_, None) => false,
                }
            });
        if is_good { Ok(Self(bytes)) } else { Err(NoDigest(text.into())) }
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// By what a file is known to be the one that it was: its place on the disk, and how it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMark {
    /// The device and the inode.
    pub file: String,
    /// The digest of its first bytes, and how many they are: at most [`HEAD_MAX`].
    pub head: Digest,
    pub head_length: u64,
}

/// One version of a file, as far as it was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    pub id: TranscriptId,
    pub session: SessionId,
    /// The host that the file is on, or was imported on.
    pub node: NodeId,
    /// Untrusted text.
    pub path: String,
    /// From 1, for each path.
    pub version: u64,
    pub identity: FileMark,
    /// How much of it is here.
    pub size: u64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// There is a newer version.
    pub is_replaced: bool,
}

/// A piece of a transcript, and the blob that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub offset: u64,
    pub length: u64,
    pub blob: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_back_as_it_was_written() {
        let mut bytes = [7; 32];
        bytes[0] = 0xf0;
        let text = Digest(bytes).to_string();
        assert!(text.starts_with("f007"));
        assert_eq!(text.parse(), Ok(Digest(bytes)));
        for wrong in ["", "f0", &text.to_uppercase(), &"g".repeat(64), &"é".repeat(32)] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }
}
