//! A Stratavore of its own: a private home, the real programs, and an observer that never asks
//! the system about itself.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde_json::Value;

use crate::terminal::Terminal;
use crate::trace::cgroups_of;

/// The longest that a condition is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// A private home with the real programs. Everything it started is gone when it is dropped.
pub struct World {
    home: PathBuf,
    env: BTreeMap<String, String>,
    /// Where the programs are; none: those of this build.
    programs: Option<PathBuf>,
    _directory: tempfile::TempDir,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A home without a daemon; the first command that needs one starts it.
    pub fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// The same in this directory, where others may have less to say than where temporary files are.
    pub fn below(directory: &Path) -> Self {
        let directory = own_directory(directory);
        Self::at(directory.path().to_owned(), directory)
    }

    /// The same, where the home's own directory has this name, which may be an unpleasant one.
    pub fn named(name: &str) -> Self {
        let directory = own_directory(&std::env::temp_dir());
        Self::at(directory.path().join(name), directory)
    }

    fn at(home: PathBuf, directory: tempfile::TempDir) -> Self {
        fs::create_dir_all(home.join("work")).expect("a directory to work in");
        Self { home, env: BTreeMap::new(), programs: None, _directory: directory }
    }

    /// The same, with a configuration file.
    pub fn with_config(yaml: &str) -> Self {
        let world = Self::new();
        let path = world.path("stratavore.yaml");
        fs::write(&path, yaml).expect("the configuration can be written");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("its mode");
        world
    }

    /// Sets a variable for every program that is started from now on.
    pub fn set_env(&mut self, key: &str, value: &str) {
        self.env.insert(key.into(), value.into());
    }

    /// Has every program that is started from now on be the one of this directory; none: of this build.
    pub fn set_programs(&mut self, directory: Option<&Path>) {
        self.programs = directory.map(Path::to_owned);
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.home.join(below)
    }

    /// The directory of the projects made by [`World::project`].
    pub fn work(&self) -> PathBuf {
        self.path("work")
    }

    /// One of the built programs.
    pub fn program(name: &str) -> PathBuf {
        let test = std::env::current_exe().expect("a test has a program");
        let path = test.ancestors().nth(2).expect("tests stand in target/PROFILE/deps").join(name);
        assert!(path.exists(), "{} is not built: cargo build --workspace --bins", path.display());
        path
    }

