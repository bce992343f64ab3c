//! RabbitMQ, as the one that takes events and hands them to programs that Stratavore does not know.
//!
//! The only place that names lapin. What is here carries messages and says what became of each one;
//! which message is due, when one is tried again and when it is given up is decided by who calls.
//!
//! lapin's own recovery stays off: whatever goes wrong with a connection, the connection is dropped,
//! and all that was not confirmed on it is [`Outcome::Unknown`].
//!
//! Invariant: one task at a time uses a channel ([`Lane::send`] takes it by `&mut`). Two would mix
//! up which confirm is whose.
//! Invariant: a message is [`Outcome::Confirmed`] only if the broker took it for a queue.

mod error;
mod lane;
mod link;
mod topology;
mod wire;

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

pub use error::RabbitError;
pub use lane::Lane;
pub use link::{Link, News};
pub use topology::{DEAD, Queue, UNROUTED};

/// The longest routing key of AMQP, in bytes.
pub const ROUTING_KEY_MAX: usize = 255;

/// How to reach a broker, and what to declare there.
#[derive(Clone)]
pub struct Settings {
    pub host: String,
    pub port: u16,
    pub vhost: String,
    pub user: String,
    pub password: SecretString,
    pub tls: Option<Tls>,
    /// The topic exchange that takes events.
    pub exchange: String,
    /// Queues that are declared for consumers and get every event.
    pub queues: Vec<String>,
    /// The most bytes of one message.
    pub message_max: usize,
    pub connect_timeout: Duration,
    pub heartbeat: Duration,
    /// What the broker shows as the connection's name.
    pub name: String,
}

impl Settings {
    /// True if a connection made with these would be let in by the same: user, password and certificates.
    pub fn has_same_access(&self, other: &Self) -> bool {
        let of = |settings: &Self| {
            let tls = settings.tls.clone().map(|Tls { roots, own }| {
                let own = own.map(|own| (own.certificate, own.key.expose_secret().to_owned()));
                (roots, own)
            });
            (settings.user.clone(), settings.password.expose_secret().to_owned(), tls)
        };
        of(self) == of(other)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{} vhost {}", self.user, self.host, self.port, self.vhost)
    }
}

/// TLS, where the broker must prove who it is.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Certificates (PEM) that the broker's is checked against, and no others; those of the host if
    /// none are named.
    pub roots: Option<String>,
    /// What this side shows, for a broker that asks.
    pub own: Option<Own>,
}

/// A certificate and its key, both as PEM.
#[derive(Debug, Clone)]
pub struct Own {
    pub certificate: String,
    pub key: SecretString,
}

/// One message to publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Stays the same over every attempt: consumers know a repetition by it.
    pub id: String,
    pub routing_key: String,
    /// It is for whoever is bound by this one as well; no queue gets it twice.
    pub further_key: Option<String>,
    pub kind: String,
    pub at: Timestamp,
    pub body: Vec<u8>,
}

/// What became of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it in every queue that it was for.
    Confirmed,
    /// No queue is there for it.
    Unroutable(String),
    /// The broker did not take it now, as when a queue is full.
    Nacked,
    /// It will not be taken ever, as it is.
    Refused(String),
    /// The connection or channel ended before the broker said a word: it may be there or not.
    Unknown,
}
