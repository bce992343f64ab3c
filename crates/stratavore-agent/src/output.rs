//! The recorded output of a runner: segment files in which every byte has a fixed offset.
//!
//! A segment is named by the offset of its first byte and goes on without a hole. Where the next
//! one does not begin at its end, output is missing: it was removed to keep the whole small, or it
//! could not be written. Readers are told of both as a gap.
//!
//! `OutputLog` writes, and only the agent has one. [`OutputReader`] needs nothing but the files,
//! so ended runners are read with it too.
//!
//! Invariant: a byte's offset never changes, and no two bytes have the same.
//! Invariant: what is read is what was written, or it is told that it is missing.

mod kept;
mod log;
mod reader;

pub use kept::{kept, remove_before};
pub(crate) use log::{Appended, Missing, OutputLog};
pub use reader::{Chunk, OutputReader};

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The bytes of an entry of a time index.
const ENTRY: usize = 16;

fn segment_path(dir: &Path, start: u64) -> PathBuf {
    dir.join(format!("{start:020}.log"))
}

fn index_path(dir: &Path, start: u64) -> PathBuf {
    dir.join(format!("{start:020}.idx"))
}

/// The first offsets of all segments, ascending.
fn segments(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut starts = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let start: Option<u64> = name
            .to_str()
            .and_then(|name| name.strip_suffix(".log"))
            .and_then(|start| start.parse().ok());
        starts.extend(start);
    }
    starts.sort_unstable();
    Ok(starts)
}

#[cfg(test)]
mod tests;
