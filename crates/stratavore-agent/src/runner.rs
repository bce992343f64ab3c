//! What all tasks of an agent share: the one runner that it looks after.
//!
//! The agent has one thread. Cells are borrowed for moments and never across an `await`.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use stratavore_core::Timestamp;
use stratavore_core::clock::Clock;
use stratavore_core::runner::{AgentIdentity, Cause, Exit, ProcessIdentity};
use stratavore_proto::runner_dir::{RunnerDir, Spec};
use stratavore_proto::v1::agent_report::What;
use tokio::sync::{Notify, mpsc, watch};

use crate::cgroup::Cgroups;
use crate::failpoint::is_off;
use crate::input::Input;
use crate::observe::Observing;
use crate::output::Missing;
use crate::pty::Master;
use crate::screen::Size;
use crate::spool::Spool;
use crate::terminal::Terminal;
use crate::viewers::Viewers;
use crate::visits::Visits;

/// The time between two changes of the terminal's size.
const RESIZE_EVERY: Duration = Duration::from_millis(50);

/// Where the runner stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Life {
    /// No daemon has said go yet.
    Waiting,
    Running(ProcessIdentity),
    /// It is over, and nothing of it is left.
    Ended(Exit),
}

/// What somebody wants of the agent's main loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    Go,
    Stop {
        cause: Option<Cause>,
        grace: Duration,
        force: bool,
        /// What is typed first to have it end by itself; empty: nothing.
        quit: String,
    },
    Pause(bool),
    Upgrade(String),
    /// The store knows that this epoch is over.
    Fenced(String),
}

/// The runner, and its agent.
pub(crate) struct Runner {
    pub dir: RunnerDir,
    pub spec: Spec,
    pub identity: AgentIdentity,
    /// What this agent shows to speak for the runner.
    pub key: [u8; 32],
    /// What lets the key be recorded, until a daemon has taken the agent in.
    pub join_token: RefCell<Vec<u8>>,
    pub clock: Rc<dyn Clock>,
    pub life: RefCell<Life>,
    pub cgroups: Cgroups,
    pub terminal: RefCell<Terminal>,
    pub master: OnceCell<Master>,
    pub input: Input,
    pub viewers: RefCell<Viewers>,
    pub spool: RefCell<Spool>,
    /// Raised whenever viewers may have something new to see.
    pub changed: watch::Sender<()>,
    /// Raised whenever a report, the link to the daemon, or a connection came or went.
    pub told: watch::Sender<()>,
    /// Since when, on the monotonic clock, no daemon has taken this agent in; `None`: one has.
    pub unlinked_since: Cell<Option<Duration>>,
    /// The daemon that this agent dials or is linked to, by the kernel's word.
    pub daemon_pid: Cell<Option<u32>>,
    /// Why the latest upgrade failed, until that is told.
    pub upgrade_failed: RefCell<Option<String>>,
    /// How many connections of the agent's own socket are open.
    pub connections: Cell<usize>,
    /// Somebody wants us to dial the daemon now.
    pub poked: Notify,
    pub observing: Observing,
    pub visits: Visits,
    /// A viewer came, left, or has another size.
    pub resized: Notify,
    pub resized_at: Cell<Duration>,
    pub wishes: mpsc::Sender<Wish>,
}

impl Runner {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The program's process while it runs.
    pub(crate) fn process(&self) -> Option<ProcessIdentity> {
        match &*self.life.borrow() {
            Life::Running(process) => Some(*process),
            Life::Waiting | Life::Ended(_) => None,
        }
    }

    /// How it ended, if it did.
    pub(crate) fn exit(&self) -> Option<Exit> {
        match &*self.life.borrow() {
            Life::Ended(exit) => Some(exit.clone()),
            Life::Waiting | Life::Running(_) => None,
        }
    }

    /// Has something reported, for good. Returns its number if it has one of its own.
    pub(crate) fn report(&self, what: What) -> Option<u64> {
        let seq = self.spool.borrow_mut().push(self.now(), what);
        self.told.send_replace(());
        seq
    }

    pub(crate) fn report_missing(&self, missing: Missing) {
        let Missing { from, to, why } = missing;
        crate::log::note(format_args!("output from {from} to {to} was not recorded: {why}"));
        self.report(What::Gap(stratavore_proto::v1::OutputGap { from, to, why }));
    }

    /// Takes in output of the program. True if reading has to wait until it can be recorded.
    pub(crate) fn take_output(&self, data: &[u8]) -> bool {
        let taken = self.terminal.borrow_mut().take(data, self.now());
        self.settle(taken)
    }

    /// Tries again to record output. True if reading still has to wait.
    pub(crate) fn retry_output(&self) -> bool {
        let taken = self.terminal.borrow_mut().retry(self.now());
        self.settle(taken)
    }

    fn settle(&self, taken: crate::terminal::Taken) -> bool {
        // With the queue full the program does not read; then it does not wait for answers either.
        let _queued = self.input.push_now(&taken.answers);
        if let Some(missing) = taken.missing {
            self.report_missing(missing);
        }
        self.changed.send_replace(());
        self.look_at_title();
        taken.stuck
    }

    /// The size that the terminal should have, if it has another one.
    fn wanted_size(&self) -> Option<Size> {
        let wanted = self.viewers.borrow().size(self.spec.resize)?;
        (wanted != self.terminal.borrow().size()).then_some(wanted)
    }

    /// Gives the terminal the size that fits its viewers. `Err`: too soon after the last time;
    /// this long it has to wait.
    pub(crate) fn fit_size(&self) -> Result<(), Duration> {
        let Some(wanted) = self.wanted_size() else { return Ok(()) };
        let now = self.clock.monotonic();
        let since = now.saturating_sub(self.resized_at.get());
        if since < RESIZE_EVERY && !is_off("coalescing") {
            return Err(RESIZE_EVERY - since);
        }
        self.resized_at.set(now);
        self.terminal.borrow_mut().screen().resize(wanted);
        if let Some(master) = self.master.get()
            && let Err(error) = master.resize(wanted)
        {
            crate::log::note(format_args!("give the terminal a new size: {error}"));
        }
        self.changed.send_replace(());
        Ok(())
    }

    /// Follows the viewers' sizes, the last one of a burst for sure. Never ends.
    pub(crate) async fn keep_size(&self) {
        loop {
            self.resized.notified().await;
            while let Err(wait) = self.fit_size() {
                tokio::time::sleep(wait).await;
            }
        }
    }
}
