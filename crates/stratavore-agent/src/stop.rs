//! Ending the program: in words where it takes some, then by signals, and in the end by force.
//!
//! Invariant: once the grace is over everything of the runner is killed, whatever was asked before.

use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Signal, kill_process_group};
use stratavore_core::runner::{Cause, ProcessIdentity};
use tokio::task::JoinSet;

use crate::agent::{Agent, pid_of};
use crate::input::Text;
use crate::{kill, link, procfs};

/// How long after TERM a program is hung up on, at most: shells heed that.
const HANGUP_AFTER: Duration = Duration::from_secs(1);
/// Ctrl-U, which drops what stands on the line.
const KILL_LINE: &[u8] = b"\x15";
/// How long after a key of its own other text is typed: at once it would count as one piece with it.
const KEY: Duration = Duration::from_millis(100);

/// A stop that is under way. Times are on the monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stopping {
    /// Told instead of how the program ended.
    pub cause: Option<Cause>,
    /// When it is asked by a signal what it was asked in words before.
    pub term_at: Option<Duration>,
    pub hangup_at: Option<Duration>,
    pub kill_at: Duration,
    /// How often all was killed.
    pub passes: u32,
}

impl Stopping {
    /// When something is to be done next.
    pub(crate) fn next(&self) -> Duration {
        let times = [self.term_at, self.hangup_at, Some(self.kill_at)];
        times.into_iter().flatten().min().unwrap_or(self.kill_at)
    }
}

impl Agent {
    /// Asks the program to end, and sees to it that it does. `Some`: nothing runs.
    pub(crate) fn stop(
        &mut self,
        cause: Option<Cause>,
        grace: Duration,
        force: bool,
    ) -> Option<Cause> {
        let Some(process) = self.runner.process() else {
            return Some(cause.unwrap_or_else(link::stopped_before_start));
        };
        let now = self.monotonic();
        let grace = if force { Duration::ZERO } else { grace };
        if let Some(stopping) = &mut self.stopping {
            // A second wish can only shorten the grace.
            stopping.kill_at = stopping.kill_at.min(now + grace);
            if force {
                (stopping.term_at, stopping.hangup_at) = (None, None);
            }
            return None;
        }
        let kill_at = now + grace;
        self.stopping =
            Some(Stopping { cause, term_at: None, hangup_at: None, kill_at, passes: 0 });
        if !force {
            self.terminate(process, now);
        }
        None
    }

    /// True if it can be asked in words: it runs, and reads what is typed.
    pub(crate) fn may_be_asked(&self, force: bool, quit: &str) -> bool {
        let runs = self.runner.process().is_some() && !self.paused && self.stopping.is_none();
        runs && !force && !quit.is_empty()
    }

    /// Types what has the program end by itself. If that does not help within a quarter of the grace it is
    /// asked by a signal.
    pub(crate) fn ask_to_quit(
        &mut self,
        cause: Option<Cause>,
        grace: Duration,
        quit: String,
        tasks: &mut JoinSet<()>,
    ) {
        let now = self.monotonic();
        let (term_at, kill_at) = (Some(now + grace / 4), now + grace);
        self.stopping = Some(Stopping { cause, term_at, hangup_at: None, kill_at, passes: 0 });
        let runner = Rc::clone(&self.runner);
        tasks.spawn_local(async move {
            let typed = |data, enter| Text { data, bracketed: false, enter, id: "", again: false };
            // What somebody has begun to type would come before it. A program that does not read is ended
            // by a signal.
            if runner.input.send(typed(KILL_LINE, false)).await.is_ok() {
                tokio::time::sleep(KEY).await;
                let _typed = runner.input.send(typed(quit.as_bytes(), true)).await;
            }
        });
    }

    /// Asks the program by a signal.
    fn terminate(&mut self, process: ProcessIdentity, now: Duration) {
        if let Some(stopping) = &mut self.stopping {
            let left = stopping.kill_at.saturating_sub(now);
            stopping.term_at = None;
            stopping.hangup_at = Some(now + (left / 4).min(HANGUP_AFTER));
        }
        signal_group(process, Signal::TERM);
        if ignores_term(process) {
            self.hang_up();
        }
        self.wake_up();
    }

    /// Does what a stop's next time has come for.
    pub(crate) fn stop_goes_on(&mut self, now: Duration) {
        let process = self.runner.process();
        let Some(stopping) = &mut self.stopping else { return };
        if stopping.kill_at <= now {
            (stopping.term_at, stopping.hangup_at) = (None, None);
            let pass = stopping.passes;
            stopping.passes += 1;
            // What cannot be killed now, in the middle of a system call, is tried again, ever less often.
            stopping.kill_at =
                now + kill::pause_after(pass).max(Duration::from_secs(u64::from(pass / 200)));
            self.target().kill_once();
        } else if stopping.term_at.is_some_and(|at| at <= now) {
            stopping.term_at = None;
            if let Some(process) = process {
                self.terminate(process, now);
            }
        } else if stopping.hangup_at.is_some_and(|at| at <= now) {
            self.hang_up();
        }
    }

    /// What was stopped or frozen has to run to heed a signal.
    fn wake_up(&mut self) {
        self.paused = false;
        if let Err(error) = self.runner.cgroups.freeze(false) {
            crate::log::note(format_args!("thaw the runner: {error}"));
        }
        self.target().continue_stopped();
    }

    /// Again and again where nothing else is heeded: bash loses a hangup that comes while it turns
    /// from a command to its prompt.
    fn hang_up(&mut self) {
        let process = self.runner.process();
        let heeds_nothing_else = process.is_some_and(ignores_term);
        let again = heeds_nothing_else.then(|| self.monotonic() + HANGUP_AFTER);
        if let Some(stopping) = &mut self.stopping {
            stopping.hangup_at = again;
        }
        if let Some(process) = process {
            signal_group(process, Signal::HUP);
        }
    }
}

fn ignores_term(process: ProcessIdentity) -> bool {
    procfs::ignores(process.pid, Signal::TERM.as_raw())
}

/// Signals the program's own group, which has its pid, as it leads its session. The program was
/// not waited for, so neither can belong to anybody else.
fn signal_group(process: ProcessIdentity, signal: Signal) {
    if let Some(pid) = pid_of(process) {
        // The group may be empty already.
        let _sent = kill_process_group(pid, signal);
    }
}
