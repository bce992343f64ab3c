//! Telling people and programs: where to, of what, when, and in which words.
//!
//! A place that is told is a destination of the kind of its channel; its definition stands in the
//! destination's settings. What is sent is written down before, with an id of its own, so that every
//! attempt and every daemon sends the same.

pub mod message;
pub mod retry;
pub mod rules;
pub mod url;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::alert;
use crate::event::Event;
use crate::{NodeId, NotificationId, Timestamp};

pub use message::Message;
pub use rules::Rules;
pub use url::Url;

/// How much an event matters to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Things go as they should.
    Info,
    /// Somebody is waited for, or should look at it some time.
    Warning,
    /// Work has stopped that should not have.
    Error,
    /// Look at once.
    Critical,
}

impl Severity {
    pub const ALL: [Severity; 4] = [Self::Info, Self::Warning, Self::Error, Self::Critical];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.as_str() == text)
    }

    /// The one place that says what matters how much.
    pub fn of(event: &Event) -> Self {
        match event.kind.as_str() {
            "node.token_stolen" => Self::Critical,
            alert::KIND => {
                let severity = event.data["severity"].as_str().and_then(Self::parse);
                severity.unwrap_or(Self::Error)
            }
            "runner.failed"
            | "runner.lost"
            | "project.item_failed"
            | "budget.exhausted"
            | "node.destination_disabled" => Self::Error,
            // Asked for, it has no cause.
            "runner.restarting" if event.data["cause"].is_string() => Self::Warning,
            "runner.unresponsive"
            | "runner.output_gap"
            | "runner.limits_not_enforced"
            | "request.refused"
            | "node.removed"
            | "budget.threshold"
            | "budget.ask" => Self::Warning,
            "runner.activity" => match event.data["activity"].as_str() {
                Some("needs_input" | "needs_permission") => Self::Warning,
                _ => Self::Info,
            },
            _ => Self::Info,
        }
    }
}

/// Where a secret is found, and never the secret: `file:/a/path`, or `systemd-cred:NAME` for one that
/// the service manager hands over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretRef(String);

const REFERENCE: &str = "`file:` and an absolute path, such as file:/etc/stratavore/hook, or `systemd-cred:` and a name";
const REFERENCE_MAX: usize = 1024;

impl SecretRef {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for a text that is meant as one.
    pub fn is_meant(text: &str) -> bool {
        ["file:", "systemd-cred:", "env:", "vault:", "k8s:"].iter().any(|p| text.starts_with(p))
    }
}

impl FromStr for SecretRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = |name: &str| {
            !name.is_empty()
                && !name.starts_with('.')
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let good = match text.split_once(':') {
            Some(("file", path)) => path.starts_with('/') && !path.contains('\0'),
            Some(("systemd-cred", name)) => is_name(name),
            Some(_) | None => false,
        };
        match good && text.len() <= REFERENCE_MAX {
            true => Ok(Self(text.into())),
            // What was given may be the secret itself, so it is not repeated.
            false => Err(format!("a secret is named by {REFERENCE}")),
        }
    }
}

impl TryFrom<String> for SecretRef {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<SecretRef> for String {
    fn from(reference: SecretRef) -> String {
        reference.0
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How the connection to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailTls {
    /// Begins in the clear and must become TLS before anything is said.
    Starttls,
    /// TLS from the first byte.
    Tls,
    /// None: for a server on this host.
    Off,
}

impl MailTls {
    pub const ALL: [MailTls; 3] = [Self::Starttls, Self::Tls, Self::Off];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starttls => "starttls",
            Self::Tls => "tls",
            Self::Off => "off",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tls| tls.as_str() == text)
    }

    pub fn port(self) -> u16 {
        match self {
            Self::Starttls => 587,
            Self::Tls => 465,
            Self::Off => 25,
        }
    }
}

/// By which way somebody is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Channel {
    /// A program, by the Standard Webhooks specification.
    Webhook {
        url: Url,
        /// Signs what is sent: `whsec_…`, or `whsk_…`; several with spaces between while one replaces
        /// another.
        secret: SecretRef,
    },
    /// Slack, and what takes its incoming webhooks (Mattermost, Rocket.Chat, Discord's `/slack`). The
    /// URL is the secret.
    Slack { url: SecretRef },
    Telegram {
        /// The bot's token.
        token: SecretRef,
        chat: String,
        /// Another server than Telegram's own.
        server: Option<Url>,
    },
    Ntfy {
        server: Url,
        /// Whoever knows the topic reads it, so it may be a secret.
        topic: Topic,
        token: Option<SecretRef>,
    },
    Email {
        host: String,
        port: u16,
        tls: MailTls,
        user: Option<String>,
        password: Option<SecretRef>,
        from: String,
        to: Vec<String>,
    },
    /// The desktop of whoever runs the daemon of this node.
    Desktop { node: NodeId },
}

