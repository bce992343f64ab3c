//! `cargo xtask run`: a first look at Stratavore, on a home of its own.
//!
//! Builds the programs, and through them, as a user would, makes a project, launches a runner and
//! shows its screen. Runs any number of times: what exists already is used. The runner goes on
//! when this returns; the last lines say how to end it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::install::PROGRAMS;
use crate::machine::on_path;
use crate::step;
use crate::workspace::{Workspace, cargo};

const PROJECT: &str = "demo";

/// How long a runner may take until it has drawn something.
const PATIENCE: Duration = Duration::from_secs(20);

/// The assistants that are tried, in this order, before the user's shell.
const ASSISTANTS: [&str; 5] = ["claude", "codex", "gemini", "opencode", "aider"];

pub(crate) fn run() -> anyhow::Result<()> {
    let mut build = cargo();
    build.arg("build");
    for program in PROGRAMS {
        build.args(["--package", program]);
    }
    step::run("build", &mut build)?;

    let demo = Demo { bin: Workspace::read()?.target.join("debug"), home: home()? };
    let directory = demo.home.join("project");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;

    let projects = demo.read(&["projects", "list", "--format", "json"])?;
    if !rows(&projects).any(|project| project["name"] == PROJECT) {
        demo.tell(&["new", PROJECT, "--directory", &directory.display().to_string()])?;
    }
    let runner = match demo.live_runner()? {
        Some(runner) => {
            eprintln!("\nthe runner {} of an earlier run is still alive", runner.name);
            runner
        }
        None => demo.launch()?,
    };
    demo.wait(&runner)?;
    let screen = demo.screen(&runner)?;
    println!("\n{}", framed(&screen));
    print!("{}", demo.what_next(&runner)?);
    Ok(())
}

/// `~/.local/state/stratavore-demo`, or as the XDG variable says.
fn home() -> anyhow::Result<PathBuf> {
    let state = match std::env::var_os("XDG_STATE_HOME").filter(|value| !value.is_empty()) {
        Some(state) => PathBuf::from(state),
        None => {
            PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".local/state")
        }
    };
    Ok(state.join("stratavore-demo"))
}

struct Demo {
    bin: PathBuf,
    home: PathBuf,
}

/// A runner, by what commands call it.
struct Runner {
    id: String,
    name: String,
}

impl Runner {
    fn read(printed: &Value) -> anyhow::Result<Runner> {
        let field = |name| {
            let value = printed[name].as_str().map(str::to_owned);
            value.with_context(|| format!("a runner without `{name}`: {printed}"))
        };
        Ok(Runner { id: field("id")?, name: field("name")? })
    }
}

