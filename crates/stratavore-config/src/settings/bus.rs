//! The broker that events go to.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Switch;
use crate::value::{Given, Wanted, text};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bus {
    pub url: BusUrl,
    pub rabbitmq: Rabbitmq,
}

/// Where events go besides those who read them here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BusUrl {
    #[default]
    None,
    /// The broker of [`Rabbitmq`].
    Rabbitmq,
}

impl BusUrl {
    pub(crate) fn read(given: &Given) -> Result<Self, Wanted> {
        match text(given, "`none` or `rabbitmq`")?.as_str() {
            "none" => Ok(Self::None),
            "rabbitmq" => Ok(Self::Rabbitmq),
            text if text.starts_with("amqp") => Err(
                "`rabbitmq`, with the broker under `bus.rabbitmq` (`host`, `port`, `vhost`, `user`, `password_file`)"
                    .into(),
            ),
            _ => Err("`none` or `rabbitmq`".into()),
        }
    }
}

impl fmt::Display for BusUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Rabbitmq => "rabbitmq",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rabbitmq {
    pub host: String,
    pub port: u16,
    pub vhost: String,
    pub user: String,
    /// Holds the password, alone. Read it with [`crate::read_secret`].
    pub password_file: Option<PathBuf>,
    pub tls: Switch,
    pub root_cert: Option<PathBuf>,
    /// What this side shows, and its key. Read the key with [`crate::read_key`].
    pub client_cert: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
    pub exchange: String,
    pub queues: Vec<String>,
    pub window: u32,
    pub message_max: u64,
    pub connect_timeout: Duration,
    pub refusals_max: u32,
    pub refused_for: Duration,
}

impl Default for Rabbitmq {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: 5672,
            vhost: "/".into(),
            user: "stratavore".into(),
            password_file: None,
            tls: Switch::Off,
            root_cert: None,
            client_cert: None,
            client_key_file: None,
            exchange: "stratavore.events".into(),
            queues: Vec::new(),
            window: 256,
            message_max: 1 << 20,
            connect_timeout: Duration::from_secs(5),
            refusals_max: 10,
            refused_for: Duration::from_secs(600),
        }
    }
}
