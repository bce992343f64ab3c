//! The control groups of one runner: limits, freezing, and killing all at once.
//!
//! A host has one tree of cgroups (v2), or a tree for each controller (v1), or both. A directory
//! is asked for what it can do by the files that it holds, so the code below does not care which
//! kind it has.
//!
//! - v2 with controllers: `<runner>` beside the agent in a scope that is the agent's alone, else
//!   `stratavore/<runner>` below the agent's own cgroup.
//! - v1: `stratavore/<runner>` in the trees whose limits are asked for; in the v2 tree beside them,
//!   which has no controllers, the same name serves for killing and freezing.
//! - Neither can be made: the limits are told as not enforced, and killing walks the descendants.
//!
//! Invariant: making cgroups never fails a launch; what cannot be had is told.
//! Invariant: a cgroup of a runner is named by its id, and none of another name is ever killed: the
//! file that lists them lies where the runner can write.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{OFlags, fstatfs};
use stratavore_core::RunnerId;
use stratavore_core::limits::Limits;

use crate::mounts::Mounts;

/// The kinds of file system that cgroups are in: v1, v2.
const MAGIC: [i64; 2] = [0x27e0eb, 0x6367_7270];
/// The parent directory of ours.
const PARENT: &str = "stratavore";
/// The length of a v1 CPU period, in microseconds.
const PERIOD: u64 = 100_000;

/// The cgroups of one runner.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    dirs: Vec<PathBuf>,
    /// The limits that are not enforced, each with why.
    unenforced: Vec<String>,
    /// Counters of a directory that was there before.
    oom_before: u64,
    pids_before: u64,
}

impl Cgroups {
    /// Makes the cgroups of `runner` with its limits.
    pub(crate) fn create(runner: RunnerId, limits: &Limits) -> Self {
        let mounts = Mounts::of_self();
        let mut cgroups = Self::default();
        let mut why = Vec::new();
        match mounts.unified() {
            Some(own) => match unified(&own, runner, &mounts) {
                Ok(dir) => cgroups.dirs.push(dir),
                Err(error) => why.push(error),
            },
            None => cgroups.add_v1(&mounts, "freezer", runner, &mut why),
        }
        for (controller, wanted) in [
            ("memory", limits.memory.is_some()),
            ("pids", limits.pids.is_some()),
            ("cpu", limits.cpu_millis.is_some()),
        ] {
            let there = cgroups.dirs.iter().any(|dir| dir.join(limit_file(controller).0).exists());
            if wanted && !there {
                cgroups.add_v1(&mounts, controller, runner, &mut why);
            }
        }
        cgroups.set_limits(limits, &why);
        cgroups.oom_before = cgroups.oom_count();
        cgroups.pids_before = cgroups.pids_count();
        cgroups
    }

    /// Those of an agent before an upgrade.
    pub(crate) fn reopen(dirs: Vec<PathBuf>, oom_before: u64, pids_before: u64) -> Self {
        Self { dirs, unenforced: Vec::new(), oom_before, pids_before }
    }

    pub(crate) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    pub(crate) fn counters_before(&self) -> (u64, u64) {
        (self.oom_before, self.pids_before)
    }

    /// The limits that this host does not enforce, in words.
    pub(crate) fn unenforced(&self) -> Option<String> {
        (!self.unenforced.is_empty()).then(|| self.unenforced.join("; "))
    }

    fn add_v1(
        &mut self,
        mounts: &Mounts,
        controller: &str,
        runner: RunnerId,
        why: &mut Vec<io::Error>,
    ) {
        let Some(own) = mounts.controller(controller) else { return };
        match make(&own.join(PARENT), &runner.to_string()) {
            Ok(dir) => self.dirs.push(dir),
            Err(error) => why.push(error),
        }
    }

    fn set_limits(&mut self, limits: &Limits, why: &[io::Error]) {
        let cpu = limits.cpu_millis.map(|millis| millis.saturating_mul(PERIOD) / 1000);
        for (controller, v2, v1) in [
            ("memory", limits.memory.map(|n| n.to_string()), limits.memory.map(|n| n.to_string())),
            ("pids", limits.pids.map(|n| n.to_string()), limits.pids.map(|n| n.to_string())),
            (
                "cpu",
                cpu.map(|quota| format!("{quota} {PERIOD}")),
                cpu.map(|quota| quota.to_string()),
            ),
        ] {
            let (Some(v2), Some(v1)) = (v2, v1) else { continue };
            let (v2_file, v1_file) = limit_file(controller);
            let result = match (self.with(v2_file), self.with(v1_file)) {
                (Some(path), _) => write(&path, &v2),
                (None, Some(path)) => write(&path, &v1),
                (None, None) => {
                    let why = why.first().map_or_else(
                        || "no cgroup controller can be had".to_owned(),
                        |error| format!("no cgroup could be made: {error}"),
                    );
                    self.unenforced.push(format!("{controller}: {why}"));
                    continue;
                }
            };
            if let Err(error) = result {
                self.unenforced.push(format!("{controller}: {error}"));
            }
        }
    }

