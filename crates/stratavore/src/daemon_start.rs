//! Finds the daemon, and starts one if none runs.
//!
//! The daemon takes a lock on its state directory, so of several that are started at once one
//! stays, and every command finds that one.
//!
//! Invariant: a daemon that is started here does not end with us, nor with our terminal.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use stratavore_core::terminal::escape_untrusted;
use stratavore_proto::client::Client;
use stratavore_proto::v1::StatusRequest;

use crate::context::Context;
use crate::exit::{Exit, Failure};

/// How long a daemon may take from its start to its first answer.
const STARTS: Duration = Duration::from_secs(10);
/// How much of the log's end is looked at for its last words.
const LOG_TAIL: u64 = 4096;

/// Connects to the daemon, and starts one if there is none and that is allowed.
pub(crate) async fn connect(context: &Context) -> Result<Client, Failure> {
    if let Some(client) = connect_if_running(context).await? {
        return Ok(client);
    }
    if context.globals.no_start {
        let socket = context.paths.daemon_socket();
        let message = format!("no daemon runs: nothing answers on {}", socket.display());
        return Err(Failure::new(Exit::Unavailable, "unavailable", message)
            .next("leave out --no-start, or start one: stratavore daemon start"));
    }
    start(context).await
}

/// Connects to the daemon if one listens.
pub(crate) async fn connect_if_running(context: &Context) -> Result<Option<Client>, Failure> {
    let socket = context.paths.daemon_socket();
    let error = match Client::connect(&socket).await {
        Ok(client) => return Ok(Some(client)),
        Err(error) => error,
    };
    let Some(cause) = io_cause(&error) else {
        // It went away during the first words.
        return Ok(None);
    };
    if is_absent(cause) || went_away(cause) {
        return Ok(None);
    }
    if cause.kind() == io::ErrorKind::PermissionDenied {
        let message = format!("not allowed to talk to the daemon on {}: {cause}", socket.display());
        return Err(Failure::new(Exit::Permission, "permission", message)
            .next("run the command as the user whose daemon it is"));
    }
    Err(Failure::io(format_args!("connect to {}", socket.display()), cause))
}

/// The operating system's part of a failure.
fn io_cause<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | NotADirectory)
}

/// A daemon listens before it is ready, and one that cannot become ready ends with us connected.
fn went_away(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof,
    };
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof
    )
}

/// Starts a daemon and waits until it, or another one that was faster, answers.
pub(crate) async fn start(context: &Context) -> Result<Client, Failure> {
    if std::env::var_os("STRATAVORE_RUNNER_ID").is_some() {
        let message = "no daemon runs, and one that is started inside a runner would end with it";
        return Err(Failure::new(Exit::Unavailable, "unavailable", message)
            .next("start it outside of the runner: stratavore daemon start"));
    }
    let program = find_program("stratavored").ok_or_else(|| {
        Failure::new(
            Exit::NotFound,
            "not_found",
            "the program stratavored is neither beside stratavore nor on the PATH",
        )
        .next("install all three programs in one directory: make install")
    })?;
    let log_path = context.paths.daemon_log();
    context.make_state_dir()?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(&log_path)
        .map_err(|error| Failure::io(format_args!("open {}", log_path.display()), &error))?;
    let log_begin = log.metadata().map_or(0, |metadata| metadata.len());
    let again = |file: &std::fs::File| file.try_clone().map(Stdio::from);
    let stdio = again(&log).and_then(|out| again(&log).map(|err| (out, err)));
    let (out, err) =
        stdio.map_err(|error| Failure::io(format_args!("open {}", log_path.display()), &error))?;

    let mut command = Command::new(&program);
    if let Some(file) = &context.globals.config {
        command.arg("--config").arg(absolute(file));
    }
    if let Some(home) = &context.globals.home {
        command.arg("--home").arg(absolute(home));
    }
    // Not in our directory, which may be unmounted or removed one day.
    command.current_dir("/").stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    let mut child = command.spawn().map_err(|error| {
        Failure::io(format_args!("start the daemon {}", program.display()), &error)
    })?;
    if context.ui.is_watched() {
        context.ui.note("starting the daemon");
    }
    wait_until_ready(context, &mut child, &log_path, log_begin).await
}

