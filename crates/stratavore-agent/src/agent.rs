//! The agent's main loop: starts the program once a daemon says go, and sees it to its end.
//!
//! Tasks beside it talk to the daemon, to viewers and to the terminal; all that changes the
//! runner's life happens here, one thing after the other.
//!
//! Invariant: nothing runs before a daemon has said go.
//! Invariant: how it ended is durable before it is told, and told only when nothing is left.

use std::collections::BTreeMap;
use std::fs::File;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, wait};
use stratavore_core::runner::{Cause, ProcessIdentity};
use stratavore_proto::runner_dir::AgentRecord;
use stratavore_proto::v1::agent_report::What;
use stratavore_proto::version;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::failpoint::failpoint;
use crate::kill::Target;
use crate::runner::{Life, Runner, Wish};
use crate::signals::Signals;
use crate::stop::Stopping;
use crate::{child, drain, link, observe, pty, socket, upgrade, visits};

/// How long a program has to end when the host wants the agent to end.
const GRACE: Duration = Duration::from_secs(10);
/// How often the program is tried to be started again when the host has too little for it, and the
/// first wait; each one is three times as long as the one before.
const START_TRIES: u32 = 4;
const START_AGAIN: Duration = Duration::from_millis(100);
/// The main loop's own state.
pub(crate) struct Agent {
    pub runner: Rc<Runner>,
    pub wishes: mpsc::Receiver<Wish>,
    pub signals: Signals,
    pub listener: Rc<UnixListener>,
    /// Held as long as the agent lives.
    pub lock: File,
    /// The environment for the program, until it is started.
    pub environment: BTreeMap<String, String>,
    pub oom_score: i32,
    /// How often starting the program was put off.
    pub put_off: u32,
    /// When waiting for a daemon, or the program's wall time, is over; on the monotonic clock.
    pub deadline: Option<Duration>,
    pub stopping: Option<Stopping>,
    pub paused: bool,
    /// What the daemon said when it said that this epoch is over.
    pub fenced: bool,
}

impl Agent {
    /// Lives until the runner has ended and that is told, or until nobody wants it to start.
    pub(crate) async fn live(mut self) {
        let mut tasks = JoinSet::new();
        let runner = Rc::clone(&self.runner);
        tasks.spawn_local(async move { link::run(&runner).await });
        let runner = Rc::clone(&self.runner);
        tasks.spawn_local(async move { runner.keep_size().await });
        let (runner, listener) = (Rc::clone(&self.runner), Rc::clone(&self.listener));
        tasks.spawn_local(async move { socket::serve(runner, &listener).await });
        let runner = Rc::clone(&self.runner);
        tasks.spawn_local(async move { observe::run(runner).await });
        let runner = Rc::clone(&self.runner);
        tasks.spawn_local(async move { visits::run(runner).await });
        if self.runner.process().is_some() {
            self.run_terminal(&mut tasks);
        }
        let cause = self.until_end(&mut tasks).await;
        self.finish(cause).await;
        tasks.shutdown().await;
    }

