//! A private RabbitMQ for tests, and a virtual host in it for each of them.
//!
//! It takes ten seconds to start, so that `cargo xtask test` starts one for the whole run and names
//! it in [`BROKER_VARIABLE`], and a test process that finds the variable unset starts one of its own
//! on first use. What kills or freezes a broker starts one for itself ([`Broker::start`]).
//!
//! [`ROOT_VARIABLE`] names another RabbitMQ than this machine's.
//!
//! It runs under a guard, as the private PostgreSQL does. This module knows no AMQP library: it
//! speaks to the broker through Erlang's `erl_call`, which takes milliseconds where `rabbitmqctl`
//! takes a second.
//!
//! Invariant: no broker outlives the process that started it, and none listens but on the loopback.
//! Invariant: no two tests share a virtual host.

mod consumer;
#[cfg(feature = "tls")]
mod listener;
mod root;

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::world::{is_gone, of_process, processes, signal, until};

pub(crate) use consumer::python;
pub use consumer::{Consumer, Received, publish, same, validate};
#[cfg(feature = "tls")]
pub use listener::TlsListener;
pub use root::{RELEASES, ROOT_VARIABLE, prepare};

/// Names the broker to use, in the form that [`Broker`] displays.
pub const BROKER_VARIABLE: &str = "STRATAVORE_TEST_RABBITMQ";

const GUARD: &str = include_str!("rabbit_guard.sh");

/// How often a broker is started again on other ports, since somebody else took one meanwhile.
const PORTS_TRIED: usize = 3;

/// How long the scripts of a broker that starts take at most until its Erlang machine runs.
const STARTS: Duration = Duration::from_secs(15);
/// How long it may take until it answers again.
const COMES_BACK: Duration = Duration::from_secs(90);

/// Whether a broker can be started here.
pub fn is_installed() -> bool {
    libraries().is_dir() && root::named().unwrap_or("/".into()).join("usr/bin/erl_call").exists()
}

/// Which one is installed, by the name of its directory.
pub fn version() -> Option<String> {
    let mut entries = std::fs::read_dir(libraries()).ok()?;
    entries.find_map(|entry| {
        let name = entry.ok()?.file_name();
        Some(name.to_str()?.strip_prefix("rabbitmq_server-")?.to_owned())
    })
}

fn libraries() -> PathBuf {
    root::named().unwrap_or("/".into()).join("usr/lib/rabbitmq/lib")
}

/// A running broker. Displays as the value for [`BROKER_VARIABLE`].
///
/// Dropping it ends the broker, however it is, and removes its data.
#[derive(Debug)]
pub struct Broker {
    at: Address,
    guard: Child,
    /// Our end of the guard's pipe; closing it is the order to stop.
    lifeline: Option<ChildStdin>,
}

/// An empty virtual host with a user of its own. Dropping it removes both.
#[derive(Debug)]
pub struct Vhost {
    at: Address,
    pub name: String,
    pub user: String,
    pub password: String,
}

/// A virtual host on the broker that the tests share.
///
/// # Panics
/// If there is no broker and none can be started. The message says what to install.
pub fn vhost() -> Vhost {
    static SHARED: OnceLock<Result<Shared, String>> = OnceLock::new();
    let found = SHARED.get_or_init(|| match std::env::var(BROKER_VARIABLE) {
        Ok(text) if !text.is_empty() => Address::parse(&text).map(Shared::Named),
        _ => Broker::try_start().map(Shared::Own),
    });
    match found {
        Ok(Shared::Named(at)) => at.vhost(),
        Ok(Shared::Own(broker)) => broker.vhost(),
        Err(reason) => panic!("no RabbitMQ to test with: {reason}"),
    }
}

/// A static is never dropped: a broker of our own ends with the process, by its guard.
#[derive(Debug)]
enum Shared {
    Named(Address),
    Own(Broker),
}

impl Broker {
    /// # Panics
    /// If none can be started; the message says what to install.
    pub fn start() -> Broker {
        Self::try_start().unwrap_or_else(|reason| panic!("no RabbitMQ to test with: {reason}"))
    }

