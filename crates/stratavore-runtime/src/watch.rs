//! Hearing that files have grown, without looking at them again and again: inotify.
//!
//! Files that cannot be watched (a file system without inotify, too many watches) are told as such by
//! [`Watch::add`]; whoever reads them looks when something else makes it look.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use stratavore_core::RunnerId;
use tokio::io::unix::AsyncFd;

/// A file that grows is told at most once in this time.
const PACE: Duration = Duration::from_millis(100);

/// The files of runners that are watched.
pub struct Watch {
    fd: AsyncFd<OwnedFd>,
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    by_number: HashMap<i32, (PathBuf, BTreeSet<RunnerId>)>,
    by_path: HashMap<PathBuf, i32>,
}

impl Watch {
    /// Watches nothing yet. Needs a runtime.
    pub fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "an owned descriptor is the sound use; the other way is unsafe"
        )]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd, watched: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of `runner` whenever the file grows, or something in the directory does.
    pub fn add(&self, path: &Path, runner: RunnerId) -> io::Result<()> {
        let mut watched = self.lock();
        let known = watched.by_path.get(path).copied();
        let number = match known {
            Some(number) => number,
            None => {
                let what = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
                let number = inotify::add_watch(&self.fd, path, what)?;
                watched.by_path.insert(path.into(), number);
                number
            }
        };
        let entry = watched.by_number.entry(number);
        entry.or_insert_with(|| (path.into(), BTreeSet::new())).1.insert(runner);
        Ok(())
    }

    /// Tells of `runner` no longer.
    pub fn remove(&self, runner: RunnerId) {
        let mut watched = self.lock();
        let mut unwatched = Vec::new();
        for (number, (path, runners)) in &mut watched.by_number {
            if runners.remove(&runner) && runners.is_empty() {
                unwatched.push((*number, path.clone()));
            }
        }
        for (number, path) in unwatched {
            watched.by_number.remove(&number);
            watched.by_path.remove(&path);
            // It may be gone with its file.
            let _removed = inotify::remove_watch(&self.fd, number);
        }
    }

    /// How many files and directories are watched.
    pub fn len(&self) -> usize {
        self.lock().by_number.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until files of some runners have grown, and answers which.
    pub async fn grown(&self) -> io::Result<BTreeSet<RunnerId>> {
        loop {
            let mut ready = self.fd.readable().await?;
            let runners = self.read()?;
            ready.clear_ready();
            drop(ready);
            if !runners.is_empty() {
                // What comes meanwhile is in the next answer.
                tokio::time::sleep(PACE).await;
                return Ok(runners);
            }
        }
    }

    fn read(&self) -> io::Result<BTreeSet<RunnerId>> {
        let mut buffer = [const { MaybeUninit::<u8>::uninit() }; 4096];
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        let mut runners = BTreeSet::new();
        let mut watched = self.lock();
        loop {
            match reader.next() {
                Ok(event) => {
                    // Some events were lost: any file may have grown.
                    if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                        runners.extend(watched.by_number.values().flat_map(|(_, of)| of));
                    }
                    if let Some((_, of)) = watched.by_number.get(&event.wd()) {
                        runners.extend(of);
                    }
                    // The file is gone; another one of its name is watched anew.
                    if event.events().contains(ReadFlags::IGNORED)
                        && let Some((path, _)) = watched.by_number.remove(&event.wd())
                    {
                        watched.by_path.remove(&path);
                    }
                }
                Err(Errno::AGAIN) => return Ok(runners),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn whoever_has_a_file_that_grows_is_told() {
        let home = tempfile::tempdir().unwrap();
        let (a, b) = (RunnerId::from_entropy([1; 16]), RunnerId::from_entropy([2; 16]));
        let path = home.path().join("transcript");
        let mut file = std::fs::File::create(&path).unwrap();
        let watch = Watch::new().unwrap();
        watch.add(&path, a).unwrap();
        watch.add(&path, b).unwrap();
        watch.add(home.path(), b).unwrap();
        file.write_all(b"x").unwrap();
        assert_eq!(watch.grown().await.unwrap(), [a, b].into());
        std::fs::write(home.path().join("another"), "y").unwrap();
        assert_eq!(watch.grown().await.unwrap(), [b].into());
        watch.remove(b);
        assert_eq!(watch.len(), 1);
        file.write_all(b"x").unwrap();
        assert_eq!(watch.grown().await.unwrap(), [a].into());
        assert!(watch.add(&home.path().join("none"), a).is_err());
    }
}
