//! What this machine offers: directories, disk, limits, logins, assistants, the terminal.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit, getuid};
use stratavore_config::{Config, Paths};

use super::Finding;
use crate::daemon_start::on_path;
use crate::units;

/// Below this much free space, output will not be kept for long.
const DISK_LOW: u64 = 1 << 30;
/// Below this much nothing can be recorded.
const DISK_FULL: u64 = 64 << 20;
/// A daemon needs a few open files for each runner.
const FILES_FEW: u64 = 1024;

const ASSISTANTS: [&str; 5] = ["claude", "codex", "gemini", "opencode", "aider"];

pub(crate) fn directories(paths: &Paths) -> Vec<Finding> {
    let all = [("state directory", paths.state_dir()), ("run directory", paths.run_dir())];
    all.into_iter().map(|(check, path)| directory(check, path)).collect()
}

fn directory(check: &'static str, path: &Path) -> Finding {
    let shown = path.display();
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let parent = existing(path);
            return match rustix::fs::access(&parent, rustix::fs::Access::WRITE_OK) {
                Ok(()) => Finding::ok(check, format!("{shown} (made when it is needed)")),
                Err(_) => Finding::broken(
                    check,
                    format!("{shown} cannot be made: {} is not writable", parent.display()),
                    "give this user access to it, or choose another place: --home DIR",
                ),
            };
        }
        Err(error) => {
            return Finding::broken(
                check,
                format!("{shown}: {error}"),
                "give this user access to it",
            );
        }
    };
    if !metadata.is_dir() {
        return Finding::broken(
            check,
            format!("{shown} is not a directory"),
            "move it out of the way",
        );
    }
    let me = getuid().as_raw();
    if metadata.uid() != me {
        let message = format!("{shown} belongs to user {}, and this is user {me}", metadata.uid());
        return Finding::broken(
            check,
            message,
            format!("chown {me} {shown}, or choose another place: --home DIR"),
        );
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        let message = format!("{shown} is open to other users (mode {mode:o})");
        return Finding::broken(check, message, format!("chmod 700 {shown}"));
    }
    match rustix::fs::access(path, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Finding::ok(check, shown.to_string()),
        Err(error) => {
            let message = format!("{shown} is not writable: {}", std::io::Error::from(error));
            Finding::broken(
                check,
                message,
                format!("chmod 700 {shown}; or is the disk mounted read-only?"),
            )
        }
    }
}

/// The nearest directory above `path` that is there.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

pub(crate) fn disk(state: &Path) -> Finding {
    let place = existing(state);
    let Ok(found) = rustix::fs::statvfs(&place) else {
        let message = format!("cannot tell how much is free below {}", place.display());
        return Finding::warning("disk", message, "look yourself: df");
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let message = format!("{} free for {}", units::bytes(free), place.display());
    if free < DISK_FULL {
        Finding::broken("disk", message, "make room: nothing can be recorded on a full disk")
    } else if free < DISK_LOW {
        Finding::warning("disk", message, "make room, or lower agent.output_max_bytes")
    } else if found.f_files > 0 && found.f_favail < 10_000 {
        Finding::warning(
            "disk",
            format!("{message}, but {} files at most", found.f_favail),
            "remove files: df -i",
        )
    } else {
        Finding::ok("disk", message)
    }
}

/// Whether limits of memory, CPU and processes can be held here.
pub(crate) fn limits_of_runners() -> Vec<Finding> {
    vec![cgroups(
        Path::new("/sys/fs/cgroup"),
        &fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
    )]
}

fn cgroups(root: &Path, own: &str) -> Finding {
    const CHECK: &str = "limits";
    let can_make = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    let unenforced = "memory, CPU and process limits of runners are not enforced";
    if let Ok(controllers) = fs::read_to_string(root.join("cgroup.controllers")) {
        let has = |name: &str| controllers.split_whitespace().any(|controller| controller == name);
        let missing: Vec<&str> =
            ["memory", "cpu", "pids"].into_iter().filter(|name| !has(name)).collect();
        if !missing.is_empty() {
            let message =
                format!("cgroups v2 without {}: these limits are not enforced", missing.join(", "));
            return Finding::warning(
                CHECK,
                message,
                "turn the controllers on for this host or container",
            );
        }
        let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let here = root.join(path);
        if can_make(&here) || systemd_user().is_some() {
            return Finding::ok(
                CHECK,
                "cgroups v2: memory, CPU and process limits are enforced by the kernel",
            );
        }
        let message = format!(
            "cgroups v2, but {} is not delegated to this user: {unenforced}",
            here.display()
        );
        return Finding::warning(
            CHECK,
            message,
            "run the daemon as a systemd user service (it has Delegate=yes)",
        );
    }
    let memory = root.join("memory");
    if memory.is_dir() {
        // The kernel lists them as number:controllers:path.
        let path = own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            controllers
                .split(',')
                .any(|name| name == "memory")
                .then(|| path.trim_start_matches('/'))
        });
        let here = memory.join(path.unwrap_or_default());
        if can_make(&here) || can_make(&memory) {
            return Finding::ok(
                CHECK,
                "cgroups v1: memory, CPU and process limits are enforced by the kernel",
            );
        }
        let message = format!("cgroups v1, not writable for this user: {unenforced}");
        return Finding::warning(
            CHECK,
            message,
            "have a cgroup delegated, or use a host with cgroups v2 and systemd",
        );
    }
    Finding::warning(
        CHECK,
        format!("no cgroups are mounted: {unenforced}"),
        "mount them at /sys/fs/cgroup",
    )
}

