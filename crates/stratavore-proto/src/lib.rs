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
pub const AGENT_PROTOCOL: (u32, u32) = (1, 1);

/// The newest version that both sides speak, if there is one.
pub fn common_version(min: u32, max: u32) -> Option<u32> {
    let version = max.min(AGENT_PROTOCOL.1);
    (version >= min.max(AGENT_PROTOCOL.0)).then_some(version)
}

/// The serialised descriptors of all proto files, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
