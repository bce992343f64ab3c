//! Which process is meant: a pid alone does not say, for pids come round again.
//!
//! Invariant: a signal goes through a pidfd, and only after the process behind it was checked.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use stratavore_core::runner::AgentIdentity;

use crate::failpoint;
use crate::procfs::Stat;

/// The kernel's id of this boot.
pub fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// When the process started, in clock ticks after boot. `None`: there is no such process.
pub fn start_time(pid: u32) -> Option<u64> {
    Stat::of(pid).map(|stat| stat.start_time)
}

/// True if the agent's process still runs, and is no later one with the same pid.
pub fn is_same_process(identity: &AgentIdentity) -> bool {
    is_this_boot(&identity.boot_id) && runs_since(identity.pid, identity.start_time)
}

/// True if the kernel runs the boot of that id.
pub fn is_this_boot(id: &str) -> bool {
    id == boot_id() || failpoint::is_off("identity")
}

fn runs_since(pid: u32, start_time: u64) -> bool {
    let same = |stat: Stat| stat.start_time == start_time || failpoint::is_off("identity");
    Stat::of(pid).is_some_and(|stat| same(stat) && !stat.is_zombie())
}

/// Kills the agent that `identity` names. Does nothing if that process is gone.
pub fn kill_agent(identity: &AgentIdentity) -> io::Result<()> {
    if !is_this_boot(&identity.boot_id) {
        return Ok(());
    }
    let Some(process) = Pinned::open(identity.pid) else { return Ok(()) };
    if runs_since(identity.pid, identity.start_time) {
        process.signal_or_error(Signal::KILL)?;
    }
    Ok(())
}

/// A process that was pinned by its pid. It is looked at after that, and only then signalled:
/// should it end and its pid be taken by another one in between, the signal goes to the one that
/// has ended, which hurts nobody.
pub(crate) struct Pinned(OwnedFd);

impl Pinned {
    /// `None`: there is no such process.
    pub(crate) fn open(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        pidfd_open(pid, PidfdFlags::empty()).ok().map(Self)
    }

    /// Sends `signal`. That the process has ended, or may not be signalled, changes nothing for
    /// the caller, who looks again.
    pub(crate) fn signal(&self, signal: Signal) {
        let _sent = pidfd_send_signal(&self.0, signal);
    }

    fn signal_or_error(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    fn identity_of(pid: u32) -> AgentIdentity {
        let start_time = start_time(pid).unwrap();
        AgentIdentity { boot_id: boot_id(), pid, start_time, nonce: String::new() }
    }

    #[test]
    fn only_the_process_that_is_meant_is_killed() {
        let mut sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
        let meant = identity_of(sleeper.id());
        assert!(is_same_process(&meant));
        for other in [
            AgentIdentity { start_time: meant.start_time + 1, ..meant.clone() },
            AgentIdentity { boot_id: "another boot".into(), ..meant.clone() },
        ] {
            assert!(!is_same_process(&other));
            kill_agent(&other).unwrap();
            assert!(sleeper.try_wait().unwrap().is_none(), "killed for {other:?}");
        }
        kill_agent(&meant).unwrap();
        assert_eq!(sleeper.wait().unwrap().signal(), Some(9));
        assert!(!is_same_process(&meant));
        kill_agent(&meant).unwrap();
    }
}
