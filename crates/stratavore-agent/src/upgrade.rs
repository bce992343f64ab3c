//! Replacing the agent's program in place.
//!
//! The process stays: its pid, its child, its place as the parent of all that the runner starts.
//! So do the terminal, the socket and the lock, as open files; everything else goes through an
//! anonymous file in memory. Lines to the daemon and to viewers are cut, and made again.
//!
//! Invariant: if the new program cannot be executed, the old one goes on as if nothing had been.
//! Invariant: nothing is forked, and signals that come meanwhile are held back.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};
use stratavore_core::Timestamp;
use stratavore_core::clock::Clock;
use stratavore_core::runner::{AgentIdentity, Cause, ProcessIdentity};
use stratavore_proto::runner_dir::{RunnerDir, Spec};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};

use crate::agent::{Agent, record};
use crate::cgroup::Cgroups;
use crate::clock::SystemClock;
use crate::input::Input;
use crate::output::OutputLog;
use crate::pty::Master;
use crate::runner::{Life, Runner};
use crate::screen::{Screen, Size};
use crate::sent::Sent;
use crate::spool::Spool;
use crate::start::{StartError, doing, observing, on_runtime};
use crate::stop::Stopping;
use crate::sys::{self, Strings};
use crate::terminal::Terminal;
use crate::visits::{Open, Visits};
use crate::{entropy, harden, signals};

/// The form of [`State`]. A program that does not know it must not take over.
const VERSION: u32 = 1;
/// Says, in the program's file and to whoever asks for its version, which form it knows.
pub const STATE_FORM: &str = "stratavore-agent, state form 1.";

/// All that the next program has to know. Bytes are in hexadecimal.
#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    spec: Spec,
    identity: AgentIdentity,
    key: String,
    join_token: String,
    process: ProcessIdentity,
    stopping: Option<StoppingState>,
    /// On the monotonic clock, which goes on; in microseconds.
    deadline: Option<u64>,
    paused: bool,
    cgroups: Vec<PathBuf>,
    oom_before: u64,
    pids_before: u64,
    terminal: TerminalState,
    typed: String,
    #[serde(default = "Sent::of_before")]
    sent: Sent,
    /// Who is attached, and will not be any more.
    #[serde(default)]
    visitors: Vec<Open>,
    /// The port that the assistant's telemetry comes to.
    #[serde(default)]
    telemetry: Option<RawFd>,
    next_report: u64,
    reports: Vec<String>,
    files: Files,
}

#[derive(Serialize, Deserialize)]
struct StoppingState {
    cause: Option<Cause>,
    #[serde(default)]
    term_at: Option<u64>,
    hangup_at: Option<u64>,
    kill_at: u64,
    passes: u32,
}

#[derive(Serialize, Deserialize)]
struct TerminalState {
    end: u64,
    columns: u16,
    rows: u16,
    drawing: String,
    held: String,
    stuck: String,
    printed_at: Option<Timestamp>,
}

/// Open files that go over, by number.
#[derive(Serialize, Deserialize)]
struct Files {
    lock: RawFd,
    listener: RawFd,
    master: RawFd,
    slave: RawFd,
}

