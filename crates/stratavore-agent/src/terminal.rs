//! The runner's terminal from the agent's side: what was printed is recorded, shown on the screen
//! model, and kept for the viewers for a while.
//!
//! Viewers read one shared tail of the output at their own pace. One that falls behind the tail
//! has missed something, is told so, and goes on from the screen as it is then.
//!
//! Invariant: the tail, the screen and the record agree on every offset.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use stratavore_core::Timestamp;
use stratavore_proto::runner_dir::Recording;

use crate::output::{Appended, Missing, OutputLog};
use crate::screen::{Picture, Screen, Size};

/// How much of the latest output viewers may lag behind, in bytes.
const TAIL_MAX: usize = 256 * 1024;

/// One runner's terminal.
pub(crate) struct Terminal {
    log: OutputLog,
    recording: Recording,
    screen: Screen,
    tail: VecDeque<u8>,
    /// How many viewers read the tail; it is kept only for them.
    watchers: usize,
    printed_at: Option<Timestamp>,
    /// Read and, with strict recording, neither recorded nor shown yet.
    stuck: Vec<u8>,
    /// That it is stuck is said once.
    told_stuck: bool,
}

/// What came of taking in output.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// What the terminal answers.
    pub answers: Vec<u8>,
    /// Output that could not be recorded, told once it can be again.
    pub missing: Option<Missing>,
    /// With strict recording: nothing more may be read until this could be recorded.
    pub stuck: bool,
}

/// What an upgrade hands over.
pub(crate) struct Saved {
    pub end: u64,
    pub size: Size,
    pub drawing: Vec<u8>,
    pub held: Vec<u8>,
    pub stuck: Vec<u8>,
    pub printed_at: Option<Timestamp>,
}

/// What a viewer that has read up to some offset gets next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Output(Bytes),
    UpToDate,
    /// What comes next for it is no longer kept.
    Lost,
}

impl Terminal {
    pub(crate) fn new(log: OutputLog, recording: Recording, screen: Screen) -> Self {
        let tail = VecDeque::new();
        Self {
            log,
            recording,
            screen,
            tail,
            watchers: 0,
            printed_at: None,
            stuck: Vec::new(),
            told_stuck: false,
        }
    }

    pub(crate) fn save(&mut self) -> Saved {
        let Picture { size, drawing, .. } = self.screen.picture();
        Saved {
            end: self.end(),
            size,
            drawing,
            held: self.screen.held().to_vec(),
            stuck: self.stuck.clone(),
            printed_at: self.printed_at,
        }
    }

    pub(crate) fn restore(&mut self, stuck: Vec<u8>, printed_at: Option<Timestamp>) {
        self.stuck = stuck;
        self.printed_at = printed_at;
    }

    /// The offset of the next byte.
    pub(crate) fn end(&self) -> u64 {
        self.log.end()
    }

    pub(crate) fn printed_at(&self) -> Option<Timestamp> {
        self.printed_at
    }

    pub(crate) fn screen(&mut self) -> &mut Screen {
        &mut self.screen
    }

    pub(crate) fn size(&self) -> Size {
        self.screen.size()
    }

    /// Takes in what the program printed.
    pub(crate) fn take(&mut self, data: &[u8], now: Timestamp) -> Taken {
        self.printed_at = Some(now);
        match self.recording {
            Recording::BestEffort => {
                let missing = match self.log.append(data, now) {
                    Appended::Recorded | Appended::Lost(None) => None,
                    Appended::Lost(Some(why)) => {
                        crate::log::note(format_args!("output cannot be recorded: {why}"));
                        None
                    }
                    Appended::Recovered(missing) => Some(missing),
                };
                Taken { answers: self.show(data), missing, stuck: false }
            }
            Recording::Strict => {
                self.stuck.extend_from_slice(data);
                self.retry(now)
            }
        }
    }

    /// With strict recording: tries again to record what could not be.
    pub(crate) fn retry(&mut self, now: Timestamp) -> Taken {
        let stuck = std::mem::take(&mut self.stuck);
        let (recorded, error) = self.log.append_strictly(&stuck, now);
        let recorded = usize::try_from(recorded).unwrap_or(stuck.len()).min(stuck.len());
        let answers = self.show(&stuck[..recorded]);
        match &error {
            None => self.told_stuck = false,
            Some(error) => {
                if !std::mem::replace(&mut self.told_stuck, true) {
                    crate::log::note(format_args!(
                        "the runner waits because its output cannot be recorded: {error}"
                    ));
                }
                self.stuck = stuck[recorded..].to_vec();
            }
        }
        Taken { answers, missing: None, stuck: error.is_some() }
    }

