//! Which bucket, how it is reached, and as whom.

use std::sync::Arc;

use secrecy::SecretString;
use stratavore_core::clock::Clock;
use stratavore_core::notify::url::PlainUrl;
use stratavore_notify::Http;

/// Who we are to the server.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub key: String,
    pub secret: SecretString,
    /// Of a session, where there is one.
    pub token: Option<SecretString>,
}

/// Reads them when they are used, since they change.
pub type ReadCredentials = Arc<dyn Fn() -> Result<Credentials, String> + Send + Sync>;

/// Which bucket, and how it is reached.
#[derive(Clone)]
pub struct S3Settings {
    pub endpoint: PlainUrl,
    pub region: String,
    pub bucket: String,
    /// What the keys of all vaults of this bucket begin with, without a slash at either end.
    pub prefix: String,
    /// What those of this one go on with. No other vault writes below it.
    pub name: String,
    pub credentials: ReadCredentials,
    pub http: Http,
    pub clock: Arc<dyn Clock>,
}
