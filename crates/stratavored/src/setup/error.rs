//! Why a daemon cannot be set up, and what to do then.

use std::io;

use stratavore_audit::MacError;
use stratavore_config as config;
use stratavore_store::StoreError;
use stratavore_vault::VaultError;

/// Why the daemon cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error("read the configuration")]
    Config(#[source] config::ConfigError),
    #[error("find the places for files")]
    Paths(#[source] config::PathsError),
    #[error("prepare a directory")]
    Directory(#[source] config::PrivateError),
    #[error("the program stratavore-agent is not beside this one nor on the PATH")]
    NoAgent,
    #[error("keep this host's id in {path}")]
    NodeId { path: String, source: io::Error },
    #[error("open the store")]
    Store(#[source] StoreError),
    #[error("give the record its codes")]
    Record(#[source] MacError),
    #[error("node.listen is for daemons that share a database, and this one has SQLite")]
    NobodyElse,
    #[error("listen on {address}")]
    Listen { address: String, source: io::Error },
    #[error("the embeddings of search cannot be used: {why}")]
    Embeddings { why: String },
    #[error("open the vault")]
    Vault(#[source] VaultError),
    #[cfg(not(feature = "s3"))]
    #[error("vault.url is {url}, and this stratavored was built without the feature s3")]
    NoS3 { url: String },
    #[cfg(feature = "s3")]
    #[error("vault.s3.endpoint cannot be used: {why}")]
    S3Endpoint { why: String },
    #[error("read notify.root_cert, {path}: {why}")]
    Roots { path: String, why: String },
    #[error("read this node's key and certificate in {path}")]
    Identity { path: String, source: io::Error },
}

impl SetupError {
    /// As in docs/errors.md.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Paths(_)
            | Self::NobodyElse
            | Self::Embeddings { .. }
            | Self::Roots { .. } => 7,
            #[cfg(not(feature = "s3"))]
            Self::NoS3 { .. } => 7,
            #[cfg(feature = "s3")]
            Self::S3Endpoint { .. } => 7,
            Self::Directory(_)
            | Self::NodeId { .. }
            | Self::Record(_)
            | Self::Vault(_)
            | Self::Listen { .. }
            | Self::Identity { .. } => 8,
            Self::NoAgent => 3,
            Self::Store(_) => 6,
        }
    }

    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Config(_) => "mend the file, then check it: stratavore config validate",
            Self::Paths(_) => "set HOME, or STRATAVORE_HOME",
            Self::Directory(_) | Self::NodeId { .. } | Self::Record(_) => {
                "see the message, then try again: stratavore daemon start"
            }
            Self::NobodyElse => "set store.url to postgres, or take node.listen out",
            Self::Listen { .. } => {
                "see that the address is this host's and the port is free, or change node.listen"
            }
            Self::Embeddings { .. } => {
                "set search.model, search.url and search.key_file, or search.embeddings to builtin"
            }
            #[cfg(not(feature = "s3"))]
            Self::NoS3 { .. } => {
                "take one that was built with --features s3, or set vault.url to directory"
            }
            #[cfg(feature = "s3")]
            Self::S3Endpoint { .. } => "correct it, then: stratavore config validate",
            Self::Vault(_) => "look at the disk and the rights of the state directory",
            Self::Roots { .. } => "give a PEM file of certificates, or take notify.root_cert out",
            Self::Identity { .. } => {
                "restore the files; or remove the directory, and join again: stratavore nodes join"
            }
            Self::NoAgent => "install it beside stratavored, or set agent.binary",
            Self::Store(StoreError::SchemaNewer { .. }) => {
                "install the newer stratavore that made the database, or restore a backup of before"
            }
            Self::Store(StoreError::WrongServer { .. }) => {
                "let store.postgres.host lead to the primary, then: stratavore daemon start"
            }
            Self::Store(StoreError::Full { .. }) => {
                "free some space, then try again: stratavore daemon start"
            }
            Self::Store(StoreError::Corrupt { .. }) => {
                "restore it from a backup, or move it away to begin anew"
            }
            Self::Store(_) => "see that the database can be reached and written: stratavore doctor",
        }
    }
}
