//! Where events are delivered to, besides those who read them here.
//!
//! A destination is a cursor on the log of published events: all up to its position have been taken
//! there, and what comes after it still has to. Nothing is kept for each event that waits.

use serde::{Deserialize, Serialize};

use crate::{DeadLetterId, EventId, Timestamp};

/// One destination, and how it is by the daemon that last looked after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    pub name: String,
    /// What kind of thing it is: `rabbitmq`.
    pub kind: String,
    /// Of its kind, as JSON; never a secret.
    pub settings: String,
    /// Every event up to here was delivered, or given up.
    pub position: i64,
    pub enabled: bool,
    pub health: Health,
    /// What is wrong; empty if nothing is.
    pub problem: String,
    /// Since when it is so.
    pub told_at: Timestamp,
    pub created_at: Timestamp,
}

/// How delivering goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It takes what it is given.
    Connected,
    /// It is not there, or does not answer; events wait.
    Waiting,
    /// It is there, and takes nothing for now.
    Blocked,
    /// It will not work before somebody changes something.
    Misconfigured,
    /// No daemon delivers to it.
    Stopped,
}

impl Health {
    pub const ALL: [Health; 5] =
        [Self::Connected, Self::Waiting, Self::Blocked, Self::Misconfigured, Self::Stopped];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
            Self::Misconfigured => "misconfigured",
            Self::Stopped => "stopped",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|health| health.as_str() == text)
    }
}

/// What still has to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    pub pending: u64,
    /// When the first of them happened.
    pub oldest: Option<Timestamp>,
    /// Given up and not delivered since.
    pub dead: u64,
}

/// An event that a destination will not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub id: DeadLetterId,
    pub destination: String,
    pub event: EventId,
    /// Where the event stands.
    pub position: i64,
    pub reason: String,
    /// How often it was tried.
    pub attempts: i64,
    pub died_at: Timestamp,
    /// When somebody asked that it be tried once more.
    pub retry_at: Option<Timestamp>,
    /// When it was delivered after all.
    pub replayed_at: Option<Timestamp>,
}

/// Which dead letters are to be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retry {
    One(DeadLetterId),
    /// Of this destination, or of every one if the name is empty.
    All(String),
}
