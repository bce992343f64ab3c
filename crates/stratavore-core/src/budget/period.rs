//! The spans of time that a budget counts in.
//!
//! Days, weeks and months begin at midnight of their time zone, or where a change of clocks leaves
//! that day without a midnight, at its first moment. Hours are those of UTC: a clock that is set
//! back would have two of the same name.
//!
//! Zones come with the program and not from the host, so that all daemons cut at the same moments.
//!
//! Invariant: the periods of a budget cover time without a gap, and no moment is in two of them
//! (`periods_follow_one_another`).

use std::fmt;

use jiff::civil::{Date, Weekday};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::RunnerId;

/// How often a budget begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Every {
    Hour,
    Day,
    /// From Monday.
    Week,
    Month,
    /// Never: each runner has its own, for as long as it exists.
    Run,
}

impl Every {
    pub const ALL: [Every; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Run];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Run => "run",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|every| every.as_str() == text)
    }
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// `ends` is not in it.
    Span {
        starts: Timestamp,
        ends: Timestamp,
    },
    Run(RunnerId),
}

impl Period {
    /// What it is called in the store; those of one budget are in order.
    pub fn key(&self) -> String {
        match self {
            Self::Span { starts, .. } => starts.to_string(),
            Self::Run(runner) => runner.to_string(),
        }
    }

    pub fn ends(&self) -> Option<Timestamp> {
        match self {
            Self::Span { ends, .. } => Some(*ends),
            Self::Run(_) => None,
        }
    }

    /// True until its end.
    pub fn is_current(&self, now: Timestamp) -> bool {
        self.ends().is_none_or(|ends| now < ends)
    }
}

/// The time zone of a budget, by its name in the IANA database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone {
    name: String,
    zone: TimeZone,
}

impl Zone {
    pub fn utc() -> Self {
        Self { name: "UTC".into(), zone: TimeZone::UTC }
    }

    pub fn parse(name: &str) -> Option<Self> {
        if name == "UTC" {
            return Some(Self::utc());
        }
        let zone = TimeZoneDatabase::bundled().get(name).ok()?;
        // As the database writes it, whatever the case that was given.
        let name = zone.iana_name()?.to_owned();
        Some(Self { name, zone })
    }

    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// A moment as clocks there show it, to the minute.
    pub fn show(&self, at: Timestamp) -> String {
        at.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M").to_string()
    }

    /// The first moment of a day; of one that is left out, that of the next.
    fn midnight(&self, date: Date) -> Option<Timestamp> {
        Some(self.zone.to_ambiguous_zoned(date.at(0, 0, 0, 0)).compatible().ok()?.timestamp())
    }

    /// The period that `at` is in; `None`: it is thousands of years away, or `every` is a run.
    pub fn span(&self, every: Every, at: Timestamp) -> Option<Period> {
        if every == Every::Hour {
            let starts = at.as_second().div_euclid(3600) * 3600;
            let starts = Timestamp::from_second(starts).ok()?;
            let ends = starts.checked_add(SignedDuration::from_hours(1)).ok()?;
            return Some(Period::Span { starts, ends });
        }
        let mut first = begins(every, at.to_zoned(self.zone.clone()).date())?;
        // Where clocks are set back over midnight, the date of a moment may be the day before the
        // one that has begun.
        while self.midnight(first)? > at {
            first = begins(every, first.yesterday().ok()?)?;
        }
        let mut next = follows(every, first)?;
        while self.midnight(next)? <= at {
            first = next;
            next = follows(every, first)?;
        }
        Some(Period::Span { starts: self.midnight(first)?, ends: self.midnight(next)? })
    }
}

/// The first day of the period that a day is in.
fn begins(every: Every, day: Date) -> Option<Date> {
    match every {
        Every::Day => Some(day),
        Every::Week => {
            let since = day.weekday().since(Weekday::Monday);
            day.checked_sub(jiff::Span::new().days(since)).ok()
        }
        Every::Month => Some(day.first_of_month()),
        Every::Hour | Every::Run => None,
    }
}

fn follows(every: Every, first: Date) -> Option<Date> {
    match every {
        Every::Day => first.tomorrow().ok(),
        Every::Week => first.checked_add(jiff::Span::new().weeks(1)).ok(),
        Every::Month => first.checked_add(jiff::Span::new().months(1)).ok(),
        Every::Hour | Every::Run => None,
    }
}

