//! What was used, put together by what one asks for.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::UsageSums;
use crate::{ProjectId, RunnerId, SessionId};

/// What a report has a line for each of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageBy {
    Project,
    Runner,
    Session,
    Model,
    Day,
    Assistant,
}

impl UsageBy {
    pub const ALL: [UsageBy; 6] =
        [Self::Project, Self::Runner, Self::Session, Self::Model, Self::Day, Self::Assistant];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Runner => "runner",
            Self::Session => "session",
            Self::Model => "model",
            Self::Day => "day",
            Self::Assistant => "assistant",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|by| by.as_str() == text)
    }
}

/// Which messages are meant; the default is all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsageFilter {
    pub project: Option<ProjectId>,
    pub session: Option<SessionId>,
    pub runner: Option<RunnerId>,
    pub assistant: Option<String>,
    pub model: Option<String>,
    /// From this moment on.
    pub since: Option<Timestamp>,
    /// Up to this moment, which is not of them.
    pub until: Option<Timestamp>,
}

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageGroup {
    /// The id of a project, session or runner, the name of a model or assistant, or a date; empty: what
    /// belongs to none.
    pub of: String,
    pub sums: UsageSums,
}

/// Sums of quarters of an hour as sums of the days of a time zone, the first day first.
///
/// A day begins where the zone's clocks say, and has 23 or 25 hours where they are changed.
pub fn by_day(quarters: &[(Timestamp, UsageSums)], zone: &TimeZone) -> Vec<UsageGroup> {
    let mut days = BTreeMap::new();
    for (at, sums) in quarters {
        *days.entry(at.to_zoned(zone.clone()).date()).or_insert_with(UsageSums::default) += *sums;
    }
    days.into_iter().map(|(day, sums)| UsageGroup { of: day.to_string(), sums }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_day_is_one_of_the_time_zone() {
        let one = UsageSums { messages: 1, ..UsageSums::default() };
        let quarters = ["2026-03-28T22:45:00Z", "2026-03-28T23:00:00Z", "2026-03-29T21:45:00Z"];
        let quarters: Vec<_> = quarters.iter().map(|text| (at(text), one)).collect();
        let days = |zone: &str| {
            let zone = TimeZone::posix(zone).expect("a zone");
            let days = by_day(&quarters, &zone);
            days.into_iter().map(|day| (day.of, day.sums.messages)).collect::<Vec<_>>()
        };
        // The clocks go forward on the 29th, which has 23 hours.
        assert_eq!(
            days("CET-1CEST,M3.5.0,M10.5.0/3"),
            [("2026-03-28".into(), 1), ("2026-03-29".into(), 2)]
        );
        assert_eq!(days("UTC0"), [("2026-03-28".into(), 2), ("2026-03-29".into(), 1)]);
        // A day begins at a quarter to the hour there.
        assert_eq!(days("<+0545>-5:45"), [("2026-03-29".into(), 2), ("2026-03-30".into(), 1)]);
    }
}