/// The socket of this user's systemd, if one runs.
fn systemd_user() -> Option<PathBuf> {
    let run = std::env::var_os("XDG_RUNTIME_DIR")
        .map_or_else(|| PathBuf::from(format!("/run/user/{}", getuid().as_raw())), PathBuf::from);
    let socket = run.join("systemd/private");
    socket.exists().then_some(socket)
}

/// What becomes of runners when their user logs out.
pub(crate) fn logins() -> Vec<Finding> {
    const CHECK: &str = "systemd";
    if !Path::new("/run/systemd/system").is_dir() {
        return vec![Finding::ok(
            CHECK,
            "not this host's init; runners are plain processes and outlive logins",
        )];
    }
    if getuid().is_root() {
        return vec![Finding::ok(CHECK, "runs; root's processes outlive logins")];
    }
    let user = std::env::var("USER").unwrap_or_default();
    let lingers = !user.is_empty() && Path::new("/var/lib/systemd/linger").join(&user).exists();
    vec![match (systemd_user(), lingers) {
        (Some(_), true) => {
            Finding::ok(CHECK, "the user manager runs, and lingers: runners outlive logins")
        }
        (Some(_), false) => Finding::warning(
            CHECK,
            "the user manager ends at the last logout, and runners started under it with it",
            format!("loginctl enable-linger {user}"),
        ),
        (None, _) => Finding::ok(CHECK, "no user manager; runners are plain processes"),
    }]
}

pub(crate) fn open_files() -> Finding {
    let limit = getrlimit(Resource::Nofile);
    let shown = |n: Option<u64>| n.map_or_else(|| "unlimited".into(), |n| n.to_string());
    let message = format!("{} at once (up to {})", shown(limit.current), shown(limit.maximum));
    // The daemon raises its own limit as far as it may.
    if limit.maximum.is_some_and(|most| most < FILES_FEW) {
        Finding::warning("open files", message, "raise it for many runners: ulimit -Hn 65536")
    } else {
        Finding::ok("open files", message)
    }
}

pub(crate) fn assistants(config: &Config) -> Vec<Finding> {
    let path = std::env::var_os("PATH");
    let program_of = |name: &str| {
        let configured =
            config.assistants.get(name).and_then(|assistant| assistant.program.clone());
        configured.unwrap_or_else(|| name.into())
    };
    let found = |program: &Path| match program.is_absolute() {
        true => program.is_file(),
        false => program.to_str().is_some_and(|name| on_path(name, path.as_deref()).is_some()),
    };
    let (here, absent): (Vec<&str>, Vec<&str>) =
        ASSISTANTS.into_iter().partition(|name| found(&program_of(name)));
    vec![match here.as_slice() {
        [] => Finding::warning(
            "assistants",
            format!(
                "none of {} is on the PATH; `generic` runs any other program",
                ASSISTANTS.join(", ")
            ),
            "install one, or name its program: assistants.NAME.program in stratavore.yaml",
        ),
        here if absent.is_empty() => Finding::ok("assistants", here.join(", ")),
        here => Finding::ok(
            "assistants",
            format!("{} (not here: {})", here.join(", "), absent.join(", ")),
        ),
    }]
}

pub(crate) fn terminal() -> Vec<Finding> {
    let term = std::env::var("TERM").unwrap_or_default();
    let kind = match term.as_str() {
        "" => Finding::warning(
            "terminal",
            "TERM is not set",
            "set it to what your terminal is, such as xterm-256color",
        ),
        "dumb" => Finding::warning(
            "terminal",
            "TERM is dumb: screens cannot be shown",
            "attach from a real terminal",
        ),
        term => Finding::ok("terminal", term),
    };
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .unwrap_or_default();
    let lower = locale.to_ascii_lowercase();
    let text = if lower.contains("utf-8") || lower.contains("utf8") {
        Finding::ok("locale", locale)
    } else {
        let shown = if locale.is_empty() { "not set".into() } else { locale };
        let message = format!("{shown}, which is no UTF-8 one: letters and frames may look wrong");
        Finding::warning("locale", message, "set LANG to a UTF-8 locale, such as C.UTF-8")
    };
    vec![kind, text]
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_directory_has_to_be_our_own_and_closed() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        assert_eq!(directory("state", &path).verdict, Verdict::Ok, "it can be made");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(directory("state", &path).verdict, Verdict::Ok);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let finding = directory("state", &path);
        assert_eq!(
            (finding.verdict, finding.next.unwrap().starts_with("chmod 700")),
            (Verdict::Broken, true)
        );
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(directory("state", &file).verdict, Verdict::Broken);
    }

    #[test]
    fn the_kinds_of_cgroups_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let none = cgroups(root.path(), "");
        assert!(
            none.verdict == Verdict::Warning && none.message.contains("no cgroups"),
            "{none:?}"
        );
        fs::create_dir(root.path().join("memory")).unwrap();
        let v1 = cgroups(root.path(), "4:memory:/\n");
        assert!(v1.verdict == Verdict::Ok && v1.message.contains("v1"), "{v1:?}");
        fs::write(root.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        let v2 = cgroups(root.path(), "0::/\n");
        assert!(v2.verdict == Verdict::Warning && v2.message.contains("without pids"), "{v2:?}");
        fs::write(root.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        assert_eq!(cgroups(root.path(), "0::/\n").verdict, Verdict::Ok);
    }
}