async fn wait_until_ready(
    context: &Context,
    child: &mut Child,
    log_path: &Path,
    log_begin: u64,
) -> Result<Client, Failure> {
    let deadline = Instant::now() + STARTS;
    let mut wait = Duration::from_millis(2);
    loop {
        // One that met another that was faster has ended; the other one answers soon.
        let met_another = |status: &ExitStatus| {
            status.code() == Some(Exit::Conflict as i32) && Instant::now() < deadline
        };
        let ended = child.try_wait().ok().flatten().filter(|status| !met_another(status));
        if let Some(client) = connect_if_running(context).await? {
            // It listens before it is ready, so that nobody has to knock twice.
            let asked = client.daemon().status(StatusRequest {}).await.map(|_| ());
            match asked {
                Ok(()) => return Ok(client),
                Err(status) if !crate::api::is_lost(&status) => return Ok(client),
                Err(_) => {}
            }
        } else if let Some(status) = ended {
            // One that was killed had no time for last words.
            let (words, next) = match status.code() {
                Some(_) => last_words(log_path, log_begin),
                None => Default::default(),
            };
            let what = match words {
                words if !words.is_empty() => words,
                // Its log could not be written either.
                _ if is_full(log_path) => return Err(disk_full(log_path)),
                _ => format!("it ended at once: {status}"),
            };
            let exit = status.code().and_then(exit_of_daemon).unwrap_or(Exit::Unavailable);
            let next = if next.is_empty() { format!("see {}", log_path.display()) } else { next };
            return Err(Failure::new(
                exit,
                "unavailable",
                format!("the daemon did not start: {what}"),
            )
            .next(next));
        }
        if Instant::now() > deadline {
            let message =
                format!("the daemon was started and does not answer after {} s", STARTS.as_secs());
            return Err(Failure::new(Exit::Timeout, "timeout", message)
                .next(format!("see {}, then: stratavore doctor", log_path.display())));
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_millis(50));
    }
}

/// The daemon ends with the codes that this program has.
fn exit_of_daemon(code: i32) -> Option<Exit> {
    [Exit::Usage, Exit::Refused, Exit::Conflict, Exit::Unavailable, Exit::Config, Exit::Permission]
        .into_iter()
        .find(|exit| *exit as i32 == code)
}

/// True if the disk that `file` is on has no space left for us.
fn is_full(file: &Path) -> bool {
    rustix::fs::statvfs(file).is_ok_and(|found| found.f_bavail == 0)
}

fn disk_full(log: &Path) -> Failure {
    let directory = log.parent().unwrap_or(log).display();
    let message = format!("the daemon did not start: no space is left in {directory}");
    Failure::new(Exit::Unavailable, "disk_full", message)
        .next("free some space, then try again; runners that live go on meanwhile")
}

/// What a daemon that ended had to say, and what it says to do next; from `begin` in its log.
fn last_words(log: &Path, begin: u64) -> (String, String) {
    let read = || -> io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(begin.max(length.saturating_sub(LOG_TAIL))))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let mut lines = text.lines().rev().filter(|line| !line.trim().is_empty());
    let mut last = lines.next().unwrap_or_default();
    let mut next = "";
    if let Some(step) = last.strip_prefix("next: ") {
        next = step;
        last = lines.next().unwrap_or_default();
    }
    let words = last.strip_prefix("stratavored: ").unwrap_or(last);
    (escape_untrusted(words), escape_untrusted(next))
}

/// `name` beside this program, else on the PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|program| {
        // The path of a program that was replaced while it runs ends in a remark of the kernel's.
        program.parent().map(|directory| directory.join(name))
    });
    beside
        .filter(|path| is_program(path))
        .or_else(|| on_path(name, std::env::var_os("PATH").as_deref()))
}

/// `name` in the directories that `path` lists.
pub(crate) fn on_path(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    std::env::split_paths(path?)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_those_of_this_start() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("daemon.log");
        let old = "stratavored: an older failure\nnext: nothing\n";
        std::fs::write(
            &log,
            format!("{old}stratavored: the database is newer\u{1b}[31m\nnext: upgrade\n\n"),
        )
        .unwrap();
        let (words, next) = last_words(&log, old.len() as u64);
        assert_eq!(next, "upgrade");
        assert!(words.starts_with("the database is newer") && !words.contains('\u{1b}'), "{words}");
        assert_eq!(last_words(&home.path().join("absent"), 0), (String::new(), String::new()));
    }

    #[test]
    fn a_program_is_looked_for_in_absolute_directories_only() {
        assert!(on_path("sh", Some(OsStr::new("/nowhere:/bin"))).is_some());
        assert_eq!(on_path("sh", Some(OsStr::new("bin::."))), None);
        assert_eq!(on_path("sh", None), None);
    }
}