    /// A command with this home and nothing of the caller's environment that could matter.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(match &self.programs {
            Some(directory) => directory.join(program),
            None => Self::program(program),
        });
        command.env_clear();
        for key in ["PATH", "HOME", "USER", "LANG", "TMPDIR", "SHELL"] {
            if let Some(value) = std::env::var_os(key) {
                command.env(key, value);
            }
        }
        // What is wrong for some seconds only is told on a slow machine: a test that wants alerts asks.
        command.env("STRATAVORE_TEST_TIMES", "alerts_every=1h");
        command.env("TERM", "xterm-256color").env("STRATAVORE_HOME", &self.home);
        command.envs(&self.env).current_dir(self.work());
        command
    }

    /// Runs `stratavore` with these arguments to its end.
    pub fn run<I: IntoIterator<Item = A>, A: AsRef<OsStr>>(&self, arguments: I) -> Ran {
        let mut command = self.command("stratavore");
        command.args(arguments).stdin(Stdio::null());
        Ran::of(command)
    }

    /// Runs it and reads the JSON that it prints.
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.run(arguments.iter().chain(&["--format", "json"])).ok().json()
    }

    /// Runs `stratavore` on a terminal, as a person would.
    pub fn terminal(&self, arguments: &[&str], rows: u16, columns: u16) -> Terminal {
        let mut command = self.command("stratavore");
        command.args(arguments);
        Terminal::spawn(command, rows, columns)
    }

    /// Makes a project whose directory is [`World::work`].
    pub fn project(&self, name: &str) {
        let work = self.work().display().to_string();
        self.run(["new", name, "--directory", &work]).ok();
    }

    /// The same, for more runners at once than a project has by default.
    pub fn large_project(&self, name: &str) {
        let work = self.work().display().to_string();
        self.run(["new", name, "--directory", &work, "--quota-runners", "100000"]).ok();
    }

    /// Launches a generic runner of `project` and waits until it runs. Answers its id.
    pub fn launch(&self, project: &str, name: &str, argv: &[&str]) -> String {
        self.launch_with(project, name, &[], argv)
    }

    /// The same with further options.
    pub fn launch_with(
        &self,
        project: &str,
        name: &str,
        options: &[&str],
        argv: &[&str],
    ) -> String {
        let mut arguments = vec![
            "launch",
            "--project",
            project,
            "--assistant",
            "generic",
            "--name",
            name,
            "--format",
            "json",
        ];
        arguments.extend(options);
        arguments.push("--");
        arguments.extend(argv);
        let launched = self.run(arguments).ok().json();
        let id = rows(&launched)[0]["id"].as_str().expect("a launched runner has an id").to_owned();
        self.until_state(&id, &["running", "exited", "failed", "lost"]);
        id
    }

    /// What `runners show` says of a runner.
    pub fn runner(&self, runner: &str) -> Value {
        self.json(&["runners", "show", runner])
    }

    /// Waits until the runner is in one of the states; answers what is shown of it then.
    pub fn until_state(&self, runner: &str, states: &[&str]) -> Value {
        until(&format!("{runner} is one of {states:?}"), || {
            let shown = self.runner(runner);
            let reached = states.iter().any(|state| shown["state"] == *state);
            if reached { Ok(shown) } else { Err(shown) }
        })
    }

    /// The pid of the daemon, by its lock file and the kernel.
    pub fn daemon_pid(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.path("state/daemon.lock")).ok()?.trim().parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (name.trim() == "stratavored" && !is_gone(pid)).then_some(pid)
    }

    /// Kills the daemon as the kernel would, and waits until it is gone.
    pub fn kill_daemon(&self) -> u32 {
        let pid = self.daemon_pid().expect("a daemon runs");
        signal(pid, rustix::process::Signal::KILL);
        // Another one may have been started meanwhile.
        until("the daemon is gone", || if is_gone(pid) { Ok(()) } else { Err(pid) });
        pid
    }

    /// The processes that carry a runner's mark (or any runner's of this home), from `/proc`.
    pub fn processes_of(&self, runner: &str) -> Vec<u32> {
        let mark = format!("STRATAVORE_RUNNER_ID={runner}");
        processes().into_iter().filter(|pid| has_env(*pid, &mark) && !is_zombie(*pid)).collect()
    }

    /// The processes of agents of this home.
    pub fn agents(&self) -> Vec<u32> {
        let home = self.home.as_os_str().as_encoded_bytes();
        let is_agent = |pid: &u32| {
            let line = of_process(*pid, "cmdline");
            let program = line.split(|&byte| byte == 0).next().unwrap_or_default();
            program.ends_with(b"stratavore-agent")
                && line.windows(home.len()).any(|window| window == home)
        };
        processes().into_iter().filter(|pid| is_agent(pid) && !is_zombie(*pid)).collect()
    }

    /// The whole recorded output of a runner, as its agent wrote it to the disk.
    pub fn recorded(&self, runner: &str) -> Vec<u8> {
        let directory = self.path(&format!("state/runners/{runner}/output"));
        let mut segments: Vec<PathBuf> = fs::read_dir(&directory)
            .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
            .unwrap_or_default();
        segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        segments.sort();
        segments.iter().flat_map(|path| fs::read(path).unwrap_or_default()).collect()
    }
}

impl Drop for World {
    #[expect(clippy::print_stderr, reason = "a failed test shows what the daemon had to say")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("state/daemon.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            eprintln!("--- the last of the daemon's log\n{}\n---", tail.join("\n"));
        }
        if let Some(pid) = self.daemon_pid() {
            // What it has run for itself goes on without it, and would write where nothing is any more.
            let own = processes().into_iter().filter(|child| parent(*child) == Some(pid));
            for pid in [pid].into_iter().chain(own.collect::<Vec<_>>()) {
                signal(pid, rustix::process::Signal::KILL);
            }
        }
        let runners: Vec<String> = fs::read_dir(self.path("state/runners"))
            .map(|entries| entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect())
            .unwrap_or_default();
        for pid in self.agents() {
            signal(pid, rustix::process::Signal::KILL);
        }
        for pid in runners.iter().flat_map(|runner| self.processes_of(runner)) {
            signal(pid, rustix::process::Signal::KILL);
        }
        // Nobody else will: those who were to do it are dead.
        for dir in runners.iter().flat_map(|runner| cgroups_of(runner)) {
            remove_when_empty(&dir);
        }
    }
}

