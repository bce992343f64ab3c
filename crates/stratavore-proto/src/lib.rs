//! The wire: what agents, daemons and clients say to one another, and where they find each other.
//!
//! - [`v1`]: the messages, generated from `proto/`. The proto files are the contract.
//! - [`frame`]: how a message stands on an agent's stream.
//! - [`runner_dir`]: the files by which an agent and whoever looks after it know each other.
//! - [`unix`]: Unix sockets whose directory was checked and whose path may be long.
//! - [`client`]: the API's client (feature `grpc`).

pub mod convert;
pub mod frame;
pub mod runner_dir;
pub mod unix;
pub mod version;

#[cfg(feature = "grpc")]
pub mod client;

/// The generated messages and services.
#[cfg_attr(feature = "grpc", expect(clippy::allow_attributes, reason = "generated"))]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/stratavore.v1.rs"));
}

/// The versions of the agent protocol that this build speaks, oldest and newest.
const AGENT_PROTOCOL: (u32, u32) = (1, 1);

/// Makes a program of a debug build one that speaks other versions, as `1-2`: an earlier or a later
/// build, for the tests of what the two do with each other.
#[cfg(debug_assertions)]
const OTHER_PROTOCOL: &str = "STRATAVORE_TEST_PROTOCOL";

/// The versions of the agent protocol that this program speaks, oldest and newest.
pub fn agent_protocol() -> (u32, u32) {
    #[cfg(debug_assertions)]
    if let Ok(other) = std::env::var(OTHER_PROTOCOL)
        && let Some((oldest, newest)) = other.split_once('-')
        && let (Ok(oldest), Ok(newest)) = (oldest.parse(), newest.parse())
    {
        return (oldest, newest);
    }
    AGENT_PROTOCOL
}

/// The newest version that both sides speak, if there is one.
pub fn common_version(min: u32, max: u32) -> Option<u32> {
    let (oldest, newest) = agent_protocol();
    let version = max.min(newest);
    (version >= min.max(oldest)).then_some(version)
}

/// The serialised descriptors of all proto files, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
