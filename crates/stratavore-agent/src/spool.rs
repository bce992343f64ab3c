//! Reports that no daemon has acknowledged yet.
//!
//! They are kept in memory, and in the file `spool` so that an upgrade or a look at the directory
//! finds them. What was acknowledged is removed from both.
//!
//! Invariant: a report keeps its number and its content, however often it is sent.
//! Invariant: numbers are given once, in order, without a hole.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use prost::Message;
use stratavore_core::Timestamp;
use stratavore_proto::runner_dir::RunnerDir;
use stratavore_proto::v1::{AgentReport, OutputGap, agent_report::What};

/// The reports that an agent left in its spool, in order: what it could not tell anybody before it
/// ended. An agent that lives sends them itself.
///
/// They are of the epoch that `agent.json` names. What was cut off in the middle of being written
/// is left out.
pub fn unacknowledged(dir: &RunnerDir) -> io::Result<Vec<AgentReport>> {
    let bytes = match fs::read(dir.spool()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut rest = &bytes[..];
    let mut reports = Vec::new();
    while !rest.is_empty() {
        let Ok(report) = AgentReport::decode_length_delimited(&mut rest) else { break };
        reports.push(report);
    }
    Ok(reports)
}

/// How many reports wait before gaps are counted together instead of one by one.
const MANY: usize = 1024;

/// The reports of one epoch.
#[derive(Debug)]
pub(crate) struct Spool {
    path: PathBuf,
    file: Option<File>,
    waiting: VecDeque<AgentReport>,
    next: u64,
    /// A gap that has no number yet, because so many reports wait.
    held: Option<(Timestamp, OutputGap)>,
}

impl Spool {
    /// An empty spool, in place of an earlier epoch's.
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        let mut spool = Self { path, file: None, waiting: VecDeque::new(), next: 1, held: None };
        spool.rewrite()?;
        Ok(spool)
    }

    /// The spool of the same epoch before an upgrade.
    pub(crate) fn restore(
        path: PathBuf,
        next: u64,
        reports: &[Vec<u8>],
    ) -> Result<Self, prost::DecodeError> {
        let waiting = reports
            .iter()
            .map(|bytes| AgentReport::decode(&bytes[..]))
            .collect::<Result<_, _>>()?;
        let mut spool = Self { path, file: None, waiting, next, held: None };
        // The file only doubles what is in memory: without it the agent goes on.
        let _rewritten = spool.rewrite();
        Ok(spool)
    }

    /// What an upgrade hands over: the next number, and the waiting reports.
    pub(crate) fn save(&mut self) -> (u64, Vec<Vec<u8>>) {
        if let Some((at, gap)) = self.held.take() {
            self.number(at, What::Gap(gap));
        }
        (self.next, self.waiting.iter().map(Message::encode_to_vec).collect())
    }

    /// Adds a report and gives its number, or none if it is counted together with others.
    pub(crate) fn push(&mut self, at: Timestamp, what: What) -> Option<u64> {
        if self.waiting.len() < MANY {
            return Some(self.number(at, what));
        }
        let What::Gap(gap) = what else { return Some(self.number(at, what)) };
        self.held = Some(match self.held.take() {
            Some((at, held)) => (at, OutputGap { to: gap.to, ..held }),
            None => (at, gap),
        });
        None
    }

    fn number(&mut self, at: Timestamp, what: What) -> u64 {
        let seq = self.next;
        self.next += 1;
        let report = AgentReport { seq, at_us: at.as_microsecond(), what: Some(what) };
        let bytes = report.encode_length_delimited_to_vec();
        if self.file.as_mut().is_some_and(|file| file.write_all(&bytes).is_err()) {
            // A torn entry would make the rest unreadable; memory has all of it.
            self.file = None;
        }
        self.waiting.push_back(report);
        seq
    }

    /// Forgets all reports up to `seq`.
    pub(crate) fn ack(&mut self, seq: u64) {
        let before = self.waiting.len();
        while self.waiting.front().is_some_and(|report| report.seq <= seq) {
            self.waiting.pop_front();
        }
        if self.waiting.len() < MANY
            && let Some((at, gap)) = self.held.take()
        {
            self.number(at, What::Gap(gap));
        }
        if self.waiting.len() != before {
            let _rewritten = self.rewrite();
        }
    }

    /// The first report after `seq` that waits.
    pub(crate) fn after(&self, seq: u64) -> Option<&AgentReport> {
        let first = self.waiting.front()?.seq;
        self.waiting.get(usize::try_from((seq + 1).saturating_sub(first)).ok()?)
    }

    /// True if no report up to `seq` waits any more.
    pub(crate) fn is_acked(&self, seq: u64) -> bool {
        self.waiting.front().is_none_or(|report| report.seq > seq)
    }

    fn rewrite(&mut self) -> io::Result<()> {
        self.file = None;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&self.path)?;
        for report in &self.waiting {
            file.write_all(&report.encode_length_delimited_to_vec())?;
        }
        self.file = Some(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_microsecond(7).unwrap()
    }

    fn gap(from: u64, to: u64) -> What {
        What::Gap(OutputGap { from, to, why: "disk full".into() })
    }

    /// What stands in the file.
    fn on_disk(spool: &Spool) -> Vec<u64> {
        let dir = RunnerDir::at(spool.path.parent().unwrap().into());
        unacknowledged(&dir).unwrap().iter().map(|report| report.seq).collect()
    }

    #[test]
    fn a_torn_end_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path().join("spool")).unwrap();
        spool.push(now(), gap(0, 1));
        spool.push(now(), gap(2, 3));
        let bytes = fs::read(&spool.path).unwrap();
        fs::write(&spool.path, &bytes[..bytes.len() - 2]).unwrap();
        assert_eq!(on_disk(&spool), [1]);
        fs::remove_file(&spool.path).unwrap();
        assert!(on_disk(&spool).is_empty());
    }

    #[test]
    fn reports_wait_in_order_until_they_are_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path().join("spool")).unwrap();
        for n in 1..=3 {
            assert_eq!(spool.push(now(), gap(n, n + 1)), Some(n));
        }
        assert_eq!(on_disk(&spool), [1, 2, 3]);
        assert_eq!(spool.after(0).unwrap().seq, 1);
        spool.ack(2);
        assert_eq!((spool.after(0).unwrap().seq, spool.after(2).unwrap().seq), (3, 3));
        assert_eq!(on_disk(&spool), [3]);
        assert!(spool.is_acked(2) && !spool.is_acked(3));
        assert!(spool.after(3).is_none());
        spool.ack(9);
        assert!(spool.after(0).is_none() && on_disk(&spool).is_empty());
        assert_eq!(spool.push(now(), gap(8, 9)), Some(4));
    }

    #[test]
    fn an_upgrade_keeps_what_waits_and_the_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path().join("spool")).unwrap();
        spool.push(now(), gap(0, 1));
        spool.push(now(), gap(2, 3));
        spool.ack(1);
        let (next, reports) = spool.save();
        let mut restored = Spool::restore(dir.path().join("spool"), next, &reports).unwrap();
        assert_eq!(restored.after(0), spool.after(0));
        assert_eq!(on_disk(&restored), [2]);
        assert_eq!(restored.push(now(), gap(4, 5)), Some(3));
    }

    #[test]
    fn a_long_outage_does_not_fill_the_memory_with_gaps() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path().join("spool")).unwrap();
        for n in 0..3 * MANY as u64 {
            spool.push(now(), gap(n * 10, n * 10 + 1));
        }
        assert_eq!(spool.waiting.len(), MANY);
        spool.ack(MANY as u64);
        let held = spool.after(0).unwrap().clone();
        assert_eq!(held.seq, MANY as u64 + 1);
        let last = 3 * MANY as u64 - 1;
        assert_eq!(held.what, Some(gap(MANY as u64 * 10, last * 10 + 1)));
    }
}