fn own_directory(above: &Path) -> tempfile::TempDir {
    let named = tempfile::Builder::new().prefix("stratavore-world-").tempdir_in(above);
    named.expect("a temporary directory")
}

/// Removes a cgroup whose processes were killed and are about to be gone. One that will not become
/// empty is left: this is no place for a test to fail.
fn remove_when_empty(cgroup: &Path) {
    let began = Instant::now();
    while fs::remove_dir(cgroup).is_err() && cgroup.exists() && began.elapsed().as_secs() < 2 {
        std::thread::sleep(LOOK);
    }
}

/// What a command did.
pub struct Ran {
    told: String,
    pub output: Output,
}

impl Ran {
    /// Runs a command to its end.
    pub fn of(mut command: Command) -> Self {
        Self { told: format!("{command:?}"), output: command.output().expect("the program runs") }
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.output.status.success(), "{} failed\n{}", self.told, self.everything());
        self
    }

    /// Panics unless the command ended with this code.
    #[track_caller]
    pub fn fails(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "{}\n{}", self.told, self.everything());
        self
    }

    pub fn code(&self) -> i32 {
        self.output.status.code().unwrap_or(-1)
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    pub fn everything(&self) -> String {
        format!(
            "exit: {}\nstdout:\n{}\nstderr:\n{}",
            self.output.status,
            self.stdout(),
            self.stderr()
        )
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.output.stdout).unwrap_or_else(|error| {
            panic!("{} printed no JSON: {error}\n{}", self.told, self.everything())
        })
    }
}

/// The rows of a list, whether it stands alone or under a name.
pub fn rows(list: &Value) -> &Vec<Value> {
    let inside = || list.as_object().and_then(|fields| fields.values().find_map(Value::as_array));
    list.as_array().or_else(inside).unwrap_or_else(|| panic!("no list: {list}"))
}

/// Waits until `look` finds what is wished; panics with what it saw last when it takes too long.
#[track_caller]
pub fn until<T, E: Debug>(wished: &str, look: impl FnMut() -> Result<T, E>) -> T {
    until_within(PATIENCE, wished, look)
}

/// The same for what may take longer on a machine that has much else to do.
#[track_caller]
pub fn until_within<T, E: Debug>(
    patience: Duration,
    wished: &str,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    let began = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if began.elapsed() > patience => {
                panic!("waited in vain until {wished}; last seen: {seen:?}")
            }
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// All process ids there are.
pub fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// What was found, if it is there.
fn looked<T>(found: io::Result<T>) -> Option<T> {
    let is_blind = |error: &io::Error| {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        matches!(errno, Some(Errno::MFILE | Errno::NFILE))
    };
    match found {
        Ok(found) => Some(found),
        Err(error) if is_blind(&error) => panic!("cannot look: {error}"),
        Err(_) => None,
    }
}

/// A file of a process, empty if the process is gone.
///
/// Whoever cannot look must not pass for one who saw nothing: an observer that has no file
/// descriptor left would find no process at all.
pub fn of_process(pid: u32, file: &str) -> Vec<u8> {
    looked(fs::read(format!("/proc/{pid}/{file}"))).unwrap_or_default()
}

/// Start time in clock ticks after boot: with the pid, the identity of a process.
pub fn start_time(pid: u32) -> Option<u64> {
    stat(pid)?.split_whitespace().nth(19)?.parse().ok()
}

pub fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.split_whitespace().nth(1)?.parse().ok()
}

pub fn is_zombie(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.starts_with('Z'))
}

/// True if the process has let go of all that it held. One that was killed is a zombie already
/// while its other threads still hold its locks and sockets.
pub fn is_gone(pid: u32) -> bool {
    let threads = looked(fs::read_dir(format!("/proc/{pid}/task"))).map_or(0, Iterator::count);
    threads == 0 || (threads == 1 && is_zombie(pid))
}

/// `/proc/PID/stat` from the state on: the name before it may hold anything.
fn stat(pid: u32) -> Option<String> {
    let stat = String::from_utf8_lossy(&of_process(pid, "stat")).into_owned();
    Some(stat.rsplit_once(')')?.1.trim_start().to_owned())
}

fn has_env(pid: u32, entry: &str) -> bool {
    let environ = of_process(pid, "environ");
    environ.split(|&byte| byte == 0).any(|found| found == entry.as_bytes())
}

/// Sends a signal to a process that this test started; one that is gone already is no mistake.
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        rustix::process::kill_process(pid, signal).ok();
    }
}