/// Executes `program` in place of this one. Returns only if that fails.
pub(crate) fn replace(agent: &Agent, program: &str) -> io::Error {
    match prepare(agent, program) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn prepare(agent: &Agent, program: &str) -> io::Result<std::convert::Infallible> {
    let runner = Rc::clone(&agent.runner);
    let (Some(process), Some(master)) = (runner.process(), runner.master.get()) else {
        return Err(io::Error::other("the runner does not run"));
    };
    if !Path::new(program).is_absolute() {
        return Err(io::Error::other("the program's path must be absolute"));
    }
    knows_state(Path::new(program))?;
    let [master, slave] = master.both();
    let kept = [file(&agent.lock), file(&agent.listener), master, slave];
    let telemetry = runner.observing.listener().map(file);
    // The next program knows nothing of what was only counted.
    runner.write_visits();
    let files = Files {
        lock: kept[0].as_raw_fd(),
        listener: kept[1].as_raw_fd(),
        master: master.as_raw_fd(),
        slave: slave.as_raw_fd(),
    };
    let state = State {
        telemetry: telemetry.map(|listener| listener.as_raw_fd()),
        ..save(agent, process, files)
    };
    let mut memory = File::from(memfd_create("stratavore-upgrade", MemfdFlags::CLOEXEC)?);
    memory.write_all(&serde_json::to_vec(&state).map_err(io::Error::other)?)?;
    memory.rewind()?;

    let text = |text: String| CString::new(text).map_err(io::Error::other);
    let dir = runner.dir.path().to_string_lossy().into_owned();
    let state_fd = memory.as_raw_fd().to_string();
    let argv = [program.into(), "resume".into(), "--dir".into(), dir, "--state".into(), state_fd];
    let argv: Vec<CString> = argv.into_iter().map(text).collect::<io::Result<_>>()?;
    let environment = std::env::vars_os().map(|(key, value)| {
        let pair = [key.into_vec(), b"=".to_vec(), value.into_vec()].concat();
        CString::new(pair).map_err(io::Error::other)
    });
    let environment: Vec<CString> = environment.collect::<io::Result<_>>()?;

    let kept: Vec<BorrowedFd<'_>> =
        kept.into_iter().chain([file(&memory)]).chain(telemetry).collect();
    signals::hold();
    // This does not fail on a file that is open; if it did, the next program would miss it.
    let keep = |flags: FdFlags| {
        for fd in &kept {
            let _kept = fcntl_setfd(fd, flags);
        }
    };
    keep(FdFlags::empty());
    let error = sys::exec(&argv[0], &Strings::new(&argv), &Strings::new(&environment));
    keep(FdFlags::CLOEXEC);
    signals::release();
    Err(error.into())
}

/// Makes sure that a program is an agent that can read the state as we write it. Once it is
/// executed there is no way back.
///
/// It is not asked, for that would take a process; every agent has a text in it that says so.
fn knows_state(program: &Path) -> io::Result<()> {
    let mut file = File::open(program)?;
    let mut window = Vec::new();
    let mut block = vec![0; 64 * 1024];
    loop {
        let n = file.read(&mut block)?;
        if n == 0 {
            return Err(io::Error::other("it is no agent that can take over from this one"));
        }
        window.extend_from_slice(&block[..n]);
        if window.windows(STATE_FORM.len()).any(|part| part == STATE_FORM.as_bytes()) {
            return Ok(());
        }
        window.drain(..window.len().saturating_sub(STATE_FORM.len()));
    }
}

fn file(of: &impl std::os::fd::AsFd) -> BorrowedFd<'_> {
    of.as_fd()
}

fn micros(at: Duration) -> u64 {
    u64::try_from(at.as_micros()).unwrap_or(u64::MAX)
}

fn save(agent: &Agent, process: ProcessIdentity, files: Files) -> State {
    let runner = &agent.runner;
    let (next_report, reports) = runner.spool.borrow_mut().save();
    let (oom_before, pids_before) = runner.cgroups.counters_before();
    let saved = runner.terminal.borrow_mut().save();
    State {
        version: VERSION,
        spec: runner.spec.clone(),
        identity: runner.identity.clone(),
        key: entropy::hex(&runner.key),
        join_token: entropy::hex(&runner.join_token.borrow()),
        process,
        stopping: agent.stopping.as_ref().map(|stopping| StoppingState {
            cause: stopping.cause.clone(),
            term_at: stopping.term_at.map(micros),
            hangup_at: stopping.hangup_at.map(micros),
            kill_at: micros(stopping.kill_at),
            passes: stopping.passes,
        }),
        deadline: agent.deadline.map(micros),
        paused: agent.paused,
        cgroups: runner.cgroups.dirs().to_vec(),
        oom_before,
        pids_before,
        terminal: TerminalState {
            end: saved.end,
            columns: saved.size.columns,
            rows: saved.size.rows,
            drawing: entropy::hex(&saved.drawing),
            held: entropy::hex(&saved.held),
            stuck: entropy::hex(&saved.stuck),
            printed_at: saved.printed_at,
        },
        typed: entropy::hex(&runner.input.waiting()),
        sent: runner.input.sent(),
        visitors: runner.visits.open(),
        telemetry: None,
        next_report,
        reports: reports.iter().map(|report| entropy::hex(report)).collect(),
        files,
    }
}

