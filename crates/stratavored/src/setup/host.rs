//! What a host and its state directory are known by.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use stratavore_audit::{MacError, Writer};
use stratavore_core::{DaemonId, NodeId, Timestamp};
use stratavore_proto::runner_dir::write_durably;

use super::SetupError;
use crate::clock::entropy;

/// What gives this daemon's events their codes.
pub(super) fn writer(path: &Path, now: Timestamp) -> Result<Arc<Writer>, MacError> {
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(&entropy());
    seed[16..].copy_from_slice(&entropy());
    Writer::open(path, seed, now.as_microsecond()).map(Arc::new)
}

/// What no two state directories that are in use have in common, be one a copy of the other: the
/// boot of the host, and the file that is locked.
pub(super) fn seat(boot_id: &str, lock: &Path) -> Result<DaemonId, SetupError> {
    let file = std::fs::metadata(lock)
        .map_err(|source| SetupError::NodeId { path: lock.display().to_string(), source })?;
    let digest = Sha256::new()
        .chain_update(boot_id)
        .chain_update(file.dev().to_be_bytes())
        .chain_update(file.ino().to_be_bytes())
        .finalize();
    let mut entropy = [0; 16];
    entropy.copy_from_slice(&digest[..16]);
    Ok(DaemonId::from_entropy(entropy))
}

/// This host's id: made once, kept in the state directory.
pub(super) fn node_id(path: &Path) -> Result<NodeId, SetupError> {
    let failed = |source| SetupError::NodeId { path: path.display().to_string(), source };
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map_err(|error| failed(io::Error::other(error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = NodeId::from_entropy(entropy());
            write_durably(path, format!("{id}\n").as_bytes()).map_err(failed)?;
            Ok(id)
        }
        Err(error) => Err(failed(error)),
    }
}
