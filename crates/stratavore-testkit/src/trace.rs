//! The traces of runners on their host, as the kernel shows them. Stratavore is not asked.

use std::fs;
use std::path::{Path, PathBuf};

use crate::world::{World, is_zombie, of_process, start_time};

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
}

impl World {
    /// The one process that carries the runner's mark.
    ///
    /// # Panics
    /// If there is none, or several.
    #[track_caller]
    pub fn process_of(&self, runner: &str) -> Process {
        match self.processes_of(runner)[..] {
            [pid] => Process::of(pid).expect("it has just been seen"),
            ref pids => panic!("{runner} should have one process, and has {pids:?}"),
        }
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
