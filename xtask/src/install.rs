//! `cargo xtask install` and `uninstall`: the release build below a prefix, and away again.
//!
//! Invariant: what install writes is in its list, and uninstall removes what the list has and
//! nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::step;
use crate::workspace::{FEATURES, Workspace, cargo};

/// The programs that users get, the command line first: it prints the rest of what is installed.
pub(crate) const PROGRAMS: [&str; 3] = ["stratavore", "stratavored", "stratavore-agent"];

/// Below the prefix: the files that were installed, one path relative to the prefix a line.
const LIST: &str = "share/stratavore/installed-files";

const UNIT: &str = "share/systemd/user/stratavored.service";

/// The command line's completions, by shell, where each shell looks for them.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/stratavore"),
    ("zsh", "share/zsh/site-functions/_stratavore"),
    ("fish", "share/fish/vendor_completions.d/stratavore.fish"),
];

const MAN: &str = "share/man/man1";

struct Options {
    prefix: PathBuf,
    dry_run: bool,
}

pub(crate) fn install(arguments: &[String]) -> anyhow::Result<()> {
    let Options { prefix, dry_run } = options(arguments)?;
    if dry_run {
        println!("would build for release and write below {}:", prefix.display());
        for program in PROGRAMS {
            println!("  bin/{program}");
        }
        for (_, path) in COMPLETIONS {
            println!("  {path}");
        }
        println!("  {MAN}/*.1\n  {UNIT}\n  {LIST}");
        return Ok(());
    }

    let mut build = cargo();
    build.args(["build", "--release", "--bins", "--features", FEATURES]);
    for program in PROGRAMS {
        build.args(["--package", program]);
    }
    step::run("build", &mut build)?;
    let workspace = Workspace::read()?;
    let built = workspace.target.join("release");

    let mut placed = Placed { prefix: &prefix, paths: Vec::new() };
    for program in PROGRAMS {
        let bytes = read(&built.join(program))?;
        placed.write(&format!("bin/{program}"), &bytes, 0o755)?;
    }
    let stratavore = built.join(PROGRAMS[0]);
    for (shell, path) in COMPLETIONS {
        let output = Command::new(&stratavore)
            .args(["completions", shell])
            .output()
            .with_context(|| format!("cannot run {}", stratavore.display()))?;
        ensure!(
            output.status.success(),
            "stratavore completions {shell} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        placed.write(path, &output.stdout, 0o644)?;
    }
    let pages = built.join("man");
    if pages.exists() {
        // A page of a command that is no more would be installed again.
        fs::remove_dir_all(&pages).with_context(|| format!("cannot empty {}", pages.display()))?;
    }
    fs::create_dir_all(&pages).with_context(|| format!("cannot make {}", pages.display()))?;
    step::run("man pages", Command::new(&stratavore).args(["man", "--output"]).arg(&pages))?;
    let pages = files(&pages)?;
    println!("writing {} manual pages to {}", pages.len(), prefix.join(MAN).display());
    for page in pages {
        let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
        placed.write(&format!("{MAN}/{name}"), &read(&page)?, 0o644)?;
    }
    let unit = read(&workspace.root.join("deploy/systemd/user/stratavored.service"))?;
    placed.write(UNIT, unit_for(&String::from_utf8_lossy(&unit), &prefix).as_bytes(), 0o644)?;
    let count = placed.paths.len();
    placed.finish()?;

    println!("installed {count} files below {}", prefix.display());
    let bin = prefix.join("bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|directory| directory == bin) {
        println!("{} is not on the PATH yet: export PATH=\"{0}:$PATH\"", bin.display());
    }
    println!(
        "zsh finds its completion if fpath has {}",
        prefix.join("share/zsh/site-functions").display()
    );
    println!(
        "a daemon that starts when you log in: systemctl --user enable --now {}",
        prefix.join(UNIT).display()
    );
    Ok(())
}

pub(crate) fn uninstall(arguments: &[String]) -> anyhow::Result<()> {
    let Options { prefix, dry_run } = options(arguments)?;
    let listed = listed(&prefix)?;
    ensure!(!listed.is_empty(), "nothing is installed below {}", prefix.display());
    for path in &listed {
        let path = prefix.join(path);
        if dry_run {
            println!("would remove {}", path.display());
            continue;
        }
        match fs::remove_file(&path) {
            Ok(()) => println!("removed {}", path.display()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
        }
    }
    if !dry_run {
        let list = prefix.join(LIST);
        fs::remove_file(&list).with_context(|| format!("cannot remove {}", list.display()))?;
        // Ours alone, and empty now; the other directories may be shared.
        drop(list.parent().map(fs::remove_dir));
    }
    println!("configuration and state are left as they are");
    Ok(())
}

fn options(arguments: &[String]) -> anyhow::Result<Options> {
    let (mut prefix, mut dry_run) = (None, false);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--dry-run" => dry_run = true,
            "--prefix" => prefix = arguments.next().map(PathBuf::from),
            other => match other.strip_prefix("--prefix=") {
                Some(value) => prefix = Some(PathBuf::from(value)),
                None => bail!("`{other}` is not understood here; it takes --prefix DIR, --dry-run"),
            },
        }
    }
    let prefix = match prefix {
        Some(prefix) => prefix,
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set; give --prefix")?)
            .join(".local"),
    };
    ensure!(prefix.is_absolute(), "the prefix {} is not an absolute path", prefix.display());
    Ok(Options { prefix, dry_run })
}

