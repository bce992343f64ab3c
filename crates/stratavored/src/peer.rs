//! Who is at the other end of a Unix socket.

use std::fs::File;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use stratavore_core::caller::{Auth, Caller, Door, Origin, Principal};
use stratavore_proto::unix;
use stratavore_runtime::Place;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::crowd::{Crowd, Entry};

/// The bytes that every connection to the API begins with: the preface of HTTP/2.
const PREFACE: usize = 24;
/// How long those may take.
const GREETING: Duration = Duration::from_secs(5);

/// A connection whose other end the kernel has vouched for.
pub(crate) struct Peer {
    stream: unix::Stream,
    visitor: Visitor,
    /// How many bytes have come, while they are counted, and until when they are waited for.
    greeting: Option<(usize, Pin<Box<Sleep>>)>,
    _entry: Entry,
}

/// What is known of whoever sends the requests of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    pub(crate) caller: Caller,
    /// The limit of connections that this one is over.
    pub(crate) over: Option<usize>,
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
    /// another process may have the connection, of which nothing is known; or there are too many.
    pub(crate) fn new(
        stream: unix::Stream,
        cred: &tokio::net::unix::UCred,
        user: &str,
        runners: &Path,
        crowd: &Arc<Crowd>,
    ) -> Option<Self> {
        let pid = cred.pid().and_then(|pid| u32::try_from(pid).ok());
        let place = match pid {
            Some(pid) => Place::of(pid, runners),
            None => Place::Unknown,
        };
        let principal = match place {
            Place::Inside(runner) => Principal::Inside(runner),
            Place::Outside => Principal::User { uid: cred.uid(), name: user.into() },
            Place::Unknown => {
                tracing::warn!("closed a connection whose maker is gone");
                return None;
            }
        };
        let entry = crowd.enter(&principal)?;
        let origin = Origin {
            door: Door::Unix,
            auth: Some(Auth::Peer),
            uid: Some(cred.uid()),
            pid,
            ..Origin::default()
        };
        let visitor = Visitor { caller: Caller { principal, origin }, over: entry.over() };
        let greeting = Some((0, Box::pin(tokio::time::sleep(GREETING))));
        Some(Self { stream, visitor, greeting, _entry: entry })
    }
}

pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The name of our user, for records.
pub(crate) fn own_name() -> String {
    stratavore_runtime::user_name(own_uid())
}

impl Connected for Peer {
    type ConnectInfo = Visitor;

    fn connect_info(&self) -> Visitor {
        self.visitor.clone()
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some((come, until)) = &mut self.greeting {
            *come += buf.filled().len() - before;
            if *come >= PREFACE {
                self.greeting = None;
            } else if until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
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
