//! What the daemon does to itself before it does anything else.
//!
//! Its environment and memory hold what variables of runners refer to, and the database's password.
//! The programs inside runners have the same user. So no core is ever written, and nobody but root
//! can look into the process.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Protects this process. What is not permitted is left as it is.
pub(crate) fn protect() {
    let _limited = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
