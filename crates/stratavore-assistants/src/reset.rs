//! When a limit ends, as it is told in a sentence for people.

use std::time::Duration;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// The longest that somebody is taken to have been told to wait: no limit lasts longer than some months.
const WAIT_MAX: f64 = 366.0 * 86_400.0;

/// The time after "resets": `3pm`, `3:30pm`, `Nov 30, 3pm`, each with `(Europe/Berlin)` or not; seconds
/// since 1970 after a bar, as older versions had it; or how long to wait from now on, as Google says it.
pub fn reset_time(text: &str, now: Timestamp) -> Option<Timestamp> {
    after_bar(text).or_else(|| after_word(text, now)).or_else(|| after_wait(text, now))
}

/// `"retryDelay": "3600s"`, `Suggested retry after 3600s.`, `Please retry in 34.07s.`, `retry in 250ms`.
fn after_wait(text: &str, now: Timestamp) -> Option<Timestamp> {
    let lower = text.to_ascii_lowercase();
    let after = |word: &str| Some(&lower[lower.find(word)? + word.len()..]);
    let wait = ["retrydelay", "retry after ", "retry in "].into_iter().find_map(|word| {
        let told = after(word)?.trim_start_matches(['\\', '"', ':', ' ']);
        let end = told.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = told[..end].parse().ok()?;
        match &told[end..] {
            unit if unit.starts_with("ms") => Some(number / 1000.0),
            unit if unit.starts_with('s') => Some(number),
            _ => None,
        }
    })?;
    let wait = Duration::try_from_secs_f64(wait.min(WAIT_MAX)).ok()?;
    now.checked_add(wait).ok()
}

fn after_bar(text: &str) -> Option<Timestamp> {
    let (_, after) = text.split_once('|')?;
    let digits: &str = after.split(|c: char| !c.is_ascii_digit()).next()?;
    if digits.len() != 10 {
        return None;
    }
    Timestamp::from_second(digits.parse().ok()?).ok()
}

fn after_word(text: &str, now: Timestamp) -> Option<Timestamp> {
    let lower = text.to_ascii_lowercase();
    let start = lower.find("resets ")? + "resets ".len();
    // In lower case each character is where it was.
    let (text, lower) = (text.get(start..)?, lower.get(start..)?);
    let told = lower.split(['(', '\n']).next()?.trim();
    let zone = zone(text);
    let zone = zone.unwrap_or(TimeZone::UTC);
    let here = now.to_zoned(zone.clone()).datetime();
    let told = told.strip_prefix("at ").unwrap_or(told).replace(" at ", ", ");
    let parts: Vec<&str> = told.split(", ").collect();
    let when = match parts.as_slice() {
        [time] => {
            let today = here.date().to_datetime(clock(time)?);
            if today > here { today } else { today.checked_add(1.day()).ok()? }
        }
        [day, time] => {
            let this_year = on_day(day, here.year(), clock(time)?)?;
            // A little past is still this year: the limit has just ended.
            let long_past = this_year.checked_add(30.days()).is_ok_and(|later| later < here);
            if long_past { on_day(day, here.year() + 1, clock(time)?)? } else { this_year }
        }
        [day, year, time] => on_day(day, year.parse().ok()?, clock(time)?)?,
        _ => return None,
    };
    Some(when.to_zoned(zone).ok()?.timestamp())
}

fn zone(text: &str) -> Option<TimeZone> {
    let (_, after) = text.split_once('(')?;
    let (name, _) = after.split_once(')')?;
    TimeZone::get(name).ok()
}

fn on_day(day: &str, year: i16, time: Time) -> Option<DateTime> {
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let (month, day) = day.split_once(' ')?;
    let month = MONTHS.iter().position(|name| month.starts_with(name))? + 1;
    Some(Date::new(year, i8::try_from(month).ok()?, day.parse().ok()?).ok()?.to_datetime(time))
}

/// `3pm`, `3:30 pm`.
fn clock(text: &str) -> Option<Time> {
    let text = text.trim();
    let (digits, noon) = match (text.strip_suffix("am"), text.strip_suffix("pm")) {
        (Some(digits), _) => (digits, 0),
        (None, Some(digits)) => (digits, 12),
        (None, None) => return None,
    };
    let digits = digits.trim();
    let (hour, minute) = digits.split_once(':').unwrap_or((digits, "0"));
    let hour: i8 = hour.parse().ok().filter(|hour| (1..=12).contains(hour))?;
    Time::new(hour % 12 + noon, minute.parse().ok()?, 0, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Option<String> {
        let now = "2026-11-29T13:00:00Z".parse().unwrap();
        reset_time(text, now).map(|time| time.to_string())
    }

    #[test]
    fn the_ways_in_which_it_is_told() {
        for (text, time) in [
            ("You've hit your session limit · resets 3pm (UTC)", "2026-11-29T15:00:00Z"),
            ("You've hit your session limit · resets 1:30am", "2026-11-30T01:30:00Z"),
            ("limit · resets Dec 2, 12am (UTC)", "2026-12-02T00:00:00Z"),
            ("limit · resets Dec 2 at 12:05pm", "2026-12-02T12:05:00Z"),
            ("limit · resets Jan 2, 2027, 9am (UTC)", "2027-01-02T09:00:00Z"),
            ("limit · resets Jan 2, 9am (UTC)", "2027-01-02T09:00:00Z"),
            ("Claude AI usage limit reached|1795957200", "2026-11-29T13:00:00Z"),
            (r#"{"details":[{"retryDelay":"3600s"}]}"#, "2026-11-29T14:00:00Z"),
            (r#"{\"retryDelay\": \"90s\"}"#, "2026-11-29T13:01:30Z"),
            ("quota exceeded\nSuggested retry after 60s.", "2026-11-29T13:01:00Z"),
            ("quota exceeded. Please retry in 34.5s.", "2026-11-29T13:00:34.5Z"),
            ("Please retry in 250ms", "2026-11-29T13:00:00.25Z"),
        ] {
            assert_eq!(told(text).as_deref(), Some(time), "{text}");
        }
    }

    #[test]
    fn what_tells_no_time_is_none() {
        for text in [
            "",
            "limit",
            "resets soon",
            "resets 25pm",
            "resets Foo 3, 3pm",
            "a|b",
            "resets ",
            "retry in ",
            "retry in 5",
            "retry in 5 minutes",
            "retryDelay: soon",
            "retry after 1.2.3s",
            "retry in .s",
        ] {
            assert_eq!(told(text), None, "{text}");
        }
    }
}