    fn show(&mut self, data: &[u8]) -> Vec<u8> {
        if self.watchers > 0 {
            let kept = &data[data.len().saturating_sub(TAIL_MAX)..];
            let excess = (self.tail.len() + kept.len()).saturating_sub(TAIL_MAX);
            self.tail.drain(..excess.min(self.tail.len()));
            self.tail.extend(kept);
        }
        self.screen.feed(data)
    }

    /// True if there is output that strict recording holds back.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.stuck.is_empty()
    }

    /// What is missing at the end of the record, and makes the rest of it durable.
    pub(crate) fn finish(&self) -> (Option<Missing>, io::Result<()>) {
        let end = self.end();
        let stuck = self.is_stuck().then(|| Missing {
            from: end,
            to: end + self.stuck.len() as u64,
            why: "the runner ended before it could be recorded".into(),
        });
        (self.log.missing_at_end().or(stuck), self.log.sync())
    }

    /// One more viewer reads along.
    pub(crate) fn watch(&mut self) {
        self.watchers += 1;
        if self.watchers == 1 {
            // What is held back by the screen comes after the picture that the viewer gets.
            self.tail = self.screen.held().iter().copied().collect();
        }
    }

    pub(crate) fn unwatch(&mut self) {
        self.watchers -= 1;
        if self.watchers == 0 {
            self.tail = VecDeque::new();
        }
    }

    /// The screen, and the offset from which output goes on after it.
    pub(crate) fn picture(&mut self) -> (u64, Picture) {
        (self.end() - self.screen.held().len() as u64, self.screen.picture())
    }

    /// What follows `offset` for a viewer, at most `max` bytes of it.
    pub(crate) fn after(&self, offset: u64, max: usize) -> Next {
        let end = self.end();
        if offset >= end {
            return Next::UpToDate;
        }
        let behind = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let Some(from) = self.tail.len().checked_sub(behind) else { return Next::Lost };
        let (front, back) = self.tail.as_slices();
        let part = if from < front.len() { &front[from..] } else { &back[from - front.len()..] };
        Next::Output(Bytes::copy_from_slice(&part[..part.len().min(max)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(dir: &std::path::Path, recording: Recording) -> Terminal {
        let log = OutputLog::open(dir.into(), 1 << 20, 8 << 20, None).unwrap();
        Terminal::new(log, recording, Screen::new(Size { columns: 20, rows: 5 }))
    }

    fn now() -> Timestamp {
        Timestamp::from_microsecond(0).unwrap()
    }

    #[test]
    fn a_viewer_gets_all_after_its_picture_until_it_falls_behind() {
        let home = tempfile::tempdir().unwrap();
        let mut terminal = terminal(home.path(), Recording::BestEffort);
        terminal.take(b"before\x1b[3", now());
        terminal.watch();
        let (offset, picture) = terminal.picture();
        assert_eq!((offset, picture.text.as_str()), (6, "before"));
        assert_eq!(terminal.after(offset, 100), Next::Output(Bytes::from_static(b"\x1b[3")));
        terminal.take(b"1mred", now());
        assert_eq!(terminal.after(offset, 100), Next::Output(Bytes::from_static(b"\x1b[31mred")));
        assert_eq!(terminal.after(offset, 2), Next::Output(Bytes::from_static(b"\x1b[")));
        assert_eq!(terminal.after(terminal.end(), 2), Next::UpToDate);
        terminal.take(&vec![b'x'; TAIL_MAX], now());
        assert_eq!(terminal.after(offset, 100), Next::Lost);
        assert!(matches!(terminal.after(terminal.end() - TAIL_MAX as u64, 100), Next::Output(_)));
        terminal.unwatch();
        assert!(terminal.tail.capacity() == 0, "nothing is kept for nobody");
    }

    #[test]
    fn strict_recording_shows_nothing_that_is_not_recorded() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("output");
        let mut terminal = terminal(&dir, Recording::Strict);
        assert!(terminal.take(b"one\r\n", now()).stuck);
        assert!(terminal.retry(now()).stuck);
        assert_eq!((terminal.end(), terminal.picture().1.text), (0, String::new()));
        std::fs::create_dir(&dir).unwrap();
        assert!(!terminal.retry(now()).stuck);
        assert_eq!((terminal.end(), terminal.picture().1.text), (5, "one".into()));
    }
}
