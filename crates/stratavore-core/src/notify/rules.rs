//! Which events a destination is told of, and when.

use std::time::Duration;

use jiff::civil::Time;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::Severity;
use crate::event::Event;
use crate::{ProjectId, Timestamp};

/// The rules of one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Patterns as of routing keys: `runner.failed`, `runner.*`, `#`. None: every kind.
    pub kinds: Vec<String>,
    /// None: every project, and what belongs to none.
    pub projects: Vec<ProjectId>,
    /// Nothing that matters less.
    pub severity: Severity,
    pub quiet: Option<Quiet>,
    /// How long events are gathered into one message, from the first of them; 0: each has its own.
    pub group_ms: u64,
    /// The most messages in an hour; what comes then is gathered.
    pub per_hour: Option<u32>,
}

impl Rules {
    pub fn wants(&self, event: &Event) -> bool {
        Severity::of(event) >= self.severity
            && (self.kinds.is_empty() || self.kinds.iter().any(|kind| matches(kind, &event.kind)))
            && (self.projects.is_empty()
                || event.project.is_some_and(|project| self.projects.contains(&project)))
    }

    pub fn group(&self) -> Duration {
        Duration::from_millis(self.group_ms)
    }
}

/// Hours in which only what is urgent comes through; the rest waits for their end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiet {
    /// Minutes of the day; `to` is not in them, and may be before `from`.
    pub from: u16,
    pub to: u16,
    /// The name of a time zone, such as `Europe/Berlin`.
    pub zone: String,
    /// What matters at least so much comes through.
    pub urgent: Severity,
}

impl Quiet {
    /// Reads `22:00-07:30`.
    pub fn parse_hours(text: &str) -> Option<(u16, u16)> {
        let minutes = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            let number = |text: &str, below: u16| {
                let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
                text.parse::<u16>().ok().filter(|n| digits && *n < below)
            };
            Some(number(hours, 24)? * 60 + number(minutes, 60)?)
        };
        let (from, to) = text.split_once('-')?;
        let (from, to) = (minutes(from)?, minutes(to)?);
        (from != to).then_some((from, to))
    }

    pub fn hours(&self) -> String {
        let Self { from, to, .. } = self;
        format!("{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }

    /// When the quiet ends that is now; `None`: it is not quiet.
    pub fn until(&self, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
        let local = now.to_zoned(zone.clone());
        let minute =
            u16::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute())).ok()?;
        let (in_it, tomorrow) = match self.from < self.to {
            true => ((self.from..self.to).contains(&minute), false),
            false => (minute >= self.from || minute < self.to, minute >= self.from),
        };
        if !in_it {
            return None;
        }
        let date = if tomorrow { local.date().tomorrow().ok()? } else { local.date() };
        let time = Time::new((self.to / 60) as i8, (self.to % 60) as i8, 0, 0).ok()?;
        let end = date.to_datetime(time).to_zoned(zone.clone()).ok()?.timestamp();
        // Where clocks are set back the end may seem to be past.
        Some(end.max(now))
    }
}

/// True if a kind fits a pattern as of routing keys: `*` is one word, `#` any number of them. One that
/// ends in a dot is a family, as elsewhere.
pub fn matches(pattern: &str, kind: &str) -> bool {
    if pattern.ends_with('.') {
        return kind.starts_with(pattern);
    }
    let pattern: Vec<&str> = pattern.split('.').collect();
    let words: Vec<&str> = kind.split('.').collect();
    // Row by row: which beginnings of the kind fit the beginning of the pattern.
    let mut fits = vec![false; words.len() + 1];
    fits[0] = true;
    for part in pattern {
        let mut next = vec![false; words.len() + 1];
        for at in 0..=words.len() {
            next[at] = match part {
                "#" => fits[at] || (at > 0 && next[at - 1]),
                "*" => at > 0 && fits[at - 1],
                word => at > 0 && fits[at - 1] && words[at - 1] == word,
            };
        }
        fits = next;
    }
    fits[words.len()]
}

/// Why a text is no pattern of kinds.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    let is_word = |word: &str| {
        matches!(word, "*" | "#")
            || (!word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let words = pattern.strip_suffix('.').unwrap_or(pattern);
    match pattern.len() <= 100 && words.split('.').all(is_word) {
        true => Ok(()),
        false => Err(format!(
            "`{}` is no pattern of events: words of a-z and _ with dots between, where * is one word and # any",
            pattern.chars().take(100).collect::<String>().escape_debug()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_routing_keys() {
        for (pattern, fits, not) in [
            ("#", &["runner.failed", "a"][..], &[][..]),
            ("runner.*", &["runner.failed"], &["runner", "runner.a.b", "node.joined"]),
            ("runner.#", &["runner", "runner.failed", "runner.a.b"], &["runners.a"]),
            ("*.failed", &["runner.failed"], &["failed", "runner.lost"]),
            ("#.lost", &["lost", "a.b.lost"], &["lost.a"]),
            ("runner.", &["runner.failed"], &["runner"]),
            ("runner.failed", &["runner.failed"], &["runner.failed.x", "runner"]),
        ] {
            for kind in fits {
                assert!(matches(pattern, kind), "{pattern} {kind}");
            }
            for kind in not {
                assert!(!matches(pattern, kind), "{pattern} {kind}");
            }
        }
        for good in ["#", "runner.*", "runner.", "node.token_stolen"] {
            assert_eq!(check_pattern(good), Ok(()));
        }
        for bad in ["", "a..b", "Runner.*", "a b", "run*", ".", "a.\u{1b}"] {
            assert!(check_pattern(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn quiet_hours_end_in_their_own_zone() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (from, to) = Quiet::parse_hours("22:00-07:30").unwrap();
        let night = Quiet { from, to, zone: "Europe/Berlin".into(), urgent: Severity::Critical };
        assert_eq!(night.hours(), "22:00-07:30");
        for (now, until) in [
            ("2026-07-01T19:59:59Z", None),
            ("2026-07-01T20:00:00Z", Some("2026-07-02T05:30:00Z")),
            ("2026-07-02T05:29:59Z", Some("2026-07-02T05:30:00Z")),
            ("2026-07-02T05:30:00Z", None),
            ("2026-01-01T20:30:00Z", None),
            ("2026-01-01T21:00:00Z", Some("2026-01-02T06:30:00Z")),
            // The night in which clocks are set forward is an hour shorter.
            ("2026-03-28T21:30:00Z", Some("2026-03-29T05:30:00Z")),
        ] {
            assert_eq!(night.until(&zone, at(now)), until.map(at), "{now}");
        }
        let day = Quiet { from: 12 * 60, to: 13 * 60, ..night };
        assert_eq!(day.until(&zone, at("2026-07-01T10:15:00Z")), Some(at("2026-07-01T11:00:00Z")));
        assert_eq!(day.until(&zone, at("2026-07-01T12:15:00Z")), None);
        for bad in
            ["", "22-7", "24:00-01:00", "1:00-02:00", "08:00-08:00", "08:60-09:00", "+1:00-02:00"]
        {
            assert_eq!(Quiet::parse_hours(bad), None, "{bad}");
        }
    }
}
