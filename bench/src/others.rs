//! Programs that do a part of the same and that no distribution has: pueue, which runs commands in
//! the background, and shpool, which keeps shells. Built for the bench; where that fails, the row
//! says why.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::Lab;
use crate::attach::until_full;
use crate::echo::{TYPED, Typist};
use crate::home::{Home, PROJECT, succeed};
use crate::launch::Assistant;
use crate::play::words;
use crate::report::Row;
use crate::sample::{in_turns, ms_since};

/// How many tasks and runners a status shows.
const TASKS: u32 = 20;

/// A program that was built, and its daemon, in a home of its own.
struct Built {
    program: PathBuf,
    home: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Built {
    /// Why there is none, in the place of the program.
    fn find(lab: &Lab, name: &str) -> Result<PathBuf, String> {
        let program = lab.peers.join(name);
        let known = lab.absent.iter().find(|(absent, _)| absent == name);
        match known {
            Some((_, why)) => Err(why.clone()),
            None if program.exists() => Ok(program),
            None => Err(format!("{name} was not built: use `make bench`")),
        }
    }

    /// Starts `daemon` and waits until `asked` is answered.
    fn start(program: PathBuf, daemon: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("peer-").tempdir()?;
        let mut built = Self { program, home, daemon: None };
        let program = built.program.with_file_name(daemon);
        let mut command = built.at_home(Command::new(&program));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        built.daemon = Some(command.spawn().with_context(|| format!("start {daemon}"))?);
        Ok(built)
    }

    fn at_home(&self, mut command: Command) -> Command {
        let home = self.home.path();
        for name in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"] {
            command.env(name, home);
        }
        command.env("TERM", "xterm-256color");
        command
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.at_home(Command::new(&self.program));
        command.args(arguments);
        command
    }

    /// Waits until the daemon answers this.
    fn until_answers(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            match succeed(&mut self.command(arguments)) {
                Ok(_) => return Ok(()),
                Err(error) if began.elapsed() > Duration::from_secs(20) => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            // What could fail is that it has ended already.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

pub(crate) fn pueue(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let launch = "launch by command, to program executed, beside pueue";
    let status = format!("`stratavore status`, {TASKS} runners, beside pueue");
    let program = match Built::find(lab, "pueue") {
        Ok(program) => program,
        Err(why) => {
            let row = |what: &str| Row::without(what, "ms", format!("pueue: {why}"));
            return Ok(vec![row(launch), row(&status)]);
        }
    };
    let pueue = Built::start(program, "pueued", &[])?;
    pueue.until_answers(&["status"])?;
    let home = Home::new(lab)?;
    let assistant = Assistant::new()?;
    let path = assistant.path.display().to_string();
    let mut number = 0;
    let mut ours = || {
        number += 1;
        let name = format!("launched-{number}");
        let words = ["launch", "--project", PROJECT, "--assistant", "generic", "--name", &name];
        let mut launch = home.cli(words.into_iter().chain(["--", &path, "100000"]));
        launch.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assistant.forget();
        let began = Instant::now();
        let mut child = launch.spawn()?;
        assistant.executed()?;
        let executed = ms_since(began);
        ensure!(child.wait()?.success(), "the launch failed");
        home.kill(&name)?;
        Ok(executed)
    };
    let mut by_pueue = || {
        let mut add = pueue.command(&["add", "--immediate", "--escape", "--", &path, "100000"]);
        add.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assistant.forget();
        let began = Instant::now();
        let mut child = add.spawn()?;
        assistant.executed()?;
        let executed = ms_since(began);
        ensure!(child.wait()?.success(), "pueue did not add it");
        succeed(&mut pueue.command(&["kill", "--all"]))?;
        Ok(executed)
    };
    let [launched, added] = in_turns(lab.rounds.max(20), [&mut ours, &mut by_pueue])?;

    succeed(&mut pueue.command(&["reset", "--force"]))?;
    let client = home.client()?;
    for runner in home.launch(&client, TASKS, &["sleep", "100000"])? {
        home.wait(&client, &runner.id, &["running"])?;
    }
    for _ in 0..TASKS {
        succeed(&mut pueue.command(&["add", "--immediate", "sleep 100000"]))?;
    }
    let wall = |mut command: Command| {
        let began = Instant::now();
        succeed(&mut command)?;
        Ok(ms_since(began))
    };
    let [told, told_by_pueue] = in_turns(
        lab.rounds.max(20),
        [&mut || wall(home.cli(["status"])), &mut || wall(pueue.command(&["status"]))],
    )?;
    succeed(&mut pueue.command(&["kill", "--all"]))?;
    Ok(vec![
        Row::new(launch, "ms", &launched).against("`pueue add --immediate`", &added),
        Row::new(status, "ms", &told)
            .against(format!("`pueue status`, {TASKS} tasks"), &told_by_pueue),
    ])
}

pub(crate) fn shpool(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let (full, echo) =
        ("attach to the first full screen, beside shpool", "keystroke echo, beside shpool");
    let program = match Built::find(lab, "shpool") {
        Ok(program) => program,
        Err(why) => {
            let row = |what: &str| Row::without(what, "ms", format!("shpool: {why}"));
            return Ok(vec![row(full), row(echo)]);
        }
    };
    let socket = tempfile::Builder::new().prefix("peer-").tempdir()?;
    let socket = socket.path().join("s").display().to_string();
    // A command that finds no daemon would start one of its own, which nothing here ends.
    let own = ["--socket", &socket, "--no-daemonize"];
    let shpool = Built::start(program, "shpool", &[&own[..], &["daemon"]].concat())?;
    shpool.until_answers(&[&own[..], &["list"]].concat())?;
    let home = Home::new(lab)?;
    let client = home.client()?;
    let (paint, typed) = (words(&["paint"])?, words(&["echo"])?);
    let run = |play: &[String]| {
        let argv: Vec<&str> = play.iter().map(String::as_str).collect();
        home.run(&client, &argv)
    };
    let (painted, echoing) = (run(&paint)?, run(&typed)?);
    let attach = |name: &str, play: &[String]| {
        // Who was attached before was killed, and the daemon may not have seen that yet.
        let play = play.join(" ");
        shpool.command(&[&own[..], &["attach", "--force", "--cmd", &play, name]].concat())
    };
    let mut ours = || until_full(home.cli(["attach", &painted.id]));
    let mut by_shpool = || until_full(attach("painted", &paint));
    for attach in [&mut ours as &mut dyn FnMut() -> anyhow::Result<f64>, &mut by_shpool] {
        attach()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let [attached, attached_by_shpool] = in_turns(lab.rounds.max(20), [&mut ours, &mut by_shpool])?;

    let mut at_socket = Typist::at(home.cli(["attach", &echoing.id]))?;
    let mut at_shpool = Typist::at(attach("echo", &typed))?;
    let [echoed, echoed_by_shpool] =
        in_turns(TYPED, [&mut || at_socket.key(), &mut || at_shpool.key()])?;
    succeed(&mut shpool.command(&[&own[..], &["kill", "painted", "echo"]].concat()))?;
    let echoes = || Row::new(echo, "ms", &echoed).against("shpool", &echoed_by_shpool);
    Ok(vec![
        Row::new(full, "ms", &attached).against("`shpool attach`", &attached_by_shpool),
        echoes().p99(),
        echoes(),
    ])
}
