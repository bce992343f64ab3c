//! Where configuration, state and sockets live.
//!
//! With `STRATAVORE_HOME` everything is below that one directory, and the system's configuration
//! is not read: two homes know nothing of each other.

use std::path::{Path, PathBuf};

use crate::load::Environment;

/// Where things are. Nothing here is known to exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    config_files: Vec<PathBuf>,
    state: PathBuf,
    run: PathBuf,
}

/// Why no place can be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathsError {
    #[error(
        "neither HOME nor STRATAVORE_HOME is set, so there is no place for state: set STRATAVORE_HOME to a directory"
    )]
    NoHome,
    #[error("{variable} is `{}`, and must be an absolute path", .value.escape_debug())]
    Relative { variable: &'static str, value: String },
    #[error(
        "the socket {} has a path of {} bytes, and the system allows {SOCKET_MAX}: set STRATAVORE_HOME to a shorter one",
        .path.display(), .path.as_os_str().len()
    )]
    TooLong { path: PathBuf },
}

/// The longest path of a Unix socket, in bytes.
const SOCKET_MAX: usize = 107;

impl Paths {
    /// Tells the places from a process's variables.
    pub fn new(environment: &Environment) -> Result<Self, PathsError> {
        let paths = match set(environment, "STRATAVORE_HOME") {
            Some(home) => Self::of_home(&absolute("STRATAVORE_HOME", home)?),
            None => {
                let home = absolute("HOME", set(environment, "HOME").ok_or(PathsError::NoHome)?)?;
                // The specification of these directories: a relative one is ignored.
                let xdg =
                    |name| set(environment, name).map(Path::new).filter(|path| path.is_absolute());
                let config =
                    xdg("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), Path::to_path_buf);
                let state = xdg("XDG_STATE_HOME")
                    .map_or_else(|| home.join(".local/state"), Path::to_path_buf);
                let run = xdg("XDG_RUNTIME_DIR").map(|dir| dir.join("stratavore"));
                Self {
                    config_files: vec![
                        "/etc/stratavore/stratavore.yaml".into(),
                        config.join("stratavore/stratavore.yaml"),
                    ],
                    state: state.join("stratavore"),
                    run: run.unwrap_or_else(|| home.join(".stratavore/run")),
                }
            }
        };
        for path in [paths.daemon_socket(), paths.agents_socket()] {
            if path.as_os_str().len() > SOCKET_MAX {
                return Err(PathsError::TooLong { path });
            }
        }
        Ok(paths)
    }

    /// Everything below one directory, as with `STRATAVORE_HOME`.
    pub fn of_home(home: &Path) -> Self {
        Self {
            config_files: vec![home.join("stratavore.yaml")],
            state: home.join("state"),
            run: home.join("run"),
        }
    }

    /// Files that may hold configuration, weakest first.
    pub fn config_files(&self) -> Vec<PathBuf> {
        self.config_files.clone()
    }

    /// What must last: the database, the runners' directories.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// What may go when the user logs out.
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// Where the daemon answers clients.
    pub fn daemon_socket(&self) -> PathBuf {
        self.run.join("d.sock")
    }

    /// Where the daemon answers agents. Not in the run directory: agents outlive the login that
    /// the run directory belongs to.
    pub fn agents_socket(&self) -> PathBuf {
        self.state.join("agents.sock")
    }

    /// Held for as long as a daemon lives.
    pub fn daemon_lock(&self) -> PathBuf {
        self.state.join("daemon.lock")
    }

    /// The SQLite database, where the configuration names no other.
    pub fn database(&self) -> PathBuf {
        self.state.join("stratavore.db")
    }

    /// Holds what this host keeps of the record: keys and checkpoints.
    pub fn audit_dir(&self) -> PathBuf {
        self.state.join("audit")
    }

    /// Holds one directory for each runner.
    pub fn runners_dir(&self) -> PathBuf {
        self.state.join("runners")
    }

    /// What a daemon that was started in the background says.
    pub fn daemon_log(&self) -> PathBuf {
        self.state.join("daemon.log")
    }
}

fn set<'a>(environment: &'a Environment, name: &str) -> Option<&'a str> {
    environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

fn absolute(variable: &'static str, value: &str) -> Result<PathBuf, PathsError> {
    let path = PathBuf::from(value);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(PathsError::Relative { variable, value: value.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(variables: &[(&str, &str)]) -> Result<Paths, PathsError> {
        Paths::new(
            &variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        )
    }

    #[test]
    fn a_home_of_our_own_holds_everything() {
        let paths = paths(&[
            ("STRATAVORE_HOME", "/srv/s"),
            ("HOME", "/home/a"),
            ("XDG_RUNTIME_DIR", "/run/user/1"),
        ])
        .unwrap();
        assert_eq!(paths.config_files(), [Path::new("/srv/s/stratavore.yaml")]);
        assert_eq!(paths.daemon_socket(), Path::new("/srv/s/run/d.sock"));
        assert_eq!(paths.agents_socket(), Path::new("/srv/s/state/agents.sock"));
        assert_eq!(paths.database(), Path::new("/srv/s/state/stratavore.db"));
        assert_eq!(paths, Paths::of_home(Path::new("/srv/s")));
    }

    #[test]
    fn without_one_the_places_of_the_desktop_are_used() {
        let bare =
            paths(&[("HOME", "/home/a"), ("XDG_STATE_HOME", "relative"), ("XDG_RUNTIME_DIR", "")])
                .unwrap();
        assert_eq!(
            bare.config_files(),
            [
                Path::new("/etc/stratavore/stratavore.yaml"),
                Path::new("/home/a/.config/stratavore/stratavore.yaml")
            ]
        );
        assert_eq!(bare.state_dir(), Path::new("/home/a/.local/state/stratavore"));
        assert_eq!(bare.run_dir(), Path::new("/home/a/.stratavore/run"));

        let xdg = [
            ("HOME", "/h"),
            ("XDG_CONFIG_HOME", "/c"),
            ("XDG_STATE_HOME", "/s"),
            ("XDG_RUNTIME_DIR", "/r"),
        ];
        let xdg = paths(&xdg).unwrap();
        assert_eq!(xdg.config_files()[1], Path::new("/c/stratavore/stratavore.yaml"));
        assert_eq!(xdg.runners_dir(), Path::new("/s/stratavore/runners"));
        assert_eq!(xdg.daemon_socket(), Path::new("/r/stratavore/d.sock"));
    }

    #[test]
    fn what_cannot_be_a_place_is_refused() {
        assert_eq!(paths(&[]), Err(PathsError::NoHome));
        assert_eq!(paths(&[("HOME", "")]), Err(PathsError::NoHome));
        assert!(matches!(paths(&[("STRATAVORE_HOME", "demo")]), Err(PathsError::Relative { .. })));
        let long = format!("/{}", "x".repeat(100));
        assert!(matches!(paths(&[("STRATAVORE_HOME", &long)]), Err(PathsError::TooLong { .. })));
    }
}
