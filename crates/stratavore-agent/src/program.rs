//! Finding the program that a command names.
//!
//! Whoever admits a runner asks first, so that a slip is told at once; the agent asks again when it
//! starts the program, since the host may have changed in between.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// Where programs are looked for if there is no `PATH`.
const USUAL: &str = "/usr/local/bin:/usr/bin:/bin";

/// Why there is no program to start.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    #[error("`{0}` was not found in PATH")]
    NotInPath(String),
    #[error("the program {} does not exist", .0.display())]
    Absent(PathBuf),
    #[error("{} may not be executed", .0.display())]
    Forbidden(PathBuf),
}

impl ProgramError {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotInPath(_) | Self::Absent(_) => "install it, or give the program's full path",
            Self::Forbidden(_) => "chmod +x it, or choose another program",
        }
    }
}

/// Finds `name` as a shell does, but for relative entries of `path`, which would run what lies in
/// the project's directory. A name with a slash is answered as it is.
pub fn find(name: &str, path: Option<&str>) -> Result<PathBuf, ProgramError> {
    if name.contains('/') {
        return Ok(name.into());
    }
    let path = path.unwrap_or(USUAL);
    let mut forbidden = None;
    for directory in path.split(':').filter(|directory| directory.starts_with('/')) {
        let candidate = Path::new(directory).join(name);
        if !candidate.is_file() {
            continue;
        }
        if access(&candidate, Access::EXEC_OK).is_ok() {
            return Ok(candidate);
        }
        forbidden = Some(candidate);
    }
    Err(forbidden.map_or_else(|| ProgramError::NotInPath(name.into()), ProgramError::Forbidden))
}

/// Whether `name` can be started in `directory`, as far as can be told without doing it.
pub fn check(name: &str, path: Option<&str>, directory: &Path) -> Result<(), ProgramError> {
    if !name.contains('/') {
        return find(name, path).map(drop);
    }
    let program = directory.join(name);
    match program.metadata() {
        // A directory has the permission too, with another meaning.
        Ok(found) if found.is_file() && access(&program, Access::EXEC_OK).is_ok() => Ok(()),
        Ok(_) => Err(ProgramError::Forbidden(program)),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(ProgramError::Forbidden(program))
        }
        Err(_) => Err(ProgramError::Absent(program)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_does_but_never_in_the_working_directory() {
        assert_eq!(find("sh", Some("/nowhere:/bin")).unwrap(), Path::new("/bin/sh"));
        assert_eq!(find("./x", None).unwrap(), Path::new("./x"));
        let missing = find("no-such-program", Some("/bin:.:")).unwrap_err();
        assert_eq!(missing, ProgramError::NotInPath("no-such-program".into()));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tool"), "").unwrap();
        // Root may not execute what nobody may.
        let found = find("tool", dir.path().to_str()).unwrap_err();
        assert_eq!(found, ProgramError::Forbidden(dir.path().join("tool")));
    }

    #[test]
    fn a_path_is_taken_from_the_working_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tool"), "").unwrap();
        let checked = |name| check(name, None, dir.path());
        assert_eq!(checked("./tool"), Err(ProgramError::Forbidden(dir.path().join("./tool"))));
        assert_eq!(checked("./none"), Err(ProgramError::Absent(dir.path().join("./none"))));
        assert_eq!(checked("/tmp"), Err(ProgramError::Forbidden("/tmp".into())));
        assert_eq!(checked("/bin/sh"), Ok(()));
        assert_eq!(check("sh", Some("/bin"), dir.path()), Ok(()));
    }
}
