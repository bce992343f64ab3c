//! The agents that are connected to this daemon.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stratavore_core::RunnerId;
use tokio::sync::{mpsc, oneshot};

/// Commands that may wait for one agent. An agent that lets more pile up is cut off and has to
/// connect again, when it is told afresh what is wanted of it.
const QUEUE: usize = 16;

/// What an agent is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentCommand {
    Go,
    /// `quit` is typed first, to have it end by itself.
    Stop {
        grace: Duration,
        force: bool,
        quit: Option<&'static str>,
    },
    SetPaused(bool),
    Upgrade {
        program: String,
    },
}

/// The version of the program that an agent came back as, or why it stayed what it was.
pub(crate) type Upgraded = Result<String, String>;

#[derive(Default)]
pub(crate) struct Links {
    inner: Mutex<Inner>,
    /// Runners share them by chance, and then only wait for each other.
    turns: [tokio::sync::Mutex<()>; 32],
}

#[derive(Default)]
struct Inner {
    /// Distinguishes a connection from a later one of the same runner.
    next: u64,
    links: HashMap<RunnerId, Link>,
    /// Which start task of a runner is under way.
    launching: HashMap<RunnerId, Launching>,
    watched: HashSet<RunnerId>,
    /// Who waits for the outcome of an upgrade.
    upgrades: HashMap<RunnerId, oneshot::Sender<Upgraded>>,
    /// Since when a runner has been seen at a generation, on the monotonic clock.
    seen: HashMap<RunnerId, (i64, Duration)>,
}

struct Link {
    number: u64,
    epoch: i64,
    commands: mpsc::Sender<AgentCommand>,
}

struct Launching {
    number: u64,
    /// It waits for its time, and gives way to one that does not have to.
    waits: bool,
}

impl Links {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who starts an agent, and who binds one, has its turn first. Otherwise one that has died by now
    /// could be bound just when another was started in its place.
    pub(crate) async fn turn(&self, runner: RunnerId) -> tokio::sync::MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        runner.hash(&mut hasher);
        let place = hasher.finish() as usize % self.turns.len();
        self.turns[place].lock().await
    }

    /// Registers a connection; an earlier one of the same runner is forgotten and so ends.
    pub(crate) fn connect(
        &self,
        runner: RunnerId,
        epoch: i64,
    ) -> (u64, mpsc::Receiver<AgentCommand>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut inner = self.lock();
        inner.next += 1;
        let number = inner.next;
        inner.links.insert(runner, Link { number, epoch, commands: sender });
        (number, receiver)
    }

    /// True if this connection was the runner's latest one.
    pub(crate) fn disconnect(&self, runner: RunnerId, number: u64) -> bool {
        let mut inner = self.lock();
        let current = inner.links.get(&runner).is_some_and(|link| link.number == number);
        if current {
            inner.links.remove(&runner);
        }
        current
    }

    pub(crate) fn is_connected(&self, runner: RunnerId) -> bool {
        self.lock().links.contains_key(&runner)
    }

    /// True if the agent of this very epoch is connected.
    pub(crate) fn is_connected_at(&self, runner: RunnerId, epoch: i64) -> bool {
        self.lock().links.get(&runner).is_some_and(|link| link.epoch == epoch)
    }

    /// Gives a connection up, whichever it is.
    pub(crate) fn sever(&self, runner: RunnerId) {
        self.lock().links.remove(&runner);
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().links.len()
    }

    /// Queues a command; false if the agent is not connected or does not take any.
    pub(crate) fn tell(&self, runner: RunnerId, command: AgentCommand) -> bool {
        let mut inner = self.lock();
        let Some(link) = inner.links.get(&runner) else { return false };
        if link.commands.try_send(command).is_ok() {
            return true;
        }
        inner.links.remove(&runner);
        false
    }

    /// Marks the runner as being started; `None` if it is already, but for a start that `waits`
    /// for its time, whose place one takes that need not. The number ends this launch, and not a
    /// later one.
    pub(crate) fn begin_launch(&self, runner: RunnerId, waits: bool) -> Option<u64> {
        let mut inner = self.lock();
        if inner.launching.get(&runner).is_some_and(|other| waits || !other.waits) {
            return None;
        }
        inner.next += 1;
        let number = inner.next;
        inner.launching.insert(runner, Launching { number, waits });
        Some(number)
    }

    /// The time to start has come; false if another start has taken this one's place.
    pub(crate) fn is_due(&self, runner: RunnerId, number: u64) -> bool {
        let mut inner = self.lock();
        let own = inner.launching.get_mut(&runner).filter(|launch| launch.number == number);
        own.map(|launch| launch.waits = false).is_some()
    }

    pub(crate) fn end_launch(&self, runner: RunnerId, number: u64) {
        let mut inner = self.lock();
        if inner.launching.get(&runner).is_some_and(|launch| launch.number == number) {
            inner.launching.remove(&runner);
        }
    }

    pub(crate) fn is_launching(&self, runner: RunnerId) -> bool {
        self.lock().launching.contains_key(&runner)
    }

    /// Waits for the outcome of an upgrade; `None` if somebody does already.
    pub(crate) fn begin_upgrade(&self, runner: RunnerId) -> Option<oneshot::Receiver<Upgraded>> {
        let mut inner = self.lock();
        // One whose waiter has gone away is replaced.
        if inner.upgrades.get(&runner).is_some_and(|waiting| !waiting.is_closed()) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        inner.upgrades.insert(runner, sender);
        Some(receiver)
    }

    pub(crate) fn end_upgrade(&self, runner: RunnerId, outcome: Upgraded) {
        if let Some(waiting) = self.lock().upgrades.remove(&runner) {
            // It may have given up.
            waiting.send(outcome).ok();
        }
    }

    /// Marks the runner as being watched for its agent's return; false if it is already.
    pub(crate) fn begin_watch(&self, runner: RunnerId) -> bool {
        self.lock().watched.insert(runner)
    }

    /// Since when the runner has been seen at this generation; `now` if it was not before.
    pub(crate) fn seen_since(&self, runner: RunnerId, generation: i64, now: Duration) -> Duration {
        let mut inner = self.lock();
        let entry = inner.seen.entry(runner).or_insert((generation, now));
        if entry.0 != generation {
            *entry = (generation, now);
        }
        entry.1
    }

    pub(crate) fn forget_seen(&self, runner: RunnerId) {
        self.lock().seen.remove(&runner);
    }

    pub(crate) fn end_watch(&self, runner: RunnerId) {
        self.lock().watched.remove(&runner);
    }
}
