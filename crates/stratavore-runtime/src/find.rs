//! Finding runners again: by their directories and locks, never by their pids alone.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use stratavore_agent::{failpoint, identity, kill};
use stratavore_core::RunnerId;
use stratavore_core::reconcile::Found;
use stratavore_core::runner::{AgentIdentity, Runner};
use stratavore_proto::runner_dir::{AgentRecord, RunnerDir};

use crate::process::Runtime;

/// What was found of a runner on this host.
#[derive(Debug, Clone)]
pub struct Discovery {
    pub found: Found,
    /// The agent that the directory names, with its epoch, whichever that is.
    pub agent: Option<(i64, AgentIdentity)>,
    /// SHA-256 of the join token of the latest start, with its epoch.
    pub join_token: Option<(i64, String)>,
}

impl Runtime {
    /// Runners that something lives of: their lock is held, or a process carries their mark.
    pub fn strays(&self) -> io::Result<Vec<RunnerId>> {
        let dirs = RunnerDir::all(&self.settings.runners)?;
        // All processes of the host are looked at for marks: not where none could be ours.
        let marked = if dirs.is_empty() { HashSet::new() } else { kill::marked_runners() };
        let lives = |(id, dir): &(RunnerId, RunnerDir)| {
            marked.contains(id) || dir.is_locked().unwrap_or(false)
        };
        Ok(dirs.into_iter().filter(lives).map(|(id, _)| id).collect())
    }

    /// Runners whose directory was not changed for so long and whose lock is free.
    pub fn untouched_for(&self, time: Duration) -> io::Result<Vec<RunnerId>> {
        let all = RunnerDir::all(&self.settings.runners)?.into_iter();
        let untouched = all.filter(|(_, dir)| age(dir) >= time && !dir.is_locked().unwrap_or(true));
        Ok(untouched.map(|(id, _)| id).collect())
    }

    /// Removes the directory of a runner that has ended. False, and nothing is touched, if an agent
    /// or a process of it lives.
    pub fn remove(&self, runner: RunnerId) -> io::Result<bool> {
        let dir = self.dir(runner);
        let Some(_lock) = dir.take_lock()? else { return Ok(false) };
        let cgroups = dir.agent().ok().flatten().map(|record| record.cgroups).unwrap_or_default();
        if kill::is_populated(runner, &cgroups) {
            return Ok(false);
        }
        std::fs::remove_dir_all(dir.path())?;
        Ok(true)
    }

    /// Looks for a runner, and for how it ended at the epoch of its `row` (without one: whichever).
    ///
    /// A file that cannot be read counts as absent; the lock decides what is alive. Whether
    /// processes are left is only looked for while the lock is free.
    pub fn find(&self, runner: RunnerId, row: Option<&Runner>) -> io::Result<Discovery> {
        let dir = self.dir(runner);
        let wanted = |found: i64| row.is_none_or(|row| row.epoch == found);
        let lock_held = dir.is_locked()? && !failpoint::is_off("lock");
        let record = dir.agent().ok().flatten();
        let spec = dir.spec().ok().flatten();
        let same_boot = record.as_ref().is_none_or(|record| {
            identity::is_this_boot(&record.identity.boot_id) || !wanted(record.epoch)
        });
        // What an agent wrote down need not outlive its host; what the store says of it does.
        let bound = row.and_then(|row| row.state.agent());
        let same_boot =
            same_boot && bound.is_none_or(|agent| identity::is_this_boot(&agent.boot_id));
        let cgroups = cgroups(record.as_ref());
        let populated =
            same_boot && dir.exists() && !lock_held && kill::has_leftovers(runner, &cgroups);
        let found = Found {
            directory: dir.exists(),
            lock_held,
            same_boot,
            exit: dir
                .exit()
                .ok()
                .flatten()
                .filter(|record| wanted(record.epoch))
                .map(|record| record.exit),
            populated,
            age: age(&dir),
        };
        Ok(Discovery {
            found,
            agent: record.map(|record| (record.epoch, record.identity)),
            join_token: spec.map(|spec| (spec.epoch, spec.join_token_sha256)),
        })
    }

    /// The kernel's id of this boot.
    pub fn boot_id(&self) -> String {
        identity::boot_id()
    }

    /// True if the agent runs the file that is installed as the agent's program now.
    pub fn runs_installed_program(&self, agent: &AgentIdentity) -> bool {
        let file = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
        let runs = file(Path::new(&format!("/proc/{}/exe", agent.pid)));
        runs.is_some() && runs == file(&self.settings.agent)
    }

    /// True if the process of `identity` is the one that was meant, and not a later one with the
    /// same pid.
    pub fn is_same_process(&self, identity: &AgentIdentity) -> bool {
        identity::is_same_process(identity)
    }
}

/// The directory of the agent that `record` names, if that agent lives and has another one than
/// `dir`: then what lies in `dir` is a copy, and its free lock says nothing about the runner.
pub(crate) fn lives_elsewhere(dir: &RunnerDir, record: Option<&AgentRecord>) -> Option<PathBuf> {
    let agent = &record?.identity;
    let line = std::fs::read(format!("/proc/{}/cmdline", agent.pid)).ok()?;
    let mut words = line.split(|byte| *byte == 0).skip_while(|word| *word != b"--dir").skip(1);
    let its = PathBuf::from(OsStr::from_bytes(words.next()?));
    let place = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let is_another = its.file_name() == dir.path().file_name()
        && place(&its).is_some_and(|its| place(dir.path()) != Some(its));
    // Last, so that it was this process whose words were read.
    (is_another && identity::is_same_process(agent) && !failpoint::is_off("copies")).then_some(its)
}

/// What an agent of this boot wrote down; of another boot, they are somebody else's by now.
pub(crate) fn cgroups(record: Option<&AgentRecord>) -> Vec<PathBuf> {
    let record = record.filter(|record| identity::is_this_boot(&record.identity.boot_id));
    record.map(|record| record.cgroups.clone()).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "file times are the system clock's")]
pub(crate) fn age(dir: &RunnerDir) -> Duration {
    let changed = std::fs::metadata(dir.path()).and_then(|meta| meta.modified());
    changed.ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default()
}