impl Demo {
    fn stratavore(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join(PROGRAMS[0]));
        step::without_settings(&mut command);
        command.args(arguments).env("STRATAVORE_HOME", &self.home).stdin(Stdio::null());
        command
    }

    /// Shows the command and lets it speak for itself.
    fn tell(&self, arguments: &[&str]) -> anyhow::Result<()> {
        step::run("demo", &mut self.stratavore(arguments))
    }

    /// Runs a command for what it prints.
    fn print(&self, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let shown = format!("stratavore {}", arguments.join(" "));
        let output = self
            .stratavore(arguments)
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot run `{shown}`"))?;
        ensure!(output.status.success(), "`{shown}` ended with {}", output.status);
        Ok(output.stdout)
    }

    fn read(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let printed = self.print(arguments)?;
        serde_json::from_slice(&printed)
            .with_context(|| format!("`stratavore {}` printed no JSON", arguments.join(" ")))
    }

    /// A runner of the demo that has not ended.
    fn live_runner(&self) -> anyhow::Result<Option<Runner>> {
        let runners = self.read(&["runners", "list", "--project", PROJECT, "--format", "json"])?;
        rows(&runners).find(|runner| !is_over(&runner["state"])).map(Runner::read).transpose()
    }

    /// Waits until the runner runs.
    fn wait(&self, runner: &Runner) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let seen = self.read(&["runners", "show", &runner.id, "--format", "json"])?;
            let (name, state, cause) = (&runner.name, &seen["state"], &seen["cause"]);
            if *state == "running" {
                return Ok(());
            }
            ensure!(!is_over(state), "the runner {name} is {state}, because: {cause}");
            ensure!(started.elapsed() < PATIENCE, "the runner {name} is still {state}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn launch(&self) -> anyhow::Result<Runner> {
        let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
        let mut arguments = vec!["launch", "--project", PROJECT, "--format", "json"];
        match ASSISTANTS.into_iter().find(|assistant| on_path(assistant)) {
            Some(assistant) => arguments.extend(["--assistant", assistant]),
            None => {
                eprintln!("\nno assistant is on the PATH; the demo runs your shell, {shell}");
                arguments.extend(["--assistant", "generic", "--", &shell]);
            }
        }
        eprintln!("\n== demo: stratavore {}", arguments.join(" "));
        let launched = self.read(&arguments)?;
        rows(&launched).next().context("the launch told of no runner").and_then(Runner::read)
    }

    /// The runner's screen, once there is something on it.
    fn screen(&self, runner: &Runner) -> anyhow::Result<String> {
        let started = Instant::now();
        loop {
            let screen = self.print(&["screen", &runner.id])?;
            let screen = String::from_utf8_lossy(&screen).trim_end().to_owned();
            if !screen.is_empty() || started.elapsed() > PATIENCE {
                return Ok(screen);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn what_next(&self, Runner { id, name }: &Runner) -> anyhow::Result<String> {
        let daemon = self.read(&["daemon", "status", "--format", "json"])?["pid"].clone();
        let runner = self.read(&["runners", "show", id, "--format", "json"])?["pid"].clone();
        let lines = [
            (format!("stratavore attach {name}"), "use it; it says which keys let go of it"),
            ("stratavore status --watch".to_owned(), "see what runs, as it changes"),
            (format!("kill -9 {daemon}"), "kill the daemon; the runner stays"),
            (format!("stratavore runners show {name}"), "a new daemon, the same process as before"),
            ("stratavore kill --all".to_owned(), "stop every runner"),
        ];
        let width = lines.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
        let lines: String =
            lines.iter().map(|(command, what)| format!("  {command:<width$}   {what}\n")).collect();
        let (bin, home) = (self.bin.display(), self.home.display());
        Ok(format!(
            "\
Runner {name} (process {runner}) goes on without this terminal. What to type next:

  export PATH={bin}:$PATH STRATAVORE_HOME={home}

{lines}
`make run` shows it again. To remove the demo, after that export:
  stratavore kill --all; stratavore daemon stop; rm -r {home}
"
        ))
    }
}

/// The entries of what `--format json` prints, which is a list, or one thing by itself.
fn rows(printed: &Value) -> impl Iterator<Item = &Value> {
    printed.as_array().map_or(std::slice::from_ref(printed), Vec::as_slice).iter()
}

/// Whether a runner's state is one that never changes again, or soon will not.
fn is_over(state: &Value) -> bool {
    ["stopping", "exited", "failed", "lost"].iter().any(|over| state == over)
}

/// A screen with a line around it, so that it is told from our own words.
fn framed(screen: &str) -> String {
    let width = screen.lines().map(|line| line.chars().count()).max().unwrap_or(0).max(20);
    let rule = "-".repeat(width + 2);
    let mut framed = format!("+{rule}+\n");
    for line in screen.lines() {
        framed.push_str(&format!("| {line:<width$} |\n"));
    }
    framed + "+" + &rule + "+\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_framed_to_its_width() {
        let shown = framed("$ ls\na-file-with-a-very-long-name");
        let widths: Vec<_> = shown.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths, [32; 4]);
        assert!(shown.contains("| $ ls                         |"));
    }
}
