//! What an export holds: one JSON object a line.
//!
//! The lines of records come in the order of their positions, after the log's name, the keys and the
//! checkpoints. A record's canonical text stands in its line to the byte, so it is hashed where it
//! lies.

use serde::{Deserialize, Serialize};

use crate::chain::Hash;
use crate::{hex, unhex};

/// A line that is no record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first one: the log's name.
    StratavoreRecord { origin: String },
    /// A public key.
    Key(String),
    /// A key that another one introduces, as a signed note.
    KeyChange(String),
    /// A checkpoint, as a signed note.
    Checkpoint(String),
    /// The records before were moved into files, as a signed note.
    Trimmed(String),
}

/// A record as it stands in its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub position: u64,
    pub hash: Hash,
    /// The code of the daemon that wrote it; empty if it gave none.
    pub mac: &'a [u8],
    pub content: &'a [u8],
}

/// The text of a line that is no record, with its line break.
pub fn line(line: &Line) -> String {
    serde_json::to_string(line).expect("texts are JSON") + "\n"
}

/// Appends the line of a record to `out`.
pub fn record_line(out: &mut Vec<u8>, record: &Record<'_>) {
    out.extend_from_slice(b"{\"position\":");
    out.extend_from_slice(record.position.to_string().as_bytes());
    out.extend_from_slice(b",\"hash\":\"");
    out.extend_from_slice(hex(&record.hash).as_bytes());
    out.extend_from_slice(b"\",\"mac\":\"");
    out.extend_from_slice(record.mac);
    out.extend_from_slice(b"\",\"record\":");
    out.extend_from_slice(record.content);
    out.extend_from_slice(b"}\n");
}

impl<'a> Record<'a> {
    /// Reads a line without its line break. `None`: it is none of a record.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_prefix(b"{\"position\":")?;
        let digits =
            rest.iter().position(|c| !c.is_ascii_digit()).filter(|n| (1..=19).contains(n))?;
        let (position, rest) = rest.split_at(digits);
        let position = position.iter().fold(0, |n: u64, c| n * 10 + u64::from(c - b'0'));
        let rest = rest.strip_prefix(b",\"hash\":\"")?;
        let (hash, rest) = rest.split_at_checked(2 * size_of::<Hash>())?;
        let rest = rest.strip_prefix(b"\",\"mac\":\"")?;
        let end = memchr::memchr(b'"', rest)?;
        let (mac, rest) = rest.split_at(end);
        let content = rest.strip_prefix(b"\",\"record\":")?.strip_suffix(b"}")?;
        (content.starts_with(b"{") && content.ends_with(b"}")).then_some(Self {
            position,
            hash: unhex(hash)?,
            mac,
            content,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back() {
        let record =
            Record { position: 12, hash: [7; 32], mac: b"ab.1:ff", content: b"{\"id\":\"}\"}" };
        let mut text = Vec::new();
        record_line(&mut text, &record);
        serde_json::from_slice::<serde_json::Value>(&text).expect("it is JSON");
        let whole = text.strip_suffix(b"\n").unwrap();
        assert_eq!(Record::parse(whole), Some(record));
        for cut in 0..whole.len() {
            assert_eq!(Record::parse(&whole[..cut]), None, "cut at {cut}");
        }
        let origin = Line::StratavoreRecord { origin: "a".into() };
        assert_eq!(serde_json::from_str::<Line>(&line(&origin)).unwrap(), origin);
    }
}
