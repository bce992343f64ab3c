//! `cargo xtask bench`: how long a launch takes, beside the same thing done by tmux.
//!
//! Both start a process on a PTY of its own that outlives whoever asked for it, both are asked by
//! a command whose own start is part of the time, and both have their server running already.
//! Rounds alternate, so that what else the machine does falls on both alike. The release build is
//! measured, with SQLite, as users get it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::install::PROGRAMS;
use crate::machine::on_path;
use crate::step;
use crate::workspace::{Workspace, cargo};

/// A p90 of fewer says nothing.
const FEWEST: usize = 20;

/// Rounds that are not counted, for caches and the first start of the servers.
const WARM_UP: usize = 3;

const RESULTS: &str = "bench/RESULTS.md";

pub(crate) fn bench(arguments: &[String]) -> anyhow::Result<()> {
    let (mut rounds, mut write) = (40, false);
    for argument in arguments {
        match argument.split_once('=') {
            None if argument == "--write" => write = true,
            Some(("--rounds", number)) => {
                rounds = number.parse().with_context(|| format!("`{number}` is no number"))?;
            }
            _ => bail!("`{argument}` is not understood here; it takes --rounds=N and --write"),
        }
    }
    ensure!(rounds >= FEWEST, "{rounds} rounds are too few to say anything; {FEWEST} is the least");
    ensure!(on_path("tmux"), "there is nothing to compare with; install tmux");

    let mut build = cargo();
    build.args(["build", "--release", "--bins"]);
    for program in PROGRAMS {
        build.args(["--package", program]);
    }
    step::run("build", &mut build)?;
    let workspace = Workspace::read()?;

    let home = tempfile::tempdir().context("cannot make a temporary directory")?;
    let stratavore = Stratavore::start(&workspace.target.join("release"), home.path())?;
    let tmux = Tmux { socket: home.path().join("tmux") };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + rounds {
        let (our_time, their_time) = if round % 2 == 0 {
            (stratavore.launch(round)?, tmux.launch(round)?)
        } else {
            let their_time = tmux.launch(round)?;
            (stratavore.launch(round)?, their_time)
        };
        if round >= WARM_UP {
            ours.push(our_time);
            theirs.push(their_time);
        }
    }

    let report = report(&machine(&tmux)?, &ours, &theirs);
    println!("{report}");
    if write {
        let path = workspace.root.join(RESULTS);
        fs::create_dir_all(path.parent().unwrap_or(&workspace.root))
            .and_then(|()| fs::write(&path, &report))
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// A daemon in a home of its own, stopped with all its runners when dropped.
struct Stratavore<'a> {
    program: PathBuf,
    home: &'a Path,
}

impl<'a> Stratavore<'a> {
    fn start(bin: &Path, home: &'a Path) -> anyhow::Result<Stratavore<'a>> {
        let stratavore = Stratavore { program: bin.join(PROGRAMS[0]), home };
        let directory = home.display().to_string();
        let limit = "--quota-runners=1000";
        succeed(&mut stratavore.command(&["new", "bench", "--directory", &directory, limit]))?;
        Ok(stratavore)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        step::without_settings(&mut command);
        command.args(arguments).env("STRATAVORE_HOME", self.home);
        command
    }

    /// One launch, from the start of the command until the runner is reported as running.
    fn launch(&self, round: usize) -> anyhow::Result<Duration> {
        let name = format!("bench-{round}");
        let mut launch = self.command(&["launch", "--project", "bench", "--assistant", "generic"]);
        launch.args(["--name", &name, "--", "sleep", "600"]);
        let started = Instant::now();
        succeed(&mut launch)?;
        let took = started.elapsed();
        succeed(&mut self.command(&["kill", "--force", &name]))?;
        Ok(took)
    }
}

impl Drop for Stratavore<'_> {
    fn drop(&mut self) {
        // What went wrong before is the better thing to report.
        drop(succeed(&mut self.command(&["kill", "--all", "--force"])));
        drop(succeed(&mut self.command(&["daemon", "stop"])));
    }
}

/// A tmux server on a socket of its own and without the user's configuration.
struct Tmux {
    socket: PathBuf,
}

impl Tmux {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(["-f", "/dev/null"]).args(arguments);
        command.env_remove("TMUX");
        command
    }

    /// One new session. The one of the round before goes only afterwards, so that the server stays.
    fn launch(&self, round: usize) -> anyhow::Result<Duration> {
        let name = format!("bench-{round}");
        let mut launch = self.command(&["new-session", "-d", "-s", &name, "sleep", "600"]);
        let started = Instant::now();
        succeed(&mut launch)?;
        let took = started.elapsed();
        if round > 0 {
            let before = format!("=bench-{}", round - 1);
            succeed(&mut self.command(&["kill-session", "-t", &before]))?;
        }
        Ok(took)
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        drop(succeed(&mut self.command(&["kill-server"])));
    }
}

fn succeed(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "`{command:?}` ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// What was measured on, in a line.
fn machine(tmux: &Tmux) -> anyhow::Result<String> {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown");
    let tmux = succeed(&mut tmux.command(&["-V"]))?;
    Ok(format!("{cpus} CPUs, Linux {}, load {load} at the end, {tmux}", kernel.trim_end()))
}

fn report(machine: &str, ours: &[Duration], theirs: &[Duration]) -> String {
    let row = |what: &str, times: &[Duration]| {
        let at = |percent| percentile(times, percent).as_secs_f64() * 1000.0;
        format!("| {what} | {:.1} ms | {:.1} ms | {:.1} ms |\n", at(50), at(90), at(100))
    };
    format!(
        "# Launch\n\nFrom the start of the command until it has returned, {} rounds of each, \
         alternating, after {WARM_UP} that do not count.\n{machine}. Made by `cargo xtask bench`.\n\n\
         | | p50 | p90 | longest |\n|---|---|---|---|\n{}{}",
        ours.len(),
        row("`stratavore launch`: recorded durably, running under its agent", ours),
        row("`tmux new-session -d`", theirs),
    )
}

/// The smallest time that so many percent of the times do not exceed.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<_> = (1..=20).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(10));
        assert_eq!(percentile(&times, 90), Duration::from_millis(18));
        assert_eq!(percentile(&times, 100), Duration::from_millis(20));
        assert_eq!(percentile(&times[..1], 50), Duration::from_millis(20));
    }

    #[test]
    fn too_few_rounds_are_refused() {
        let error = bench(&["--rounds=19".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("20 is the least"), "{error}");
    }
}
