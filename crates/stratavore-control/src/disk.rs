//! Room on the disk of the state directory.

use std::path::Path;

use crate::control::Control;
use crate::error::Error;

/// Less free space than this is worth a warning.
const LOW: u64 = 256 << 20;
/// With less than this nothing is launched: what runs needs the rest for its output, and the store
/// to write down how it ends. Of a small disk it is a twentieth.
const LAUNCH_MIN: u64 = 64 << 20;

/// What a file system has, in bytes.
struct Space {
    free: u64,
    /// What must be free for a launch.
    needed: u64,
}

impl Space {
    /// `None`: it cannot be learned, and then nothing is held against it.
    fn of(path: &Path) -> Option<Self> {
        let found = rustix::fs::statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let needed = LAUNCH_MIN.min(bytes(found.f_blocks) / 20);
        Some(Self { free: bytes(found.f_bavail), needed })
    }
}

impl Control {
    /// Refuses a launch while the disk is nearly full.
    pub(crate) fn room_to_launch(&self) -> Result<(), Error> {
        let state_dir = &self.inner.settings.state_dir;
        match Space::of(state_dir) {
            Some(Space { free, needed }) if free < needed => {
                Err(Error::DiskLow { path: state_dir.display().to_string(), free, needed })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// What is wrong with the disk.
pub(crate) struct Low {
    /// Nothing is launched.
    pub(crate) refuses: bool,
    pub(crate) words: String,
}

pub(crate) fn problem(state_dir: &Path) -> Option<Low> {
    let Space { free, needed } = Space::of(state_dir)?;
    if free >= LOW {
        return None;
    }
    let refuses = free < needed;
    let refused = if refuses { ", and nothing is launched" } else { "" };
    let words =
        format!("disk: only {} MiB are free in {}{refused}", free >> 20, state_dir.display());
    Some(Low { refuses, words })
}
