//! From start to end: lock, log, store, sockets, work, signals, and an orderly way out.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use stratavore_control::{Control, chain};
use stratavore_core::terminal::Untrusted;
use stratavore_proto::unix;
use stratavore_proto::version::{COMMIT, VERSION};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::lock::{LockError, StateLock};
use crate::notify::notify;
use crate::setup::{Setup, SetupError};
use crate::{agents, cluster, grpc, harden, log, setup};

/// Threads that answer requests. Work is short and waits mostly; more would only cost memory.
const WORKERS: usize = 2;

/// The Stratavore daemon: keeps an eye on runners and serves the API on a Unix socket.
///
/// It is started by `stratavore` when needed, or by systemd. Runners do not need it to live: it
/// may be stopped, killed and upgraded at any time.
#[derive(Debug, Parser)]
#[command(name = "stratavored", version)]
pub struct Arguments {
    /// Read this file instead of those in /etc/stratavore and the home directory.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep configuration, state and sockets under this directory.
    #[arg(long, value_name = "DIR", env = "STRATAVORE_HOME")]
    home: Option<PathBuf>,
    /// Bring the schema of the database up to date, and end. For whoever owns it, where the role of
    /// the daemons may not.
    #[arg(long)]
    migrate: bool,
}

/// Why the daemon did not start, or ended in failure.
#[derive(Debug)]
pub struct Failure {
    message: String,
    hint: String,
    code: u8,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), code }
    }

    /// Says it on standard error and answers the exit code.
    ///
    /// Where standard error cannot be written, a log on a full disk perhaps, the code says it alone.
    pub fn report(&self) -> ExitCode {
        let mut words = format!("stratavored: {}\n", Untrusted(&self.message));
        if !self.hint.is_empty() {
            words.push_str(&format!("next: {}\n", Untrusted(&self.hint)));
        }
        io::stderr().write_all(words.as_bytes()).ok();
        ExitCode::from(self.code)
    }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        let (code, hint) = (error.exit_code(), error.hint());
        Self::new(code, chain(&error), hint)
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        let (code, hint) = match &error {
            LockError::Held { .. } => (5, "use that one, or stop it first: stratavore daemon stop"),
            LockError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                (6, "free some space, then try again: stratavore daemon start")
            }
            LockError::Io { .. } => (8, "give this user access to its state directory"),
        };
        Self::new(code, error.to_string(), hint)
    }
}

/// Asks the daemon to end, from inside.
#[derive(Default)]
pub(crate) struct ShutdownWish {
    wished: Notify,
}

impl ShutdownWish {
    pub(crate) fn wish(&self) {
        self.wished.notify_one();
    }
}

/// Runs the daemon to its end.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    harden::protect();
    let mut env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    if let Some(home) = &arguments.home {
        env.insert("STRATAVORE_HOME".into(), home.display().to_string());
    }
    if let Some(runner) = env.get("STRATAVORE_RUNNER_ID") {
        return Err(Failure::new(
            8,
            format!(
                "a daemon that is started inside a runner ({}) would end with it",
                runner.escape_debug()
            ),
            "start it outside: stratavore daemon start",
        ));
    }
    let setup = Setup::read(env, arguments.config)?;
    log::begin(setup.json_log(), setup.log_level())
        .map_err(|message| Failure::new(7, message, "see RUST_LOG's syntax; `info` is usual"))?;
    if arguments.migrate {
        return runtime()?.block_on(setup::migrate(&setup));
    }
    // Away from the terminal that started us; fails only if we already lead a session.
    rustix::process::setsid().ok();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    raise_file_limit();
    setup.make_directories()?;
    let _lock = StateLock::take(&setup.paths.daemon_lock())?;

    let runtime = runtime()?;
    let result = runtime.block_on(serve(setup));
    // What still blocks a thread (a file system that hangs) does not keep us.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built =
        tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    built.map_err(|error| {
        Failure::new(1, format!("start threads: {error}"), "raise the limit of processes")
    })
}

