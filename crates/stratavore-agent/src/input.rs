//! What is to be typed into the runner: a bounded queue in front of the terminal.
//!
//! A program that does not read its input must not block the agent, so writers wait here, and
//! those who cannot wait are refused.
//!
//! Invariant: what one writer puts in between taking and giving back its turn stays together.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify, watch};
use tokio::time::timeout;

use crate::sent::{Fate, Sent};

/// How many bytes wait at most.
pub(crate) const QUEUE_MAX: usize = 64 * 1024;
/// How long a program may read nothing before a writer is refused.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long after a text the enter key is pressed: earlier it would count as a part of it.
const ENTER_AFTER: Duration = Duration::from_millis(100);

/// The queue of one runner.
#[derive(Debug)]
pub(crate) struct Input {
    queue: RefCell<VecDeque<u8>>,
    /// All bytes ever put in.
    taken: Cell<u64>,
    /// All bytes that have left for the terminal.
    written: watch::Sender<u64>,
    grown: Notify,
    turn: Mutex<()>,
    sent: Sent,
    closed: Cell<bool>,
}

/// What somebody wants typed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    pub data: &'a [u8],
    /// As a paste.
    pub bracketed: bool,
    /// Then press enter.
    pub enter: bool,
    /// Of one id only the first is typed. Empty: typed whenever it comes.
    pub id: &'a str,
    /// One of this id may have come before.
    pub again: bool,
}

/// Why something was not typed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "the program does not read its input ({waiting} bytes wait): look at its screen, and send again later"
    )]
    NotRead { waiting: usize },
    #[error("the program has ended")]
    Ended,
    #[error("it may have been typed before, and this agent cannot tell")]
    Unsure,
}

impl Input {
    /// An empty queue, or one with what waited before an upgrade, and what had been sent.
    pub(crate) fn new(waiting: Vec<u8>, sent: Sent) -> Self {
        Self {
            taken: Cell::new(waiting.len() as u64),
            queue: RefCell::new(waiting.into()),
            written: watch::Sender::new(0),
            grown: Notify::new(),
            turn: Mutex::new(()),
            sent,
            closed: Cell::new(false),
        }
    }

    /// What waits, for an upgrade.
    pub(crate) fn waiting(&self) -> Vec<u8> {
        self.queue.borrow().iter().copied().collect()
    }

    /// What had been sent, for an upgrade.
    pub(crate) fn sent(&self) -> Sent {
        self.sent.copy()
    }

    /// Puts in all of `bytes` if there is room now. True if it was.
    pub(crate) fn push_now(&self, bytes: &[u8]) -> bool {
        let mut queue = self.queue.borrow_mut();
        if bytes.is_empty() || self.closed.get() || queue.len() + bytes.len() > QUEUE_MAX {
            return bytes.is_empty();
        }
        queue.extend(bytes);
        self.taken.set(self.taken.get() + bytes.len() as u64);
        self.grown.notify_one();
        true
    }

    /// Takes the turn to type.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// True while somebody has the turn.
    pub(crate) fn is_taken(&self) -> bool {
        self.turn.try_lock().is_err()
    }

