//! `cargo xtask test-program PROGRAM ARGS`: what cargo starts each program of tests with. Nobody
//! types it, so the list of verbs leaves it out.
//!
//! Tests with real assistants wait for these most of the time: for a start, for a pause between two
//! tries. Twice as many of them as there are processors take a little more than half the time.

use std::ffi::OsStr;
use std::num::NonZero;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::Context;

pub(crate) const VERB: &str = "test-program";
/// Of the test harness.
const THREADS_VARIABLE: &str = "RUST_TEST_THREADS";
/// The programs whose tests mostly wait.
const WAITING: &str = "assistants-";

/// The arguments with which cargo starts programs of tests so.
pub(crate) fn by_us() -> anyhow::Result<[String; 2]> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let runner = serde_json::json!([own, VERB]);
    Ok(["--config".into(), format!("target.'cfg(all())'.runner={runner}")])
}

/// Becomes the program.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let (program, arguments) = arguments.split_first().context("which program of tests?")?;
    let mut command = Command::new(program);
    command.args(arguments);
    let name = Path::new(program).file_name().and_then(OsStr::to_str).unwrap_or_default();
    if name.starts_with(WAITING) && std::env::var_os(THREADS_VARIABLE).is_none() {
        let processors = available_parallelism().map_or(1, NonZero::get);
        command.env(THREADS_VARIABLE, (2 * processors).to_string());
    }
    Err(command.exec()).with_context(|| format!("cannot run {program}"))
}
