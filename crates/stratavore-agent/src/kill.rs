//! Ending all that a runner runs, whatever shape it took.
//!
//! A program may fork twice, take a session of its own, close everything, or clear its
//! environment. It does not leave its cgroup, and it stays a descendant of the agent, which is
//! its subreaper; where there is no cgroup and no agent any more, the mark in the environment is
//! what is left to find it by.
//!
//! Invariant: only members are signalled: a process is pinned by a pidfd first and looked at
//! then, so a pid that was taken anew in between is never hit.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use stratavore_core::RunnerId;

use crate::cgroup;
use crate::failpoint::is_off;
use crate::identity::Pinned;
use crate::procfs::{self, Stat};

/// How often a dead agent's leftovers are gone after before they are given up: about 10 s.
const PASSES: u32 = 220;

/// How many pidfds are open at a time.
const AT_ONCE: usize = 128;

/// Where the processes of a runner are looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub runner: RunnerId,
    pub cgroups: &'a [PathBuf],
    /// The living agent, of which they all are descendants.
    pub agent: Option<u32>,
}

impl Target<'_> {
    /// The pids in the cgroups and below the agent; zombies are not counted.
    ///
    /// The marks are left out: to look for them means to look at every process of the host.
    pub(crate) fn near(&self) -> HashSet<u32> {
        let mut pids = cgroup::processes(self.cgroups);
        if let Some(agent) = self.agent {
            pids.extend(procfs::descendants(agent));
        }
        pids.remove(&std::process::id());
        pids.retain(|&pid| Stat::of(pid).is_some_and(|stat| !stat.is_zombie()));
        pids
    }

    fn marked(&self) -> impl Iterator<Item = u32> + '_ {
        let me = std::process::id();
        let runs = |&pid: &u32| Stat::of(pid).is_some_and(|stat| !stat.is_zombie());
        procfs::all()
            .into_iter()
            .filter(move |&pid| pid != me && procfs::is_marked(pid, self.runner))
            .filter(runs)
    }

    /// Sends `signal` to every process that is found near.
    pub(crate) fn signal_near(&self, signal: Signal) {
        self.signal_those(signal, &self.near());
    }

    /// Wakes those that were stopped, so that they can act on what else was sent to them.
    pub(crate) fn continue_stopped(&self) {
        let mut stopped = self.near();
        stopped.retain(|&pid| Stat::of(pid).is_some_and(|stat| stat.is_stopped()));
        self.signal_those(Signal::CONT, &stopped);
    }

    fn signal_those(&self, signal: Signal, pids: &HashSet<u32>) {
        let pids: Vec<u32> = pids.iter().copied().collect();
        for some in pids.chunks(AT_ONCE) {
            let pinned: Vec<(u32, Pinned)> =
                some.iter().filter_map(|&pid| Some((pid, Pinned::open(pid)?))).collect();
            let still = self.near();
            for (pid, process) in &pinned {
                if still.contains(pid) {
                    process.signal(signal);
                }
            }
        }
    }

    /// Kills all that is found now, and tells how many that were. Nothing found means nothing
    /// left, as long as nobody puts a foreign process into the cgroup.
    pub(crate) fn kill_once(&self) -> usize {
        cgroup::kill(self.cgroups);
        let near = self.near();
        self.signal_those(Signal::KILL, &near);
        let mut found = near.len();
        for pid in self.marked().filter(|pid| !near.contains(pid)) {
            found += 1;
            if let Some(process) = Pinned::open(pid)
                && procfs::is_marked(pid, self.runner)
            {
                process.signal(Signal::KILL);
            }
        }
        found
    }
}

/// How long to wait after the pass `number`, counted from 0, before the next one.
pub(crate) fn pause_after(number: u32) -> Duration {
    Duration::from_millis(u64::from(2 + number * 2).min(50))
}

/// True if processes of `runner` are left, of which no agent takes care.
///
/// `cgroups` are what a file says; those that cannot be this runner's are passed over, here and in
/// [`clear_runner`].
pub fn is_populated(runner: RunnerId, cgroups: &[PathBuf]) -> bool {
    let cgroups = cgroup::of_runner(runner, cgroups);
    let target = Target { runner, cgroups: &cgroups, agent: None };
    !target.near().is_empty() || target.marked().next().is_some()
}

/// True if [`clear_runner`] has something to do: processes, or cgroups without any.
pub fn has_leftovers(runner: RunnerId, cgroups: &[PathBuf]) -> bool {
    !cgroup::of_runner(runner, cgroups).is_empty() || is_populated(runner, cgroups)
}

/// The runners whose mark some process on this host carries. Looks at every process once, so for
/// many runners this is much cheaper than [`is_populated`] for each.
pub fn marked_runners() -> HashSet<RunnerId> {
    let me = std::process::id();
    procfs::all().into_iter().filter(|&pid| pid != me).filter_map(procfs::mark).collect()
}

/// Ends all that a dead agent left of `runner`, and removes its cgroups.
///
/// Returns how many processes are still there when it gives up after about 10 s; 0 is success.
/// Blocks. It cannot reach anything of another boot: the cgroups and the marks of an earlier boot
/// are gone with it.
pub fn clear_runner(runner: RunnerId, cgroups: &[PathBuf]) -> io::Result<usize> {
    fs::metadata("/proc/self/stat")?;
    if is_off("clearing") {
        return Ok(0);
    }
    let cgroups = &cgroup::of_runner(runner, cgroups);
    let target = Target { runner, cgroups, agent: None };
    let mut left = 0;
    for pass in 0..PASSES {
        left = target.kill_once();
        if left == 0 {
            cgroup::remove(cgroups);
            break;
        }
        std::thread::sleep(pause_after(pass));
    }
    Ok(left)
}
