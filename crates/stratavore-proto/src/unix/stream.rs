//! A connection that wakes its holder when there is something to read, and for little else.
//!
//! The kernel tells whoever listens for room to write each time that the other side has read
//! something. The runtime's own streams always listen for it, so each frame that is sent comes back
//! as one more wake-up, on its way to nowhere, while the answer is being made on the same cores. This
//! one listens for room only while a write waits for it.
//!
//! Invariant: a write that finds no room is woken as soon as there is some.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::{Receiver, Sender};

/// A connected Unix socket.
#[derive(Debug)]
pub struct Stream {
    /// The socket, listened to for what can be read. The runtime's name for the half of a
    /// descriptor that is listened to so is that of a pipe's.
    reading: Receiver,
    /// The same socket once more, listened to for room, while that is short.
    room: Option<Sender>,
    /// The last write had to wait.
    waited: bool,
}

impl Stream {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        let socket = stream.into_std()?;
        Ok(Self {
            reading: Receiver::from_owned_fd_unchecked(socket.into())?,
            room: None,
            waited: false,
        })
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        send: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let Some(room) = &self.room else {
                match send(self.reading.as_fd()) {
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => {
                        let socket = self.reading.as_fd().try_clone_to_owned()?;
                        self.room = Some(Sender::from_owned_fd_unchecked(socket)?);
                    }
                    sent => return Poll::Ready(Ok(sent?)),
                }
                continue;
            };
            // Tries only if there may be room, and forgets that there may if there is none.
            match room.try_io(|| Ok(send(room.as_fd())?)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.waited = true;
                    ready!(room.poll_write_ready(cx))?;
                }
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reading.as_fd()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reading).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |socket| rustix::net::send(socket, bytes, SendFlags::NOSIGNAL))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |socket| {
            let mut nothing = rustix::net::SendAncillaryBuffer::default();
            rustix::net::sendmsg(socket, parts, &mut nothing, SendFlags::NOSIGNAL)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// All that was written has left. Whoever did not have to wait for room in all of it is not
    /// likely to next time.
    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::take(&mut self.waited) {
            self.room = None;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(self.reading.as_fd(), Shutdown::Write) {
            // The other side is gone already.
            Ok(()) | Err(Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use stratavore_testkit::world;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> (Stream, Stream) {
        let (one, other) = UnixStream::pair().unwrap();
        (Stream::new(one).unwrap(), Stream::new(other).unwrap())
    }

    #[tokio::test]
    async fn more_than_there_is_room_for_arrives_whole_both_ways() {
        let (mut one, mut other) = pair();
        let text: Vec<u8> = (0..4 << 20).map(|n: u32| (n % 251) as u8).collect();
        // Both ways, so that each direction is written to while it is full.
        for turn in 0..3 {
            let (mut come, mut here) = (vec![0; text.len()], vec![0; 10]);
            let sent = async {
                one.write_all(&text).await.unwrap();
                one.flush().await.unwrap();
                assert!(one.room.is_some(), "it had to wait, and may have to again");
                one.read_exact(&mut here).await.unwrap();
            };
            let received = async {
                other.read_exact(&mut come).await.unwrap();
                other.write_all(b"0123456789").await.unwrap();
            };
            tokio::join!(sent, received);
            assert!(come == text && here == b"0123456789", "in turn {turn}");
        }
        one.write_all(b"a key").await.unwrap();
        one.flush().await.unwrap();
        assert!(one.room.is_none(), "who does not wait listens for no room");
        drop(other);
        let mut left = Vec::new();
        assert_eq!(one.read_to_end(&mut left).await.unwrap_or(0), 0);
        assert!(one.write_all(b"a key").await.is_err(), "nobody is there");
    }

    /// How often a thread that sends a byte and waits for its answer, so many times, goes to sleep
    /// for it. `reads_wake`: the other side waits to see that its reading wakes the thread.
    fn sleeps<S: AsyncRead + AsyncWrite + Unpin>(
        rounds: u64,
        reads_wake: bool,
        made: impl FnOnce(UnixStream) -> S + Send,
    ) -> u64 {
        let (one, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let metrics = runtime.handle().metrics();
        let asking = move || {
            runtime.block_on(async {
                let mut stream = made(UnixStream::from_std(one).unwrap());
                for _ in 0..rounds {
                    stream.write_all(b"?").await.unwrap();
                    stream.read_exact(&mut [0]).await.unwrap();
                }
            });
            runtime.metrics().worker_park_count(0)
        };
        std::thread::scope(|scope| {
            let asking = scope.spawn(asking);
            let asleep = |since: u64| {
                world::until("the thread sleeps", || {
                    // An odd count is that of a thread that sleeps.
                    let count = metrics.worker_park_unpark_count(0);
                    if count % 2 == 1 && count > since { Ok(count) } else { Err(count) }
                })
            };
            let mut slept = 0;
            for _ in 0..rounds {
                slept = asleep(slept);
                std::io::Read::read_exact(&mut other, &mut [0]).unwrap();
                if reads_wake {
                    slept = asleep(slept);
                }
                std::io::Write::write_all(&mut other, b"!").unwrap();
            }
            asking.join().unwrap()
        })
    }

    #[test]
    fn reading_on_the_other_side_wakes_nobody() {
        const ROUNDS: u64 = 20;
        let ours = sleeps(ROUNDS, false, |stream| Stream::new(stream).unwrap());
        assert!(ours < ROUNDS * 3 / 2, "{ours} sleeps for {ROUNDS} answers");
        // The runtime's own stream shows that this would be seen.
        let plain = sleeps(ROUNDS, true, |stream| stream);
        assert!(plain >= 2 * ROUNDS, "{plain} sleeps for {ROUNDS} answers");
    }
}
