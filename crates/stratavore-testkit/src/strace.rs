//! `strace`, by which a test lets system calls fail.

use std::process::Command;

/// A test that cannot do without it begins with this: where it cannot trace, nothing is proved.
///
/// # Panics
/// If there is no `strace`, or it may not trace; the message says what is needed.
#[track_caller]
pub fn needed() {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    let traced = traced.unwrap_or_else(|error| {
        panic!("strace is needed, which `cargo xtask test` installs: {error}")
    });
    let said = String::from_utf8_lossy(&traced.stderr);
    assert!(traced.status.success(), "strace must be allowed to trace (ptrace): {said}");
}
