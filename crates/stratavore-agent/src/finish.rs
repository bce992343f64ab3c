//! The end of a runner: nothing is left running, how it ended is written down, and told.
//!
//! Invariant: `exit.json` is durable before anybody is told.
//! Invariant: when it is told, no process of the runner is left.

use std::time::Duration;

use rustix::process::Signal;
use stratavore_core::runner::{Cause, Exit};
use stratavore_proto::runner_dir::ExitRecord;
use stratavore_proto::v1::agent_report::What;

use crate::agent::{Agent, sleep_until};
use crate::failpoint::failpoint;
use crate::runner::{Life, Runner, Wish};
use crate::{cgroup, drain, kill};

/// How long processes that the program has left may take to end by themselves.
const LEFTOVER_GRACE: Duration = Duration::from_secs(2);
/// How often they are looked at meanwhile, beside when one is seen to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often all is killed before what is left is given up.
const PASSES_MAX: u32 = 400;
/// How long the agent stays for a daemon to take in the end, and for viewers to read it.
const LINGER: Duration = Duration::from_secs(5);
/// A daemon that was not there for so long is not waited for; it finds `exit.json`.
const UNREACHABLE: Duration = Duration::from_secs(2);
/// How long after a failed one the next try to write `exit.json` comes.
const RETRY: Duration = Duration::from_millis(500);

impl Agent {
    /// Ends everything, and tells that it did. Afterwards the agent may go.
    pub(crate) async fn finish(&mut self, cause: Cause) {
        let runner = self.runner.clone();
        let ended_by_stop = self.stopping.as_ref().map(|stopping| stopping.kill_at);
        let exit = Exit { cause, at: runner.now() };
        drain_rest(&runner);
        failpoint("exit_before_record");
        // One that the store gave up wants to know nothing more of this epoch; whoever looks into
        // the directory does.
        let mut recorded = write_exit(&runner, &exit);
        let grace_until = ended_by_stop.unwrap_or_else(|| self.monotonic() + LEFTOVER_GRACE);
        self.clear(grace_until).await;
        drain_rest(&runner);
        self.record_rest().await;
        let (missing, synced) = runner.terminal.borrow().finish();
        if let Err(error) = synced {
            crate::log::note(format_args!("make the output durable: {error}"));
        }
        if let Some(missing) = missing {
            runner.report_missing(missing);
        }
        runner.input.close();
        runner.visits_over();
        failpoint("exit_before_report");
        *runner.life.borrow_mut() = Life::Ended(exit.clone());
        let seq = runner.report(What::Exited(told(&exit)));
        runner.changed.send_replace(());
        self.linger(&exit, seq, &mut recorded).await;
        // Of those who came in between. The daemon looks once more when the line ends.
        runner.visits_over();
        failpoint("exit_told");
        // Nobody can be let in any more, and the lock goes last, with the process.
        let _removed = std::fs::remove_file(runner.dir.socket());
        cgroup::remove(runner.cgroups.dirs());
    }

    /// With strict recording: waits a while for output that cannot be recorded.
    async fn record_rest(&self) {
        let until = self.monotonic() + LINGER;
        while self.runner.terminal.borrow().is_stuck() && self.monotonic() < until {
            tokio::time::sleep(RETRY).await;
            if !self.runner.retry_output() {
                drain_rest(&self.runner);
            }
        }
    }

    /// Ends what the program has left: asked until `grace_until`, then killed.
    async fn clear(&mut self, mut grace_until: Duration) {
        self.reap();
        if !self.target().near().is_empty() {
            let _thawed = self.runner.cgroups.freeze(false);
            self.target().signal_near(Signal::TERM);
            self.target().continue_stopped();
        }
        while !self.target().near().is_empty() && self.monotonic() < grace_until {
            tokio::select! {
                _ = self.signals.child.recv() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                Some(wish) = self.wishes.recv() => match wish {
                    Wish::Stop { force: true, .. } | Wish::Fenced(_) => grace_until = Duration::ZERO,
                    Wish::Stop { grace, .. } => grace_until = grace_until.min(self.monotonic() + grace),
                    Wish::Go | Wish::Pause(_) | Wish::Upgrade(_) => {}
                },
            }
            self.reap();
        }
        for pass in 0..PASSES_MAX {
            let left = self.target().kill_once();
            self.reap();
            if left == 0 {
                return;
            }
            tokio::time::sleep(kill::pause_after(pass)).await;
            self.reap();
        }
        crate::log::note(format_args!(
            "some processes of the runner cannot be killed; they are left behind"
        ));
    }

    /// Stays until the end is known: to a daemon, or at least on the disk; and to the viewers.
    async fn linger(&mut self, exit: &Exit, seq: Option<u64>, recorded: &mut bool) {
        let runner = self.runner.clone();
        let mut told = runner.told.subscribe();
        let until = self.monotonic() + LINGER;
        if runner.unlinked_since.get().is_some() {
            runner.poked.notify_one();
        }
        loop {
            told.mark_unchanged();
            let now = self.monotonic();
            if !*recorded {
                *recorded = write_exit(&runner, exit);
            }
            let acked = seq.is_some_and(|seq| runner.spool.borrow().is_acked(seq));
            let unreachable_at = runner.unlinked_since.get().map(|since| since + UNREACHABLE);
            let unreachable = unreachable_at.is_some_and(|at| now >= at);
            // A directory that is gone is one that nobody will look into.
            let written = *recorded || !runner.dir.exists();
            let known = acked || (written && (unreachable || now >= until));
            let read = runner.connections.get() == 0 || now >= until;
            if self.fenced || (known && read) {
                return;
            }
            let wake = if written || acked {
                unreachable_at.unwrap_or(until).clamp(now, until)
            } else {
                now + RETRY
            };
            tokio::select! {
                _ = told.changed() => {}
                () = sleep_until(Some(wake), now) => {}
                // The line must not wait for us.
                Some(wish) = self.wishes.recv() => self.fenced |= matches!(wish, Wish::Fenced(_)),
            }
        }
    }
}

fn drain_rest(runner: &Runner) {
    if let Some(master) = runner.master.get()
        && let Err(error) = drain::rest(runner, master)
    {
        crate::log::note(format_args!("read the rest of the output: {error}"));
    }
}

fn write_exit(runner: &Runner, exit: &Exit) -> bool {
    let record = ExitRecord { epoch: runner.spec.epoch, exit: exit.clone() };
    match runner.dir.write_exit(&record) {
        Ok(()) => true,
        Err(error) => {
            crate::log::note(format_args!("write exit.json: {error}"));
            false
        }
    }
}

/// The end as it is told to a daemon.
fn told(exit: &Exit) -> stratavore_proto::v1::Exit {
    // A cause is plain data, so it always has a JSON form.
    let cause = serde_json::to_string(&exit.cause).unwrap_or_default();
    stratavore_proto::v1::Exit { cause, at_us: exit.at.as_microsecond() }
}
