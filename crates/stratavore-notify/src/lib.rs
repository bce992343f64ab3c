//! Tells people and programs: one file for each channel.
//!
//! What else goes out by HTTP, as to a store of blobs, goes by [`Http`].
//!
//! Whoever delivers says what and to whom, and hears how it went. Nothing is kept here, and nothing
//! is tried again.
//!
//! Invariant: nothing is sent to an address that is not public, unless the configuration allows it;
//! the address that was judged is the one that is dialled, and no redirect is followed.
//! Invariant: a secret is read when it is used, and stands in no answer.

mod address;
mod desktop;
mod dial;
mod email;
mod embeddings;
mod http;
mod ntfy;
mod slack;
mod telegram;
mod webhook;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use stratavore_core::notify::url::PlainUrl;
use stratavore_core::notify::{Channel, Message, SecretRef, Url};
use stratavore_core::terminal::{escape_untrusted, truncate_to_width};
use stratavore_core::{NotificationId, Timestamp};

pub use address::{Range, judge};
pub use dial::{Resolve, Resolving, SystemResolver, roots};
pub use embeddings::{EmbeddingSettings, Embeddings, Interface, ReadKey};
pub use http::{Answered, Asked, Http};
pub use hyper::Method;

/// The longest that is kept of what a receiver says.
const SAID_MAX: usize = 200;

/// Reads what a reference names.
pub type ReadSecret = Arc<dyn Fn(&SecretRef) -> Result<SecretString, String> + Send + Sync>;

/// What sending depends on.
pub struct Settings {
    /// Ranges that are not public and may be dialled all the same.
    pub allow: Vec<Range>,
    pub resolver: Arc<dyn Resolve>,
    /// Whom to trust.
    pub roots: rustls::RootCertStore,
    /// How long an attempt may take.
    pub timeout: Duration,
    pub secrets: ReadSecret,
    /// The program that shows something on the desktop.
    pub desktop: PathBuf,
}

/// Sends; cheap to clone.
#[derive(Clone)]
pub struct Sender {
    inner: Arc<Inner>,
}

struct Inner {
    dialer: dial::Dialer,
    timeout: Duration,
    secrets: ReadSecret,
    desktop: PathBuf,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

/// Whose fault it is that a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be reached, or does not answer.
    Away,
    /// It is there and said no.
    Refused,
    /// It said that it will never be there again.
    Gone,
    /// A secret, an address or the host's own settings; somebody has to change something.
    Misconfigured,
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub fault: Fault,
    /// What was answered, where the other side speaks in numbers.
    pub status: Option<u16>,
    pub detail: String,
    /// It asked to be left alone so long.
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub(crate) fn away(detail: impl Into<String>) -> Self {
        Self { fault: Fault::Away, status: None, detail: detail.into(), retry_after: None }
    }

    pub(crate) fn misconfigured(detail: impl Into<String>) -> Self {
        Self { fault: Fault::Misconfigured, ..Self::away(detail) }
    }

    pub(crate) fn refused(status: u16, detail: impl Into<String>) -> Self {
        Self { fault: Fault::Refused, status: Some(status), ..Self::away(detail) }
    }
}

/// What was answered, where the other side speaks in numbers.
pub type Answer = Result<Option<u16>, Failure>;

impl Sender {
    pub fn new(settings: Settings) -> Self {
        let Settings { allow, resolver, roots, timeout, secrets, desktop } = settings;
        let dialer = dial::Dialer::new(resolver, allow, roots);
        Self { inner: Arc::new(Inner { dialer, timeout, secrets, desktop }) }
    }

    /// Makes one attempt. Of a message that was sent before, the receiver sees so by its id.
    pub async fn send(
        &self,
        channel: &Channel,
        id: NotificationId,
        message: &Message,
        now: Timestamp,
    ) -> Answer {
        let inner = &*self.inner;
        let sending = async {
            match channel {
                Channel::Webhook { url, secret } => {
                    webhook::send(inner, url, secret, id, message, now).await
                }
                Channel::Slack { url } => slack::send(inner, url, message, now).await,
                Channel::Telegram { token, chat, server } => {
                    telegram::send(inner, token, chat, server.as_ref(), message, now).await
                }
                Channel::Ntfy { server, topic, token } => {
                    ntfy::send(inner, server, topic, token.as_ref(), message, now).await
                }
                Channel::Email { .. } => email::send(inner, channel, id, message, now).await,
                Channel::Desktop { .. } => desktop::send(&inner.desktop, message).await,
            }
        };
        match tokio::time::timeout(inner.timeout, sending).await {
            Ok(answer) => answer,
            Err(_) => {
                let seconds = inner.timeout.as_secs_f32();
                Err(Failure::away(format!("no answer within {seconds} s")))
            }
        }
    }

    /// Reads every secret that a channel refers to, and says what is wrong with them.
    pub fn check(&self, channel: &Channel) -> Result<(), String> {
        let inner = &*self.inner;
        for reference in channel.references() {
            inner.secret(reference).map_err(|failure| failure.detail)?;
        }
        match channel {
            Channel::Webhook { url, secret } => {
                inner.good(url)?;
                webhook::Signer::new(&inner.secret(secret).map_err(|failure| failure.detail)?)
                    .map(drop)
            }
            Channel::Slack { url } => inner.good(&Url::Secret(url.clone())),
            Channel::Ntfy { server, .. } => inner.good(server),
            Channel::Telegram { server, .. } => server.as_ref().map_or(Ok(()), |s| inner.good(s)),
            Channel::Email { .. } | Channel::Desktop { .. } => Ok(()),
        }
    }
}

impl Inner {
    fn secret(&self, reference: &SecretRef) -> Result<SecretString, Failure> {
        (self.secrets)(reference).map_err(|why| {
            Failure::misconfigured(format!("the secret {reference} cannot be read here: {why}"))
        })
    }

    /// Says what is wrong with a URL before anybody is asked for a name.
    fn good(&self, url: &Url) -> Result<(), String> {
        let url = self.url(url).map_err(|failure| failure.detail)?;
        self.dialer.check(&url.host).map_err(|failure| failure.detail)
    }

    fn url(&self, url: &Url) -> Result<PlainUrl, Failure> {
        match url {
            Url::Plain(url) => Ok(url.clone()),
            Url::Secret(reference) => {
                let secret = self.secret(reference)?;
                secret.expose_secret().parse().map_err(|why| {
                    Failure::misconfigured(format!("what {reference} holds is no URL: {why}"))
                })
            }
        }
    }
}

/// What a receiver said, short and fit to be shown, with no secret of ours in it.
pub(crate) fn said(text: &str, secrets: &[&SecretString]) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        text = text.replace(secret.expose_secret(), "(hidden)");
    }
    truncate_to_width(&escape_untrusted(text.trim()), SAID_MAX)
}
