//! `cargo xtask compose`: `deploy/compose` in containers, as its first lines tell a newcomer to start it.
//!
//! It runs as a project and from a copy of its own, so that a composition of this clone that is in use
//! keeps its containers, volumes and secrets. Without a container engine nothing was tried, and that is
//! a failure. No part of `make test`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::step::{self, Steps};
use crate::workspace::Workspace;

const DAEMONS: [&str; 3] = ["stratavore-1", "stratavore-2", "stratavore-3"];

/// Of compose: containers, networks and volumes are named after it.
const NAME: &str = "stratavore-xtask";

/// How long what happens by itself may take: a host is away nine seconds after its daemon died.
const PATIENCE: Duration = Duration::from_secs(60);

/// `--no-build` takes the image `stratavore:0.1.0` that is there.
pub(crate) fn compose(arguments: &[String]) -> anyhow::Result<()> {
    let is_built = match arguments {
        [] => false,
        [flag] if flag == "--no-build" => true,
        other => bail!("`{}` is not understood here", other.join(" ")),
    };
    engine()?;
    let root = Workspace::read()?.root;
    // Not where temporary files are: an engine in a virtual machine sees the clone, and may see no more.
    let parent = root.join("target");
    fs::create_dir_all(&parent)?;
    let copy = tempfile::tempdir_in(&parent).context("cannot make a directory")?;
    for directory in ["compose", "postgres"] {
        copy_files(&root.join("deploy").join(directory), &copy.path().join(directory))?;
    }
    let trial = Trial { directory: copy.path().join("compose"), root };
    let mut steps = Steps::default();
    let is_up = steps.take("secrets", || trial.run(Command::new("./secrets.sh")))
        && (is_built || steps.take("build", || trial.build()))
        && steps.take("up", || trial.up())
        && steps.take("join", || trial.run(Command::new("./join.sh")));
    let is_well = is_up
        && steps.take("rights", || trial.no_more_rights_than_needed())
        && steps.take("launch", || trial.a_runner_on_each())
        && steps.take("kill", || trial.one_is_killed())
        && steps.take("events", || trial.events_are_in_the_queue())
        && steps.take("down and up", || trial.all_is_kept());
    if !is_well {
        // They go with the containers.
        trial.run(trial.docker(&["logs", "--tail", "50"])).ok();
    }
    steps.take("remove", || trial.run(trial.docker(&["down", "--volumes"])));
    steps.finish()
}