    /// Types `bytes`, waiting for room as long as the program reads at all.
    pub(crate) async fn push(&self, mut bytes: &[u8]) -> Result<(), Refused> {
        let mut written = self.written.subscribe();
        while !bytes.is_empty() {
            if self.closed.get() {
                return Err(Refused::Ended);
            }
            let room = QUEUE_MAX.saturating_sub(self.queue.borrow().len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.push_now(now);
            bytes = later;
            if !bytes.is_empty() {
                self.progress(&mut written).await?;
            }
        }
        Ok(())
    }

    /// Waits until all that was put in so far has reached the terminal.
    pub(crate) async fn flushed(&self) -> Result<(), Refused> {
        let mut written = self.written.subscribe();
        let wanted = self.taken.get();
        while *written.borrow_and_update() < wanted {
            if self.closed.get() {
                return Err(Refused::Ended);
            }
            self.progress(&mut written).await?;
        }
        Ok(())
    }

    /// Types a text; returns once the terminal has it. False: it has had it before.
    pub(crate) async fn send(&self, text: Text<'_>) -> Result<bool, Refused> {
        let _turn = timeout(PATIENCE, self.turn()).await.map_err(|_| self.not_read())?;
        let Text { data, bracketed, enter, id, again } = text;
        match self.sent.take(id, again) {
            Fate::Type => {}
            Fate::Drop => return Ok(false),
            Fate::Unsure => return Err(Refused::Unsure),
        }
        if bracketed {
            self.push(&marked_as_paste(data)).await?;
        } else {
            self.push(data).await?;
        }
        self.flushed().await?;
        if enter {
            if !data.is_empty() {
                tokio::time::sleep(ENTER_AFTER).await;
            }
            self.push(b"\r").await?;
            self.flushed().await?;
        }
        Ok(true)
    }

    async fn progress(&self, written: &mut watch::Receiver<u64>) -> Result<(), Refused> {
        match timeout(PATIENCE, written.changed()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Refused::Ended),
            Err(_) => Err(self.not_read()),
        }
    }

    fn not_read(&self) -> Refused {
        Refused::NotRead { waiting: self.queue.borrow().len() }
    }

    /// The next bytes for the terminal; waits until there are some.
    pub(crate) async fn next(&self) -> Vec<u8> {
        loop {
            {
                let queue = self.queue.borrow();
                if !queue.is_empty() {
                    return queue.as_slices().0.to_vec();
                }
            }
            self.grown.notified().await;
        }
    }

    /// The terminal has taken the first `n` bytes.
    pub(crate) fn wrote(&self, n: usize) {
        let mut queue = self.queue.borrow_mut();
        queue.drain(..n);
        if queue.is_empty() {
            // A paste is rare: its memory is not kept.
            *queue = VecDeque::new();
        }
        drop(queue);
        self.written.send_modify(|written| *written += n as u64);
    }

    /// The program has ended: nothing is typed any more.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        *self.queue.borrow_mut() = VecDeque::new();
        self.written.send_modify(|_| {});
    }
}

/// `data` between the marks of a paste. A mark inside of it would end the paste early, and the
/// rest would count as typed.
fn marked_as_paste(data: &[u8]) -> Vec<u8> {
    const BEGIN: &[u8] = b"\x1b[200~";
    const END: &[u8] = b"\x1b[201~";
    let mut marked = BEGIN.to_vec();
    for &byte in data {
        marked.push(byte);
        // Looked for in what was put together, so that none can be made of two halves.
        if marked.len() >= BEGIN.len() + END.len() && marked.ends_with(END) {
            marked.truncate(marked.len() - END.len());
        }
    }
    marked.extend_from_slice(END);
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paste_cannot_end_itself() {
        assert_eq!(marked_as_paste(b"a\nb"), b"\x1b[200~a\nb\x1b[201~");
        assert_eq!(marked_as_paste(b"a\x1b[201~rm\r"), b"\x1b[200~arm\r\x1b[201~");
        assert_eq!(marked_as_paste(b"a\x1b[2\x1b[201~01~b"), b"\x1b[200~ab\x1b[201~");
        assert_eq!(marked_as_paste(b"\x1b[201~"), b"\x1b[200~\x1b[201~");
    }

    #[tokio::test(start_paused = true)]
    async fn who_types_faster_than_the_program_reads_waits_and_is_refused_in_the_end() {
        let input = Input::new(Vec::new(), Sent::default());
        let text = vec![b'x'; QUEUE_MAX + 1000];
        let read_some = async {
            let first = input.next().await;
            input.wrote(first.len().min(500));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = read_some => unreachable!("it never ends"),
            refused = input.push(&text) => {
                assert_eq!(refused, Err(Refused::NotRead { waiting: QUEUE_MAX }));
            }
        }
        assert!(!input.push_now(b"y"));
        input.wrote(QUEUE_MAX);
        assert!(input.push_now(b"y"));
        input.close();
        assert_eq!(input.flushed().await, Err(Refused::Ended));
        assert_eq!(input.push(b"z").await, Err(Refused::Ended));
    }
}
