//! The real agent program against a small daemon that speaks its frames.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may end where something is not as it must be"
)]

mod attach;
mod bytes;
mod daemon;
mod disk;
mod inside;
mod life;
mod limits;
mod observe;
mod output;
mod part;
mod scarce;
mod shapes;
mod slow;
mod sockets;
mod still;
mod upgrade;
mod viewer;
mod wait;
mod words;