/// The topic of ntfy, or where it is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    Plain(String),
    Secret(SecretRef),
}

impl Channel {
    pub const KINDS: [&str; 6] = ["webhook", "slack", "telegram", "ntfy", "email", "desktop"];

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Webhook { .. } => "webhook",
            Self::Slack { .. } => "slack",
            Self::Telegram { .. } => "telegram",
            Self::Ntfy { .. } => "ntfy",
            Self::Email { .. } => "email",
            Self::Desktop { .. } => "desktop",
        }
    }

    /// What is shown of where it goes: the host, and nothing that could be a secret.
    pub fn shown(&self) -> String {
        match self {
            Self::Webhook { url, .. } => url.shown(),
            Self::Slack { url } => url.to_string(),
            Self::Telegram { chat, server, .. } => match server {
                Some(server) => format!("chat {chat} at {}", server.shown()),
                None => format!("chat {chat}"),
            },
            Self::Ntfy { server, topic, .. } => match topic {
                Topic::Plain(topic) => format!("{topic} at {}", server.shown()),
                Topic::Secret(_) => server.shown(),
            },
            Self::Email { host, port, to, .. } => format!("{} by {host}:{port}", to.join(", ")),
            Self::Desktop { node } => node.to_string(),
        }
    }

    /// True for one that is told of each event by itself, since a program reads it.
    pub fn is_for_programs(&self) -> bool {
        matches!(self, Self::Webhook { .. })
    }

    /// Every secret that it refers to.
    pub fn references(&self) -> Vec<&SecretRef> {
        match self {
            Self::Webhook { url, secret } => url.reference().into_iter().chain([secret]).collect(),
            Self::Slack { url } => vec![url],
            Self::Telegram { token, server, .. } => {
                server.iter().filter_map(Url::reference).chain([token]).collect()
            }
            Self::Ntfy { server, topic, token } => {
                let topic = match topic {
                    Topic::Plain(_) => None,
                    Topic::Secret(reference) => Some(reference),
                };
                server.reference().into_iter().chain(topic).chain(token).collect()
            }
            Self::Email { password, .. } => password.iter().collect(),
            Self::Desktop { .. } => Vec::new(),
        }
    }
}

/// All that a destination is made of; stands in its settings as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    pub channel: Channel,
    pub rules: Rules,
}

/// What is to be sent, or was.
#[derive(Debug, Clone, PartialEq)]
pub struct Notification {
    /// The same for every attempt, by whichever daemon.
    pub id: NotificationId,
    pub destination: String,
    pub message: Message,
    pub state: State,
    pub created_at: Timestamp,
    /// When it is tried next.
    pub due_at: Timestamp,
    /// How often it was tried since it was last asked for.
    pub attempts: u32,
    /// The latest attempts, in order.
    pub history: Vec<Attempt>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Waiting,
    Delivered,
    /// Given up.
    Dead,
}

impl State {
    pub const ALL: [State; 3] = [Self::Waiting, Self::Delivered, Self::Dead];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// One attempt to deliver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub at: Timestamp,
    pub took_ms: u64,
    pub delivered: bool,
    /// What the other side answered, where it speaks in numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it failed; empty if it did not.
    #[serde(default)]
    pub detail: String,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
}

/// The most attempts that a notification keeps.
pub const HISTORY_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named_and_never_given() {
        for good in ["file:/etc/a b", "systemd-cred:hook.1"] {
            assert_eq!(good.parse::<SecretRef>().unwrap().as_str(), good);
        }
        for bad in [
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "file:relative",
            "systemd-cred:../x",
            "systemd-cred:.hidden",
            "env:TOKEN",
            "",
        ] {
            let error = bad.parse::<SecretRef>().unwrap_err();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn what_is_shown_of_a_channel_is_no_secret() {
        let url: Url = "https://hooks.example.org/T1/very-secret".parse().unwrap();
        let secret: SecretRef = "file:/s".parse().unwrap();
        let channel = Channel::Webhook { url, secret };
        assert_eq!(channel.shown(), "https://hooks.example.org/…");
        let text = serde_json::to_string(&channel).unwrap();
        assert_eq!(serde_json::from_str::<Channel>(&text).unwrap(), channel);
    }
}
