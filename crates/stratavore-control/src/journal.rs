//! The journal of strict mode: what this host's daemon has committed, in a file beside the database before
//! anybody hears of it, and compared with the database until it is sealed.
//!
//! Invariant: a line goes only when what it tells of was found sealed, or is older than what is kept in the
//! database.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use stratavore_core::{EventId, Timestamp};
use stratavore_runtime::write_durably;
use stratavore_store::{Journal, Written};

use crate::audit_file;
use crate::control::Control;
use crate::error::Error;

/// How often it is compared.
pub(crate) const EVERY: Duration = Duration::from_secs(10);
/// Events that are asked for at once.
const PAGE: usize = 500;
/// What is younger is never moved into files.
const TRIMMED_AFTER: SignedDuration = SignedDuration::from_hours(24);

/// The file, for one daemon.
pub struct JournalFile {
    path: PathBuf,
    /// Held by whoever writes.
    turn: Mutex<()>,
    failed: AtomicBool,
    /// What did not fit at the last comparison.
    problem: Mutex<Option<String>>,
}

/// One event, as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    event: EventId,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
}

impl JournalFile {
    /// In `audit` of the state directory.
    pub fn at(audit: &Path) -> Self {
        Self {
            path: audit.join("journal"),
            turn: Mutex::default(),
            failed: AtomicBool::new(false),
            problem: Mutex::default(),
        }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, lines: &[Line]) -> io::Result<()> {
        let mut text = String::new();
        for line in lines {
            text.push_str(&serde_json::to_string(line)?);
            text.push('\n');
        }
        let appended = audit_file::append(&self.path, &text);
        self.failed.store(appended.is_err(), Ordering::Release);
        appended
    }

    /// The lines that are whole: what was cut off was never answered.
    fn lines(&self) -> io::Result<Vec<Line>> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => {
                Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Forgets events that need not be looked at any more.
    fn forget(&self, done: &HashSet<EventId>) -> io::Result<()> {
        let _turn = self.turn();
        let mut left = self.lines()?;
        left.retain(|line| !done.contains(&line.event));
        let mut text = String::new();
        for line in left {
            text.push_str(&serde_json::to_string(&line)?);
            text.push('\n');
        }
        write_durably(&self.path, text.as_bytes())
    }

    fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Journal for JournalFile {
    fn keep(&self, written: &[Written]) -> io::Result<()> {
        let lines: Vec<Line> = written
            .iter()
            .map(|one| Line { event: one.id, at: one.at, code: one.mac.clone() })
            .collect();
        let _turn = self.turn();
        self.append(&lines)
    }

    fn is_ready(&self) -> bool {
        !self.failed.load(Ordering::Acquire)
    }
}

impl Control {
    /// The periodic task: compares what the journal has with the database.
    pub(crate) async fn compare_journal(&self) -> Result<String, Error> {
        let Some(journal) = self.inner.settings.journal.clone() else {
            return Ok("it is switched off".into());
        };
        let own = journal.clone();
        let read = tokio::task::spawn_blocking(move || {
            // After a failure it is tried whether it can be written again.
            if !own.is_ready() {
                let _turn = own.turn();
                own.append(&[])?;
            }
            own.lines()
        });
        let lines = read.await.map_err(Error::internal)?.map_err(Error::internal)?;
        let store = &self.inner.store;
        // Before the events: whatever was sealed by then is found as it was sealed.
        let sealed = store.audit_head().await?.map_or(0, |(position, _)| position);
        let moved = store.trimmed_upto().await? > 0;
        let (mut done, mut wrong) = (HashSet::new(), None);
        for page in lines.chunks(PAGE) {
            let ids: Vec<EventId> = page.iter().map(|line| line.event).collect();
            let mut found = store.event_codes(&ids).await?;
            for line in page {
                let (event, at) = (line.event, line.at);
                match found.remove(&event) {
                    Some((_, code)) if code != line.code => {
                        wrong.get_or_insert(format!(
                            "event {event} of {at} is not as it was written"
                        ));
                    }
                    Some((Some(position), _)) if position.unsigned_abs() <= sealed => {
                        done.insert(event);
                    }
                    // It is waited for.
                    Some(_) => {}
                    None if moved && self.now().duration_since(at) > TRIMMED_AFTER => {
                        done.insert(event);
                    }
                    None => {
                        wrong.get_or_insert(format!("event {event} of {at} is gone"));
                    }
                }
            }
        }
        let (waits, settled) = (lines.len() - done.len(), done.len());
        journal.set_problem(wrong.map(|wrong| {
            format!(
                "the record is not what this host has written: {wrong}; keep the database and `audit` of \
                 every host's state directory as they are, and look: stratavore audit verify"
            )
        }));
        if !done.is_empty() {
            let own = journal.clone();
            let forgotten = tokio::task::spawn_blocking(move || own.forget(&done)).await;
            forgotten.map_err(Error::internal)?.map_err(Error::internal)?;
        }
        Ok(format!("{settled} found sealed, {waits} wait"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(n: u8) -> Written {
        let id = EventId::from_entropy([n; 16]);
        Written { id, at: Timestamp::UNIX_EPOCH, mac: Some(n.to_string()) }
    }

    #[test]
    fn what_was_kept_is_there_until_it_is_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let journal = JournalFile::at(home.path());
        assert_eq!(journal.lines().unwrap(), []);
        journal.keep(&[written(1), written(2)]).unwrap();
        // Half a line of a daemon that was killed.
        let text = std::fs::read_to_string(&journal.path).unwrap();
        std::fs::write(&journal.path, format!("{text}{}", &text[..20])).unwrap();
        journal.keep(&[written(3)]).unwrap();
        let ids = |journal: &JournalFile| {
            journal.lines().unwrap().into_iter().map(|line| line.event).collect::<Vec<_>>()
        };
        assert_eq!(ids(&journal), [1, 2, 3].map(|n| written(n).id));
        journal.forget(&HashSet::from([written(2).id])).unwrap();
        assert_eq!(ids(&journal), [1, 3].map(|n| written(n).id));
    }

    #[test]
    fn one_that_cannot_be_written_says_so_until_it_can() {
        let home = tempfile::tempdir().unwrap();
        let journal = JournalFile::at(&home.path().join("not-there"));
        journal.keep(&[written(1)]).unwrap_err();
        assert!(!journal.is_ready());
        std::fs::create_dir(home.path().join("not-there")).unwrap();
        journal.append(&[]).unwrap();
        assert!(journal.is_ready());
    }
}