    /// The main loop. Returns why it is over.
    async fn until_end(&mut self, tasks: &mut JoinSet<()>) -> Cause {
        loop {
            if let Some(cause) = self.reap() {
                return cause;
            }
            let (wake, now) = (self.next_deadline(), self.monotonic());
            tokio::select! {
                Some(wish) = self.wishes.recv() => {
                    if let Some(cause) = self.heed(wish, tasks) {
                        return cause;
                    }
                }
                _ = self.signals.child.recv() => {}
                _ = self.signals.terminate.recv() => {
                    let cause = Cause::AgentTerminated;
                    if let Some(cause) = self.stop(Some(cause), GRACE, false) {
                        return cause;
                    }
                }
                () = sleep_until(wake, now) => {
                    if let Some(cause) = self.deadline_came() {
                        return cause;
                    }
                }
                // A terminal that failed; the program will notice by itself.
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    pub(crate) fn monotonic(&self) -> Duration {
        self.runner.clock.monotonic()
    }

    fn next_deadline(&self) -> Option<Duration> {
        let stopping = self.stopping.as_ref().map(Stopping::next);
        [self.deadline, stopping].into_iter().flatten().min()
    }

    /// Does what somebody wants. `Some`: it is over.
    fn heed(&mut self, wish: Wish, tasks: &mut JoinSet<()>) -> Option<Cause> {
        match wish {
            Wish::Go if matches!(*self.runner.life.borrow(), Life::Waiting) => self.go(tasks),
            Wish::Go => None,
            Wish::Stop { cause, grace, force, quit } => {
                if self.may_be_asked(force, &quit) {
                    self.ask_to_quit(cause, grace, quit, tasks);
                    return None;
                }
                self.stop(cause, grace, force)
            }
            Wish::Pause(paused) => {
                self.pause(paused);
                None
            }
            Wish::Upgrade(program) if self.runner.input.is_taken() => {
                // Of a text that is half typed the next program would not know the rest.
                let runner = Rc::clone(&self.runner);
                tasks.spawn_local(async move {
                    drop(runner.input.turn().await);
                    // Without the main loop there is nothing to be replaced.
                    let _wished = runner.wishes.send(Wish::Upgrade(program)).await;
                });
                None
            }
            Wish::Upgrade(program) => {
                let error = upgrade::replace(self, &program);
                crate::log::note(format_args!(
                    "upgrade to {program}: {error:#}; this program goes on"
                ));
                *self.runner.upgrade_failed.borrow_mut() = Some(error.to_string());
                self.runner.told.send_replace(());
                None
            }
            Wish::Fenced(why) => {
                crate::log::note(format_args!("the daemon says that this epoch is over: {why}"));
                self.fenced = true;
                self.stop(Some(Cause::StoppedBy("daemon".into())), Duration::ZERO, true)
            }
        }
    }

    /// Starts the program, or puts that off for a moment.
    fn go(&mut self, tasks: &mut JoinSet<()>) -> Option<Cause> {
        failpoint("L11");
        let process = match self.start_program() {
            Ok(process) => process,
            Err(child::ExecError { why, passing: true }) if self.put_off < START_TRIES => {
                let wait = START_AGAIN * 3u32.pow(self.put_off);
                self.put_off += 1;
                crate::log::note(format_args!("{why}; will try again in {wait:?}"));
                let wishes = self.runner.wishes.clone();
                tasks.spawn_local(async move {
                    tokio::time::sleep(wait).await;
                    // Without the main loop there is nothing to start.
                    let _wished = wishes.send(Wish::Go).await;
                });
                return None;
            }
            Err(child::ExecError { why, .. }) => return Some(Cause::ExecError(why)),
        };
        self.environment = BTreeMap::new();
        let runner = &self.runner;
        failpoint("child_started_before_persist");
        *runner.life.borrow_mut() = Life::Running(process);
        record(runner, Some(process));
        failpoint("child_started_before_report");
        runner.report(What::Started(process.into()));
        if let Some(why) = runner.cgroups.unenforced() {
            runner.report(What::LimitsNotEnforced(why));
        }
        self.deadline =
            runner.spec.limits.wall_time().map(|wall| self.monotonic().saturating_add(wall));
        self.run_terminal(tasks);
        None
    }

    fn start_program(&self) -> Result<ProcessIdentity, child::ExecError> {
        let runner = &self.runner;
        let master = match runner.master.get() {
            Some(master) => master,
            None => {
                let size = runner.terminal.borrow().size();
                let opened = pty::open(size).map_err(|error| child::ExecError::terminal(&error))?;
                runner.master.get_or_init(|| opened)
            }
        };
        let (slave, cgroups) = (master.slave(), &runner.cgroups);
        let filled = observe::filled(runner);
        let (spec, inherited) = (&runner.spec, &self.environment);
        child::start(spec, inherited, filled, &runner.dir, slave, cgroups, self.oom_score)
    }

    fn run_terminal(&self, tasks: &mut JoinSet<()>) {
        let runner = Rc::clone(&self.runner);
        tasks.spawn_local(async move {
            let Some(master) = runner.master.get() else { return };
            let ended = tokio::join!(drain::output(&runner, master), drain::input(&runner, master));
            for error in [ended.0, ended.1].into_iter().filter_map(Result::err) {
                crate::log::note(format_args!("the terminal failed: {error}"));
            }
        });
    }

    pub(crate) fn target(&self) -> Target<'_> {
        let runner = &self.runner;
        Target {
            runner: runner.spec.runner,
            cgroups: runner.cgroups.dirs(),
            agent: Some(runner.identity.pid),
        }
    }

    /// Something that was waited for has not come, or its time has. `Some`: it is over.
    fn deadline_came(&mut self) -> Option<Cause> {
        let now = self.monotonic();
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            if self.runner.process().is_none() {
                return Some(Cause::LaunchInterrupted);
            }
            self.stop(Some(Cause::WallTime), GRACE, false);
        }
        self.stop_goes_on(now);
        None
    }

    /// Stops all processes where they are, or lets them go on.
    fn pause(&mut self, paused: bool) {
        // Told again what is so already: to go on would wake jobs that a person has stopped.
        if self.paused == paused || self.runner.process().is_none() || self.stopping.is_some() {
            return;
        }
        self.paused = paused;
        match self.runner.cgroups.freeze(paused) {
            Ok(true) => {}
            Ok(false) if paused => self.target().signal_near(Signal::STOP),
            Ok(false) => self.target().continue_stopped(),
            Err(error) => crate::log::note(format_args!("pause the runner: {error}")),
        }
    }

    /// Waits for all children that have ended. `Some`: the program was among them.
    pub(crate) fn reap(&self) -> Option<Cause> {
        let process = self.runner.process();
        let mut ended = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if process.is_some_and(|process| Some(pid) == pid_of(process)) {
                ended = Some(self.cause(status));
            }
        }
        ended
    }

    fn cause(&self, status: WaitStatus) -> Cause {
        if let Some(cause) = self.stopping.as_ref().and_then(|stopping| stopping.cause.clone()) {
            return cause;
        }
        let cause = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Cause::Exit(code),
            (None, Some(signal)) => Cause::Signal(signal),
            (None, None) => Cause::Exit(status.as_raw()),
        };
        // A stop that was asked for explains itself.
        if cause.is_success() || self.stopping.is_some() {
            return cause;
        }
        if self.runner.cgroups.met_oom() {
            return Cause::Oom;
        }
        if self.runner.cgroups.met_pids_limit() {
            return Cause::PidsLimit;
        }
        cause
    }
}

pub(crate) fn pid_of(process: ProcessIdentity) -> Option<Pid> {
    Pid::from_raw(i32::try_from(process.pid).ok()?)
}

pub(crate) async fn sleep_until(wake: Option<Duration>, now: Duration) {
    match wake {
        Some(wake) => tokio::time::sleep(wake.saturating_sub(now)).await,
        None => std::future::pending().await,
    }
}

/// Writes down who we are and what runs.
pub(crate) fn record(runner: &Runner, process: Option<ProcessIdentity>) {
    let record = AgentRecord {
        epoch: runner.spec.epoch,
        identity: runner.identity.clone(),
        program_version: version::VERSION.into(),
        process,
        cgroups: runner.cgroups.dirs().to_vec(),
    };
    if let Err(error) = runner.dir.write_agent(&record) {
        crate::log::note(format_args!("write agent.json: {error}"));
    }
}
