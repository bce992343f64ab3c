//! What the tests of every other crate use: real databases, a clock moved by hand, programs to run.
//!
//! Only tests and `xtask` depend on it; no binary that users get does.

pub mod assistant_home;
pub mod before;
pub mod clock;
pub mod fuzz;
pub mod hosts;
pub mod mail;
#[cfg(feature = "model")]
pub mod model;
pub mod netns;
pub mod pgvector;
pub mod postgres;
pub mod programs;
pub mod proxy;
pub mod rabbit;
pub mod reboot;
pub mod receiver;
#[cfg(feature = "model")]
pub mod running;
#[cfg(feature = "s3")]
pub mod s3;
pub mod strace;
pub mod terminal;
#[cfg(feature = "tls")]
pub mod tls;
pub mod trace;
pub mod trial;
#[cfg(feature = "wire")]
pub mod wire;
pub mod world;
