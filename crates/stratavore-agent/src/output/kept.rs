//! How much output is kept, and removing the oldest of it from outside of its agent.
//!
//! An agent keeps its own log small. This is for the host's sake: it works by the files alone, beside an
//! agent that writes, and after its end.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{index_path, segment_path, segments};

/// First offset and length of each segment in the `output` directory of a runner, oldest first.
pub fn kept(dir: &Path) -> io::Result<Vec<(u64, u64)>> {
    let mut kept = Vec::new();
    for start in segments(dir)? {
        match fs::metadata(segment_path(dir, start)) {
            // It was removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => kept.push((start, found?.len())),
        }
    }
    Ok(kept)
}

/// Removes the segments that end at or before this offset. Readers are told of the gap, also where
/// nothing is left behind it.
///
/// Not for the segment that an agent writes to just now, which is the last one.
pub fn remove_before(dir: &Path, offset: u64) -> io::Result<()> {
    let kept = kept(dir)?;
    if let Some(end) = kept.last().map(|(start, len)| start + len)
        && end <= offset
        && kept.last().is_some_and(|(_, len)| *len > 0)
    {
        // An empty segment says up to where there was something.
        let path = segment_path(dir, end);
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    }
    for (start, len) in kept {
        if len > 0 && start + len <= offset {
            gone(fs::remove_file(segment_path(dir, start)))?;
            gone(fs::remove_file(index_path(dir, start)))?;
        }
    }
    Ok(())
}

/// Its agent may have removed it, and not every segment has an index.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