    /// # Errors
    /// A sentence fragment: it is not installed, or what it said when it did not start.
    pub fn try_start() -> Result<Broker, String> {
        if !is_installed() {
            return Err("it is not installed; install it (`apt-get install rabbitmq-server`), or \
                        run `cargo xtask test`, which does"
                .into());
        }
        let mut said = String::new();
        for _ in 0..PORTS_TRIED {
            match Self::start_on(free_ports()) {
                Ok(broker) => return Ok(broker),
                Err(reason) => said = reason,
            }
        }
        Err(said)
    }

    fn start_on([port, dist, epmd]: [u16; 3]) -> Result<Broker, String> {
        let root = root::named();
        let mut guard = match &root {
            // In its root it sees the directories that it shares with us, and nobody else sees that.
            Some(_) => {
                let mut unshare = Command::new("unshare");
                unshare.arg("--mount");
                if !rustix::process::geteuid().is_root() {
                    unshare.arg("--map-root-user");
                }
                unshare.arg("/bin/sh");
                unshare
            }
            None => Command::new("/bin/sh"),
        };
        let mut guard = guard
            .args(["-c", GUARD, "rabbit-guard"])
            .arg(std::env::temp_dir())
            .args([port, dist, epmd].map(|port| port.to_string()))
            .arg(root.unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Out of our process group: Ctrl-C must end us first, and the guard after us.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start /bin/sh: {error}"))?;
        let lifeline = guard.stdin.take();
        let mut said = String::new();
        if let Some(output) = &mut guard.stdout {
            output
                .read_to_string(&mut said)
                .map_err(|error| format!("cannot hear from the broker's guard: {error}"))?;
        }
        match said.lines().last().and_then(|line| line.strip_prefix("ready ")) {
            Some(directory) => {
                let at = Address { directory: directory.into(), port, epmd };
                Ok(Broker { at, guard, lifeline })
            }
            None => {
                drop(lifeline);
                drop(guard.wait());
                Err(format!("the broker did not start:\n{said}"))
            }
        }
    }

    /// Where it takes connections.
    pub fn address(&self) -> SocketAddr {
        self.at.socket()
    }

    pub fn vhost(&self) -> Vhost {
        self.at.vhost()
    }

    /// Kills it. What it confirmed is on the disk; which queues it has, it would write down half a
    /// second later, and have one that takes nothing for ever.
    pub fn kill(&self) {
        self.at.eval("lists:foreach(fun dets:sync/1, dets:all()).").expect("it is told");
        let pid = self.at.pid().expect("the broker runs");
        signal(pid, Signal::KILL);
        until("the broker is dead", || if is_gone(pid) { Ok(()) } else { Err(pid) });
    }

    /// Starts it again after [`Broker::kill`], and waits until it answers. One that ends over its start
    /// is started again, as its supervisor would.
    pub fn start_again(&mut self) {
        let guard = self.lifeline.as_mut().expect("the guard listens");
        let began = Instant::now();
        for start in 0.. {
            guard.write_all(b"start\n").expect("the guard listens");
            let started = Instant::now();
            loop {
                if self.at.eval("rabbit:is_running().").as_deref() == Ok("true") {
                    return;
                }
                if started.elapsed() > STARTS && self.at.pid().is_none() {
                    break;
                }
                let said = || format!("{start} starts ended; {}", self.at.said());
                assert!(began.elapsed() < COMES_BACK, "the broker does not come back: {}", said());
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    /// Freezes it. What connects is taken in by the kernel, and waits.
    pub fn freeze(&self) {
        signal(self.at.pid().expect("the broker runs"), Signal::STOP);
    }

    pub fn thaw(&self) {
        signal(self.at.pid().expect("the broker runs"), Signal::CONT);
    }

    /// Makes it short of disk, to the same effect as [`Broker::block`].
    pub fn fill_disk(&self) {
        self.at.eval("rabbit_disk_monitor:set_disk_free_limit(\"9000GB\").").expect("it is told");
    }

    /// Gives it its disk back.
    pub fn empty_disk(&self) {
        self.at.eval("rabbit_disk_monitor:set_disk_free_limit(\"50MB\").").expect("it is told");
    }

    /// Makes it short of memory, so that it takes nothing from any publisher.
    pub fn block(&self) {
        self.at.eval("vm_memory_monitor:set_vm_memory_high_watermark(0).").expect("it is told");
    }

    /// Gives it its memory back.
    pub fn unblock(&self) {
        let enough = "vm_memory_monitor:set_vm_memory_high_watermark({absolute, \"2GB\"}).";
        self.at.eval(enough).expect("it is told");
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { directory, port, epmd } = &self.at;
        write!(f, "{port} {epmd} {}", directory.display())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // It cannot be heard any more, so there is nobody to tell that waiting failed.
        drop(self.guard.wait());
    }
}

impl Vhost {
    pub fn address(&self) -> SocketAddr {
        self.at.socket()
    }

    /// Evaluates an Erlang expression in the broker, where `VHOST` stands for this virtual host's
    /// name. Answers what it is.
    ///
    /// # Panics
    /// If it fails.
    pub fn eval(&self, expression: &str) -> String {
        let text = expression.replace("VHOST", &format!("<<\"{}\">>", self.name));
        match self.at.eval(&text) {
            Ok(said) => said,
            Err(reason) => panic!("cannot evaluate `{text}`: {reason}"),
        }
    }

    /// How many messages stand in a queue, delivered ones that are not acknowledged included.
    /// `None`: there is no such queue.
    pub fn depth(&self, queue: &str) -> Option<u64> {
        let count = self.eval(&format!(
            "case rabbit_amqqueue:lookup(rabbit_misc:r(VHOST, queue, <<\"{queue}\">>)) of \
             {{ok, Q}} -> [{{messages, N}}] = rabbit_amqqueue:info(Q, [messages]), N; \
             _ -> none end."
        ));
        count.parse().ok()
    }

    /// The part of a daemon's configuration that names this virtual host, reached at `at`: the
    /// broker's own address, or that of one that stands before it. The password is in a file.
    pub fn settings(&self, at: SocketAddr, password_file: &Path) -> String {
        format!(
            "bus:\n  url: rabbitmq\n  rabbitmq:\n    host: {}\n    port: {}\n    vhost: {}\n    \
             user: {}\n    password_file: {}\n",
            at.ip(),
            at.port(),
            self.name,
            self.user,
            password_file.display(),
        )
    }

    /// For an AMQP library.
    pub fn url(&self) -> String {
        format!("amqp://{}:{}@{}/{}", self.user, self.password, self.address(), self.name)
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        let Self { name, user, .. } = self;
        // The broker may be gone, and a failing test has something better to say.
        drop(self.at.eval(&format!(
            "rabbit_vhost:delete(<<\"{name}\">>, <<\"tests\">>), \
             rabbit_auth_backend_internal:delete_user(<<\"{user}\">>, <<\"tests\">>)."
        )));
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    directory: PathBuf,
    port: u16,
    epmd: u16,
}

impl Address {
    fn parse(text: &str) -> Result<Address, String> {
        let wrong = || format!("{BROKER_VARIABLE}=`{text}` is not `PORT EPMD-PORT DIRECTORY`");
        let mut words = text.splitn(3, ' ');
        let mut word = || words.next().ok_or_else(wrong);
        let port = word()?.parse().map_err(|_| wrong())?;
        let epmd = word()?.parse().map_err(|_| wrong())?;
        Ok(Address { directory: word()?.into(), port, epmd })
    }

    fn socket(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The end of what it wrote, to its output and its log.
    fn said(&self) -> String {
        let logs = std::fs::read_dir(self.directory.join("log")).into_iter().flatten().flatten();
        let files = logs.map(|log| log.path()).chain([self.directory.join("out")]);
        let ends = files.filter_map(|file| {
            let text = String::from_utf8_lossy(&std::fs::read(&file).ok()?).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            Some(format!(
                "{}:\n{}",
                file.display(),
                lines[lines.len().saturating_sub(30)..].join("\n")
            ))
        });
        ends.collect::<Vec<_>>().join("\n")
    }

    /// The Erlang machine that it runs in, by the mark in its environment.
    fn pid(&self) -> Option<u32> {
        let mark = format!("RABBITMQ_MNESIA_BASE={}/mnesia", self.directory.display());
        let is_it = |pid: &u32| {
            of_process(*pid, "comm") == b"beam.smp\n"
                && of_process(*pid, "environ").split(|&b| b == 0).any(|e| e == mark.as_bytes())
        };
        processes().into_iter().find(is_it)
    }

    fn vhost(&self) -> Vhost {
        let mut random = [0_u8; 12];
        let filled = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
        assert_eq!(filled, Ok(random.len()), "the kernel gives some bytes at once");
        let [name, password] = [&random[..6], &random[6..]]
            .map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let (user, name) = (format!("user-{name}"), format!("test-{name}"));
        let made = self.eval(&format!(
            "N = <<\"{name}\">>, U = <<\"{user}\">>, T = <<\"tests\">>, A = <<\".*\">>, \
             rabbit_vhost:add(N, T), \
             rabbit_auth_backend_internal:add_user(U, <<\"{password}\">>, T), \
             rabbit_auth_backend_internal:set_permissions(U, N, A, A, A, T)."
        ));
        assert_eq!(made.as_deref(), Ok("ok"), "a virtual host can be made");
        Vhost { at: self.clone(), name, user, password }
    }

    /// What an expression is, or what `erl_call` said.
    fn eval(&self, expression: &str) -> Result<String, String> {
        let mut said = String::new();
        for _ in 0..5 {
            match self.call(expression) {
                // One of several at the same time is turned away now and then.
                Err(reason) if reason.contains("failed to connect") => said = reason,
                answer => return answer,
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(said)
    }

    fn call(&self, expression: &str) -> Result<String, String> {
        let home = self.directory.join("home");
        let cookie = std::fs::read_to_string(home.join(".erlang.cookie"))
            .map_err(|error| format!("the broker is gone: {error}"))?;
        let mut call = root::erl_call()
            .args(["-n", &format!("stratavore-{}@localhost", self.port), "-c", &cookie, "-e"])
            .args(["-h", &hidden_name()])
            .env("HOME", home)
            .env("ERL_EPMD_PORT", self.epmd.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot run erl_call: {error}"))?;
        let mut input = call.stdin.take().expect("it is a pipe");
        // One that cannot connect reads nothing, and says why.
        writeln!(input, "{expression}").ok();
        drop(input);
        let output = call.wait_with_output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match said.strip_prefix("{ok, ").and_then(|rest| rest.strip_suffix('}')) {
            Some(value) => Ok(value.to_owned()),
            None => Err(format!("{said} {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    }
}

/// What a call is known by in the broker, which two at the same time may not share.
fn hidden_name() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Three that were free just now, of those that the kernel gives to nobody by itself: a broker that is away
/// needs its own again.
fn free_ports() -> [u16; 3] {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let given = range.ok().and_then(|range| range.split_whitespace().next()?.parse().ok());
    let given: u16 = given.filter(|from| *from > 4096).unwrap_or(32768);
    let listeners = [(); 3].map(|()| {
        let random = || {
            let mut bytes = [0; 2];
            let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
            assert_eq!(filled, Ok(bytes.len()), "the kernel gives some bytes at once");
            2048 + u16::from_ne_bytes(bytes) % (given - 2048)
        };
        let tries = std::iter::repeat_with(random).take(1000);
        let mut bound = tries.filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
        bound.next().expect("a port is free")
    });
    listeners.map(|listener| listener.local_addr().expect("it has an address").port())
}