async fn serve(setup: Setup) -> Result<(), Failure> {
    let grace = setup.shutdown_grace();
    let pace = setup.pace();
    let (agents_path, api_path) = (setup.paths.agents_socket(), setup.paths.daemon_socket());
    // Both doors are built before anything serious is done; whoever knocks waits.
    let listen = |path: &std::path::Path| {
        unix::listen(path).map_err(|error| {
            Failure::new(
                8,
                format!("listen on {}: {error}", path.display()),
                "give this user access to its directory",
            )
        })
    };
    let agents_listener = listen(&agents_path)?;
    let api_listener = listen(&api_path)?;
    let mut signals = Signals::new()
        .map_err(|error| Failure::new(1, format!("watch for signals: {error}"), ""))?;

    // Nothing runs yet that a signal could cut in half.
    let (control, cluster, others) = tokio::select! {
        biased;
        name = signals.next() => {
            tracing::info!(signal = name, "stopping before it was ready");
            return Ok(());
        }
        built = setup::control(setup) => built?,
    };
    let taken = tokio::select! {
        biased;
        name = signals.next() => {
            tracing::info!(signal = name, "stopping before it was ready");
            return Ok(());
        }
        taken = control.take_host() => taken,
    };
    if !taken.map_err(store_failed)? {
        return Err(copied());
    }
    let wish = Arc::new(ShutdownWish::default());
    let supervisor = control.supervisor().clone();
    supervisor.spawn(agents::serve(control.clone(), agents_listener, pace));
    control.start().await.map_err(store_failed)?;
    let api = grpc::Api::new(control.clone(), wish.clone(), cluster.clone());
    if control.is_shared() {
        supervisor.spawn(cluster.clone().keep());
    }
    if let Some(listener) = others {
        supervisor.spawn(cluster.clone().watch_guests());
        supervisor.spawn(cluster::serve(cluster, api.clone(), listener));
    }
    let api = supervisor.spawn(grpc::serve(api, api_listener));
    tracing::info!(version = VERSION, commit = COMMIT, pid = std::process::id(), socket = %api_path.display(), "ready");
    notify("READY=1");

    let failure = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping; runners go on");
            None
        }
        () = wish.wished.notified() => {
            tracing::info!("stopping as asked; runners go on");
            None
        }
        () = control.host_lost() => Some(copied()),
        ended = api => {
            let why = match ended {
                Ok(Ok(())) => "it ended by itself".to_owned(),
                Ok(Err(error)) => chain(&error),
                Err(error) => error.to_string(),
            };
            Some(Failure::new(1, format!("the API cannot be served: {why}"), "try again: stratavore daemon start"))
        }
    };
    notify("STOPPING=1");
    tokio::select! {
        () = wind_down(&control, grace) => tracing::info!("stopped"),
        name = signals.next() => tracing::warn!(signal = name, "stopping at once"),
    }
    // The next daemon would replace it anyway; without it clients see at once that none runs.
    std::fs::remove_file(&api_path).ok();
    failure.map_or(Ok(()), Err)
}

fn store_failed(error: stratavore_control::Error) -> Failure {
    let hint = match error.hint() {
        hint if hint.is_empty() => "see that the database can be written: stratavore doctor".into(),
        hint => hint,
    };
    Failure::new(6, chain(&error), hint)
}

fn copied() -> Failure {
    Failure::new(
        5,
        "another daemon has this host's id, and lives: one of the two state directories is a copy",
        "stop that daemon; or, in the copy, remove `node` and `runners`, so that it is a host of its own",
    )
}

async fn wind_down(control: &Control, grace: Duration) {
    control.shut_down(grace).await;
}

/// The signals that ask a daemon to end.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one that ends us. A hang-up does not: whoever logs out leaves us running.
    async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "TERM",
                _ = self.interrupt.recv() => return "INT",
                _ = self.hangup.recv() => tracing::debug!("the terminal is gone; going on"),
            }
        }
    }
}

/// Each attached viewer and agent needs a descriptor: take all that we may have.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) =
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::debug!(%error, "could not raise the limit of open files");
    }
}