    /// The path of `file` in the directory that has it.
    fn with(&self, file: &str) -> Option<PathBuf> {
        self.dirs.iter().map(|dir| dir.join(file)).find(|path| path.exists())
    }

    /// The directory of the v2 tree, into which a process can be born.
    pub(crate) fn birthplace(&self) -> Option<OwnedFd> {
        let dir = self.dirs.iter().find(|dir| dir.join("cgroup.kill").exists())?;
        File::open(dir).ok().map(OwnedFd::from)
    }

    /// Where a new process writes itself in; the v2 tree only if `all`.
    pub(crate) fn entrances(&self, all: bool) -> io::Result<Vec<OwnedFd>> {
        let wanted = self.dirs.iter().filter(|dir| all || !dir.join("cgroup.kill").exists());
        wanted
            .map(|dir| Ok(OpenOptions::new().write(true).open(dir.join("cgroup.procs"))?.into()))
            .collect()
    }

    /// Stops or wakes all processes. False: no freezer can be had.
    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<bool> {
        if let Some(path) = self.with("cgroup.freeze") {
            write(&path, if frozen { "1" } else { "0" })?;
            return Ok(true);
        }
        if let Some(path) = self.with("freezer.state") {
            write(&path, if frozen { "FROZEN" } else { "THAWED" })?;
            return Ok(true);
        }
        Ok(false)
    }

    /// True if the kernel has killed a process of the runner for want of memory.
    pub(crate) fn met_oom(&self) -> bool {
        self.oom_count() > self.oom_before
    }

    /// True if the runner was refused a process for its limit.
    pub(crate) fn met_pids_limit(&self) -> bool {
        self.pids_count() > self.pids_before
    }

    fn oom_count(&self) -> u64 {
        let file = self.with("memory.events").or_else(|| self.with("memory.oom_control"));
        file.and_then(|path| field(&path, "oom_kill")).unwrap_or(0)
    }

    fn pids_count(&self) -> u64 {
        self.with("pids.events").and_then(|path| field(&path, "max")).unwrap_or(0)
    }

    /// CPU time used by all that ever were in the group, in milliseconds.
    pub(crate) fn cpu_ms(&self) -> Option<u64> {
        field(&self.with("cpu.stat")?, "usage_usec").map(|usec| usec / 1000)
    }

    /// Resident bytes, without what is only cached.
    pub(crate) fn memory(&self) -> Option<u64> {
        let path = self.with("memory.stat")?;
        let (own, mapped) = match field(&path, "anon") {
            Some(anon) => (anon, field(&path, "file_mapped")),
            None => (field(&path, "total_rss")?, field(&path, "total_mapped_file")),
        };
        Some(own + mapped.unwrap_or(0))
    }
}

/// The file of a limit: of v2, of v1.
fn limit_file(controller: &str) -> (&'static str, &'static str) {
    match controller {
        "memory" => ("memory.max", "memory.limit_in_bytes"),
        "pids" => ("pids.max", "pids.max"),
        _ => ("cpu.max", "cpu.cfs_quota_us"),
    }
}

/// Makes the directory of the v2 tree. `own` is the agent's cgroup.
fn unified(own: &Path, runner: RunnerId, mounts: &Mounts) -> io::Result<PathBuf> {
    // A cgroup with limits may hold no processes beside its children: the agent moves aside.
    if !mounts.is_root(own) && is_alone(own) {
        let leaf = make(own, "agent")?;
        write(&leaf.join("cgroup.procs"), "0")?;
        delegate(own);
        return make(own, &runner.to_string());
    }
    let parent = own.join(PARENT);
    let dir = make(&parent, &runner.to_string())?;
    delegate(own);
    delegate(&parent);
    Ok(dir)
}

/// True if this is the only process in the cgroup. Reads no more than its pid takes: where there is
/// no systemd, all agents and much else are in one.
fn is_alone(dir: &Path) -> bool {
    let mut pids = [0; 32];
    let read = File::open(dir.join("cgroup.procs")).and_then(|mut file| file.read(&mut pids));
    let pid = std::process::id().to_string();
    read.is_ok_and(|n| pids[..n].trim_ascii() == pid.as_bytes())
}