/// The user unit as it must read for this prefix.
fn unit_for(unit: &str, prefix: &Path) -> String {
    let start = format!("ExecStart={}/bin/stratavored", prefix.display());
    let lines =
        unit.lines().map(|line| if line.starts_with("ExecStart=") { start.as_str() } else { line });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// What an installation has written so far.
struct Placed<'a> {
    prefix: &'a Path,
    paths: Vec<String>,
}

impl Placed<'_> {
    /// Puts a file in place in one step, so that a program which is running can be replaced.
    fn write(&mut self, relative: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.prefix.join(relative);
        let new = path.with_extension("stratavore-new");
        let place = || -> std::io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(self.prefix))?;
            fs::write(&new, bytes)?;
            fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
            fs::rename(&new, &path)
        };
        place().with_context(|| format!("cannot write {}", path.display()))?;
        if !relative.starts_with(MAN) {
            println!("wrote {}", path.display());
        }
        self.paths.push(relative.to_owned());
        Ok(())
    }

    /// Writes the list, and removes what an earlier version had installed and this one has not.
    fn finish(mut self) -> anyhow::Result<()> {
        for old in listed(self.prefix)? {
            if !self.paths.contains(&old) {
                let path = self.prefix.join(&old);
                // A file that cannot be removed, or is gone already, is of the past either way.
                drop(fs::remove_file(path));
            }
        }
        let text = self.paths.join("\n") + "\n";
        self.write(LIST, text.as_bytes(), 0o644)
    }
}

/// The list of an earlier installation; empty if there was none.
fn listed(prefix: &Path) -> anyhow::Result<Vec<String>> {
    let list = prefix.join(LIST);
    match fs::read_to_string(&list) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", list.display())),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?
    {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uninstall_removes_what_install_wrote_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let prefix = home.path().join("prefix");
        let arguments = ["--prefix".to_owned(), prefix.display().to_string()];
        assert!(uninstall(&arguments).is_err(), "nothing is installed yet");

        let install = |paths: &[&str]| {
            let mut placed = Placed { prefix: &prefix, paths: Vec::new() };
            for path in paths {
                placed.write(path, b"x", 0o755).unwrap();
            }
            placed.finish().unwrap();
        };
        install(&["bin/a", "share/old"]);
        install(&["bin/a", "share/new"]);
        let theirs = prefix.join("bin/theirs");
        fs::write(&theirs, "y").unwrap();
        assert!(!prefix.join("share/old").exists(), "a new version takes away the old one's files");
        assert!(prefix.join("share/new").exists());

        uninstall(&[&arguments[..], &["--dry-run".to_owned()]].concat()).unwrap();
        assert!(prefix.join("bin/a").exists());
        uninstall(&arguments).unwrap();
        assert!(!prefix.join("bin/a").exists());
        assert!(!prefix.join(LIST).exists());
        assert!(theirs.exists());
    }

    #[test]
    fn the_unit_starts_the_installed_daemon_and_is_otherwise_the_same() {
        let root = Workspace::read().unwrap().root;
        let unit =
            fs::read_to_string(root.join("deploy/systemd/user/stratavored.service")).unwrap();
        let written = unit_for(&unit, Path::new("/opt/s"));
        let changed: Vec<_> =
            unit.lines().zip(written.lines()).filter(|(old, new)| old != new).collect();
        assert_eq!(
            changed,
            [("ExecStart=/usr/local/bin/stratavored", "ExecStart=/opt/s/bin/stratavored")]
        );
    }

    /// Row 16 of the fault catalogue: what ends or restarts the daemon ends no runner, whose agents are
    /// processes of its unit where they have no scope of their own.
    #[test]
    fn the_units_end_the_daemon_alone() {
        let root = Workspace::read().unwrap().root;
        for which in ["user", "system"] {
            let path = root.join(format!("deploy/systemd/{which}/stratavored.service"));
            let unit = fs::read_to_string(path).unwrap();
            let set = |key: &str| {
                let values = unit.lines().filter_map(|line| line.strip_prefix(key));
                values.collect::<Vec<_>>()
            };
            assert_eq!(set("KillMode="), ["process"], "{which}");
            // Either would end the agents with the daemon after all.
            assert_eq!(set("ExecStop="), Vec::<&str>::new(), "{which}");
            assert!(!set("SendSIGHUP=").contains(&"yes"), "{which}");
            assert!(!set("OOMPolicy=").contains(&"kill"), "{which}");
        }
    }

    #[test]
    fn a_relative_prefix_and_an_unknown_option_are_refused() {
        assert!(options(&["--prefix=here".to_owned()]).is_err());
        assert!(options(&["--prefx".to_owned()]).is_err());
        let given = options(&["--prefix=/x".to_owned(), "--dry-run".to_owned()]).unwrap();
        assert_eq!((given.prefix, given.dry_run), (PathBuf::from("/x"), true));
    }
}
