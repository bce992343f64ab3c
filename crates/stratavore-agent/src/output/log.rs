//! Writing output down.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use stratavore_core::Timestamp;

use super::{index_path, kept, segment_path};

/// How long after a failed write the next one is tried, in microseconds.
const RETRY: i64 = 250_000;
/// The time between two entries of the time index, in microseconds.
const INDEX_EVERY: i64 = 1_000_000;

/// Output that could not be written, from one offset to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    pub from: u64,
    pub to: u64,
    pub why: String,
}

/// What came of appending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Appended {
    Recorded,
    /// This could not be written, or only its beginning; the text is why, told once an episode.
    Lost(Option<String>),
    /// It is recorded again, and this is what is missing before it.
    Recovered(Missing),
}

/// The writer of one runner's output.
#[derive(Debug)]
pub(crate) struct OutputLog {
    dir: PathBuf,
    segment_bytes: u64,
    max_bytes: u64,
    /// The offset of the next byte.
    end: u64,
    /// First offset and length of each segment but the current one, oldest first.
    older: Vec<(u64, u64)>,
    current: Option<Segment>,
    hole: Option<Hole>,
}

#[derive(Debug)]
struct Segment {
    start: u64,
    len: u64,
    file: File,
    index: Option<File>,
    indexed_at: Option<i64>,
}

#[derive(Debug)]
struct Hole {
    from: u64,
    why: String,
    tried_at: i64,
}

impl OutputLog {
    /// Goes on after what is there. `end`: where a log that is still known in memory ended, which
    /// may be beyond the last byte on the disk.
    pub(crate) fn open(
        dir: PathBuf,
        segment_bytes: u64,
        max_bytes: u64,
        end: Option<u64>,
    ) -> io::Result<Self> {
        let older = kept(&dir)?;
        let recorded = older.last().map_or(0, |(start, len)| start + len);
        let end = end.unwrap_or(recorded).max(recorded);
        Ok(Self {
            dir,
            segment_bytes: segment_bytes.max(1),
            max_bytes,
            end,
            older,
            current: None,
            hole: None,
        })
    }

    /// The offset of the next byte: how many there ever were.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Appends `data`, or as much of it as can be written; the offsets count all of it.
    pub(crate) fn append(&mut self, data: &[u8], now: Timestamp) -> Appended {
        let now = now.as_microsecond();
        if let Some(hole) = &mut self.hole {
            if (now - hole.tried_at).abs() < RETRY {
                self.end += data.len() as u64;
                return Appended::Lost(None);
            }
            hole.tried_at = now;
        }
        let from = self.end;
        let (written, error) = self.write(data, now);
        self.end = from + data.len() as u64;
        let recovered = if written > 0 { self.hole.take() } else { None };
        let recovered = recovered.map(|hole| Missing { from: hole.from, to: from, why: hole.why });
        let Some(error) = error else {
            return recovered.map_or(Appended::Recorded, Appended::Recovered);
        };
        // What comes next stands in a segment of its own, after the hole.
        self.close_segment();
        let new = self.hole.is_none();
        if new {
            self.hole = Some(Hole { from: from + written, why: error.to_string(), tried_at: now });
        }
        match recovered {
            Some(missing) => Appended::Recovered(missing),
            None => Appended::Lost(new.then(|| error.to_string())),
        }
    }

    /// Appends all of `data` or, if it cannot be written, nothing more than is told: how many
    /// bytes of it were taken, and why not all.
    pub(crate) fn append_strictly(
        &mut self,
        data: &[u8],
        now: Timestamp,
    ) -> (u64, Option<io::Error>) {
        let (written, error) = self.write(data, now.as_microsecond());
        self.end += written;
        if error.is_some() {
            self.close_segment();
        }
        (written, error)
    }

    /// What is missing at the end, if the last episode is not over.
    pub(crate) fn missing_at_end(&self) -> Option<Missing> {
        self.hole.as_ref().map(|hole| Missing {
            from: hole.from,
            to: self.end,
            why: hole.why.clone(),
        })
    }

    /// Makes what was written survive a crash of the host.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.current.as_ref().map_or(Ok(()), |segment| segment.file.sync_data())
    }

    fn write(&mut self, data: &[u8], now: i64) -> (u64, Option<io::Error>) {
        let mut written = 0;
        while let Some(rest) = data.get(written as usize..).filter(|rest| !rest.is_empty()) {
            let step =
                self.segment_with_room(self.end + written, now).and_then(|(segment, room)| {
                    let some = &rest[..rest.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
                    let n = segment.file.write(some)? as u64;
                    segment.len += n;
                    if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(n) }
                });
            match step {
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Some(error)),
            }
        }
        (written, None)
    }

    /// The current segment with how many bytes it may still take, indexed up to now.
    fn segment_with_room(&mut self, at: u64, now: i64) -> io::Result<(&mut Segment, u64)> {
        if self.current.as_ref().is_some_and(|segment| segment.len >= self.segment_bytes) {
            self.close_segment();
        }
        if self.current.is_none() {
            self.current = Some(self.open_segment(at)?);
            self.trim();
        }
        let segment = self.current.as_mut().expect("it was just opened");
        segment.note_time(at, now);
        let room = self.segment_bytes - segment.len;
        Ok((segment, room))
    }

    fn open_segment(&mut self, start: u64) -> io::Result<Segment> {
        let append = |path| OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        // The last segment of an earlier agent goes on if nothing is missing in between.
        if let Some(&(last, len)) = self.older.last()
            && last + len == start
            && len < self.segment_bytes
        {
            let file = append(segment_path(&self.dir, last))?;
            self.older.pop();
            return Ok(Segment {
                start: last,
                len,
                file,
                index: append(index_path(&self.dir, last)).ok(),
                indexed_at: None,
            });
        }
        let file = append(segment_path(&self.dir, start))?;
        // Without its index a segment can be read, only not be searched by time.
        let index = append(index_path(&self.dir, start)).ok();
        Ok(Segment { start, len: 0, file, index, indexed_at: None })
    }

    fn close_segment(&mut self) {
        let Some(segment) = self.current.take() else { return };
        if segment.len > 0 {
            self.older.push((segment.start, segment.len));
        } else {
            self.remove(segment.start);
        }
    }

    /// Removes the oldest segments until the whole, with the current segment full, is small enough.
    fn trim(&mut self) {
        let mut total: u64 =
            self.older.iter().map(|(_, len)| len).sum::<u64>() + self.segment_bytes;
        while total > self.max_bytes
            && let Some(&(start, len)) = self.older.first()
        {
            self.remove(start);
            self.older.remove(0);
            total -= len;
        }
    }

    fn remove(&self, start: u64) {
        // One that cannot be removed is found again, and removed, by the next agent.
        let _removed = fs::remove_file(segment_path(&self.dir, start));
        let _removed = fs::remove_file(index_path(&self.dir, start));
    }
}

impl Segment {
    fn note_time(&mut self, at: u64, now: i64) {
        if self.indexed_at.is_some_and(|last| (now - last).abs() < INDEX_EVERY) {
            return;
        }
        self.indexed_at = Some(now);
        let mut entry = [0; super::ENTRY];
        entry[..8].copy_from_slice(&now.to_le_bytes());
        entry[8..].copy_from_slice(&at.to_le_bytes());
        // A torn entry would shift all that follow: after one the index ends.
        if self.index.as_mut().is_some_and(|index| !matches!(index.write(&entry), Ok(super::ENTRY)))
        {
            self.index = None;
        }
    }
}