/// Hands the controllers down to the children of `dir`, those that can be.
fn delegate(dir: &Path) {
    let available = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in ["memory", "pids", "cpu"] {
        if available.split_ascii_whitespace().any(|name| name == controller) {
            // One that cannot be is found missing when the limit is set.
            let _handed = write(&dir.join("cgroup.subtree_control"), &format!("+{controller}"));
        }
    }
}

/// Makes `parent/name`. Another agent may remove an empty parent at any time.
///
/// An empty one of an earlier epoch is not used again: some kernels kill whatever is born into a
/// cgroup that was killed once.
fn make(parent: &Path, name: &str) -> io::Result<PathBuf> {
    let dir = parent.join(name);
    let _removed = fs::remove_dir(&dir);
    let mut tries = 0;
    loop {
        match fs::create_dir_all(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 10 => tries += 1,
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("{}: {error}", dir.display())));
            }
            Ok(()) => return Ok(dir),
        }
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// The number after `name` in a file of lines `name number`.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Those of `dirs` that are directories of a cgroup file system with the runner's id for a name.
pub(crate) fn of_runner(runner: RunnerId, dirs: &[PathBuf]) -> Vec<PathBuf> {
    let name = runner.to_string();
    let is_named = |dir: &Path| {
        dir.file_name().is_some_and(|found| found == name.as_str())
            && dir.components().all(|part| part != Component::ParentDir)
    };
    let is_cgroup = |dir: &Path| {
        let found = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::DIRECTORY | OFlags::NOFOLLOW).bits() as i32)
            .open(dir)
            .and_then(|dir| Ok(fstatfs(&dir)?));
        found.is_ok_and(|found| MAGIC.contains(&found.f_type))
    };
    dirs.iter().filter(|dir| is_named(dir) && is_cgroup(dir)).cloned().collect()
}

/// The processes in any of the cgroups.
pub(crate) fn processes(dirs: &[PathBuf]) -> HashSet<u32> {
    let lists = dirs.iter().filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
    lists
        .flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// Kills all in the cgroups where the kernel does that at once, and keeps the others from
/// growing while they are killed one by one.
pub(crate) fn kill(dirs: &[PathBuf]) {
    for dir in dirs {
        // Each is tried: a directory has some of these files, and an absent one changes nothing.
        let _killed = write(&dir.join("cgroup.kill"), "1");
        let _closed = write(&dir.join("pids.max"), "0");
        let _thawed = write(&dir.join("freezer.state"), "THAWED");
    }
}

/// Removes the cgroups, and the directory above them if it is empty.
pub(crate) fn remove(dirs: &[PathBuf]) {
    for dir in dirs {
        let _removed = fs::remove_dir(dir);
        if let Some(parent) = dir.parent().filter(|parent| parent.ends_with(PARENT)) {
            let _removed = fs::remove_dir(parent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row 4: a file that says otherwise does not lead to foreign processes.
    #[test]
    fn only_a_cgroup_that_is_named_by_the_runner_is_the_runners() {
        let runner = RunnerId::from_entropy([7; 16]);
        let home = tempfile::tempdir().unwrap();
        let no_cgroup = home.path().join(runner.to_string());
        fs::create_dir(&no_cgroup).unwrap();
        let mut foreign = vec![no_cgroup.clone(), no_cgroup.join("..").join(runner.to_string())];
        if let Some(own) = Mounts::of_self().unified() {
            // Our own, in which this test runs, by its name and by detours.
            foreign.extend([own.clone(), own.join("."), own.join(runner.to_string()).join("..")]);
        }
        assert_eq!(of_runner(runner, &foreign), Vec::<PathBuf>::new());

        // The control: one that was made for it is its.
        let made = Cgroups::create(runner, &Limits::default());
        assert_eq!(of_runner(runner, made.dirs()), made.dirs());
        assert_eq!(of_runner(RunnerId::from_entropy([8; 16]), made.dirs()), Vec::<PathBuf>::new());
        remove(made.dirs());
    }

    #[test]
    fn alone_is_who_finds_its_own_number_and_no_other() {
        let home = tempfile::tempdir().unwrap();
        assert!(!is_alone(home.path()), "nothing is known");
        let me = std::process::id();
        let crowd: String = (me..me + 10_000).map(|pid| format!("{pid}\n")).collect();
        for (list, alone) in [
            (format!("{me}\n"), true),
            (String::new(), false),
            (format!("{me}0\n"), false),
            (format!("{me}\n1\n"), false),
            (format!("1\n{me}\n"), false),
            (crowd, false),
        ] {
            fs::write(home.path().join("cgroup.procs"), &list).unwrap();
            assert_eq!(is_alone(home.path()), alone, "{:?}", &list[..list.len().min(40)]);
        }
    }
}
