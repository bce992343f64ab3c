//! Why a program could not be started, in words that say what to do.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use rustix::io::Errno;

use super::fork::{Plan, Step};

/// Explains an error at the working directory.
pub(super) fn directory(directory: &str, error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => {
            format!(
                "the working directory {directory} does not exist: create it, or edit the project's directory"
            )
        }
        Some(Errno::NOTDIR) => {
            format!("{directory} is not a directory: edit the project's directory")
        }
        Some(Errno::ACCESS) => {
            format!("the working directory {directory} may not be entered: check its permissions")
        }
        _ => format!("enter the working directory {directory}: {error}"),
    }
}

/// Explains why no terminal could be opened.
pub(super) fn terminal(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE) => {
            format!("open a terminal: {error}: raise the limit (ulimit -n)")
        }
        Some(Errno::NOSPC) => {
            "open a terminal: too many are open on this host: end some, or raise kernel.pty.max"
                .into()
        }
        Some(_) | None => format!("open a terminal: {error}"),
    }
}

/// Explains what failed on the way to the program.
pub(super) fn explain(
    step: Step,
    error: &io::Error,
    program: &Path,
    directory: &str,
    plan: &Plan<'_>,
) -> String {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let shown = program.display();
    match (step, errno) {
        (_, Some(Errno::AGAIN)) => format!(
            "start {shown}: the host's limit of processes is reached: end some, or raise the limit (ulimit -u, pids.max)"
        ),
        (_, Some(Errno::NOMEM)) => {
            format!("start {shown}: the host is out of memory: end something, or add memory")
        }
        (_, Some(Errno::MFILE | Errno::NFILE)) => {
            format!("start {shown}: too many files are open: raise the limit (ulimit -n)")
        }
        (Step::Directory, _) => self::directory(directory, error),
        (Step::Prepare | Step::Fork, _) => format!("start a process for {shown}: {error}"),
        (Step::Cgroup, _) => format!("put {shown} under its limits: {error}"),
        (Step::Terminal, _) => format!("give {shown} its terminal: {error}"),
        (Step::Parent, _) => format!("bind {shown} to its agent: {error}"),
        // The program was looked for from its own directory, which is not ours.
        (Step::Exec, Some(Errno::NOENT)) => {
            match interpreter(&Path::new(directory).join(program)) {
                Some(interpreter) => {
                    format!("{shown} needs {interpreter}, which does not exist: install it")
                }
                None => {
                    format!("{shown} does not exist: install it, or give the program's full path")
                }
            }
        }
        (Step::Exec, Some(Errno::ACCESS)) => {
            format!("{shown} may not be executed: chmod +x it, or choose another program")
        }
        (Step::Exec, Some(Errno::NOEXEC)) => format!(
            "{shown} is no program for this machine: install the right one; a script needs a first line like #!/bin/sh"
        ),
        (Step::Exec, Some(Errno::TOOBIG)) => {
            let bytes: usize =
                plan.argv.iter().chain(&plan.environment).map(|text| text.count_bytes() + 1).sum();
            format!(
                "{shown}: arguments and environment have {bytes} bytes, more than the system takes: put some into a file"
            )
        }
        (Step::Exec, _) => format!("execute {shown}: {error}"),
    }
}

/// The interpreter that a script names in its first line.
fn interpreter(program: &Path) -> Option<String> {
    let mut line = Vec::new();
    BufReader::new(File::open(program).ok()?.take(256)).read_until(b'\n', &mut line).ok()?;
    let line = String::from_utf8_lossy(line.strip_prefix(b"#!")?).into_owned();
    line.split_ascii_whitespace().next().map(str::to_owned)
}
