//! What is done once a day, at a time of the day.

use jiff::civil::Time;
use jiff::tz::TimeZone;

use crate::Timestamp;

/// A time of the day, to the minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Daily {
    pub hour: u8,
    pub minute: u8,
}

impl Daily {
    /// True if the time has come since `last`.
    ///
    /// On a day whose clock leaves that time out, it comes at the moment when the clock is put forward.
    pub fn is_due(self, zone: &TimeZone, last: Timestamp, now: Timestamp) -> bool {
        let today = now.to_zoned(zone.clone()).date();
        let at = Time::new(self.hour as i8, self.minute as i8, 0, 0).ok();
        let came = [Some(today), today.yesterday().ok()].into_iter().flatten().find_map(|date| {
            let at = date.to_datetime(at?).to_zoned(zone.clone()).ok()?.timestamp();
            (at <= now).then_some(at)
        });
        came.is_some_and(|came| last < came)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn it_is_due_once_a_day_and_what_was_missed_is_made_up_for() {
        let (daily, zone) = (Daily { hour: 3, minute: 30 }, TimeZone::UTC);
        let due = |last, now| daily.is_due(&zone, at(last), at(now));
        assert!(!due("2026-03-01T12:00:00Z", "2026-03-02T03:29:59Z"));
        assert!(due("2026-03-01T12:00:00Z", "2026-03-02T03:30:00Z"));
        assert!(!due("2026-03-02T03:31:00Z", "2026-03-03T03:29:00Z"));
        assert!(due("2026-03-02T03:29:00Z", "2026-03-03T01:00:00Z"), "yesterday's was missed");
        assert!(due("2026-01-01T00:00:00Z", "2026-03-02T01:00:00Z"));
        assert!(!due("2027-01-01T00:00:00Z", "2026-03-02T04:00:00Z"), "a clock that was set back");
    }
}
