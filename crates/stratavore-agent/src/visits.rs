//! What is done at the agent's own socket, written down for the record: a daemon puts it there, and there
//! may be none now.
//!
//! The daemon's own visits are left out: whoever asked it for them is on the record already.
//!
//! Whoever comes again and again fills no disk with it: of alike visits the first is written at once, and
//! those of the next minute are counted and written as one.
//!
//! Invariant: what may be done is in the log before it is done. If the disk takes nothing it is kept in mind,
//! and written when it does.
//! Invariant: in a minute at most two lines are written for each of [`DIFFERENT_MAX`] + 1 different visits,
//! and none goes uncounted while the agent lives, over its upgrades too.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stratavore_core::visit::{Deed, Visit};
use stratavore_core::{RunnerId, Timestamp};
use tokio::sync::Notify;

use crate::agent::sleep_until;
use crate::failpoint::is_off;
use crate::inside::Place;
use crate::runner::Runner;
use crate::signal_log::SignalLog;

/// How long further visits of the same kind are only counted.
const WINDOW: Duration = Duration::from_secs(60);
/// How many different ones are told apart.
const DIFFERENT_MAX: usize = 16;

/// Whoever is at the other end, as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Visitor {
    uid: u32,
    pid: Option<u32>,
    inside: Option<RunnerId>,
    /// It asks for somebody who is on the record already.
    is_daemon: bool,
}

/// Somebody who is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Open {
    id: u64,
    visitor: Visitor,
    keyboard: bool,
    since: Timestamp,
    typed: u64,
}

/// What was counted since it was written last.
#[derive(Debug)]
struct Counted {
    since: Duration,
    /// What alike visits look like.
    like: Visit,
    visit: Option<Visit>,
}

/// What one agent knows of its visitors.
#[derive(Debug)]
pub(crate) struct Visits {
    dir: PathBuf,
    log: RefCell<Option<SignalLog>>,
    counted: RefCell<Vec<Counted>>,
    open: RefCell<BTreeMap<u64, Open>>,
    last: Cell<u64>,
    /// Something is counted that was not before.
    grown: Notify,
}

impl Visits {
    /// Goes on with the log in `dir`, if there is one. `open` were attached to the program before, and are
    /// no more.
    pub(crate) fn new(dir: PathBuf, open: Vec<Open>) -> Self {
        let visits = Self {
            log: RefCell::default(),
            counted: RefCell::default(),
            last: open.iter().map(|open| open.id).max().unwrap_or(0).into(),
            open: RefCell::new(open.into_iter().map(|open| (open.id, open)).collect()),
            grown: Notify::new(),
            dir,
        };
        if visits.dir.is_dir()
            && let Err(error) = visits.opened()
        {
            crate::log::note(format_args!("open the log of visits: {error}"));
        }
        visits
    }

    fn opened(&self) -> io::Result<()> {
        let mut log = self.log.borrow_mut();
        if log.is_none() {
            *log = Some(SignalLog::open(self.dir.clone())?);
        }
        Ok(())
    }

    /// How far the log goes.
    pub(crate) fn end(&self) -> u64 {
        self.log.borrow().as_ref().map_or(0, SignalLog::end)
    }

    /// Who is attached, for an upgrade.
    pub(crate) fn open(&self) -> Vec<Open> {
        self.open.borrow().values().cloned().collect()
    }

    fn note(&self, visit: Visit, now: Duration, durably: bool) {
        let mut counted = self.counted.borrow_mut();
        let is_over = |counted: &mut Counted| {
            counted.visit.is_none() && now.saturating_sub(counted.since) >= WINDOW
        };
        counted.extract_if(.., is_over).for_each(drop);
        let mut visit = visit;
        if counted.len() >= DIFFERENT_MAX && !counted.iter().any(|c| c.like.is_like(&visit)) {
            // One for all of them, of which it does not say more than that they came.
            let like = counted.iter().find(|c| c.like.various).map(|c| c.like.clone());
            let Visit { from, until, pid, bytes, .. } = visit;
            let like = like.unwrap_or(visit);
            visit = Visit { from, until, pid, bytes, times: 1, various: true, ..like };
        }
        if let Some(known) = counted.iter_mut().find(|counted| counted.like.is_like(&visit)) {
            known.visit = Some(match known.visit.take() {
                Some(before) => before.and(visit),
                None => visit,
            });
        } else {
            let written = self.write(&visit, durably);
            let visit_left = written.is_err().then(|| visit.clone());
            counted.push(Counted { since: now, like: visit, visit: visit_left });
        }
        self.grown.notify_one();
    }

