//! A retried request is not a second request.

use std::time::Duration;

/// How long an answer is kept for its key.
pub const IDEMPOTENCY_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest key, in bytes.
pub const IDEMPOTENCY_KEY_MAX: usize = 128;

/// The key of a mutation, with a digest of what was asked for.
///
/// The same key with the same request gives the stored answer; with another request it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    key: String,
    request: [u8; 32],
}

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdempotencyError {
    #[error("an idempotency key has 1 to {IDEMPOTENCY_KEY_MAX} bytes, this one has {0}")]
    Length(usize),
    #[error("an idempotency key is made of printable ASCII characters")]
    Characters,
}

impl Idempotency {
    /// `request` is the SHA-256 of the operation's name and the request without its key.
    pub fn new(key: String, request: [u8; 32]) -> Result<Self, IdempotencyError> {
        if key.is_empty() || key.len() > IDEMPOTENCY_KEY_MAX {
            return Err(IdempotencyError::Length(key.len()));
        }
        if !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(IdempotencyError::Characters);
        }
        Ok(Self { key, request })
    }

    /// The key for one of the parts that a request is carried out in.
    pub fn derive(&self, part: &str) -> Self {
        Self { key: format!("{}/{part}", self.key), request: self.request }
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn request(&self) -> &[u8; 32] {
        &self.request
    }
}
