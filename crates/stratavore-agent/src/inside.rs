//! Which runner a process is part of.
//!
//! An assistant may look at Stratavore and change nothing: whoever is asked for a change finds out
//! first whether the one who asks is inside a runner.

use std::fs;
use std::path::Path;

use stratavore_core::RunnerId;

use crate::procfs::{self, Stat};

/// How many generations of parents are looked at.
const GENERATIONS: usize = 64;

/// The runner that a process is part of: by the mark in its environment, in that of a process
/// above it, or by the agent that it descends from.
///
/// A program may clear its environment and leave its parents; it stays below its agent, which takes
/// in all orphans. Runners below another directory than `runners` do not count: inside somebody
/// else's, as in a test that runs in one, a user is a user.
pub fn runner_around(pid: u32, runners: &Path) -> Option<RunnerId> {
    let mut pid = pid;
    for _ in 0..GENERATIONS {
        let runner = procfs::mark(pid).or_else(|| runner_of_agent(pid));
        if runner.is_some_and(|runner| runners.join(runner.to_string()).is_dir()) {
            return runner;
        }
        pid = Stat::of(pid)?.parent;
        if pid <= 1 {
            break;
        }
    }
    None
}

/// By an agent's arguments: its program, and the runner's directory.
fn runner_of_agent(pid: u32) -> Option<RunnerId> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut arguments = line.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    if Path::new(&*arguments.next()?).file_name()? != "stratavore-agent" {
        return None;
    }
    let directory = arguments.skip_while(|argument| argument != "--dir").nth(1)?;
    Path::new(&*directory).file_name()?.to_str()?.parse().ok()
}
