//! Unix sockets whose path may be longer than an address holds.
//!
//! The directory is opened first and the socket named through it, so that a deep home directory
//! (addresses hold 107 bytes) is no limit.

mod stream;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use tokio::net::{UnixListener, UnixStream};

pub use stream::Stream;

fn through_directory<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a socket's path needs a directory and a name",
        ));
    };
    let directory =
        open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    act(&short)
}

/// Connects to the socket at `path`, if it is our own user who listens there. Nothing has been said
/// to anybody else.
pub fn connect(path: &Path) -> io::Result<Stream> {
    let stream = through_directory(path, |short| std::os::unix::net::UnixStream::connect(short))?;
    stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(stream)?;
    let (listener, me) = (stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
    if listener != me {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("it is user {listener} who listens there, and not you (user {me})"),
        ));
    }
    Stream::new(stream)
}

/// The process that listens at `path`, by the kernel's word. It sees a connection that says nothing.
///
/// Does not wait: of a listener that takes nobody in any more, nothing is learned.
pub fn listener(path: &Path) -> Option<u32> {
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    through_directory(path, |short| Ok(connect(&socket, &SocketAddrUnix::new(short)?)?)).ok()?;
    peer_pid(&socket)
}

/// The process at the other end as it was when the connection was made, by the kernel's word.
pub fn peer_pid(socket: &impl AsFd) -> Option<u32> {
    let credentials = rustix::net::sockopt::socket_peercred(socket).ok()?;
    u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()
}

/// Listens at `path`, for its owner only, in place of a socket that nobody listens on any more.
///
/// The caller holds a lock that keeps others from listening there.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = through_directory(path, |short| std::os::unix::net::UnixListener::bind(short))?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}
