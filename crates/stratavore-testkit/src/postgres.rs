//! A private PostgreSQL for tests, and a fresh database in it for each of them.
//!
//! `cargo xtask test` starts one server for the whole run and names it in
//! [`SERVER_VARIABLE`]. A test process that finds the variable unset starts one of its own on
//! first use. This module knows no SQL library: it speaks to the server through `psql`, and the
//! store connects by what [`TestPostgres`] tells.
//!
//! The server runs under a guard, a small shell that waits on a pipe from us. However we end, by
//! returning, by a panic or by `kill -9`, the kernel closes the pipe; the guard then stops the
//! server and removes its directory.
//!
//! Invariant: no server outlives the process that started it, and none listens on TCP.
//! Invariant: no two tests share a database.

use std::fmt;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

mod durable;
pub mod standby;
#[cfg(test)]
mod tests;

pub use durable::Durable;

/// Names the server to use, in the form that [`Server`] displays:
/// `host=/directory/of/the/socket port=5432 user=postgres`.
pub const SERVER_VARIABLE: &str = "STRATAVORE_TEST_POSTGRES";

/// Where Debian installs server binaries, a directory per major version.
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

const GUARD: &str = include_str!("postgres_guard.sh");

/// How to reach one database over the server's Unix socket. No password is needed.
///
/// Dropping it drops the database, whoever is still connected.
#[derive(Debug)]
pub struct TestPostgres {
    /// The directory that holds the server's socket.
    pub socket_dir: PathBuf,
    /// Part of the socket's name; nothing listens on it as a TCP port.
    pub port: u16,
    /// A superuser.
    pub user: String,
    pub database: String,
    /// It goes with its server, which may not answer any more.
    stays: bool,
}

/// Makes an empty database, on the server that the environment names or on this process's own.
///
/// Blocks for some tens of milliseconds, the first time in a process for a second or two. May be
/// called from many threads at once.
///
/// # Panics
/// If there is no server and none can be started. The message says what to install.
pub fn database() -> TestPostgres {
    let address = match FOUND.get_or_init(Found::find) {
        Ok(found) => found.address(),
        Err(reason) => panic!("no PostgreSQL to test with: {reason}"),
    };
    address.create_database(false)
}

impl TestPostgres {
    /// The connection as a URL that libpq and sqlx both understand.
    pub fn url(&self) -> String {
        format!(
            "postgres://{}@localhost:{}/{}?host={}",
            self.user,
            self.port,
            self.database,
            self.socket_dir.display()
        )
    }

    /// The part of a daemon's configuration that names this database, reached through the socket in
    /// `directory`: the server's own, or one that stands before it. It gives up early.
    pub fn settings(&self, directory: &Path) -> String {
        format!(
            "store:\n  url: postgres\n  postgres:\n    host: {}\n    port: {}\n    user: {}\n    \
             database: {}\n  pool:\n    max_connections: 5\n    min_connections: 1\n    \
             acquire_timeout: 1s\n    statement_timeout: 1s\n",
            directory.display(),
            self.port,
            self.user,
            self.database,
        )
    }

    /// The server's socket.
    pub fn socket(&self) -> PathBuf {
        self.socket_dir.join(format!(".s.PGSQL.{}", self.port))
    }

    /// Runs statements in this database and returns what they print, without headers, fields
    /// separated by `|`.
    ///
    /// # Panics
    /// If a statement fails.
    pub fn query(&self, sql: &str) -> String {
        match self.try_query(sql) {
            Ok(printed) => printed,
            Err(reason) => panic!("cannot run `{sql}`: {reason}"),
        }
    }

    /// The same of a server that may be down.
    ///
    /// # Errors
    /// What `psql` said.
    pub fn try_query(&self, sql: &str) -> Result<String, String> {
        self.address().psql(&self.database, sql)
    }

    fn address(&self) -> Address {
        Address { socket_dir: self.socket_dir.clone(), port: self.port, user: self.user.clone() }
    }
}

impl Drop for TestPostgres {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        // A database left behind costs space until the server ends, and a failing test has
        // something better to say.
        drop(
            self.address()
                .execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database)),
        );
    }
}

/// A running private server. Displays as the value for [`SERVER_VARIABLE`].
///
/// Dropping it stops the server and waits until its directory is removed.
#[derive(Debug)]
pub struct Server {
    address: Address,
    guard: Child,
    /// Our end of the guard's pipe; closing it is the order to stop.
    lifeline: Option<ChildStdin>,
}

impl Server {
    /// Starts a server in a temporary directory and waits until it answers.
    ///
    /// It runs as the user `postgres` if we are root, else as ourselves. It takes 300 connections
    /// and gives up durability for speed.
    ///
    /// # Errors
    /// A sentence fragment: the server is not installed, or what it said when it did not start.
    pub fn start() -> Result<Server, String> {
        Self::start_with("", None)
    }

