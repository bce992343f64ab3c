//! Programs that are run in runners and beside them: `stratavore-bench play NAME`.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::Instant;

use anyhow::{Context, bail};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use stratavore_store::testing::bare::Bare;
use stratavore_store::{
    Database, Host, PoolSettings, PostgresSettings, STATEMENT_TIMEOUT, Settings, TlsMode,
};

use crate::{bare, relay};

/// What stands at the end of a full screen.
pub(crate) const FULL: &str = "END-OF-SCREEN";
/// What stands at the end of everything that is produced.
pub(crate) const DONE: &str = "END-OF-OUTPUT";

/// The words to start a play with.
pub(crate) fn words(arguments: &[&str]) -> anyhow::Result<Vec<String>> {
    let me = std::env::current_exe()?.into_os_string().into_string();
    let me = me.ok().context("a path that is no text")?;
    Ok([me, "play".into()].into_iter().chain(arguments.iter().map(|&a| a.into())).collect())
}

pub(crate) fn play(arguments: &[String]) -> anyhow::Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["paint"] => paint(),
        ["echo"] => echo(),
        ["ask", socket, argv @ ..] => bare::ask(socket, argv),
        ["admit", socket, agents, file] => bare::admit(socket, agents, file),
        ["start", agents, argv @ ..] => bare::start(agents, argv),
        ["view", socket] => relay::view(socket),
        ["pass", from, to] => relay::pass(from, to),
        ["hold", socket, argv @ ..] => relay::hold(socket, argv),
        ["produce", megabytes, report] => produce(megabytes.parse()?, report),
        ["open-sqlite", file, socket] => open(Database::Sqlite { path: (*file).into() }, socket),
        ["open-postgres", host, port, database, user, socket] => {
            let at = PostgresSettings {
                witness: None,
                host: Host::Socket((*host).into()),
                port: port.parse()?,
                database: (*database).into(),
                user: (*user).into(),
                password: None,
                tls: TlsMode::Disable,
                root_certificate: None,
                statement_timeout: STATEMENT_TIMEOUT,
            };
            open(Database::Postgres(at), socket)
        }
        other => bail!("there is no play {other:?}"),
    }
}

pub(crate) fn raw() -> anyhow::Result<()> {
    let stdin = rustix::stdio::stdin();
    let mut settings = tcgetattr(stdin)?;
    settings.make_raw();
    Ok(tcsetattr(stdin, OptionalActions::Now, &settings)?)
}

/// Fills the screen, and again for every key.
fn paint() -> anyhow::Result<()> {
    raw()?;
    let mut screen = "\x1b[2J\x1b[H".to_owned();
    for row in 1..24 {
        let colour = 31 + row % 7;
        screen.push_str(&format!(
            "\x1b[{colour}m{row:>3} \x1b[1mfn\x1b[22m {:<68}\x1b[0m\r\n",
            "word ".repeat(12)
        ));
    }
    screen.push_str(FULL);
    let mut out = std::io::stdout().lock();
    let mut key = [0; 64];
    loop {
        out.write_all(screen.as_bytes())?;
        out.flush()?;
        if std::io::stdin().read(&mut key)? == 0 {
            return Ok(());
        }
    }
}

/// Shows each key in the corner of the screen.
fn echo() -> anyhow::Result<()> {
    raw()?;
    let mut out = std::io::stdout().lock();
    out.write_all(FULL.as_bytes())?;
    out.flush()?;
    let mut keys = [0; 64];
    loop {
        let read = std::io::stdin().read(&mut keys)?;
        if read == 0 {
            return Ok(());
        }
        for key in &keys[..read] {
            out.write_all(&[b'\x1b', b'[', b'H', *key])?;
        }
        out.flush()?;
    }
}

/// Prints so much once it has been given a line, says how long that took, and stays.
fn produce(megabytes: usize, report: &str) -> anyhow::Result<()> {
    let line = "\x1b[32mok\x1b[0m 2026-11-21T10:00:00Z compiled crate number 12345 in 0.123 s\n";
    let block = line.repeat((64 << 10) / line.len());
    let mut go = String::new();
    std::io::stdin().read_line(&mut go)?;
    let began = Instant::now();
    let mut out = std::io::stdout().lock();
    let mut printed = 0;
    while printed < megabytes * 1_000_000 {
        out.write_all(block.as_bytes())?;
        printed += block.len();
    }
    out.flush()?;
    let rate = printed as f64 / 1_000_000.0 / began.elapsed().as_secs_f64();
    out.write_all(format!("{DONE}\n").as_bytes())?;
    out.flush()?;
    let whole = format!("{report}.new");
    std::fs::write(&whole, rate.to_string())?;
    std::fs::rename(whole, report)?;
    std::io::stdin().read_line(&mut go)?;
    Ok(())
}

/// Opens a database, asks it something, binds a socket, says that it is ready, and stays.
fn open(database: Database, socket: &str) -> anyhow::Result<()> {
    let settings = Settings { database, pool: PoolSettings::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut bare = runtime.block_on(Bare::open(&settings))?;
    runtime.block_on(bare.ask())?;
    let _gone = std::fs::remove_file(socket);
    let _listener = UnixListener::bind(socket)?;
    let ready = std::env::var_os("NOTIFY_SOCKET").context("NOTIFY_SOCKET is not set")?;
    UnixDatagram::unbound()?.send_to(b"READY=1", ready)?;
    loop {
        std::thread::park();
    }
}