/// Whether there are an engine and compose.
fn engine() -> anyhow::Result<()> {
    for words in [["info"].as_slice(), &["compose", "version"]] {
        let shown = format!("docker {}", words.join(" "));
        let asked = Command::new("docker").args(words).stdin(Stdio::null()).output();
        let problem = match asked {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        bail!("there is no container engine here, so nothing was tried: `{shown}`: {problem}");
    }
    Ok(())
}

fn copy_files(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        // What a composition that is in use has for itself stays where it is; its secrets are a directory.
        let is_own = [".env", "compose.override.yaml"].iter().any(|own| entry.file_name() == *own);
        if entry.file_type()?.is_file() && !is_own {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

struct Trial {
    /// The copy of `deploy/compose`.
    directory: PathBuf,
    root: PathBuf,
}

impl Trial {
    fn docker(&self, words: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        docker.arg("compose").args(words);
        docker
    }

    fn here<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        step::without_settings(command);
        command.current_dir(&self.directory).env("COMPOSE_PROJECT_NAME", NAME)
    }

    fn run(&self, mut command: Command) -> anyhow::Result<()> {
        step::run("compose", self.here(&mut command).stdin(Stdio::null()))
    }

    /// From the clone: the copy is not where its Dockerfile looks for the sources.
    fn build(&self) -> anyhow::Result<()> {
        let mut build = Command::new("docker");
        build.args(["build", "--file", "deploy/compose/Dockerfile", "--tag", "stratavore:0.1.0"]);
        step::run("build", build.arg(".").current_dir(&self.root).stdin(Stdio::null()))
    }

    fn up(&self) -> anyhow::Result<()> {
        self.run(self.docker(&["up", "--detach", "--no-build", "--wait"]))
    }

    fn output(&self, mut command: Command) -> anyhow::Result<Output> {
        let output = self.here(&mut command).stdin(Stdio::null()).output();
        output.with_context(|| format!("cannot run {command:?}"))
    }

    /// What a command in a container prints.
    fn within(&self, service: &str, words: &[&str]) -> anyhow::Result<String> {
        let mut exec = self.docker(&["exec", "--no-TTY", service]);
        exec.args(words);
        let output = self.output(exec)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{service}: `{}`: {}", words.join(" "), said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn stratavore(&self, service: &str, words: &[&str]) -> anyhow::Result<String> {
        self.within(service, &[&["stratavore"], words].concat())
    }

    fn list(&self, service: &str, words: &[&str]) -> anyhow::Result<Vec<Value>> {
        let printed = self.stratavore(service, &[words, &["--format", "json"]].concat())?;
        serde_json::from_str(&printed).with_context(|| format!("it printed no list: {printed}"))
    }

    /// The state of a runner, as the daemon of `service` sees it.
    fn state(&self, service: &str, runner: &str) -> anyhow::Result<Value> {
        let all = self.list(service, &["runners", "list", "--all"])?;
        let found = all.into_iter().find(|seen| seen["name"] == runner);
        Ok(found.with_context(|| format!("{service} knows no runner {runner}"))?["state"].take())
    }

    fn ready(&self, service: &str) -> anyhow::Result<usize> {
        let nodes = self.list(service, &["nodes"])?;
        Ok(nodes.iter().filter(|node| node["ready"] == true).count())
    }

    fn launch(&self, at: &str, on: &str, name: &str) -> anyhow::Result<()> {
        let script = "while read line; do echo \"you said: $line\"; done";
        let words = ["launch", "--project", "p", "--assistant", "generic", "--node", on];
        let command = ["--name", name, "--", "sh", "-c", script];
        self.stratavore(at, &[words.as_slice(), &command].concat()).map(drop)
    }

    /// Nobody is root, no port is the host's, and what is secret is in files alone.
    fn no_more_rights_than_needed(&self) -> anyhow::Result<()> {
        let ids = self.output(self.docker(&["ps", "--all", "--quiet"]))?.stdout;
        let ids = String::from_utf8(ids)?;
        let mut inspect = Command::new("docker");
        inspect.arg("inspect").args(ids.lines());
        let inspected = String::from_utf8(self.output(inspect)?.stdout)?;
        let containers: Vec<Value> = serde_json::from_str(&inspected)?;
        ensure!(containers.len() == 7, "there are {} containers", containers.len());
        for container in &containers {
            let name = &container["Name"];
            let user = container["Config"]["User"].as_str().unwrap_or_default();
            ensure!(!user.is_empty() && !user.starts_with('0'), "{name} is of user {user:?}");
            let bound = container["NetworkSettings"]["Ports"].as_object().into_iter().flatten();
            let opened = bound.filter(|(_, to)| !to.is_null()).map(|(port, _)| port.as_str());
            let opened: Vec<&str> = opened.collect();
            ensure!(opened.is_empty(), "{name} opens {} on the host", opened.join(", "));
        }
        let logged = self.output(self.docker(&["logs"]))?;
        let logged = String::from_utf8_lossy(&logged.stdout).into_owned();
        for secret in ["postgres-password", "postgres-app-password", "rabbitmq-password"] {
            let text = fs::read_to_string(self.directory.join("secrets").join(secret))?;
            let text = text.trim();
            ensure!(!inspected.contains(text), "{secret} is in what `docker inspect` shows");
            ensure!(!logged.contains(text), "{secret} is in a log");
        }
        for service in [DAEMONS.as_slice(), &["postgres", "rabbitmq"]].concat() {
            let uid = self.within(service, &["stat", "--format", "%u", "/proc/1"])?;
            ensure!(uid.trim() != "0", "the first process of {service} is root's");
        }
        // Assistants run there what they have written.
        self.within(
            DAEMONS[0],
            &["sh", "-c", "cp /bin/true /tmp/runs && /tmp/runs && rm /tmp/runs"],
        )?;
        Ok(())
    }

    fn a_runner_on_each(&self) -> anyhow::Result<()> {
        let ready = self.ready(DAEMONS[2])?;
        ensure!(ready == 3, "{ready} nodes are ready");
        self.within(DAEMONS[0], &["mkdir", "/projects/p"])?;
        self.stratavore(DAEMONS[0], &["new", "p", "--directory", "/projects/p"])?;
        for on in DAEMONS {
            self.launch(DAEMONS[0], on, &format!("on-{on}"))?;
        }
        for on in DAEMONS {
            let runner = format!("on-{on}");
            for seen_by in DAEMONS {
                let state = self.state(seen_by, &runner)?;
                ensure!(state == "running", "{seen_by} says that {runner} is {state}");
            }
            self.stratavore(DAEMONS[2], &["send", &runner, "hello"])?;
            until("its output is read from another host", || {
                Ok(self.stratavore(DAEMONS[1], &["logs", &runner])?.contains("you said: hello"))
            })?;
        }
        self.stratavore(DAEMONS[1], &["kill", "on-stratavore-3"])?;
        let state = self.state(DAEMONS[0], "on-stratavore-3")?;
        ensure!(state == "exited", "after it was stopped it is {state}");
        Ok(())
    }

    fn one_is_killed(&self) -> anyhow::Result<()> {
        self.run(self.docker(&["kill", DAEMONS[1]]))?;
        self.launch(DAEMONS[0], DAEMONS[2], "meanwhile")?;
        until("the others notice", || Ok(self.ready(DAEMONS[2])? == 2))?;
        self.up()?;
        until("it is back", || Ok(self.ready(DAEMONS[0])? == 3))?;
        until("its runner is lost", || Ok(self.state(DAEMONS[0], "on-stratavore-2")? == "lost"))?;
        let other = self.state(DAEMONS[1], "on-stratavore-1")?;
        ensure!(other == "running", "the runner of another host is {other}");
        Ok(())
    }

    fn events_are_in_the_queue(&self) -> anyhow::Result<()> {
        let events = self.list(DAEMONS[0], &["events", "--limit", "1000"])?.len();
        until("no event waits", || Ok(self.list(DAEMONS[0], &["outbox"])?[0]["pending"] == 0))?;
        let words = ["rabbitmqctl", "-q", "list_queues", "-p", "stratavore", "name", "messages"];
        until("all are there", || {
            let queues = self.within("rabbitmq", &words)?;
            let work = queues.lines().find_map(|line| line.strip_prefix("stratavore.work"));
            let held: usize = work.context("there is no queue stratavore.work")?.trim().parse()?;
            Ok(held >= events)
        })
    }

    /// What containers are replaced by new ones for, as at an upgrade.
    fn all_is_kept(&self) -> anyhow::Result<()> {
        self.run(self.docker(&["down"]))?;
        self.up()?;
        until("all are ready", || Ok(self.ready(DAEMONS[1])? == 3))?;
        until("what ran is lost", || Ok(self.state(DAEMONS[2], "on-stratavore-1")? == "lost"))?;
        self.stratavore(DAEMONS[2], &["restart", "on-stratavore-1"])?;
        self.stratavore(DAEMONS[0], &["audit", "verify"])?;
        self.stratavore(DAEMONS[0], &["doctor"]).map(drop)
    }
}

/// Waits for what comes by itself.
fn until(what: &str, mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !holds()? {
        ensure!(began.elapsed() < PATIENCE, "not after {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}