    /// The same, but one that syncs what is committed, as a real one does; for measuring.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_synced() -> Result<Server, String> {
        Self::start_with("durable", None)
    }

    /// `primary`: the socket's directory of the server that it is to be a standby of.
    fn start_with(safety: &str, primary: Option<&Path>) -> Result<Server, String> {
        let bin = newest_bin().ok_or_else(|| {
            format!(
                "no server under {DEBIAN_ROOT}; install it (`apt-get install postgresql`), run \
                 `cargo xtask test`, which does, or name a running one in {SERVER_VARIABLE}"
            )
        })?;
        Self::run(&bin, safety, primary)
    }

    /// The same by the programs in `bin`.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_from(bin: &Path) -> Result<Server, String> {
        Self::run(bin, "", None)
    }

    /// An empty database on it.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn database(&self) -> TestPostgres {
        self.address.create_database(false)
    }

    fn run(bin: &Path, safety: &str, primary: Option<&Path>) -> Result<Server, String> {
        // The server's user must be able to enter the directory, which a private temporary
        // directory of root's would not let it; and a socket's path has at most 107 bytes.
        let temporary = std::env::temp_dir();
        let is_root = rustix::process::geteuid().is_root();
        let parent = if is_root || temporary.as_os_str().len() > 60 {
            PathBuf::from("/tmp")
        } else {
            temporary
        };

        let mut guard = Command::new("/bin/sh")
            .arg("-c")
            .arg(GUARD)
            .arg("postgres-guard")
            .arg(bin)
            .arg(&parent)
            .arg(if is_root { "postgres" } else { "" })
            .arg(safety)
            .arg(primary.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Out of our process group: Ctrl-C must end us first, and the guard after us.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start /bin/sh: {error}"))?;
        let lifeline = guard.stdin.take();

        // The guard closes its output once it has said `ready DIRECTORY`, or why it is not.
        let mut said = String::new();
        if let Some(output) = &mut guard.stdout {
            output
                .read_to_string(&mut said)
                .map_err(|error| format!("cannot hear from the server's guard: {error}"))?;
        }
        let directory = said.lines().last().and_then(|line| line.strip_prefix("ready "));
        match directory {
            Some(directory) => {
                let address = Address {
                    socket_dir: PathBuf::from(directory),
                    port: 5432,
                    user: "postgres".to_owned(),
                };
                Ok(Server { address, guard, lifeline })
            }
            None => {
                drop(lifeline);
                drop(guard.wait());
                Err(format!("the server in {} did not start:\n{said}", bin.display()))
            }
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { socket_dir, port, user } = &self.address;
        write!(f, "host={} port={port} user={user}", socket_dir.display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // It cannot be heard any more, so there is nobody to tell that waiting failed.
        drop(self.guard.wait());
    }
}

/// The server of this process, found or started once. A static is never dropped: a server of our
/// own ends with the process, by its guard.
static FOUND: OnceLock<Result<Found, String>> = OnceLock::new();

#[derive(Debug)]
enum Found {
    Shared(Address),
    Own(Server),
}

impl Found {
    fn find() -> Result<Found, String> {
        match std::env::var(SERVER_VARIABLE) {
            Ok(text) if !text.is_empty() => Address::parse(&text)
                .map(Found::Shared)
                .map_err(|reason| format!("{SERVER_VARIABLE}: {reason}")),
            _ => Server::start().map(Found::Own),
        }
    }

    fn address(&self) -> &Address {
        match self {
            Found::Shared(address) => address,
            Found::Own(server) => &server.address,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    socket_dir: PathBuf,
    port: u16,
    user: String,
}

impl Address {
    fn parse(text: &str) -> Result<Address, String> {
        let (mut host, mut port, mut user) = (None, 5432, "postgres".to_owned());
        for word in text.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("host", value)) if value.starts_with('/') => host = Some(value),
                Some(("host", value)) => {
                    return Err(format!(
                        "host `{value}` is not the absolute directory of a Unix socket"
                    ));
                }
                Some(("port", value)) => {
                    port = value.parse().map_err(|_| format!("port `{value}` is not a port"))?;
                }
                Some(("user", value)) => value.clone_into(&mut user),
                _ => return Err(format!("`{word}` is none of host=, port= and user=")),
            }
        }
        let socket_dir = host.map(PathBuf::from).ok_or("host= is missing")?;
        Ok(Address { socket_dir, port, user })
    }

    /// An empty database.
    ///
    /// # Panics
    /// If the server refuses.
    fn create_database(&self, stays: bool) -> TestPostgres {
        let database = fresh_name();
        let created = self.execute(&format!("CREATE DATABASE {database} TEMPLATE template0"));
        if let Err(reason) = created {
            panic!("cannot create a database to test with: {reason}");
        }
        let Address { socket_dir, port, user } = self.clone();
        TestPostgres { socket_dir, port, user, database, stays }
    }

    fn execute(&self, sql: &str) -> Result<(), String> {
        self.psql("postgres", sql).map(drop)
    }

    fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let program = newest_bin().map_or_else(|| PathBuf::from("psql"), |bin| bin.join("psql"));
        let output = Command::new(&program)
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--no-password"])
            .args(["--set", "ON_ERROR_STOP=1", "--command", sql])
            .arg("--host")
            .arg(&self.socket_dir)
            .args(["--port", &self.port.to_string(), "--username", &self.user])
            .args(["--dbname", database])
            // A frozen server takes the connection and says nothing.
            .env("PGCONNECT_TIMEOUT", "5")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
        }
    }
}

/// The binaries of the newest installed server, if one is installed where Debian puts it.
pub fn newest_bin() -> Option<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN_ROOT).ok()?;
    versions
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let bin = entry.path().join("bin");
            has_server(&bin).then_some((version, bin))
        })
        .max()
        .map(|(_, bin)| bin)
}

/// A client-only installation has the directory, but neither of these.
fn has_server(bin: &Path) -> bool {
    bin.join("initdb").exists() && bin.join("postgres").exists()
}

/// Random, so that neither a parallel test process nor one with a reused pid can have it too.
fn fresh_name() -> String {
    let mut random = [0_u8; 8];
    let filled = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    assert_eq!(filled, Ok(random.len()), "the kernel gives eight random bytes at once");
    format!("test_{:016x}", u64::from_ne_bytes(random))
}
