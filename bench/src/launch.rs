//! Launching one runner: from the request until its assistant is executed.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use crate::Lab;
use crate::bare::Steps;
use crate::home::{Home, PROJECT, succeed};
use crate::peer::{Dtach, Tmux};
use crate::report::{Row, Target};
use crate::sample::{Samples, in_turns, ms_since};

/// A program of our own, and the kernel's word that it was executed: exec opens the file.
pub(crate) struct Assistant {
    pub path: PathBuf,
    opened: OwnedFd,
    _directory: tempfile::TempDir,
}

impl Assistant {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("assistant");
        let sleep = ["/bin/sleep", "/usr/bin/sleep"]
            .into_iter()
            .find(|path| fs::exists(path).unwrap_or(false));
        fs::copy(sleep.context("there is no sleep")?, &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        let opened = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&opened, &path, inotify::WatchFlags::OPEN)?;
        Ok(Self { path, opened, _directory: directory })
    }

    /// Forgets what was opened before.
    pub(crate) fn forget(&self) {
        while rustix::io::read(&self.opened, &mut [0; 4096]).is_ok() {}
    }

    /// Waits until it is executed.
    pub(crate) fn executed(&self) -> anyhow::Result<()> {
        let patience = Timespec::try_from(Duration::from_secs(20))?;
        let seen = poll(&mut [PollFd::new(&self.opened, PollFlags::IN)], Some(&patience))?;
        ensure!(seen > 0, "the assistant was never executed");
        Ok(())
    }
}

pub(crate) fn one(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let home = Home::new(lab)?;
    let client = home.client()?;
    let tmux = Tmux::new()?;
    let dtach = Dtach::new()?;
    let assistant = Assistant::new()?;
    let program = assistant.path.display().to_string();
    let argv = [program.as_str(), "100000"];
    let (mut returned, mut running) = (Samples::default(), Samples::default());
    let mut number = 0;
    let mut command = || {
        number += 1;
        let name = format!("command-{number}");
        let mut launch = home.cli([
            "launch",
            "--project",
            PROJECT,
            "--assistant",
            "generic",
            "--name",
            &name,
            "--",
        ]);
        launch.args(argv).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assistant.forget();
        let began = Instant::now();
        let mut child = launch.spawn()?;
        assistant.executed()?;
        let executed = ms_since(began);
        ensure!(child.wait()?.success(), "the launch failed");
        returned.0.push(ms_since(began));
        home.kill(&name)?;
        Ok(executed)
    };
    let mut request = || {
        assistant.forget();
        let began = Instant::now();
        let launched = home.launch(&client, 1, &argv)?;
        assistant.executed()?;
        let executed = ms_since(began);
        let runner = launched.first().context("no runner was launched")?;
        home.wait(&client, &runner.id, &["running"])?;
        running.0.push(ms_since(began));
        home.kill(&runner.id)?;
        Ok(executed)
    };
    let mut session = || {
        assistant.forget();
        let began = Instant::now();
        tmux.session("launched", &argv)?;
        assistant.executed()?;
        let executed = ms_since(began);
        tmux.run(&["kill-session", "-t", "=launched"])?;
        Ok(executed)
    };
    let mut detached = 0;
    let mut bare = || {
        detached += 1;
        let name = format!("d{detached}");
        let mut start = dtach.start(&name, &argv);
        assistant.forget();
        let began = Instant::now();
        succeed(&mut start)?;
        assistant.executed()?;
        let executed = ms_since(began);
        dtach.end(&name);
        Ok(executed)
    };
    let steps = Steps::start()?;
    let mut by_steps = || {
        let mut ask = steps.ask(&argv)?;
        ask.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assistant.forget();
        let began = Instant::now();
        let mut child = ask.spawn()?;
        assistant.executed()?;
        let executed = ms_since(began);
        ensure!(child.wait()?.success(), "the bare launch failed");
        Ok(executed)
    };
    // What the command adds to the request: a start of the program, and a connection.
    let mut asked = || {
        let began = Instant::now();
        succeed(&mut home.cli(["projects", "list"]))?;
        Ok(ms_since(began))
    };
    let rounds = lab.rounds.max(20);
    let [by_command, by_request, by_tmux, by_dtach, by_list, by_steps] = in_turns(
        rounds,
        [&mut command, &mut request, &mut session, &mut bare, &mut asked, &mut by_steps],
    )?;
    let tmux = "`tmux new-session -d`";
    Ok(vec![
        Row::new("launch by command, to assistant executed", "ms", &by_command)
            .against(tmux, &by_tmux)
            .target(Target::AtMost(1.5)),
        // What nothing can do in less that commits before it starts, and starts it behind an agent.
        Row::new("launch by command, to assistant executed", "ms", &by_command)
            .against("its bare steps: a command, two commits, an agent, a program", &by_steps)
            .target(Target::AtMost(1.3)),
        Row::new("its bare steps", "ms", &by_steps).against(tmux, &by_tmux),
        Row::new("launch by command, to assistant executed", "ms", &by_command)
            .against("`stratavore projects list`", &by_list),
        Row::new("launch over an open connection, to assistant executed", "ms", &by_request)
            .against(tmux, &by_tmux)
            .target(Target::AtMost(1.5)),
        Row::new("the same, by itself", "ms", &by_request).target(Target::Below(5.0)),
        Row::new("the same, beside dtach", "ms", &by_request).against("`dtach -n`", &by_dtach),
        Row::new("launch by command, until it returns", "ms", &returned).against(tmux, &by_tmux),
        Row::new("launch over an open connection, until told running", "ms", &running)
            .against(tmux, &by_tmux),
    ])
}
