//! One daemon for a state directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};

/// How long a killed daemon may take to let go of its lock.
const DIES: Duration = Duration::from_secs(5);

/// Held for as long as the daemon runs; the kernel lets go of it however the daemon ends.
pub(crate) struct StateLock {
    _file: File,
}

/// Why the state directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error("a daemon already uses this state directory (pid {pid})")]
    Held { pid: String },
    #[error("lock {path}: {source}")]
    Io { path: String, source: io::Error },
}

impl StateLock {
    /// Takes the lock and writes our pid into it, for people.
    ///
    /// A holder that was killed has the lock until the last of its threads has ended, which may be
    /// a moment after it is counted as dead; that moment is waited for.
    pub(crate) fn take(path: &Path) -> Result<Self, LockError> {
        Self::take_pausing(path, || std::thread::sleep(Duration::from_millis(2)))
    }

    fn take_pausing(path: &Path, mut pause: impl FnMut()) -> Result<Self, LockError> {
        let began = Instant::now();
        loop {
            match Self::try_take(path) {
                Err(LockError::Held { pid }) if is_dead(&pid) && began.elapsed() < DIES => pause(),
                taken => return taken,
            }
        }
    }

    fn try_take(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: path.display().to_string(), source };
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(failed)?;
                return Err(LockError::Held { pid: pid.trim().escape_debug().to_string() });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// True if no process of this id runs any more, be it not yet waited for.
fn is_dead(pid: &str) -> bool {
    let Ok(pid) = pid.parse::<u32>() else { return false };
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z")),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.lock");
        let first = StateLock::take(&path).unwrap();
        let refusal = StateLock::take(&path).err().unwrap().to_string();
        assert!(refusal.contains(&std::process::id().to_string()), "{refusal}");
        drop(first);
        assert!(StateLock::take(&path).is_ok(), "the lock goes with its holder");
        a_holder_that_is_dying_is_waited_for(&path);
    }

    // Part of the test above: while one starts a process, the child has the other's lock too until
    // it becomes another program.
    fn a_holder_that_is_dying_is_waited_for(path: &Path) {
        let first = StateLock::take(path).unwrap();
        // Killed and not waited for: what is left of it is a zombie.
        let mut dead = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        dead.kill().unwrap();
        std::fs::write(path, dead.id().to_string()).unwrap();
        while !is_dead(&dead.id().to_string()) {
            std::thread::yield_now();
        }
        let mut first = Some(first);
        let second = StateLock::take_pausing(path, || drop(first.take()));
        assert!(second.is_ok() && first.is_none(), "it was held, and then not");
        dead.wait().unwrap();
    }
}
