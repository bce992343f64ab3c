//! The real agent program against a small daemon that speaks its frames.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may end where something is not as it must be"
)]

mod attach;
mod daemon;
mod life;
mod limits;
mod output;
mod shapes;
mod upgrade;
mod viewer;
mod wait;