impl TryFrom<String> for Zone {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name).ok_or_else(|| format!("`{}` is no time zone", name.escape_debug()))
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> String {
        zone.name
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn span(every: Every, zone: &str, moment: &str) -> (String, String) {
        match Zone::parse(zone).unwrap().span(every, at(moment)).unwrap() {
            Period::Span { starts, ends } => (starts.to_string(), ends.to_string()),
            Period::Run(_) => unreachable!(),
        }
    }

    fn is(starts: &str, ends: &str) -> (String, String) {
        (starts.into(), ends.into())
    }

    #[test]
    fn a_day_is_as_long_as_its_clocks_make_it() {
        // 23 hours, 25 hours, and one without a midnight.
        assert_eq!(
            span(Every::Day, "Europe/Berlin", "2026-03-29T12:00:00Z"),
            is("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z")
        );
        assert_eq!(
            span(Every::Day, "Europe/Berlin", "2026-10-25T12:00:00Z"),
            is("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z")
        );
        assert_eq!(
            span(Every::Day, "America/Santiago", "2026-09-06T12:00:00Z"),
            is("2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z")
        );
        // Samoa had no 30 December 2011.
        assert_eq!(
            span(Every::Day, "Pacific/Apia", "2011-12-30T09:59:59Z"),
            is("2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z")
        );
        // Newfoundland's clocks went back over midnight: its day goes on after the next has begun.
        assert_eq!(
            span(Every::Day, "America/St_Johns", "2010-11-07T02:45:00Z"),
            is("2010-11-07T02:30:00Z", "2010-11-08T03:30:00Z")
        );
    }

    #[test]
    fn weeks_begin_on_monday_months_on_the_first_and_hours_are_those_of_utc() {
        assert_eq!(
            span(Every::Week, "Asia/Tokyo", "2026-11-29T14:00:00Z"),
            is("2026-11-22T15:00:00Z", "2026-11-29T15:00:00Z")
        );
        assert_eq!(
            span(Every::Month, "America/New_York", "2026-11-01T03:00:00Z"),
            is("2026-10-01T04:00:00Z", "2026-11-01T04:00:00Z")
        );
        assert_eq!(
            span(Every::Hour, "Asia/Kolkata", "2026-11-29T14:40:00Z"),
            is("2026-11-29T14:00:00Z", "2026-11-29T15:00:00Z")
        );
        assert_eq!(Zone::utc().span(Every::Run, at("2026-11-29T14:40:00Z")), None);
    }

    #[test]
    fn a_zone_is_known_by_its_name() {
        assert_eq!(Zone::parse("europe/berlin").unwrap().as_str(), "Europe/Berlin");
        assert_eq!(Zone::parse("Mars/Olympus"), None);
        let text = serde_json::to_string(&Zone::parse("Asia/Tokyo").unwrap()).unwrap();
        assert_eq!(serde_json::from_str::<Zone>(&text).unwrap().as_str(), "Asia/Tokyo");
        assert!(serde_json::from_str::<Zone>("\"nowhere\"").is_err());
    }

    proptest! {
        /// Whatever the zone, and however its clocks are set.
        #[test]
        fn periods_follow_one_another(
            second in 0i64..4_102_444_800, which in 0usize..4, zone in 0usize..11,
        ) {
            let zones = [
                "UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "America/Santiago",
                "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca",
                "Asia/Gaza", "America/Havana",
            ];
            let (zone, every) = (Zone::parse(zones[zone]).unwrap(), Every::ALL[which]);
            let moment = Timestamp::from_second(second).unwrap();
            let period = zone.span(every, moment).unwrap();
            let Period::Span { starts, ends } = period else { panic!("{period:?}") };
            prop_assert!(starts <= moment && moment < ends, "{moment} in {period:?}");
            let last = ends - SignedDuration::from_nanos(1);
            for inside in [starts, last] {
                prop_assert_eq!(zone.span(every, inside), Some(period), "{} of {}", inside, zone);
            }
            let Some(Period::Span { starts: next, .. }) = zone.span(every, ends) else { panic!() };
            prop_assert_eq!(next, ends, "no gap after {:?}", period);
        }

        /// Close to every change of clocks of some years.
        #[test]
        fn periods_follow_one_another_where_clocks_are_set(
            which in 1usize..4, zone in 0usize..8, transition in 0usize..12, offset in -100_000i64..100_000,
        ) {
            let zones = [
                "Europe/Berlin", "America/St_Johns", "America/Santiago", "Australia/Lord_Howe",
                "Africa/Casablanca", "Asia/Gaza", "America/Havana", "Pacific/Apia",
            ];
            let (zone, every) = (Zone::parse(zones[zone]).unwrap(), Every::ALL[which]);
            let from = at("2008-01-01T00:00:00Z");
            let Some(change) = zone.zone.following(from).nth(transition) else { return Ok(()) };
            let moment = change.timestamp() + SignedDuration::from_secs(offset);
            let Some(Period::Span { starts, ends }) = zone.span(every, moment) else { panic!() };
            prop_assert!(starts <= moment && moment < ends);
            let before = zone.span(every, starts - SignedDuration::from_nanos(1)).unwrap();
            prop_assert_eq!(before.ends(), Some(starts));
        }
    }
}
