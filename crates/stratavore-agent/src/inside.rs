//! Which runner a process is part of.
//!
//! An assistant may look at Stratavore and change nothing: whoever is asked for a change finds out
//! first whether the one who asks is inside a runner.
//!
//! Invariant: where it cannot be told, nobody is taken for a person.
//!
//! This keeps an assistant that was talked into something from acting as its user. It is no wall
//! against a program of the same user that sets out to deceive: that one can have a process outside
//! act for it (a cron job, a debugger on the user's shell). Such a wall is another user or a
//! container.

use std::path::Path;

use stratavore_core::RunnerId;

use crate::procfs::{self, Stat};

/// How many generations of parents are looked at. A person's programs are some ten deep.
const GENERATIONS: usize = 256;
/// How often one looks again because a parent ended during the look.
const LOOKS: usize = 3;

/// Where a process is, as far as runners go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In no runner.
    Outside,
    Inside(RunnerId),
    /// The process is gone, or too deep below others to tell.
    Unknown,
}

impl Place {
    /// Where a process is: by the mark in its environment, in that of a process above it, or by the
    /// agent that it descends from.
    ///
    /// A program may clear its environment and leave its parents; it stays below its agent, which
    /// takes in all orphans. Runners below another directory than `runners` do not count: inside
    /// somebody else's, as in a test that runs in one, a user is a user. A `pid` of 0 is that of a
    /// process that this one cannot see; all runners' processes can be seen.
    pub fn of(pid: u32, runners: &Path) -> Self {
        let mut looks = (0..LOOKS).map(|_| Self::look(pid, runners));
        looks.find(|found| *found != Self::Unknown).unwrap_or(Self::Unknown)
    }

    fn look(pid: u32, runners: &Path) -> Self {
        let mut pid = pid;
        for _ in 0..GENERATIONS {
            if pid <= 1 {
                return Self::Outside;
            }
            let here = |runner: &RunnerId| runners.join(runner.to_string()).is_dir();
            let mark = procfs::mark(pid).filter(here);
            if let Some(runner) = mark.or_else(|| runner_of_agent(pid).filter(here)) {
                return Self::Inside(runner);
            }
            let Some(stat) = Stat::of(pid) else { return Self::Unknown };
            pid = stat.parent;
        }
        Self::Unknown
    }
}

/// By an agent's arguments: its program, and the runner's directory.
fn runner_of_agent(pid: u32) -> Option<RunnerId> {
    let line = procfs::read(pid, "cmdline")?;
    let mut arguments = line.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    if Path::new(&*arguments.next()?).file_name()? != "stratavore-agent" {
        return None;
    }
    // The hook names the directory too, and is started by whoever likes.
    let mut arguments = arguments.peekable();
    if arguments.peek()? == "hook" {
        return None;
    }
    let directory = arguments.skip_while(|argument| argument != "--dir").nth(1)?;
    Path::new(&*directory).file_name()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    #[test]
    fn whoever_is_gone_is_not_taken_for_a_person() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Place::of(std::process::id(), home.path()), Place::Outside);
        let mut gone = Command::new("true").spawn().unwrap();
        let pid = gone.id();
        gone.wait().unwrap();
        assert_eq!(Place::of(pid, home.path()), Place::Unknown);
        assert_eq!(Place::of(0, home.path()), Place::Outside, "it cannot be a runner's");
    }

    #[test]
    fn the_mark_of_a_runner_of_another_home_hides_no_other() {
        let home = tempfile::tempdir().unwrap();
        let (ours, theirs) = (RunnerId::from_entropy([1; 16]), RunnerId::from_entropy([2; 16]));
        fs::create_dir(home.path().join(ours.to_string())).unwrap();
        // An agent in all that is looked at.
        let mut agent = Command::new("/bin/sh");
        std::os::unix::process::CommandExt::arg0(&mut agent, "stratavore-agent");
        let script = "env STRATAVORE_RUNNER_ID=$0 sh -c 'read x; exit'; exit";
        let mut agent = agent
            .args(["-c", script, &theirs.to_string(), "--dir"])
            .arg(home.path().join(ours.to_string()))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", agent.id());
        let child = loop {
            let child = fs::read_to_string(&children).unwrap_or_default();
            if let Ok(pid) = child.trim().parse::<u32>()
                && procfs::mark(pid) == Some(theirs)
            {
                break pid;
            }
            std::thread::yield_now();
        };
        assert_eq!(Place::of(child, home.path()), Place::Inside(ours));
        drop(agent.stdin.take());
        agent.wait().unwrap();
    }
}