    fn write(&self, visit: &Visit, durably: bool) -> io::Result<()> {
        let write = || {
            self.opened()?;
            let mut log = self.log.borrow_mut();
            let Some(log) = &mut *log else { return Ok(()) };
            log.append(visit)?;
            // With a daemon there it is in a database in a moment.
            if durably { log.sync() } else { Ok(()) }
        };
        let written = write();
        if let Err(error) = &written {
            crate::log::note(format_args!("write a visit down: {error}; will try again"));
        }
        written
    }

    /// Writes what has been counted for long enough.
    fn write_due(&self, now: Duration, window: Duration, durably: bool) {
        let is_due = |counted: &mut Counted| now.saturating_sub(counted.since) >= window;
        let due: Vec<Counted> = self.counted.borrow_mut().extract_if(.., is_due).collect();
        for counted in due {
            let Some(visit) = counted.visit else { continue };
            if self.write(&visit, durably).is_err() {
                let again = Counted { since: now, like: counted.like, visit: Some(visit) };
                self.counted.borrow_mut().push(again);
            }
        }
    }

    /// When something is to be written next.
    fn next_due(&self) -> Option<Duration> {
        let counted = self.counted.borrow();
        counted.iter().filter(|c| c.visit.is_some()).map(|c| c.since + WINDOW).min()
    }
}

impl Visitor {
    /// To be asked before anything else is waited for: whoever connected may go.
    pub(crate) fn of(runner: &Runner, uid: u32, pid: Option<u32>, place: Place) -> Self {
        let inside = match place {
            Place::Inside(around) => Some(around),
            Place::Outside | Place::Unknown => None,
        };
        let is_daemon = pid.is_some_and(|pid| runner.is_daemon(pid));
        Self { uid, pid, inside, is_daemon }
    }
}

impl Runner {
    fn visit(&self, visitor: &Visitor, deed: Deed) -> Visit {
        let now = self.now();
        Visit {
            epoch: self.spec.epoch,
            deed,
            keyboard: false,
            from: now,
            until: now,
            uid: visitor.uid,
            pid: visitor.pid,
            inside: visitor.inside,
            times: 1,
            bytes: 0,
            prompt: None,
            refused: None,
            various: false,
        }
    }

    fn note_visit(&self, visitor: &Visitor, visit: Visit) {
        if visitor.is_daemon || is_off("visits") {
            return;
        }
        self.visits.note(visit, self.clock.monotonic(), self.unlinked_since.get().is_some());
        self.told.send_replace(());
    }

    /// Something is about to be done that is over at once.
    pub(crate) fn visited(&self, visitor: &Visitor, deed: Deed) {
        self.note_visit(visitor, self.visit(visitor, deed));
    }

    /// Something is about to be typed at once; `prompt` names it if it is one.
    pub(crate) fn types(&self, visitor: &Visitor, bytes: usize, prompt: &str) {
        let prompt = (!prompt.is_empty()).then(|| prompt.chars().take(100).collect());
        let visit = Visit { bytes: bytes as u64, prompt, ..self.visit(visitor, Deed::Send) };
        self.note_visit(visitor, visit);
    }

    /// Somebody was not let do something.
    pub(crate) fn turned_away(&self, visitor: &Visitor, deed: Deed, why: &str) {
        let visit = Visit { refused: Some(why.into()), ..self.visit(visitor, deed) };
        self.note_visit(visitor, visit);
    }

    /// Somebody attaches, for as long as what this answers is kept.
    pub(crate) fn stays(self: &Rc<Self>, visitor: &Visitor, keyboard: bool) -> Stay {
        let id = self.visits.last.get() + 1;
        self.visits.last.set(id);
        self.note_visit(visitor, Visit { keyboard, ..self.visit(visitor, Deed::Attach) });
        let open = Open { id, visitor: *visitor, keyboard, since: self.now(), typed: 0 };
        self.visits.open.borrow_mut().insert(id, open);
        Stay { runner: Rc::clone(self), id }
    }

    fn left(&self, id: u64) {
        let open = self.visits.open.borrow_mut().remove(&id);
        let Some(Open { visitor, keyboard, since, typed, .. }) = open else { return };
        let visit = self.visit(&visitor, Deed::Detach);
        self.note_visit(&visitor, Visit { keyboard, from: since, bytes: typed, ..visit });
    }

    /// The runner has ended, or this program has taken over from one whose viewers are gone: nobody is
    /// attached any more, and nothing is left to be counted.
    pub(crate) fn visits_over(&self) {
        let ids: Vec<u64> = self.visits.open.borrow().keys().copied().collect();
        ids.into_iter().for_each(|id| self.left(id));
        self.write_visits();
    }

    /// Writes all that was only counted.
    pub(crate) fn write_visits(&self) {
        let durably = self.unlinked_since.get().is_some();
        self.visits.write_due(self.clock.monotonic(), Duration::ZERO, durably);
        self.told.send_replace(());
    }

