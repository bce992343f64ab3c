//! What a runner's processes use, all together.

use std::path::PathBuf;

use rustix::param::{clock_ticks_per_second, page_size};

use crate::cgroup::{self, Cgroups};
use crate::procfs::{self, Stat};

/// Sums over all processes of a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// CPU time since the start, also of processes that have ended.
    pub cpu_ms: u64,
    /// Resident bytes.
    pub memory: u64,
    pub processes: u32,
}

/// Adds up what the cgroups know, and what has to be found process by process.
pub(crate) fn sample(cgroups: &Cgroups, agent: u32) -> Usage {
    let pids = members(cgroups.dirs(), agent);
    let mut usage =
        Usage { processes: u32::try_from(pids.len()).unwrap_or(u32::MAX), ..Usage::default() };
    usage.cpu_ms = cgroups.cpu_ms().unwrap_or_else(|| {
        // Descendants that were waited for are in the times of the one that waited, in the end us.
        let waited = Stat::of(agent).map_or(0, |stat| stat.waited_cpu);
        let living: u64 = pids
            .iter()
            .filter_map(|&pid| Stat::of(pid))
            .map(|stat| stat.cpu + stat.waited_cpu)
            .sum();
        (waited + living) * 1000 / clock_ticks_per_second().max(1)
    });
    usage.memory = cgroups.memory().unwrap_or_else(|| {
        let pages: Vec<(u64, u64)> =
            pids.iter().filter_map(|&pid| procfs::resident_pages(pid)).collect();
        // What is shared, mostly programs and libraries, is counted once.
        let own: u64 = pages.iter().map(|(own, _)| own).sum();
        let shared = pages.iter().map(|(_, shared)| *shared).max().unwrap_or(0);
        (own + shared) * page_size() as u64
    });
    usage
}

fn members(dirs: &[PathBuf], agent: u32) -> Vec<u32> {
    if dirs.is_empty() {
        let mut pids = procfs::descendants(agent);
        pids.retain(|&pid| Stat::of(pid).is_some_and(|stat| !stat.is_zombie()));
        return pids;
    }
    cgroup::processes(dirs).into_iter().collect()
}
