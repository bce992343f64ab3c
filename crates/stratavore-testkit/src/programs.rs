//! The real assistants, as their makers publish them, for tests that must not believe a fake.
//!
//! They come from the npm registry into a cache that all checkouts share. [`prepare`] puts them
//! there; tests only look, and one that does not find its program fails.
//!
//! Invariant: the directory of a set of versions exists only once all of them have said their version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

/// The oldest Node.js that they run on.
const NODE: u32 = 20;

/// An assistant that tests run for real.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    Claude,
    Codex,
    Opencode,
    Gemini,
}

impl Program {
    pub const ALL: [Program; 4] =
        [Program::Claude, Program::Codex, Program::Opencode, Program::Gemini];

    /// As Stratavore and users call it.
    pub fn name(self) -> &'static str {
        match self {
            Program::Claude => "claude",
            Program::Codex => "codex",
            Program::Opencode => "opencode",
            Program::Gemini => "gemini",
        }
    }

    pub fn version(self) -> &'static str {
        match self {
            Program::Claude => "2.1.197",
            Program::Codex => "0.169.0",
            Program::Opencode => "1.18.33",
            Program::Gemini => "0.61.0",
        }
    }

    /// What npm is asked for: the build for this machine itself, where there is one, without the
    /// package around it that only picks one.
    fn package(self) -> String {
        let version = self.version();
        let machine = machine();
        match self {
            Program::Claude => format!("@anthropic-ai/claude-code-linux-{machine}@{version}"),
            Program::Codex => format!("@openai/codex@{version}-linux-{machine}"),
            Program::Opencode => format!("opencode-linux-{}@{version}", opencode()),
            Program::Gemini => format!("@google/gemini-cli@{version}"),
        }
    }

    /// Its file below the directory that npm installs into.
    fn file(self) -> PathBuf {
        let below = match self {
            Program::Claude => format!("@anthropic-ai/claude-code-linux-{}/claude", machine()),
            Program::Codex => {
                format!(
                    "@openai/codex/vendor/{}-unknown-linux-musl/bin/codex",
                    std::env::consts::ARCH
                )
            }
            Program::Opencode => format!("opencode-linux-{}/bin/opencode", opencode()),
            Program::Gemini => "@google/gemini-cli/bundle/gemini.js".into(),
        };
        Path::new("node_modules").join(below)
    }

    /// Its executable file.
    ///
    /// # Panics
    /// If it is not installed; with the command that installs it.
    #[track_caller]
    pub fn path(self) -> PathBuf {
        let path = directory().expect("a cache directory").join(self.file());
        assert!(
            path.is_file(),
            "{} {} is not at {}; `cargo xtask test` installs it",
            self.name(),
            self.version(),
            path.display()
        );
        path
    }
}

/// This machine as npm calls it.
fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The same for opencode: of its two builds the one that wants no newer processor.
fn opencode() -> &'static str {
    match machine() {
        "x64" => "x64-baseline",
        other => other,
    }
}

/// Where these versions stand, or will.
fn directory() -> Result<PathBuf, String> {
    let own = |variable: &str| {
        std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
    };
    let cache = own("XDG_CACHE_HOME")
        .or_else(|| own("HOME").map(|home| home.join(".cache")))
        .ok_or("neither XDG_CACHE_HOME nor HOME says where a cache may be")?;
    let versions = Program::ALL.map(|program| format!("{}-{}", program.name(), program.version()));
    Ok(cache.join("stratavore/assistants").join(versions.join("_")))
}

/// Installs them unless they are there. Neither the user's npm configuration nor anything else
/// outside the cache is changed, and none of the packages' own scripts runs.
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
    node_is_new_enough()?;
    let own = tempfile::Builder::new().prefix("new-").tempdir_in(above).map_err(trouble)?;
    fs::write(own.path().join("package.json"), r#"{"private": true}"#).map_err(trouble)?;
    let packages = Program::ALL.map(Program::package);
    tell(&packages);
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-fund", "--no-audit", "--ignore-scripts", "--no-package-lock"])
        .args(["--no-update-notifier", "--loglevel=error", "--save-exact"])
        .args(&packages)
        .current_dir(own.path());
    said(&mut npm)?;
    for program in Program::ALL {
        let mut command = command(program, &own.path().join(program.file()));
        let home = own.path().join("home");
        fs::create_dir_all(&home).map_err(trouble)?;
        let version = said(command.arg("--version").env("HOME", &home))?;
        if !version.contains(program.version()) {
            return Err(format!(
                "{} says that it is {version:?}, not {}",
                program.name(),
                program.version()
            ));
        }
    }
    fs::remove_dir_all(own.path().join("home")).map_err(trouble)?;
    // Not kept before the rename: what could not be moved goes away.
    fs::rename(own.path(), &directory).map_err(trouble)
}

#[expect(
    clippy::print_stderr,
    reason = "it takes a while, and whoever waits wants to know for what"
)]
fn tell(packages: &[String]) {
    eprintln!("installing the assistants that tests run: {}", packages.join(", "));
}

/// A command that runs the program in this file.
pub(crate) fn command(program: Program, file: &Path) -> Command {
    match program {
        Program::Claude | Program::Codex | Program::Opencode => Command::new(file),
        Program::Gemini => {
            let mut node = Command::new("node");
            node.arg(file);
            node
        }
    }
}

fn node_is_new_enough() -> Result<(), String> {
    let found = said(Command::new("node").arg("--version"))?;
    let major = found.trim().trim_start_matches('v').split('.').next();
    match major.and_then(|major| major.parse::<u32>().ok()) {
        Some(major) if major >= NODE => Ok(()),
        _ => Err(format!(
            "the assistants that tests run want Node.js {NODE} or newer; `node` is {found:?}. \
             Put a newer one first on the PATH, then run this again"
        )),
    }
}

/// What a command that succeeds says.
fn said(command: &mut Command) -> Result<String, String> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {shown}: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "{command:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
