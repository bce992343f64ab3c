//! Directories and files that are nobody else's.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use secrecy::SecretString;

/// Why a directory or file cannot be trusted to be ours alone.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    #[error("cannot make the directory {}", .path.display())]
    Create {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("cannot open {}", .path.display())]
    Open {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{} is a symbolic link or not a directory: remove it, or set STRATAVORE_HOME to another place", .path.display())]
    NotADirectory { path: PathBuf },
    #[error("{} belongs to user {owner}, and not to you (user {me}): run `chown {me} {}`, or set STRATAVORE_HOME to another place", .path.display(), .path.display())]
    Owner { path: PathBuf, owner: u32, me: u32 },
    #[error("others can reach {} (mode {mode:03o}): run `chmod {right:o} {}`", .path.display(), .path.display())]
    Exposed { path: PathBuf, mode: u32, right: u32 },
    #[error("{} holds no secret: {reason}", .path.display())]
    NoSecret { path: PathBuf, reason: &'static str },
}

/// The longest secret, in bytes.
const SECRET_MAX: u64 = 4096;

/// Makes a directory that only we can enter, with those above it, or checks that it is one.
pub fn ensure_private_dir(path: &Path) -> Result<(), PrivateError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    if let Err(cause) = created {
        // A link to nowhere cannot be created, and is still a link.
        if path.symlink_metadata().is_ok() {
            return Err(PrivateError::NotADirectory { path: path.into() });
        }
        return Err(PrivateError::Create { path: path.into(), cause });
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let directory = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
            return Err(PrivateError::NotADirectory { path: path.into() });
        }
        Err(errno) => return Err(PrivateError::Open { path: path.into(), cause: errno.into() }),
    };
    let found =
        directory.metadata().map_err(|cause| PrivateError::Open { path: path.into(), cause })?;
    check(path, &found, 0o077, 0o700)
}

/// Reads a secret from a file that holds nothing else but, perhaps, a line end.
///
/// The file must be ours and closed to others; one of root's may be readable by a group, which is
/// how service managers hand secrets over.
pub fn read_secret(path: &Path) -> Result<SecretString, PrivateError> {
    let text = read(path)?;
    let none = |reason| PrivateError::NoSecret { path: path.into(), reason };
    match text.strip_suffix('\n').unwrap_or(&text).trim_end_matches('\r') {
        "" => Err(none("it is empty")),
        secret if secret.contains(['\n', '\0']) => Err(none("it has more than one line")),
        secret => Ok(SecretString::from(secret)),
    }
}

/// The same of a key, which has several lines.
pub fn read_key(path: &Path) -> Result<SecretString, PrivateError> {
    match read(path)? {
        key if key.trim().is_empty() => {
            Err(PrivateError::NoSecret { path: path.into(), reason: "it is empty" })
        }
        key => Ok(SecretString::from(key)),
    }
}

fn read(path: &Path) -> Result<String, PrivateError> {
    let failed = |cause| PrivateError::Open { path: path.into(), cause };
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::RDONLY;
    let file = File::from(
        rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?,
    );
    let found = file.metadata().map_err(failed)?;
    let none = |reason| PrivateError::NoSecret { path: path.into(), reason };
    if !found.is_file() {
        return Err(none("it is not a regular file"));
    }
    if found.uid() == 0 && rustix::process::geteuid().as_raw() != 0 {
        exposed(path, &found, 0o037, 0o640)?;
    } else {
        check(path, &found, 0o077, 0o600)?;
    }
    let mut text = String::new();
    file.take(SECRET_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > SECRET_MAX {
        return Err(none("it is longer than 4096 bytes"));
    }
    Ok(text)
}

fn check(
    path: &Path,
    found: &std::fs::Metadata,
    forbidden: u32,
    right: u32,
) -> Result<(), PrivateError> {
    let (owner, me) = (found.uid(), rustix::process::geteuid().as_raw());
    if owner != me {
        return Err(PrivateError::Owner { path: path.into(), owner, me });
    }
    exposed(path, found, forbidden, right)
}

fn exposed(
    path: &Path,
    found: &std::fs::Metadata,
    forbidden: u32,
    right: u32,
) -> Result<(), PrivateError> {
    let mode = found.mode() & 0o777;
    if mode & forbidden != 0 {
        return Err(PrivateError::Exposed { path: path.into(), mode, right });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use secrecy::ExposeSecret;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_new_directory_is_ours_alone_and_an_old_one_is_checked() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/b");
        ensure_private_dir(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        ensure_private_dir(&path).unwrap();

        set_mode(&path, 0o750);
        let error = ensure_private_dir(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("run `chmod 700 {}`", path.display())), "{error}");
    }

    #[test]
    fn a_link_or_a_file_in_its_place_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let [link, dangling, file] =
            ["link", "dangling", "file"].map(|name| temp.path().join(name));
        symlink(temp.path(), &link).unwrap();
        symlink(temp.path().join("nowhere"), &dangling).unwrap();
        std::fs::write(&file, "").unwrap();
        for path in [link, dangling, file] {
            let error = ensure_private_dir(&path).unwrap_err();
            assert!(matches!(error, PrivateError::NotADirectory { .. }), "{error:?}");
        }
        assert!(!temp.path().join("nowhere").exists());
    }

    #[test]
    fn another_users_directory_is_refused() {
        // Root can give one away; anyone else finds one that is root's.
        let temp = tempfile::tempdir().unwrap();
        let theirs = if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(temp.path(), Some(12345), None).unwrap();
            temp.path()
        } else {
            Path::new("/usr")
        };
        assert!(matches!(ensure_private_dir(theirs), Err(PrivateError::Owner { .. })));
    }

    #[test]
    fn a_secret_is_read_from_a_private_file_only() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("password");
        std::fs::write(&path, "p@ss?word\n").unwrap();
        set_mode(&path, 0o600);
        assert_eq!(read_secret(&path).unwrap().expose_secret(), "p@ss?word");

        set_mode(&path, 0o644);
        assert!(matches!(
            read_secret(&path),
            Err(PrivateError::Exposed { mode: 0o644, right: 0o600, .. })
        ));
        set_mode(&path, 0o600);
        std::fs::write(&path, "two\nlines\n").unwrap();
        assert_eq!(read_key(&path).unwrap().expose_secret(), "two\nlines\n");
        for content in ["", "\n", "two\nlines\n"] {
            std::fs::write(&path, content).unwrap();
            assert!(
                matches!(read_secret(&path), Err(PrivateError::NoSecret { .. })),
                "{content:?}"
            );
        }
        assert!(matches!(read_secret(&temp.path().join("none")), Err(PrivateError::Open { .. })));
        assert!(matches!(read_secret(temp.path()), Err(PrivateError::NoSecret { .. })));
    }
}
