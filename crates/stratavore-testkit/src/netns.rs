//! Namespaces: a test that has a machine of its own, where pids come round at will, the boot has
//! whichever id, and another host is at the end of a link that can be cut ([`Link`]).
//!
//! The test calls itself in there, so it is written in one place and in one language.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::postgres::{SERVER_VARIABLE, Server};

mod link;
pub use link::{Cut, Link};

/// Set inside, to the name of the test that is there.
const INSIDE: &str = "STRATAVORE_TEST_INSIDE";

/// Runs `body` with pids, mounts and a network of its own. `test` is the full name of the calling
/// test, as its program knows it.
///
/// Root may make namespaces. Others get them with a user namespace, where the host lets them.
///
/// # Panics
/// If the namespaces cannot be had, or `body` panics.
pub fn inside(test: &str, body: impl FnOnce()) {
    inside_with(test, || None, body);
}

/// The same with a PostgreSQL server, which has to be started outside: inside everybody is root, as
/// which it does not run. `body` gets databases of it as usual.
///
/// # Panics
/// As [`inside`], or if no server can be started.
pub fn inside_with_postgres(test: &str, body: impl FnOnce()) {
    let server = || match std::env::var_os(SERVER_VARIABLE) {
        Some(named) if !named.is_empty() => None,
        Some(_) | None => Some(Server::start().expect("there is a PostgreSQL to test with")),
    };
    inside_with(test, server, body);
}

#[expect(clippy::print_stderr, reason = "what was said inside is told outside")]
fn inside_with(test: &str, server: impl FnOnce() -> Option<Server>, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == test) {
        return body();
    }
    let server = server();
    let own = std::env::current_exe().expect("a test has a program");
    let mut unshare = Command::new("unshare");
    unshare.args(["--fork", "--kill-child", "--pid", "--mount-proc", "--net"]);
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    // The shell stays the first process, and waits for what nobody else does.
    unshare.args(["sh", "-c", "\"$@\"; exit $?", "sh"]).arg(own);
    unshare.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, test);
    unshare.envs(server.as_ref().map(|server| (SERVER_VARIABLE, server.to_string())));
    let ran = unshare.output().expect("unshare is installed (util-linux)");
    let said = [ran.stdout, ran.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    eprintln!("{said}");
    assert!(ran.status.success(), "it failed in namespaces of its own; root can make them: {said}");
    assert!(said.contains("1 passed"), "there is no test {test}");
}

/// Starts a `sleep` that has this pid, which is free. Only inside, where nobody else takes pids.
///
/// # Panics
/// If the pid cannot be had.
pub fn innocent(pid: u32) -> Child {
    for _ in 0..100 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())
            .expect("the next pid can be chosen (CONFIG_CHECKPOINT_RESTORE)");
        let mut child = Command::new("sleep")
            .arg("100000")
            .env_clear()
            .stdin(Stdio::null())
            .spawn()
            .expect("sleep is installed");
        if child.id() == pid {
            return child;
        }
        child.kill().and_then(|()| child.wait()).expect("it is our child");
    }
    panic!("the pid {pid} cannot be had");
}

/// The id of this boot, which can be changed inside: as after a reboot.
pub struct Boot {
    file: tempfile::NamedTempFile,
    number: u64,
}

impl Default for Boot {
    fn default() -> Self {
        Self::new()
    }
}

impl Boot {
    /// Takes the place of the kernel's id. Only inside.
    ///
    /// # Panics
    /// If nothing can be mounted.
    pub fn new() -> Self {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut boot = Self { file, number: 0 };
        boot.again();
        run("mount", &["--bind", &path(boot.file.path()), "/proc/sys/kernel/random/boot_id"]);
        boot
    }

    /// From now on it is another boot.
    pub fn again(&mut self) {
        self.number += 1;
        let id = format!("00000000-0000-4000-8000-{:012}\n", self.number);
        fs::write(self.file.path(), id).expect("the boot id can be written");
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// Runs a program of the system's, which must succeed.
#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    // Those for administrators are not on everybody's PATH.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let ran = Command::new(program).args(arguments).env("PATH", path).output();
    let ran = ran.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(ran.status.success(), "{program} {arguments:?}: {ran:?}");
}
