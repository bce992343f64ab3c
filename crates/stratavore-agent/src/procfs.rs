//! What `/proc` tells of other processes. A process may be gone at any moment: `None` says so.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};

use stratavore_core::RunnerId;

/// The variable in the environment of all that a runner runs.
pub(crate) const MARKER: &str = "STRATAVORE_RUNNER_ID";

/// The fields of `/proc/PID/stat` that we need. Times are in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub state: u8,
    pub parent: u32,
    /// Used by the process.
    pub cpu: u64,
    /// Used by the children that it has waited for.
    pub waited_cpu: u64,
    /// After boot.
    pub start_time: u64,
}

impl Stat {
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Self::parse(std::str::from_utf8(&read(pid, "stat")?).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name stands in parentheses and may hold any character, `)` and spaces too.
        let fields: Vec<&str> =
            text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
        let number = |nth: usize| fields.get(nth)?.parse::<u64>().ok();
        Some(Self {
            state: *fields.first()?.as_bytes().first()?,
            parent: fields.get(1)?.parse().ok()?,
            cpu: number(11)? + number(12)?,
            waited_cpu: number(13)? + number(14)?,
            start_time: number(19)?,
        })
    }

    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.state == b'T'
    }
}

/// The file `name` of a process. Such files have no length, so that one who goes by it reads them in
/// ever larger pieces from almost nothing. Who connects is looked up in dozens of them, so nothing is
/// asked but for what they hold.
pub(crate) fn read(pid: u32, name: &str) -> Option<Vec<u8>> {
    const USUAL: usize = 8 * 1024;
    let mut file = File::open(format!("/proc/{pid}/{name}")).ok()?;
    let mut bytes = vec![0; USUAL];
    let mut filled = 0;
    loop {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return None,
        }
        if filled == bytes.len() {
            bytes.resize(filled * 2, 0);
        }
    }
    bytes.truncate(filled);
    Some(bytes)
}

/// The ids of all processes on this host.
pub(crate) fn all() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// All descendants of `ancestor` that have not been waited for, zombies too.
///
/// Reads the kernel's lists of children, so that the cost is that of the runner's own processes
/// and not of all on the host; where the kernel has no such lists, all are looked at.
pub(crate) fn descendants(ancestor: u32) -> Vec<u32> {
    if fs::exists(format!("/proc/{ancestor}/task/{ancestor}/children")).unwrap_or(false) {
        let mut found = Vec::new();
        let mut next = 0;
        children(ancestor, &mut found);
        while let Some(&pid) = found.get(next) {
            children(pid, &mut found);
            next += 1;
        }
        return found;
    }
    let parents: Vec<(u32, u32)> =
        all().into_iter().filter_map(|pid| Some((pid, Stat::of(pid)?.parent))).collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

fn children(pid: u32, found: &mut Vec<u32>) {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for task in tasks.flatten() {
        let Ok(list) = fs::read_to_string(task.path().join("children")) else { continue };
        found.extend(list.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
}

/// The runner whose mark the process was started with.
pub(crate) fn mark(pid: u32) -> Option<RunnerId> {
    let environ = read(pid, "environ")?;
    let entries = environ.split(|&byte| byte == 0);
    let mut values =
        entries.filter_map(|entry| entry.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"="));
    std::str::from_utf8(values.next()?).ok()?.parse().ok()
}

/// True if the process was started with the mark of `runner`.
pub(crate) fn is_marked(pid: u32, runner: RunnerId) -> bool {
    mark(pid) == Some(runner)
}

/// Resident pages of a process: its own, and those that it may share with others.
pub(crate) fn resident_pages(pid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut fields = text.split_ascii_whitespace().skip(1);
    let resident: u64 = fields.next()?.parse().ok()?;
    let shared: u64 = fields.next()?.parse().ok()?;
    Some((resident.saturating_sub(shared), shared))
}

/// True if the process ignores `signal`, as interactive shells ignore TERM.
pub(crate) fn ignores(pid: u32, signal: i32) -> bool {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let mask = text.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_parentheses_and_spaces() {
        let line =
            "42 (a) S 1 (b)) R 7 42 42 34816 42 4194304 1 2 3 4 10 20 30 40 20 0 1 0 999 1 2 3";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(stat, Stat { state: b'R', parent: 7, cpu: 30, waited_cpu: 70, start_time: 999 });
    }

    #[test]
    fn a_mark_behind_much_else_is_found() {
        let runner = RunnerId::from_entropy([7; 16]);
        for length in [0, 8 * 1024 - 2, 8 * 1024, 100_000] {
            let mut command = std::process::Command::new("sleep");
            command.arg("1000").env_clear().env("A", "x".repeat(length));
            command.env(MARKER, runner.to_string());
            let mut child = command.spawn().unwrap();
            let found = mark(child.id());
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(found, Some(runner), "behind {length} bytes");
        }
    }

    #[test]
    fn we_are_ourselves() {
        let me = std::process::id();
        let stat = Stat::of(me).unwrap();
        assert_eq!(stat.parent, std::os::unix::process::parent_id());
        assert!(!stat.is_zombie());
        assert!(all().contains(&me));
    }
}
