//! A later RabbitMQ than this machine's, with the Erlang and the libraries that it needs: packages of a later
//! Debian, unpacked below a directory of their own. Nothing of them is installed.
//!
//! [`prepare`] gets them, through apt-get, into a cache that all checkouts share. A broker is started from
//! one of them if [`ROOT_VARIABLE`] names it.
//!
//! Invariant: the directory of a release exists only once it is whole.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

/// Names the directory that a broker is started from; empty or unset: this machine's own.
pub const ROOT_VARIABLE: &str = "STRATAVORE_TEST_RABBITMQ_ROOT";

/// Releases of Debian whose RabbitMQ is tried besides: 4.0, and 4.3 at this time.
pub const RELEASES: [&str; 2] = ["trixie", "forky"];

/// The broker, and what its scripts and our guard's run.
const PACKAGES: [&str; 7] =
    ["rabbitmq-server", "dash", "coreutils", "sed", "grep", "mawk", "util-linux"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org/debian";

/// Where the broker is to be started from.
pub(super) fn named() -> Option<PathBuf> {
    std::env::var_os(ROOT_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// `erl_call` of that Erlang: one of another release may not be understood.
pub(super) fn erl_call() -> Command {
    let Some(root) = named() else { return Command::new("erl_call") };
    let loader = root.join("lib64/ld-linux-x86-64.so.2");
    let libraries = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|dir| root.join(dir));
    let mut call = Command::new(loader);
    let path = std::env::join_paths(libraries).unwrap_or_else(|_| OsString::new());
    call.arg("--library-path").arg(path).arg(root.join("usr/bin/erl_call"));
    call
}

/// Gets a release unless it is there; answers its directory.
///
/// # Errors
/// Says what cannot be had, and why.
pub fn prepare(release: &str) -> Result<PathBuf, String> {
    let own = |variable: &str| {
        std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
    };
    let cache = own("XDG_CACHE_HOME")
        .or_else(|| own("HOME").map(|home| home.join(".cache")))
        .ok_or("neither XDG_CACHE_HOME nor HOME says where a cache may be")?;
    let above = cache.join("stratavore/rabbitmq");
    let directory = above.join(release);
    if directory.is_dir() {
        return Ok(directory);
    }
    if cfg!(not(target_arch = "x86_64")) || !Path::new(KEYRING).exists() {
        return Err(format!("{release} can be had on Debian, on x86_64, and nowhere else"));
    }
    let trouble = |error: std::io::Error| format!("{}: {error}", above.display());
    fs::create_dir_all(&above).map_err(trouble)?;
    let lock = fs::File::create(above.join("lock")).map_err(trouble)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| trouble(error.into()))?;
    if directory.is_dir() {
        return Ok(directory);
    }
    let work = tempfile::tempdir_in(&above).map_err(trouble)?;
    let packages = downloaded(work.path(), release)?;
    let root = work.path().join("root");
    let link = |from: &str, to: &str| match root.join(from).exists() {
        true => Ok(()),
        false => std::os::unix::fs::symlink(to, root.join(from)).map_err(trouble),
    };
    for directory in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(directory)).map_err(trouble)?;
        link(directory, &format!("usr/{directory}"))?;
    }
    for package in packages {
        said(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&root))?;
    }
    // What a package does when it is installed, as far as it is needed here.
    link("usr/bin/awk", "mawk")?;
    link("usr/bin/sh", "dash")?;
    let etc = root.join("etc");
    fs::create_dir_all(&etc).map_err(trouble)?;
    fs::write(etc.join("hosts"), "127.0.0.1 localhost\n").map_err(trouble)?;
    fs::write(etc.join("passwd"), "root:x:0:0::/:/bin/sh\n").map_err(trouble)?;
    fs::rename(root, &directory).map_err(trouble)?;
    Ok(directory)
}

/// The files of all packages, which apt-get finds and checks as for a machine that has none.
fn downloaded(work: &Path, release: &str) -> Result<Vec<PathBuf>, String> {
    let trouble = |error: std::io::Error| format!("{}: {error}", work.display());
    for directory in ["lists/partial", "cache/archives/partial", "root"] {
        fs::create_dir_all(work.join(directory)).map_err(trouble)?;
    }
    fs::write(work.join("status"), "").map_err(trouble)?;
    let source = format!("deb [signed-by={KEYRING}] {MIRROR} {release} main\n");
    fs::write(work.join("sources.list"), source).map_err(trouble)?;
    let at = |name: &str| work.join(name).display().to_string();
    let options = [
        format!("Dir::State::Lists={}", at("lists")),
        format!("Dir::State::Status={}", at("status")),
        format!("Dir::Cache={}", at("cache")),
        format!("Dir::Etc::SourceList={}", at("sources.list")),
        format!("Dir::Log={}", at("")),
        "Dir::Etc::SourceParts=/dev/null".into(),
        "APT::Install-Recommends=0".into(),
        "Acquire::Languages=none".into(),
        // The cache is ours alone.
        "APT::Sandbox::User=root".into(),
    ];
    let apt = |words: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(options.iter().flat_map(|option| ["-o", option])).args(words);
        apt
    };
    said(&mut apt(&["-q", "update"]))?;
    said(apt(&["-q", "-y", "--download-only", "install"]).args(PACKAGES))?;
    let files = fs::read_dir(work.join("cache/archives")).map_err(trouble)?;
    let files = files.filter_map(|file| Some(file.ok()?.path()));
    Ok(files.filter(|file| file.extension().is_some_and(|ending| ending == "deb")).collect())
}

fn said(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("cannot run {program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
