//! A PostgreSQL server of a test's own, whose data survives what the test does to it.

use std::path::PathBuf;

use rustix::process::Signal;

use super::{Address, Server, TestPostgres};
use crate::world::{is_gone, parent, processes, signal, until};

/// A server that syncs what it commits, and that can be stopped, frozen, killed and started again.
///
/// Dropping it ends the server, however it is, and removes its data.
#[derive(Debug)]
pub struct Durable {
    server: Server,
}

impl Durable {
    /// # Panics
    /// If there is no server to start; the message says what to install.
    pub fn start() -> Self {
        Self::of(Server::start_with("durable", None))
    }

    /// One that may have standbys; its data need not survive a crash.
    ///
    /// # Panics
    /// As [`Durable::start`].
    pub fn primary() -> Self {
        Self::of(Server::start_with("primary", None))
    }

    /// A standby of this one, as `pg_basebackup -R` makes it. It follows from where the copy ends.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn standby(&self) -> Self {
        Self::of(Server::start_with("primary", Some(&self.server.address.socket_dir)))
    }

    fn of(started: Result<Server, String>) -> Self {
        match started {
            Ok(server) => Self { server },
            Err(reason) => panic!("no PostgreSQL to test with: {reason}"),
        }
    }

    /// What this server has of a database that was made on its primary.
    pub fn copy_of(&self, database: &TestPostgres) -> TestPostgres {
        let Address { socket_dir, port, user } = self.server.address.clone();
        TestPostgres { socket_dir, port, user, database: database.database.clone(), stays: true }
    }

    /// An empty database, which goes with the server.
    pub fn database(&self) -> TestPostgres {
        self.server.address.create_database(true)
    }

    /// Stops it as an administrator does: clients are cut off, and nothing needs to be recovered.
    pub fn stop(&self) {
        let pid = self.postmaster().expect("the server runs");
        signal(pid, Signal::INT);
        until("the server has stopped", || if is_gone(pid) { Ok(()) } else { Err(pid) });
    }

    /// Kills it as a crash of the machine would.
    pub fn kill(&self) {
        let pid = self.postmaster().expect("the server runs");
        // Frozen, it starts nobody in place of those who die. They go first: a new server refuses
        // to start beside any of them.
        signal(pid, Signal::STOP);
        let all = children(pid);
        for pid in all.iter().chain([&pid]) {
            signal(*pid, Signal::KILL);
        }
        for pid in all.into_iter().chain([pid]) {
            until("the server is dead", || if is_gone(pid) { Ok(()) } else { Err(pid) });
        }
    }

    /// Freezes every process of it. What connects is taken in by the kernel, and waits.
    pub fn freeze(&self) {
        let pid = self.postmaster().expect("the server runs");
        signal(pid, Signal::STOP);
        for child in children(pid) {
            signal(child, Signal::STOP);
        }
    }

    pub fn thaw(&self) {
        let pid = self.postmaster().expect("the server runs");
        for child in children(pid) {
            signal(child, Signal::CONT);
        }
        signal(pid, Signal::CONT);
    }

    /// Starts it again after [`Durable::stop`] or [`Durable::kill`], and waits until it answers.
    pub fn start_again(&mut self) {
        use std::io::Write;
        let guard = self.server.lifeline.as_mut().expect("the guard listens");
        guard.write_all(b"start\n").expect("the guard listens");
        let address = &self.server.address;
        until("the server answers", || address.execute("SELECT 1"));
    }

    /// True while its processes are there, frozen or not.
    pub fn runs(&self) -> bool {
        self.postmaster().is_some()
    }

    fn postmaster(&self) -> Option<u32> {
        let file: PathBuf = self.server.address.socket_dir.join("data/postmaster.pid");
        let pid = std::fs::read_to_string(file).ok()?.lines().next()?.trim().parse().ok()?;
        (!is_gone(pid)).then_some(pid)
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        // The guard asks it to end, which frozen processes do not hear.
        if self.runs() {
            self.thaw();
        }
    }
}

fn children(pid: u32) -> Vec<u32> {
    processes().into_iter().filter(|child| parent(*child) == Some(pid)).collect()
}
