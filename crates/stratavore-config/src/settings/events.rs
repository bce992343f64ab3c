//! The record.

use std::fmt;
use std::time::Duration;

use super::Switch;
use crate::value::{Given, Wanted, text};

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Events {
    /// How long an event stays in the database before it is moved into a file; `None`: for ever.
    pub keep: Option<Duration>,
    /// When the record is verified each day.
    pub verify: Daily,
    /// Whether each event is kept in a file of the host too before its change is answered.
    pub strict: Switch,
}

/// A time of the day, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daily {
    At { hour: u8, minute: u8 },
    Off,
}

impl Default for Daily {
    fn default() -> Self {
        Self::At { hour: 3, minute: 30 }
    }
}

impl Daily {
    pub(crate) fn read(given: &Given) -> Result<Self, Wanted> {
        const WHAT: &str = "a time of the day such as `03:30`, or `off`";
        let written = text(given, WHAT)?;
        if written == "off" {
            return Ok(Self::Off);
        }
        let number = |digits: &str, below: u8| {
            let is_number = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|n| is_number && *n < below)
        };
        let parts = written.split_once(':');
        let time = parts.and_then(|(hour, minute)| Some((number(hour, 24)?, number(minute, 60)?)));
        time.map(|(hour, minute)| Self::At { hour, minute }).ok_or_else(|| WHAT.into())
    }
}

impl fmt::Display for Daily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At { hour, minute } => write!(f, "{hour:02}:{minute:02}"),
            Self::Off => f.write_str("off"),
        }
    }
}
