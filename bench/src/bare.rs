//! A launch in its bare steps: a command asks a server, which commits that it will be, starts an
//! agent, hears from it, commits who it is, and says go; the agent starts the program on a terminal.
//! Nothing is checked, found, named or told to anybody, and nothing is secret.
//!
//! `admit SOCKET AGENTS FILE` is the server, `ask SOCKET ARGV` the command, `start AGENTS ARGV` an
//! agent. Words go as lines, arguments of a program divided by tabs.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use stratavore_store::testing::bare::Bare;
use stratavore_store::{Database, PoolSettings, Settings};

use crate::play::words;
use crate::pty::Pty;

/// A server of bare launches, until this is dropped.
pub(crate) struct Steps {
    server: Child,
    directory: tempfile::TempDir,
}

impl Steps {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("steps-").tempdir()?;
        let [socket, agents, file] =
            ["socket", "agents", "db"].map(|name| directory.path().join(name));
        let words = words(&["admit"])?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args([&socket, &agents, &file]).stdin(Stdio::null());
        let server = command.spawn().context("start the bare steps")?;
        let steps = Self { server, directory };
        let began = Instant::now();
        while !steps.socket().exists() {
            ensure!(began.elapsed() < Duration::from_secs(20), "the bare steps never listened");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(steps)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// The command that launches `argv`. The program ends after it.
    pub(crate) fn ask(&self, argv: &[&str]) -> anyhow::Result<Command> {
        let words = words(&["ask"])?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(self.socket()).args(argv);
        Ok(command)
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        // What could fail is that it has ended already.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn line(from: &mut impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    ensure!(line.ends_with('\n'), "the other side has gone");
    Ok(line.trim_end_matches('\n').to_owned())
}

pub(crate) fn ask(socket: &str, argv: &[&str]) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("{}\n", argv.join("\t")).as_bytes())?;
    ensure!(line(&mut BufReader::new(stream))? == "running", "it was not launched");
    Ok(())
}

pub(crate) fn admit(socket: &str, agents: &str, file: &str) -> anyhow::Result<()> {
    let settings = Settings {
        database: Database::Sqlite { path: file.into() },
        pool: PoolSettings::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut bare = runtime.block_on(Bare::open(&settings))?;
    runtime.block_on(bare.make_room())?;
    let record = "x".repeat(1500);
    let dials = UnixListener::bind(agents)?;
    let asks = UnixListener::bind(socket)?;
    loop {
        let mut asker = BufReader::new(asks.accept()?.0);
        let argv = line(&mut asker)?;
        runtime.block_on(bare.keep(&record))?;
        let words = words(&["start", agents])?;
        let mut agent = Command::new(&words[0]);
        agent.args(&words[1..]).args(argv.split('\t')).stdin(Stdio::null());
        let mut agent = agent.spawn()?;
        let mut said = BufReader::new(dials.accept()?.0);
        line(&mut said)?;
        runtime.block_on(bare.keep(&record))?;
        said.get_mut().write_all(b"go\n")?;
        line(&mut said)?;
        runtime.block_on(bare.keep(&record))?;
        asker.get_mut().write_all(b"running\n")?;
        asker.read_to_end(&mut Vec::new())?;
        drop(said);
        agent.wait()?;
    }
}

pub(crate) fn start(agents: &str, argv: &[&str]) -> anyhow::Result<()> {
    let (program, arguments) = argv.split_first().context("there is no program")?;
    let mut server = BufReader::new(UnixStream::connect(agents)?);
    server.get_mut().write_all(b"here\n")?;
    line(&mut server)?;
    let _program = Pty::spawn(Command::new(program).args(arguments))?;
    server.get_mut().write_all(b"started\n")?;
    // The server hangs up, and the program ends with its terminal.
    server.read_to_end(&mut Vec::new())?;
    Ok(())
}
