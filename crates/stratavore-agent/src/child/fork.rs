//! The steps between fork and exec.
//!
//! The standard library's way is not enough here: the child has to be born in its cgroup, since
//! moving it there makes the kernel wait for all others, and a failed exec must be told as such
//! instead of being handed to a shell.
//!
//! Invariant: between fork and exec nothing is allocated and nothing is locked.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, fchdir, getpid, getppid, ioctl_tiocsctty,
    set_dumpable_behavior, set_parent_process_death_signal, setsid, waitpid,
};

use crate::cgroup::Cgroups;
use crate::signals;
use crate::sys::{self, Forked, Strings};

/// What is to be run, with everything that the child needs made ready.
pub(super) struct Plan<'a> {
    pub program: CString,
    pub argv: Vec<CString>,
    pub environment: Vec<CString>,
    pub directory: OwnedFd,
    pub slave: BorrowedFd<'a>,
    /// Its standard input, if that is not the terminal.
    pub input: Option<OwnedFd>,
    pub cgroups: &'a Cgroups,
    /// How willingly the kernel shall kill it when memory runs out.
    pub oom_score: i32,
}

/// Where starting failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Prepare,
    Fork,
    Cgroup,
    Terminal,
    Directory,
    Parent,
    Exec,
}

impl Step {
    const ALL: [Step; 7] = [
        Self::Prepare,
        Self::Fork,
        Self::Cgroup,
        Self::Terminal,
        Self::Directory,
        Self::Parent,
        Self::Exec,
    ];
}

/// Everything that the child touches, made before it is there.
struct Ready<'a> {
    plan: &'a Plan<'a>,
    argv: Strings<'a>,
    environment: Strings<'a>,
    /// Cgroups to enter: all of them, and those that it is not born into.
    entrances: Vec<OwnedFd>,
    oom_score: [u8; 8],
    oom_score_len: usize,
    parent: Pid,
}

/// Forks and executes. Returns the pid once the program runs.
pub(super) fn run(plan: &Plan<'_>) -> Result<u32, (Step, io::Error)> {
    let prepare = |error: io::Error| (Step::Prepare, error);
    let birthplace = plan.cgroups.birthplace();
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| prepare(error.into()))?;
    let mut ready = Ready {
        plan,
        argv: Strings::new(&plan.argv),
        environment: Strings::new(&plan.environment),
        entrances: plan.cgroups.entrances(birthplace.is_none()).map_err(prepare)?,
        oom_score: [0; 8],
        oom_score_len: 0,
        parent: getpid(),
    };
    let score = plan.oom_score.to_string();
    ready.oom_score_len = score.len().min(ready.oom_score.len());
    ready.oom_score[..ready.oom_score_len]
        .copy_from_slice(&score.as_bytes()[..ready.oom_score_len]);

    let born = birthplace.as_ref().map(|cgroup| sys::fork_into(Some(cgroup.as_fd())));
    let forked = match born {
        Some(Ok(forked)) => forked,
        // An old kernel, or a filter: then the child goes there itself.
        Some(Err(_)) => {
            ready.entrances = plan.cgroups.entrances(true).map_err(prepare)?;
            sys::fork_into(None).map_err(|error| (Step::Fork, error))?
        }
        None => sys::fork_into(None).map_err(|error| (Step::Fork, error))?,
    };
    let pid = match forked {
        Forked::Child => child(&ready, writer.as_fd()),
        Forked::Parent(pid) => pid,
    };
    drop(writer);
    let mut told = [0; 5];
    match File::from(reader).read_exact(&mut told) {
        // The pipe was closed by exec.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(pid),
        Err(error) => Err(prepare(error)),
        Ok(()) => {
            // It ends by itself; what it was does not matter.
            let _status = waitpid(Pid::from_raw(pid.cast_signed()), WaitOptions::empty());
            let step =
                Step::ALL.into_iter().find(|step| *step as u8 == told[0]).unwrap_or(Step::Prepare);
            let errno = i32::from_ne_bytes([told[1], told[2], told[3], told[4]]);
            Err((step, io::Error::from_raw_os_error(errno)))
        }
    }
}

/// In the child: takes all steps and executes, or says where that failed and ends.
fn child(ready: &Ready<'_>, teller: BorrowedFd<'_>) -> ! {
    let (step, error) = match become_program(ready) {
        Ok(error) => (Step::Exec, error),
        Err(failed) => failed,
    };
    let mut told = [step as u8, 0, 0, 0, 0];
    told[1..].copy_from_slice(&error.raw_os_error().to_ne_bytes());
    let _told = rustix::io::write(teller, &told);
    sys::exit_now(127)
}

/// Returns only if something fails; `Ok` is why exec failed.
fn become_program(ready: &Ready<'_>) -> Result<Errno, (Step, Errno)> {
    let at = |step: Step| move |error: Errno| (step, error);
    let plan = ready.plan;

    for entrance in &ready.entrances {
        rustix::io::write(entrance, b"0").map_err(at(Step::Cgroup))?;
    }
    setsid().map_err(at(Step::Terminal))?;
    ioctl_tiocsctty(plan.slave).map_err(at(Step::Terminal))?;
    let input = plan.input.as_ref().map_or(plan.slave, |input| input.as_fd());
    rustix::stdio::dup2_stdin(input).map_err(at(Step::Terminal))?;
    rustix::stdio::dup2_stdout(plan.slave).map_err(at(Step::Terminal))?;
    rustix::stdio::dup2_stderr(plan.slave).map_err(at(Step::Terminal))?;
    fchdir(&plan.directory).map_err(at(Step::Directory))?;

    // Our own memory must not be looked into, and this copy of it is gone at exec. Until then the
    // kernel would not let us at our own files in /proc.
    let _dumpable = set_dumpable_behavior(DumpableBehavior::Dumpable);
    if let Ok(file) =
        open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
    {
        // Where this is not permitted, the kernel's own judgement stays.
        let _adjusted = rustix::io::write(file, &ready.oom_score[..ready.oom_score_len]);
    }
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(at(Step::Parent))?;
    if getppid() != Some(ready.parent) {
        // The agent died before it could be noticed.
        return Err((Step::Parent, Errno::CHILD));
    }
    signals::reset();
    // All our files are close-on-exec; this is for those that we may have inherited.
    sys::close_at_exec();
    Ok(sys::exec(&plan.program, &ready.argv, &ready.environment))
}
