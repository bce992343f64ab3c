//! Who is at the other end of a Unix socket.

use std::fs::File;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use stratavore_core::caller::Caller;
use stratavore_proto::unix;
use stratavore_runtime::Place;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tonic::transport::server::Connected;

/// A connection whose other end the kernel has vouched for.
pub(crate) struct Peer {
    stream: unix::Stream,
    caller: Caller,
}

impl Peer {
    /// The next connection of our own user; others are closed and logged.
    ///
    /// Never fails: without file descriptors for a moment, it waits for better times.
    pub(crate) async fn accept(listener: &UnixListener) -> (unix::Stream, tokio::net::unix::UCred) {
        loop {
            // Who is there is read from files: without one to spare nobody is let in.
            let accepted = match File::open("/dev/null") {
                Ok(_spare) => listener.accept().await,
                Err(error) => Err(error),
            };
            match accepted {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(cred) if cred.uid() == own_uid() => match unix::Stream::new(stream) {
                        Ok(stream) => return (stream, cred),
                        Err(error) => tracing::warn!(%error, "could not listen to a connection"),
                    },
                    Ok(cred) => {
                        tracing::warn!(uid = cred.uid(), "refused a connection of another user")
                    }
                    Err(error) => tracing::warn!(%error, "could not learn who connected"),
                },
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection; waiting");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// `runners` is the directory of this daemon's runners. `None`: whoever connected is gone, and
    /// another process may have the connection, of which nothing is known.
    pub(crate) fn new(
        stream: unix::Stream,
        cred: &tokio::net::unix::UCred,
        user: &str,
        runners: &Path,
    ) -> Option<Self> {
        let place = match cred.pid().and_then(|pid| u32::try_from(pid).ok()) {
            Some(pid) => Place::of(pid, runners),
            None => Place::Unknown,
        };
        let caller = match place {
            Place::Inside(runner) => Caller::Inside(runner),
            Place::Outside => Caller::User { uid: cred.uid(), name: user.into() },
            Place::Unknown => {
                tracing::warn!("closed a connection whose maker is gone");
                return None;
            }
        };
        Some(Self { stream, caller })
    }
}

pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The name of our user, for records; the uid where the system knows no name.
pub(crate) fn own_name() -> String {
    let uid = own_uid().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("uid {uid}"))
}

impl Connected for Peer {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