/// Takes over from the program before, whose state is in the file of number `state`.
pub fn resume(dir: PathBuf, state: RawFd) -> Result<(), StartError> {
    let oom_score = harden::protect();
    let state: State = serde_json::from_reader(File::from(adopt(state)?))
        .map_err(|error| StartError::Resume(error.to_string()))?;
    if state.version != VERSION {
        return Err(StartError::Resume(format!(
            "its state has the form {}, and this program knows {VERSION}",
            state.version
        )));
    }
    on_runtime(async move {
        let agent = restore(RunnerDir::at(dir), state, oom_score)?;
        signals::release();
        agent.live().await;
        Ok(())
    })
}

/// Takes an open file over, by its number.
fn adopt(number: RawFd) -> Result<OwnedFd, StartError> {
    let fd = sys::adopt(number);
    fcntl_setfd(&fd, FdFlags::CLOEXEC)
        .map_err(|error| doing("take over an open file")(error.into()))?;
    Ok(fd)
}

fn bytes(digits: &str) -> Result<Vec<u8>, StartError> {
    entropy::from_hex(digits).ok_or_else(|| StartError::Resume("its state is damaged".into()))
}

fn restore(dir: RunnerDir, state: State, oom_score: i32) -> Result<Agent, StartError> {
    let signals = signals::catch().map_err(doing("catch signals"))?;
    let State { spec, terminal, files, .. } = state;
    let log = OutputLog::open(
        dir.output(),
        spec.segment_bytes,
        spec.output_max_bytes,
        Some(terminal.end),
    )
    .map_err(doing("open the recorded output"))?;
    let size = Size { columns: terminal.columns, rows: terminal.rows };
    let screen = Screen::restore(size, &bytes(&terminal.drawing)?, &bytes(&terminal.held)?);
    let mut restored = Terminal::new(log, spec.recording, screen);
    restored.restore(bytes(&terminal.stuck)?, terminal.printed_at);
    let reports =
        state.reports.iter().map(|report| bytes(report)).collect::<Result<Vec<_>, _>>()?;
    let spool = Spool::restore(dir.spool(), state.next_report, &reports);
    let master = Master::adopt(adopt(files.master)?, adopt(files.slave)?)
        .map_err(doing("take over the terminal"))?;
    let listener = std::os::unix::net::UnixListener::from(adopt(files.listener)?);
    let listener = UnixListener::from_std(listener).map_err(doing("take over the socket"))?;
    let key = bytes(&state.key)?
        .try_into()
        .map_err(|_| StartError::Resume("its key is damaged".into()))?;
    let (wish, wishes) = mpsc::channel(crate::start::WISHES);
    let telemetry = state.telemetry.map(adopt).transpose()?.map(std::net::TcpListener::from);
    let runner = Runner {
        key,
        join_token: bytes(&state.join_token)?.into(),
        life: Life::Running(state.process).into(),
        cgroups: Cgroups::reopen(state.cgroups, state.oom_before, state.pids_before),
        terminal: restored.into(),
        master: master.into(),
        input: Input::new(bytes(&state.typed)?, state.sent),
        viewers: Default::default(),
        spool: spool.map_err(|error| StartError::Resume(error.to_string()))?.into(),
        changed: watch::Sender::new(()),
        told: watch::Sender::new(()),
        unlinked_since: Some(SystemClock.monotonic()).into(),
        upgrade_failed: Default::default(),
        connections: 0.into(),
        poked: Default::default(),
        observing: observing(&dir, &spec, telemetry).map_err(doing("prepare to observe"))?,
        visits: Visits::new(dir.visits(), state.visitors),
        daemon_pid: None.into(),
        resized: Default::default(),
        resized_at: Duration::ZERO.into(),
        wishes: wish,
        clock: Rc::new(SystemClock),
        dir,
        spec,
        identity: state.identity,
    };
    record(&runner, Some(state.process));
    runner.visits_over();
    let stopping = state.stopping.map(|stopping| Stopping {
        cause: stopping.cause,
        term_at: stopping.term_at.map(Duration::from_micros),
        hangup_at: stopping.hangup_at.map(Duration::from_micros),
        kill_at: Duration::from_micros(stopping.kill_at),
        passes: stopping.passes,
    });
    Ok(Agent {
        runner: Rc::new(runner),
        wishes,
        signals,
        listener: Rc::new(listener),
        lock: File::from(adopt(files.lock)?),
        environment: Default::default(),
        oom_score,
        put_off: 0,
        deadline: state.deadline.map(Duration::from_micros),
        stopping,
        paused: state.paused,
        fenced: false,
    })
}