    /// True if it is a daemon that this process is: one that we are linked to or, without a link, one that
    /// listens where we dial.
    fn is_daemon(&self, pid: u32) -> bool {
        if let Some(daemon) = self.daemon_pid.get() {
            return daemon == pid;
        }
        self.spec.daemons().any(|socket| stratavore_proto::unix::listener(socket) == Some(pid))
    }
}

/// Writes what was counted, when it is time. Never ends.
pub(crate) async fn run(runner: Rc<Runner>) {
    loop {
        let (due, now) = (runner.visits.next_due(), runner.clock.monotonic());
        tokio::select! {
            () = runner.visits.grown.notified() => {}
            () = sleep_until(due, now) => {
                let durably = runner.unlinked_since.get().is_some();
                runner.visits.write_due(runner.clock.monotonic(), WINDOW, durably);
                runner.told.send_replace(());
            }
        }
    }
}

/// That somebody is attached.
pub(crate) struct Stay {
    runner: Rc<Runner>,
    id: u64,
}

impl Stay {
    /// So many bytes were typed.
    pub(crate) fn typed(&self, bytes: usize) {
        if let Some(open) = self.runner.visits.open.borrow_mut().get_mut(&self.id) {
            open.typed += bytes as u64;
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.runner.left(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(uid: u32, second: i64) -> Visit {
        let at = Timestamp::from_second(second).unwrap();
        Visit {
            epoch: 1,
            deed: Deed::Send,
            keyboard: false,
            from: at,
            until: at,
            uid,
            pid: Some(7),
            inside: None,
            times: 1,
            bytes: 3,
            prompt: None,
            refused: None,
            various: false,
        }
    }

    fn written(visits: &Visits) -> Vec<Visit> {
        let read = crate::signal_log::read(&visits.dir, 0, 1 << 30).unwrap();
        read.lines.iter().map(|(_, line)| serde_json::from_slice(line).unwrap()).collect()
    }

    #[test]
    fn whoever_comes_in_a_loop_is_counted_and_written_twice_a_minute() {
        let home = tempfile::tempdir().unwrap();
        let visits = Visits::new(home.path().join("visits"), Vec::new());
        for n in 0..10_000 {
            visits.note(visit(1, n), Duration::ZERO, false);
        }
        assert_eq!(written(&visits), [visit(1, 0)], "the first at once, before it is done");
        visits.write_due(WINDOW, WINDOW, true);
        let told = written(&visits);
        assert_eq!(told.len(), 2);
        assert_eq!((told[1].times, told[1].bytes), (9_999, 3 * 9_999), "none is lost");
        assert_eq!((told[1].from.as_second(), told[1].until.as_second()), (1, 9_999));
        assert_eq!(visits.next_due(), None, "a quiet runner wakes nobody");
        visits.note(visit(1, 0), WINDOW, false);
        assert_eq!(written(&visits).len(), 3, "a minute later it is a new one");
    }

    #[test]
    fn many_different_ones_are_few_lines_and_none_is_lost() {
        let home = tempfile::tempdir().unwrap();
        let visits = Visits::new(home.path().join("visits"), Vec::new());
        for uid in 0..1_000 {
            visits.note(visit(uid, 5), Duration::ZERO, false);
        }
        visits.write_due(WINDOW, WINDOW, false);
        let told = written(&visits);
        assert_eq!(told.len(), DIFFERENT_MAX + 2);
        assert_eq!(told.iter().map(|visit| visit.times).sum::<u64>(), 1_000);
        assert!(told.iter().all(|visit| visit.various == (visit.times > 1) || visit.various));
    }

    #[test]
    fn what_the_disk_does_not_take_is_written_when_it_does() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("visits");
        // No directory can be made where a file is.
        std::fs::write(&dir, "in the way").unwrap();
        let visits = Visits::new(dir.clone(), Vec::new());
        for n in 0..3 {
            visits.note(visit(1, n), Duration::ZERO, true);
        }
        visits.write_due(WINDOW, WINDOW, true);
        std::fs::remove_file(&dir).unwrap();
        visits.write_due(WINDOW * 2, WINDOW, true);
        let told = written(&visits);
        assert_eq!((told.len(), told[0].times), (1, 3));
    }

    #[test]
    fn the_log_goes_on_where_an_earlier_program_has_ended() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("visits");
        let before = Visits::new(dir.clone(), Vec::new());
        assert!(!dir.exists(), "who is never visited keeps nothing");
        before.note(visit(1, 1), Duration::ZERO, false);
        let after = Visits::new(dir, Vec::new());
        assert_eq!(after.end(), before.end(), "a daemon is told at once how far it goes");
        after.note(visit(1, 2), Duration::ZERO, false);
        assert_eq!(written(&after), [visit(1, 1), visit(1, 2)]);
    }
}
