//! The traces of runners on their host, as the kernel shows them. Stratavore is not asked.

use std::fs;
use std::path::{Path, PathBuf};

use crate::world::{World, is_zombie, of_process, parent, start_time, until};

/// One process and no later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    pub pid: u32,
    /// Clock ticks after boot.
    pub start_time: u64,
}

impl Process {
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, start_time: start_time(pid)? })
    }

    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self) && !is_zombie(self.pid)
    }

    /// True if it is stopped by a signal or by its cgroup, as the kernel tells.
    pub fn is_held(self) -> bool {
        let pid = self.pid;
        let read = |path: String| fs::read_to_string(path).unwrap_or_default();
        let stat = read(format!("/proc/{pid}/stat"));
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        // What a frozen process waits in is its own name for it.
        let place = read(format!("/proc/{pid}/wchan"));
        state.starts_with('T')
            || place.contains("refrigerator")
            || place.contains("do_freezer_trap")
            || is_frozen(pid)
    }
}

/// Whether one of the process's cgroups says that it is frozen.
fn is_frozen(pid: u32) -> bool {
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let paths = own.lines().filter_map(|line| line.rsplit(':').next());
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/freezer"];
    paths.flat_map(|path| roots.map(|root| format!("{root}{path}"))).any(|dir| {
        let events = fs::read_to_string(format!("{dir}/cgroup.events")).unwrap_or_default();
        let old = fs::read_to_string(format!("{dir}/freezer.state")).unwrap_or_default();
        events.lines().any(|line| line == "frozen 1") || old.trim() == "FROZEN"
    })
}

impl World {
    /// The one process that carries the runner's mark. In the middle of an exec a process shows no
    /// mark, so it is waited for.
    ///
    /// # Panics
    /// If there is none, or several, for as long as a condition is waited for.
    #[track_caller]
    pub fn process_of(&self, runner: &str) -> Process {
        until("a runner has one process", || {
            let pids = self.processes_of(runner);
            let told = |pid: &u32| {
                let line = of_process(*pid, "cmdline");
                (*pid, String::from_utf8_lossy(&line).into_owned(), parent(*pid))
            };
            match pids[..] {
                [pid] => Process::of(pid).ok_or_else(Vec::new),
                _ => Err(pids.iter().map(told).collect()),
            }
        })
    }

    /// The pids of the agents of one runner: one, or none.
    pub fn agents_of(&self, runner: &str) -> Vec<u32> {
        let names_it = |pid: &u32| {
            let line = of_process(*pid, "cmdline");
            line.windows(runner.len()).any(|window| window == runner.as_bytes())
        };
        self.agents().into_iter().filter(names_it).collect()
    }

    /// All that is left of a runner outside of its directory, each in words.
    pub fn left_of(&self, runner: &str) -> Vec<String> {
        let processes = self.processes_of(runner).into_iter().map(|pid| format!("process {pid}"));
        let agents = self.agents_of(runner).into_iter().map(|pid| format!("agent {pid}"));
        let cgroups = cgroups_of(runner).into_iter().map(|dir| dir.display().to_string());
        processes.chain(agents).chain(cgroups).collect()
    }
}

/// The cgroups of a runner, in whichever tree.
pub fn cgroups_of(runner: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut to_see = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = to_see.pop() {
        let ours = dir.join("stratavore").join(runner);
        if ours.is_dir() {
            found.push(ours);
        }
        to_see.extend(directories(&dir));
    }
    found
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(is_dir).map(|entry| entry.path()).collect()
}
