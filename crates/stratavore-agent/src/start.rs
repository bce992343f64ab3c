//! From a process that was just started to an agent that knows its runner.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use stratavore_core::clock::Clock;
use stratavore_core::runner::AgentIdentity;
use stratavore_proto::runner_dir::{Handover, RunnerDir, Spec};
use stratavore_proto::unix;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use crate::agent::{Agent, record};
use crate::cgroup::Cgroups;
use crate::clock::SystemClock;
use crate::failpoint::failpoint;
use crate::input::Input;
use crate::observe::Observing;
use crate::output::OutputLog;
use crate::runner::{Life, Runner};
use crate::screen::{Screen, Size};
use crate::signal_log::SignalLog;
use crate::spool::Spool;
use crate::terminal::Terminal;
use crate::visits::Visits;
use crate::{entropy, harden, identity, signals, telemetry};

/// How long the lock is tried for. A daemon that looks whether it is held holds it for an instant.
const LOCK_TRIES: u32 = 50;
const LOCK_EVERY: Duration = Duration::from_millis(20);
/// The most that a daemon hands over.
const HANDOVER_MAX: u64 = 4 << 20;
/// How many wishes wait for the main loop.
pub(crate) const WISHES: usize = 16;

/// Why an agent could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
    #[error("the runner's directory has no spec.json")]
    NoSpec,
    #[error("the runner is at epoch {found}, and this agent was started for {wanted}")]
    Epoch { found: i64, wanted: i64 },
    #[error("read what the daemon hands over: {0}")]
    Handover(serde_json::Error),
    #[error("the join token is no hexadecimal number")]
    Token,
    #[error("take over from the program before: {0}")]
    Resume(String),
}

pub(crate) fn doing(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    let doing = what.into();
    move |source| StartError::Io { doing, source }
}

/// Looks after the runner in `dir` at `epoch`, from its start to its end.
///
/// Takes the standard input as what the daemon hands over. Returns at once if another agent has
/// the runner.
pub fn run(dir: PathBuf, epoch: i64) -> Result<(), StartError> {
    harden::detach();
    let oom_score = harden::protect();
    let (join_token, environment) = read_handover()?;
    let dir = RunnerDir::at(dir);
    let spec = dir.spec().map_err(doing("read spec.json"))?.ok_or(StartError::NoSpec)?;
    if spec.epoch != epoch {
        return Err(StartError::Epoch { found: spec.epoch, wanted: epoch });
    }
    let Some(lock) = take_lock(&dir)? else { return Ok(()) };
    failpoint("after_lock");
    on_runtime(async move {
        let agent = begin(dir, spec, lock, join_token, environment, oom_score)?;
        agent.live().await;
        Ok(())
    })
}

/// Runs an agent on this one thread.
///
/// It is a task like those that it starts. What the runtime itself waits for is looked at each time
/// that any of them is woken, thus at every key.
pub(crate) fn on_runtime(
    agent: impl Future<Output = Result<(), StartError>> + 'static,
) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(doing("start the runtime"))?;
    let ended = LocalSet::new().block_on(&runtime, async { tokio::task::spawn_local(agent).await });
    // Nobody cancels it, so it has panicked, and that goes on.
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// The join token, and the environment of the runner's program.
fn read_handover() -> Result<(Vec<u8>, BTreeMap<String, String>), StartError> {
    let mut text = Vec::new();
    io::stdin()
        .lock()
        .take(HANDOVER_MAX)
        .read_to_end(&mut text)
        .map_err(doing("read the standard input"))?;
    let Handover { join_token, env } =
        serde_json::from_slice(&text).map_err(StartError::Handover)?;
    // The memory that it came in is closed; the standard input stays a file of no content.
    let null = File::open("/dev/null").map_err(doing("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null)
        .map_err(|error| doing("close the standard input")(error.into()))?;
    let join_token = entropy::from_hex(&join_token).ok_or(StartError::Token)?;
    Ok((join_token, env))
}

fn take_lock(dir: &RunnerDir) -> Result<Option<File>, StartError> {
    for _ in 0..LOCK_TRIES {
        if let Some(lock) = dir.take_lock().map_err(doing("take the runner's lock"))? {
            return Ok(Some(lock));
        }
        std::thread::sleep(LOCK_EVERY);
    }
    Ok(None)
}

/// What observing takes; `listener` is the one that the program before had open.
pub(crate) fn observing(
    dir: &RunnerDir,
    spec: &Spec,
    listener: Option<std::net::TcpListener>,
) -> io::Result<Observing> {
    let Some(observe) = &spec.observe else { return Ok(Observing::default()) };
    let log = SignalLog::open(dir.signals())?;
    let listener = match listener {
        None if observe.hears_telemetry() => Some(telemetry::listen()?),
        other => other,
    };
    let listener = listener.map(tokio::net::TcpListener::from_std).transpose()?;
    Ok(Observing::new(log, listener))
}

fn begin(
    dir: RunnerDir,
    spec: Spec,
    lock: File,
    join_token: Vec<u8>,
    environment: BTreeMap<String, String>,
    oom_score: i32,
) -> Result<Agent, StartError> {
    let signals = signals::catch().map_err(doing("catch signals"))?;
    signals::release();
    let listener = unix::listen(&dir.socket()).map_err(doing("listen on agent.sock"))?;
    let pid = std::process::id();
    let nonce: [u8; 16] = entropy::bytes().map_err(doing("get random bytes"))?;
    let identity = AgentIdentity {
        boot_id: identity::boot_id(),
        pid,
        start_time: identity::start_time(pid).unwrap_or(0),
        nonce: entropy::hex(&nonce),
    };
    let log = OutputLog::open(dir.output(), spec.segment_bytes, spec.output_max_bytes, None)
        .map_err(doing("open the recorded output"))?;
    let command = &spec.command;
    let size = Size::new(command.columns.into(), command.rows.into())
        .unwrap_or(Size { columns: 80, rows: 24 });
    let (wish, wishes) = mpsc::channel(WISHES);
    let clock: Rc<dyn Clock> = Rc::new(SystemClock);
    let runner = Runner {
        key: entropy::bytes().map_err(doing("get random bytes"))?,
        join_token: join_token.into(),
        life: Life::Waiting.into(),
        cgroups: Cgroups::create(spec.runner, &spec.limits),
        terminal: Terminal::new(log, spec.recording, Screen::new(size)).into(),
        master: Default::default(),
        input: Input::new(Vec::new(), Default::default()),
        viewers: Default::default(),
        spool: Spool::create(dir.spool()).map_err(doing("write the spool"))?.into(),
        changed: watch::Sender::new(()),
        told: watch::Sender::new(()),
        unlinked_since: Some(SystemClock.monotonic()).into(),
        upgrade_failed: Default::default(),
        connections: 0.into(),
        poked: Default::default(),
        observing: observing(&dir, &spec, None).map_err(doing("prepare to observe"))?,
        visits: Visits::new(dir.visits(), Vec::new()),
        daemon_pid: None.into(),
        resized: Default::default(),
        resized_at: Duration::ZERO.into(),
        wishes: wish,
        clock: Rc::clone(&clock),
        dir,
        spec,
        identity,
    };
    record(&runner, None);
    failpoint("L7");
    let deadline = clock.monotonic() + Duration::from_millis(runner.spec.launch_timeout_ms);
    Ok(Agent {
        runner: Rc::new(runner),
        wishes,
        signals,
        listener: Rc::new(listener),
        lock,
        environment,
        oom_score,
        put_off: 0,
        deadline: Some(deadline),
        stopping: None,
        paused: false,
        fenced: false,
    })
}
