//! Destinations of events, and what they will not take.

use jiff::Timestamp;
use serde::Serialize;
use stratavore_proto::v1;

use super::{EventView, given, time};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DestinationView {
    pub name: String,
    pub kind: String,
    pub settings: serde_json::Value,
    pub health: String,
    pub problem: Option<String>,
    pub told_at: Option<Timestamp>,
    pub position: i64,
    pub pending: u64,
    /// When the first that waits happened.
    pub oldest_at: Option<Timestamp>,
    pub dead: u64,
}

impl From<&v1::Destination> for DestinationView {
    fn from(destination: &v1::Destination) -> Self {
        let text = &destination.settings;
        Self {
            name: destination.name.clone(),
            kind: destination.kind.clone(),
            settings: serde_json::from_str(text).unwrap_or_else(|_| text.clone().into()),
            health: destination.health.clone(),
            problem: given(&destination.problem),
            told_at: time(destination.told_at_us),
            position: destination.position,
            pending: destination.pending,
            oldest_at: time(destination.oldest_at_us),
            dead: destination.dead,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DeadLetterView {
    pub id: String,
    pub destination: String,
    pub reason: String,
    pub attempts: u64,
    pub died_at: Option<Timestamp>,
    pub retry_at: Option<Timestamp>,
    pub event: Option<EventView>,
}

impl From<&v1::DeadLetter> for DeadLetterView {
    fn from(letter: &v1::DeadLetter) -> Self {
        Self {
            id: letter.id.clone(),
            destination: letter.destination.clone(),
            reason: letter.reason.clone(),
            attempts: letter.attempts,
            died_at: time(letter.died_at_us),
            retry_at: time(letter.retry_at_us),
            event: letter.event.as_ref().map(EventView::from),
        }
    }
}
