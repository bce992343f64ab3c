//! One log record of OpenTelemetry, as the agent wrote it down.
//!
//! Numbers arrive as numbers, or as strings where the program sent them so.

use jiff::Timestamp;
use serde_json::Value;

#[derive(Clone, Copy)]
pub(crate) struct LogRecord<'a>(&'a Value);

impl<'a> LogRecord<'a> {
    pub(crate) fn new(record: &'a Value) -> Self {
        Self(record)
    }

    /// The event's name, without that of the program.
    pub(crate) fn event(self) -> Option<&'a str> {
        let name = self.text("event.name").or_else(|| self.0.get("body")?.as_str())?;
        Some(name.split_once('.').map_or(name, |(_, event)| event))
    }

    pub(crate) fn text(self, name: &str) -> Option<&'a str> {
        self.attribute(name)?.as_str().filter(|text| !text.is_empty())
    }

    pub(crate) fn count(self, name: &str) -> Option<u64> {
        let value = self.attribute(name)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    }

    pub(crate) fn real(self, name: &str) -> Option<f64> {
        let value = self.attribute(name)?;
        value.as_f64().or_else(|| value.as_str()?.parse().ok()).filter(|real| real.is_finite())
    }

    /// When it happened, which is earlier than it was told.
    pub(crate) fn at(self) -> Option<Timestamp> {
        let told = self.text("event.timestamp").and_then(|time| time.parse().ok());
        let time = || self.0.get("time")?.as_i64().filter(|time| *time > 0);
        told.or_else(|| Timestamp::from_microsecond(time()?).ok())
    }

    fn attribute(self, name: &str) -> Option<&'a Value> {
        self.0.get("attributes")?.get(name)
    }
}
