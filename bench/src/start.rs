//! The daemon's start, and how fast it takes up what runs already.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use stratavore_proto::v1::StatusRequest;
use stratavore_store::testing::TestStore;

use crate::Lab;
use crate::home::{Home, on_postgres, succeed};
use crate::play::words;
use crate::report::{Row, Target};
use crate::sample::{Samples, in_turns, ms_since};

/// Runners that a new daemon adopts, and how many of them are launched at a time.
const RUNNERS: u32 = 1000;
const AT_ONCE: u32 = 100;

/// Where a program says that it is ready, as to systemd.
struct Ready {
    socket: UnixDatagram,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Ready {
    fn new() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("ready");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self { socket, path, _directory: directory })
    }

    /// Starts a program, and measures until it says that it is ready.
    fn start(&self, command: &mut Command) -> anyhow::Result<(f64, Child)> {
        command.env("NOTIFY_SOCKET", &self.path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let began = Instant::now();
        let child = command.spawn()?;
        let mut said = [0; 256];
        loop {
            let length = self.socket.recv(&mut said).context("it never said that it is ready")?;
            if said[..length].starts_with(b"READY=1") {
                return Ok((ms_since(began), child));
            }
        }
    }
}

/// Asks it to end, and waits until it has.
fn end(mut child: Child) -> anyhow::Result<()> {
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    child.wait()?;
    Ok(())
}

pub(crate) fn to_ready(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let ready = Ready::new()?;
    let sqlite = Home::new(lab)?;
    succeed(&mut sqlite.cli(["daemon", "stop"]))?;
    let db = lab.runtime.block_on(TestStore::postgres());
    let server = db.server().context("a PostgreSQL server")?;
    let (host, port) = (server.socket_dir.display().to_string(), server.port.to_string());
    let postgres = Home::with_config(lab, &on_postgres(server))?;
    succeed(&mut postgres.cli(["daemon", "stop"]))?;

    let once = |mut command: Command| {
        let (took, child) = ready.start(&mut command)?;
        end(child)?;
        Ok(took)
    };
    let bare = |arguments: &[&str]| -> anyhow::Result<Command> {
        let argv = words(arguments)?;
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]);
        Ok(command)
    };
    let file = sqlite.path().join("state/stratavore.db").display().to_string();
    let socket = sqlite.path().join("bare.sock").display().to_string();
    let [on_sqlite, on_postgres, bare_sqlite, bare_postgres] = in_turns(
        lab.rounds,
        [
            &mut || once(sqlite.program("stratavored", [""; 0])),
            &mut || once(postgres.program("stratavored", [""; 0])),
            &mut || once(bare(&["open-sqlite", &file, &socket])?),
            &mut || {
                once(bare(&[
                    "open-postgres",
                    &host,
                    &port,
                    &server.database,
                    &server.user,
                    &socket,
                ])?)
            },
        ],
    )?;
    let against = "a bare program that opens the database and binds a socket";
    let mut rows = vec![
        Row::new("daemon start to ready, SQLite", "ms", &on_sqlite)
            .against(against, &bare_sqlite)
            .target(Target::AtMost(3.0)),
        Row::new("daemon start to ready, PostgreSQL", "ms", &on_postgres)
            .against(against, &bare_postgres)
            .target(Target::AtMost(3.0)),
    ];
    rows.push(adoption(lab, &ready)?);
    Ok(rows)
}

/// From the start of a daemon until every agent of before is connected to it.
fn adoption(lab: &Lab, ready: &Ready) -> anyhow::Result<Row> {
    let home = Home::new(lab)?;
    let client = home.client()?;
    for _ in 0..RUNNERS / AT_ONCE {
        for runner in home.launch(&client, AT_ONCE, &["sleep", "100000"])? {
            home.wait(&client, &runner.id, &["running"])?;
        }
    }
    succeed(&mut home.cli(["daemon", "stop"]))?;
    let mut each = Samples::default();
    for _ in 0..7 {
        // They have given up to dial at once, as after a daemon that was away for a while.
        std::thread::sleep(Duration::from_millis(1500));
        let began = Instant::now();
        let (_, child) = ready.start(&mut home.program("stratavored", [""; 0]))?;
        let client = home.client()?;
        loop {
            let asked = async { client.daemon().status(StatusRequest {}).await };
            if lab.runtime.block_on(asked)?.into_inner().agents_connected >= RUNNERS {
                break;
            }
            ensure!(began.elapsed() < Duration::from_secs(60), "not all agents came back");
            std::thread::sleep(Duration::from_millis(2));
        }
        each.0.push(ms_since(began) / f64::from(RUNNERS));
        end(child)?;
    }
    // The one that ends them.
    succeed(&mut home.cli(["kill", "--all", "--force"]))?;
    Ok(Row::new(format!("adopting {RUNNERS} runners, each, the start included"), "ms", &each)
        .target(Target::Below(2.0)))
}
