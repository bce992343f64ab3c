//! Starting the runner's program.
//!
//! Invariant: a program that cannot be started leaves no process behind, and says what to do.
//! Invariant: the program inherits no file of ours but its terminal, and no signal setting.

mod fork;
mod why;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use stratavore_core::runner::{Command, EnvValue, ProcessIdentity};
use stratavore_proto::runner_dir::{RunnerDir, Spec};

use crate::cgroup::Cgroups;
use crate::identity;
use crate::observe::Filled;
use crate::procfs::MARKER;
use crate::program;

/// Why the program could not be started: what failed, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct ExecError {
    pub why: String,
    /// The host had too little of something, and may have enough soon. Nothing was started.
    pub passing: bool,
}

impl ExecError {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), passing: false }
    }

    /// No terminal could be opened.
    pub(crate) fn terminal(error: &io::Error) -> Self {
        let none_left = error.kind() == io::ErrorKind::StorageFull;
        Self { why: why::terminal(error), passing: none_left || is_passing(error) }
    }
}

/// True for want of processes, files or memory: others may give some back.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

/// The environment of the program: what observing it takes, what the daemon handed over, then what was
/// asked for.
///
/// Files are read now, and a line break at their end is no part of the value.
fn environment(
    spec: &Spec,
    inherited: &BTreeMap<String, String>,
    observed: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ExecError> {
    let mut env = observed;
    env.extend(inherited.iter().map(|(key, value)| (key.clone(), value.clone())));
    // The screen model is an xterm, whatever terminal the daemon was started in.
    env.insert("TERM".into(), "xterm-256color".into());
    for (key, value) in &spec.command.env {
        match value {
            EnvValue::Literal(value) => {
                env.insert(key.clone(), value.clone());
            }
            EnvValue::File(path) => {
                let value = read_regular(path).map_err(|error| {
                    ExecError::new(format!("read the value of {key} from {path}: {error}: put the value there, or leave {key} out"))
                })?;
                let value = value.strip_suffix('\n').unwrap_or(&value);
                env.insert(key.clone(), value.strip_suffix('\r').unwrap_or(value).into());
            }
            // The daemon has put it among the inherited ones, under its key.
            EnvValue::Daemon(_) => {}
        }
    }
    env.insert(MARKER.into(), spec.runner.to_string());
    Ok(env)
}

/// Reads a regular file; anything else might keep the agent waiting.
fn read_regular(path: &str) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    fs::read_to_string(path)
}

/// The file that the program has as its standard input, if it is not the terminal.
fn open_input(spec: &Spec, dir: &RunnerDir) -> Result<Option<OwnedFd>, ExecError> {
    let Some(name) = spec.observe.as_ref().and_then(|observe| observe.input.as_ref()) else {
        return Ok(None);
    };
    let opened = fs::File::open(dir.path().join(name));
    let failed = |error: io::Error| ExecError {
        why: format!("open {name}, which it is to read: {error}: launch it again"),
        passing: is_passing(&error),
    };
    opened.map(|file| Some(file.into())).map_err(failed)
}

/// Opens the working directory, and makes sure that it is the one that was meant and not one that
/// a link of the same name leads to.
fn open_directory(directory: &str) -> Result<OwnedFd, ExecError> {
    let failed = |error: io::Error| ExecError {
        why: why::directory(directory, &error),
        passing: is_passing(&error),
    };
    let fd = open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed(error.into()))?;
    let found = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(failed)?;
    if found != Path::new(directory) {
        return Err(ExecError::new(format!(
            "the working directory {directory} is now {}: edit the project's directory",
            found.display()
        )));
    }
    Ok(fd)
}

fn c_strings(texts: impl IntoIterator<Item = String>) -> Result<Vec<CString>, ExecError> {
    let convert = |text: String| {
        CString::new(text).map_err(|_| {
            ExecError::new("an argument or a variable holds a NUL character: remove it")
        })
    };
    texts.into_iter().map(convert).collect()
}

/// Starts the program of `spec` on `slave`, in its cgroups.
pub(crate) fn start(
    spec: &Spec,
    inherited: &BTreeMap<String, String>,
    Filled { argv, env: observed }: Filled,
    dir: &RunnerDir,
    slave: BorrowedFd<'_>,
    cgroups: &Cgroups,
    oom_score: i32,
) -> Result<ProcessIdentity, ExecError> {
    let Command { directory, .. } = &spec.command;
    let name = argv.first().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| ExecError::new("the command is empty: say what to run"))?;
    let env = environment(spec, inherited, observed)?;
    let path = program::find(name, env.get("PATH").map(String::as_str))
        .map_err(|error| ExecError::new(format!("{error}: {}", error.remedy())))?;
    let directory_fd = open_directory(directory)?;
    let input = open_input(spec, dir)?;
    let environment = env.into_iter().map(|(key, value)| format!("{key}={value}"));
    let plan = fork::Plan {
        program: c_strings([path.to_string_lossy().into_owned()])?.remove(0),
        argv: c_strings(argv)?,
        environment: c_strings(environment)?,
        directory: directory_fd,
        slave,
        input,
        cgroups,
        oom_score,
    };
    let pid = fork::run(&plan).map_err(|(step, error)| ExecError {
        why: why::explain(step, &error, &path, directory, &plan),
        // After the fork the terminal may have had a leader, and is of no use to a second one.
        passing: matches!(step, fork::Step::Prepare | fork::Step::Fork) && is_passing(&error),
    })?;
    // It is our child and was not waited for, so it is there even if it has ended already.
    let start_time = identity::start_time(pid).unwrap_or(0);
    Ok(ProcessIdentity { pid, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_became_a_link_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let (real, link) = (home.join("real"), home.join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        open_directory(real.to_str().unwrap()).unwrap();
        assert!(open_directory(link.to_str().unwrap()).unwrap_err().why.contains("is now"));
        fs::remove_dir(&real).unwrap();
        assert!(open_directory(real.to_str().unwrap()).unwrap_err().why.contains("does not exist"));
    }
}
