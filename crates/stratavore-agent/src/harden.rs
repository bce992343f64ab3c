//! What an agent does to itself before it does anything else.
//!
//! Its memory holds the key of its runner and for a while secrets of its environment, and the
//! runner's own programs have the same user. So the process is not dumpable: nobody but root can
//! look into its memory, its files or its environment. `/proc/PID/stat` stays readable, by which
//! daemons recognise it; its proportional memory can then be read only by root.

use std::fs;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getpid, set_dumpable_behavior, setrlimit, setsid,
};

use crate::sys;

/// The kernel kills everything else before an agent.
const OOM_AGENT: i32 = -900;
/// And the runner's program before others, so much more than it would have otherwise.
const OOM_CHILD: i32 = 500;
const OOM_MAX: i32 = 1000;

/// Leaves the daemon's session, and drops every file that the daemon may have left open.
///
/// Call it first: nothing may be open yet that is to be kept, but for the standard streams.
pub(crate) fn detach() {
    // Fails if this is a leader already, in a scope of its own; then there is nothing to leave.
    let _session = setsid();
    sys::close_inherited();
}

/// Protects this process. Returns the score by which the kernel shall choose the runner's program
/// when memory runs out. What is not permitted is left as it is.
pub(crate) fn protect() -> i32 {
    let _limited = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let path = "/proc/self/oom_score_adj";
    let before: i32 =
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let _protected = fs::write(path, OOM_AGENT.to_string());
    hide();
    // After an upgrade the score is our own already.
    let before = if before == OOM_AGENT { 0 } else { before };
    (before + OOM_CHILD).min(OOM_MAX)
}

fn hide() {
    // After this the files in /proc belong to root, and can be read by the process itself only.
    let _hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // Every descendant that loses its parent becomes our child, so that none can hide from us.
    let _reaper = rustix::process::set_child_subreaper(Some(getpid()));
}
