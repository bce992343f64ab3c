//! Named places where a test build can be made to die or to stop, and that it can report.
//!
//! `STRATAVORE_FAILPOINTS="after_lock=abort;before_hello=pause"`: `abort` is as by `kill -9`,
//! `pause` is as by `kill -STOP`. With `STRATAVORE_TEST_HOOKS=FILE` each place that is passed
//! appends its name, a line each, so that a test can wait for it. In a release build there is
//! nothing of either.

/// Reports this place, and dies or stops here, if the environment of a debug build says so.
#[cfg(debug_assertions)]
pub fn failpoint(name: &str) {
    use rustix::process::{Signal, getpid, kill_process};
    use std::io::Write;

    if let Some(path) = std::env::var_os("STRATAVORE_TEST_HOOKS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        // One write a line: several processes append to the same file.
        file.and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()))
            .expect("the file of the test hooks can be written");
    }
    let Ok(points) = std::env::var("STRATAVORE_FAILPOINTS") else { return };
    for point in points.split(';') {
        let signal = match point.split_once('=') {
            Some((at, "abort")) if at == name => Signal::KILL,
            Some((at, "pause")) if at == name => Signal::STOP,
            Some(_) | None => continue,
        };
        kill_process(getpid(), signal).expect("a process may signal itself");
        // Any thread may be the one that takes it; this one does not go on before it is taken.
        while is_pending(Signal::STOP) {
            std::thread::yield_now();
        }
    }
}

/// Whether the signal was sent to this process and no thread has taken it yet.
#[cfg(debug_assertions)]
fn is_pending(signal: rustix::process::Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let pending = pending.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    pending.unwrap_or_default() & (1 << (signal.as_raw() - 1)) != 0
}

/// Whether a check is to be left out, so that a test can show what it is for:
/// `STRATAVORE_FAILPOINTS="identity=off"`.
#[cfg(debug_assertions)]
pub fn is_off(check: &str) -> bool {
    std::env::var("STRATAVORE_FAILPOINTS").is_ok_and(|points| {
        points.split(';').any(|point| point.split_once('=') == Some((check, "off")))
    })
}

/// No check of a release build can be left out.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn is_off(_check: &str) -> bool {
    false
}

/// Does nothing: a release build has no failpoints.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn failpoint(_name: &str) {}
