//! The daemon as a process: what it needs to start, how it says that it is ready, and how it ends.

mod ends;
mod postgres;
mod starts;

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use stratavore_testkit::world::{PATIENCE, World, until};

/// A daemon that this test is the parent of, as systemd is.
struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts one in `world`; does not wait until it is ready.
    fn start(world: &World, settings: impl FnOnce(&mut Command)) -> Self {
        let mut command = world.command("stratavored");
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        settings(&mut command);
        Self { child: command.spawn().expect("the daemon starts") }
    }

    /// Waits until it has ended by itself; answers its exit code and its standard error.
    fn ended(mut self) -> (Option<i32>, String) {
        let status =
            until("the daemon has ended", || self.child.try_wait().transpose().ok_or("it runs"));
        let mut said = String::new();
        let stderr = self.child.stderr.as_mut().expect("it is piped");
        std::io::Read::read_to_string(stderr, &mut said).expect("it can be read");
        (status.expect("it can be waited for").code(), said)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended already, or the test has failed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The end of the socket on which systemd hears how a service is.
struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Systemd {
    fn listen(world: &World) -> Self {
        let path = world.path("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a bound");
        Self { socket, path }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// The next thing that it is told.
    fn told(&self) -> String {
        let mut message = [0; 64];
        let length = self.socket.recv(&mut message).expect("the daemon says something");
        String::from_utf8_lossy(&message[..length]).into_owned()
    }
}

/// Waits until the API answers.
fn until_ready(world: &World) {
    until("the daemon answers", || {
        let status = world.run(["--no-start", "daemon", "status"]);
        if status.code() == 0 { Ok(()) } else { Err(status.everything()) }
    });
}
