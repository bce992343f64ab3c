//! Where conversations are kept.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::value::{Given, Wanted, text};

/// Conversations as they are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vault {
    pub url: VaultUrl,
    pub s3: S3,
    /// How long transcripts and messages are kept after their conversation was used last; `None`: for
    /// ever.
    pub keep: Option<Duration>,
    /// The same for single projects, as `name=duration`.
    pub keep_projects: Vec<String>,
}

impl Vault {
    /// How long those of single projects are kept, by the projects' names.
    pub fn keep_of(&self) -> BTreeMap<String, Duration> {
        let pairs = self.keep_projects.iter().filter_map(|text| keep_of_project(text));
        pairs.collect()
    }
}

/// Where the blobs of conversations are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum VaultUrl {
    /// Below the state directory.
    #[default]
    Directory,
    /// In a bucket, with keys that begin so; empty: with nothing of their own. How it is reached is in
    /// [`S3`].
    S3 { bucket: String, prefix: String },
}

impl VaultUrl {
    pub(crate) fn read(given: &Given) -> Result<Self, Wanted> {
        const WHAT: &str = "`directory`, or `s3://BUCKET/PREFIX`: of letters, digits, `.`, `-` and `_`, with the server, its region and the credentials under `vault.s3`";
        let text = text(given, WHAT)?;
        if text == "directory" {
            return Ok(Self::Directory);
        }
        let rest = text.strip_prefix("s3://").ok_or(WHAT)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let is_plain = |text: &str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            text.bytes().all(plain) && !matches!(text, "" | "." | "..")
        };
        let is_prefix =
            prefix.is_empty() || (prefix.len() <= 512 && prefix.split('/').all(is_plain));
        match is_plain(bucket) && (3..=63).contains(&bucket.len()) && is_prefix {
            true => Ok(Self::S3 { bucket: bucket.into(), prefix: prefix.into() }),
            false => Err(WHAT.into()),
        }
    }
}

impl fmt::Display for VaultUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => f.write_str("directory"),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// A server of S3, or of what speaks as it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    /// `None`: Amazon's, of the region.
    pub endpoint: Option<String>,
    pub region: String,
    /// In the form of Amazon's tools. Read it with [`crate::read_key`].
    pub credentials_file: Option<PathBuf>,
    /// How long a request may take.
    pub timeout: Duration,
}

impl Default for S3 {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".into(),
            credentials_file: None,
            timeout: Duration::from_secs(60),
        }
    }
}

/// Reads `name=duration`.
pub(crate) fn keep_of_project(text: &str) -> Option<(String, Duration)> {
    let (name, keep) = text.split_once('=')?;
    let is_name = !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control());
    let keep = crate::value::parse_duration(keep).filter(|keep| *keep >= KEEP_LEAST)?;
    is_name.then(|| (name.to_owned(), keep))
}

/// The shortest that conversations are kept.
const KEEP_LEAST: Duration = Duration::from_secs(24 * 60 * 60);
