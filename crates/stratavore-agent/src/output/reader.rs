//! Reading output back, by the files alone.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use stratavore_core::Timestamp;

use super::{ENTRY, index_path, segment_path, segments};

/// What stands at an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// Recorded bytes, the first at `offset`. Never empty.
    Data { offset: u64, data: Vec<u8> },
    /// What was there is no longer kept, or could not be recorded. Go on at `to`.
    Gap { from: u64, to: u64 },
    /// Nothing is recorded from here on. If the runner runs, more may come.
    End,
}

/// Reads a runner's output while it is being written, or long after.
#[derive(Debug)]
pub struct OutputReader {
    dir: PathBuf,
    open: Option<(u64, File)>,
}

impl OutputReader {
    /// Reads from the `output` directory of a runner. It need not exist yet.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, open: None }
    }

    /// What stands at `from`, at most `max` bytes of it.
    pub fn read(&mut self, from: u64, max: usize) -> io::Result<Chunk> {
        // Mostly, reading goes on in the segment that was read last.
        if let Some((start, file)) = &self.open
            && *start <= from
            && let Some(chunk) = read_at(*start, file, from, max)?
        {
            return Ok(chunk);
        }
        // A segment may be removed between being listed and being opened: then look again.
        for _ in 0..8 {
            let starts = segments(&self.dir)?;
            let after = starts.iter().copied().find(|start| *start > from);
            let Some(start) = starts.iter().copied().rfind(|start| *start <= from) else {
                return Ok(after.map_or(Chunk::End, |to| Chunk::Gap { from, to }));
            };
            let file = match File::open(segment_path(&self.dir, start)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            // A segment that has a successor was complete when that was listed, so what is
            // missing at its end really is missing.
            let chunk = read_at(start, &file, from, max)?;
            self.open = Some((start, file));
            return Ok(match (chunk, after) {
                (Some(chunk), _) => chunk,
                (None, Some(to)) => Chunk::Gap { from, to },
                (None, None) => Chunk::End,
            });
        }
        Err(io::Error::other("the output's segments are removed faster than they are read"))
    }

    /// The offset of the oldest byte that is kept, and of the byte after the last one.
    pub fn bounds(&self) -> io::Result<(u64, u64)> {
        let starts = segments(&self.dir)?;
        let (Some(&first), Some(&last)) = (starts.first(), starts.last()) else {
            return Ok((0, 0));
        };
        let len = match fs::metadata(segment_path(&self.dir, last)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            other => other?.len(),
        };
        Ok((first, last + len))
    }

    /// An offset at or shortly before which the output of `time` begins: all that came at `time`
    /// or later stands after it. `None` if nothing that old or older is kept.
    pub fn offset_at(&self, time: Timestamp) -> io::Result<Option<u64>> {
        let time = time.as_microsecond();
        for start in segments(&self.dir)?.into_iter().rev() {
            let index = match fs::read(index_path(&self.dir, start)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let entries = index.chunks_exact(ENTRY).map(|entry| {
                let (at, offset) = entry.split_at(ENTRY / 2);
                let at = i64::from_le_bytes(at.try_into().expect("half an entry is 8 bytes"));
                (at, u64::from_le_bytes(offset.try_into().expect("half an entry is 8 bytes")))
            });
            if let Some((_, offset)) = entries.take_while(|(at, _)| *at <= time).last() {
                return Ok(Some(offset));
            }
        }
        Ok(None)
    }
}

/// What `file` has at `from`; `None` if it ends before.
fn read_at(start: u64, file: &File, from: u64, max: usize) -> io::Result<Option<Chunk>> {
    let mut data = vec![0; max.max(1)];
    let n = file.read_at(&mut data, from - start)?;
    if n == 0 {
        return Ok(None);
    }
    data.truncate(n);
    Ok(Some(Chunk::Data { offset: from, data }))
}
