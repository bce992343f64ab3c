//! Running one command as a named, timed step, and the summary of several.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;

/// Runs a command with our own input and output, and fails unless it succeeds.
pub(crate) fn run(name: &str, command: &mut Command) -> anyhow::Result<()> {
    // Cargo names itself by its whole path, which nobody would type.
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words: Vec<_> = std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    let shown = words.join(" ");
    eprintln!("\n== {name}: {shown}");
    let status = command.status().with_context(|| format!("cannot run `{shown}`"))?;
    anyhow::ensure!(status.success(), "{name}: `{shown}` ended with {status}");
    Ok(())
}

/// Takes Stratavore's variables out of a command's environment, whether the developer's shell has
/// settings in them or is itself inside a runner. Those that say how to test stay.
pub(crate) fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("STRATAVORE_") && !name.starts_with("STRATAVORE_TEST_") {
            command.env_remove(name.as_ref());
        }
    }
}

/// Steps that all run although one failed, so that one run tells everything that is wrong.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<Done>,
}

#[derive(Debug)]
struct Done {
    name: &'static str,
    took: Duration,
    failed: bool,
}

impl Steps {
    /// Does one step and says whether it succeeded. A failure is told at once and again by
    /// [`Steps::finish`].
    pub(crate) fn take(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> anyhow::Result<()>,
    ) -> bool {
        let started = Instant::now();
        let result = step();
        if let Err(error) = &result {
            eprintln!("xtask: {error:#}");
        }
        self.done.push(Done { name, took: started.elapsed(), failed: result.is_err() });
        result.is_ok()
    }

    /// Prints the time of each step.
    ///
    /// # Errors
    /// Names the steps that failed, if any did.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        eprintln!();
        for Done { name, took, failed } in &self.done {
            let outcome = if *failed { "FAILED" } else { "ok" };
            eprintln!("{name:<14} {:>7.1} s  {outcome}", took.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|done| done.took).sum();
        eprintln!("{:<14} {:>7.1} s", "all", total.as_secs_f64());

        let failed: Vec<_> =
            self.done.iter().filter(|done| done.failed).map(|done| done.name).collect();
        anyhow::ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_runs_and_failures_are_named() {
        let mut steps = Steps::default();
        assert!(steps.take("first", || Ok(())));
        assert!(!steps.take("second", || run("second", &mut Command::new("false"))));
        assert!(steps.take("third", || run("third", &mut Command::new("true"))));
        assert_eq!(steps.finish().unwrap_err().to_string(), "failed: second");
    }
}
