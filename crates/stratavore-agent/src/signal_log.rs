//! The log of signals: what a running assistant tells of itself, a JSON line each. The log of visits is one
//! of the same form.
//!
//! The agent writes it down as it comes, and the daemon reads it from where it has read last, whether it
//! was there at the time or not. It stands in `signals/` of the runner's directory, in segments that
//! are named by the offset of their first byte, like the output.
//!
//! Invariant: offsets never shrink, and a line stands at one offset for good.
//! Invariant: a reader is given whole lines only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Where a new segment begins.
const SEGMENT: u64 = 4 << 20;
/// The most that is kept for a daemon that is away.
const KEPT_MAX: u64 = 256 << 20;

/// The writing end; one agent has it.
#[derive(Debug)]
pub(crate) struct SignalLog {
    dir: PathBuf,
    file: Option<File>,
    /// Where the segment that is written to begins.
    begin: u64,
    end: u64,
}

impl SignalLog {
    /// Goes on where an earlier agent of the runner has ended.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&dir)?;
        let Some((begin, path)) = segments(&dir)?.pop() else {
            return Ok(Self { dir, file: None, begin: 0, end: 0 });
        };
        let mut file = OpenOptions::new().read(true).append(true).open(&path)?;
        let length = file.metadata()?.len();
        let mut log = Self { dir, file: None, begin, end: begin + length };
        // An agent that was killed may have left half a line. It is ended, so that the next one is whole.
        if length > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                log.end += 1;
            }
        }
        log.file = Some(file);
        Ok(log)
    }

    /// The offset after the last line.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Writes a line down.
    pub(crate) fn append(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(line).map_err(io::Error::other)?;
        line.push(b'\n');
        if self.file.is_none() || self.end - self.begin >= SEGMENT {
            let path = self.dir.join(format!("{:020}.jsonl", self.end));
            let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
            (self.file, self.begin) = (Some(opened), self.end);
            self.bound()?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        // Where half of it was written, the rest of the line is lost with it, and no other line.
        if let Err(error) = file.write_all(&line) {
            self.end = self.begin + file.metadata()?.len();
            self.file = None;
            return Err(error);
        }
        self.end += line.len() as u64;
        Ok(())
    }

    /// Has what was written survive a crash of the host.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }

    /// Lets go of the oldest beyond what is kept.
    fn bound(&self) -> io::Result<()> {
        for (begin, path) in segments(&self.dir)? {
            if self.end - begin > KEPT_MAX {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// All segments, in order.
fn segments(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let begin = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jsonl"));
        if let Some(begin) = begin.and_then(|digits| digits.parse().ok()) {
            found.push((begin, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Some lines of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lines {
    /// Each with its offset, without its end.
    pub lines: Vec<(u64, Vec<u8>)>,
    /// Where to go on.
    pub next: u64,
}

/// Whole lines from `from` on, about `max` bytes of them. Where what is wanted is no longer kept, it goes
/// on with the oldest that is.
pub fn read(dir: &Path, from: u64, max: usize) -> io::Result<Lines> {
    let segments = segments(dir)?;
    let mut read = Lines { lines: Vec::new(), next: from };
    let first = segments.iter().rposition(|(begin, _)| *begin <= from).unwrap_or(0);
    let mut taken = 0;
    for (begin, path) in segments.into_iter().skip(first) {
        if taken >= max {
            break;
        }
        read.next = read.next.max(begin);
        let mut file = match File::open(&path) {
            // Forgotten in between.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        file.seek(SeekFrom::Start(read.next - begin))?;
        let mut bytes = Vec::new();
        file.take((max - taken) as u64).read_to_end(&mut bytes)?;
        // A line longer than what was asked for is still given whole.
        if !bytes.contains(&b'\n') && bytes.len() == max - taken {
            bytes = whole_line(&path, read.next - begin)?;
        }
        taken += bytes.len();
        while let Some(length) = bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = bytes.drain(..=length).collect();
            read.lines.push((read.next, line[..length].to_vec()));
            read.next += length as u64 + 1;
        }
    }
    Ok(read)
}

fn whole_line(path: &Path, from: u64) -> io::Result<Vec<u8>> {
    let mut file = io::BufReader::new(File::open(path)?);
    file.seek(SeekFrom::Start(from))?;
    let mut line = Vec::new();
    io::BufRead::read_until(&mut file, b'\n', &mut line)?;
    Ok(line)
}

/// Where the log ends.
pub fn end(dir: &Path) -> io::Result<u64> {
    match segments(dir)?.pop() {
        Some((begin, path)) => Ok(begin + fs::metadata(path)?.len()),
        None => Ok(0),
    }
}

/// Removes the segments that end before `read`; the one that is written to stays.
pub fn forget(dir: &Path, read: u64) -> io::Result<()> {
    let segments = segments(dir)?;
    for (at, (_, path)) in segments.iter().enumerate() {
        let Some((next, _)) = segments.get(at + 1) else { break };
        if *next > read {
            break;
        }
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stratavore_core::Timestamp;
    use stratavore_core::signal::{Signal, What};

    use super::*;

    fn signal(n: u64) -> Signal {
        let body = json!({ "n": n });
        Signal { at: Timestamp::UNIX_EPOCH, epoch: 1, what: What::Hook { call: None, body } }
    }

    #[test]
    fn what_was_written_is_read_from_any_offset_after_any_end() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("signals");
        let mut log = SignalLog::open(dir.clone()).unwrap();
        (0..100).for_each(|n| log.append(&signal(n)).unwrap());
        let end = log.end();
        drop(log);
        // Half a line, as of one that was killed.
        let path = dir.join(format!("{:020}.jsonl", 0));
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"at").unwrap();
        let all = read(&dir, 0, usize::MAX).unwrap();
        assert_eq!((all.lines.len(), all.next), (100, end), "half a line is none yet");
        let mut log = SignalLog::open(dir.clone()).unwrap();
        log.append(&signal(100)).unwrap();
        let all = read(&dir, 0, 1 << 30).unwrap();
        assert_eq!((all.lines.len(), all.next), (102, log.end()));
        let (at, line) = &all.lines[101];
        assert_eq!(serde_json::from_slice::<Signal>(line).unwrap(), signal(100));
        assert_eq!(read(&dir, *at, 1 << 20).unwrap().lines, [(*at, line.clone())]);
        // A little at a time, and less than a line.
        let (mut from, mut count) = (0, 0);
        while from < log.end() {
            let piece = read(&dir, from, 7).unwrap();
            assert_eq!(piece.lines.len(), 1);
            (from, count) = (piece.next, count + 1);
        }
        assert_eq!(count, 102);
    }

    #[test]
    fn segments_that_were_read_are_forgotten_and_no_others() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().to_path_buf();
        for (begin, text) in [(0, "1\n22\n"), (5, "333\n"), (9, "4\n")] {
            fs::write(dir.join(format!("{begin:020}.jsonl")), text).unwrap();
        }
        let lines = |from| {
            let read = read(&dir, from, 1 << 20).unwrap();
            read.lines.into_iter().map(|(at, line)| (at, line.len())).collect::<Vec<_>>()
        };
        assert_eq!(lines(0), [(0, 1), (2, 2), (5, 3), (9, 1)]);
        assert_eq!(lines(2), [(2, 2), (5, 3), (9, 1)]);
        forget(&dir, 8).unwrap();
        assert_eq!(lines(0), [(5, 3), (9, 1)], "what is gone is passed over");
        forget(&dir, 100).unwrap();
        assert_eq!(lines(0), [(9, 1)]);
    }
}
