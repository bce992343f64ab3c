//! Readers of single values. Each says what it wanted when it is given something else.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use crate::secret;

/// A value as a layer gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Given {
    /// A scalar of a file.
    Text(String),
    /// A list of a file.
    List(Vec<String>),
    /// From the environment or a flag, where a list is written with commas.
    Line(String),
}

impl Given {
    /// For messages, without what looks like a secret.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Text(text) | Self::Line(text) => secret::hide_in_url(text),
            Self::List(items) => format!("[{}]", secret::hide(items).join(", ")),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Line(text) => Some(text),
            Self::List(_) => None,
        }
    }
}

/// What a value must be, to go on from "and must be …".
pub(crate) type Wanted = String;

pub(crate) fn count(given: &Given, least: u32, most: u32) -> Result<u32, Wanted> {
    let number = given.text().and_then(|text| text.parse().ok());
    number.filter(|n| (least..=most).contains(n)).ok_or_else(|| {
        format!("a whole number from {least} to {most}, such as `{}`", least.max(10).min(most))
    })
}

pub(crate) fn duration(given: &Given, least: &str, most: &str) -> Result<Duration, Wanted> {
    let limit = |text| parse_duration(text).expect("limits are durations");
    let value = given.text().and_then(parse_duration);
    value
        .filter(|d| (limit(least)..=limit(most)).contains(d))
        .ok_or_else(|| format!("a duration from {least} to {most}, such as `500ms`, `10s` or `5m`"))
}

/// Dollars with up to six decimals, in millionths of one.
pub(crate) fn dollars(given: &Given) -> Result<u64, Wanted> {
    let read = |text: &str| {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || part.len() > 6 || !digits(whole) || !digits(part) {
            return None;
        }
        let part: u64 = format!("{part:0<6}").parse().ok()?;
        whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(part)
    };
    let most = 1_000_000_000_000;
    given
        .text()
        .and_then(read)
        .filter(|micros| *micros <= most)
        .ok_or_else(|| "US dollars for a million tokens, from 0 to 1000000, such as `1.25`".into())
}

/// The same as a file would have it.
pub(crate) fn show_dollars(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').into()
}

pub(crate) fn size(given: &Given, least: &str, most: &str) -> Result<u64, Wanted> {
    let limit = |text| parse_size(text).expect("limits are sizes");
    let value = given.text().and_then(parse_size);
    value
        .filter(|bytes| (limit(least)..=limit(most)).contains(bytes))
        .ok_or_else(|| format!("a size from {least} to {most}, such as `64MiB`"))
}

/// One line of text that is not empty.
pub(crate) fn text(given: &Given, what: &str) -> Result<String, Wanted> {
    let fits = |text: &&str| !text.is_empty() && !text.chars().any(char::is_control);
    given
        .text()
        .filter(fits)
        .map(Into::into)
        .ok_or_else(|| format!("{what}, on one line and not empty"))
}

pub(crate) fn absolute(given: &Given) -> Result<PathBuf, Wanted> {
    let path = given.text().filter(|text| !text.contains('\0')).map(PathBuf::from);
    path.filter(|path| path.is_absolute())
        .ok_or_else(|| "an absolute path, beginning with `/`".into())
}

/// A program: an absolute path, or a name to be looked for on the `PATH`.
pub(crate) fn program(given: &Given) -> Result<PathBuf, Wanted> {
    let fits = |text: &&str| {
        !text.is_empty()
            && !text.chars().any(char::is_control)
            && (text.starts_with('/') || !text.contains('/'))
    };
    given
        .text()
        .filter(fits)
        .map(PathBuf::from)
        .ok_or_else(|| "a program's name, or its absolute path".into())
}

pub(crate) fn list(given: &Given, what: &str) -> Result<Vec<String>, Wanted> {
    match given {
        Given::List(items) => Ok(items.clone()),
        Given::Line(line) if line.is_empty() => Ok(Vec::new()),
        Given::Line(line) => Ok(line.split(',').map(|item| item.trim().to_string()).collect()),
        Given::Text(_) => Err(format!("a list of {what}, such as `[A, B]`")),
    }
}

pub(crate) fn variables(given: &Given) -> Result<Vec<String>, Wanted> {
    const WHAT: &str = "names of environment variables";
    let names = list(given, WHAT)?;
    let is_name = |name: &String| {
        name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && name.len() <= 128
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    match names.iter().find(|name| !is_name(name)) {
        None => Ok(names),
        Some(wrong) => Err(format!("a list of {WHAT}, and `{}` is none", wrong.escape_debug())),
    }
}

/// Labels of a node, as `stratavore_core::node::Label` reads them.
pub(crate) fn labels(given: &Given) -> Result<Vec<String>, Wanted> {
    const WHAT: &str = "at most 32 labels, such as `gpu=a100`: up to 63 letters, digits, `-`, `_` and `.` each, the name beginning with a letter or digit";
    let labels = list(given, WHAT)?;
    let fits = |text: &str| {
        text.len() <= 63
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let is_label = |label: &String| {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        let begins = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        begins && fits(name) && fits(value)
    };
    match labels.len() <= 32 && labels.iter().all(is_label) {
        true => Ok(labels),
        false => Err(WHAT.into()),
    }
}

/// Ranges of addresses: an address, with the number of bits that count if it stands for more.
pub(crate) fn addresses(given: &Given) -> Result<Vec<String>, Wanted> {
    const WHAT: &str = "ranges of addresses, such as `10.1.0.0/16`, `::1` or `fd00::/8`";
    let ranges = list(given, WHAT)?;
    let is_range = |range: &String| {
        let (address, bits) = range.split_once('/').unwrap_or((range, "0"));
        let most = match address.parse::<std::net::IpAddr>() {
            Ok(address) => {
                if address.is_ipv4() {
                    32
                } else {
                    128
                }
            }
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    };
    match ranges.iter().find(|range| !is_range(range)) {
        None => Ok(ranges),
        Some(wrong) => Err(format!("a list of {WHAT}, and `{}` is none", wrong.escape_debug())),
    }
}

pub(crate) fn arguments(given: &Given) -> Result<Vec<String>, Wanted> {
    let arguments = list(given, "arguments")?;
    match arguments.iter().any(|argument| argument.contains('\0')) {
        false => Ok(arguments),
        true => Err("a list of arguments without NUL characters".into()),
    }
}

pub(crate) fn choice<T: Copy>(given: &Given, all: &[(T, &str)]) -> Result<T, Wanted> {
    // To YAML these are the same.
    let is_meant = |name: &str, text: &str| {
        name == text || matches!((name, text), ("on", "true") | ("off", "false"))
    };
    let found = given.text().and_then(|text| all.iter().find(|(_, name)| is_meant(name, text)));
    found.map(|(value, _)| *value).ok_or_else(|| {
        let names: Vec<String> = all.iter().map(|(_, name)| format!("`{name}`")).collect();
        format!("one of {}", names.join(", "))
    })
}

/// Reads a duration such as `500ms`, `10s`, `5m`, `1h` or `7d`. A number alone is none, but `0` is.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (number, unit) = split_unit(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// Reads a size in bytes, such as `1024`, `512KiB`, `64MiB` or `2GiB`.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let bytes = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(bytes)
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// A value as `config show` writes it, and as a file would; `None` for what is not set.
pub(crate) trait Shown {
    fn shown(&self) -> Option<String>;
}

impl Shown for Duration {
    fn shown(&self) -> Option<String> {
        let millis = self.as_millis();
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
        let fits = units.iter().find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit));
        Some(fits.map_or_else(|| "0s".into(), |(unit, name)| format!("{}{name}", millis / unit)))
    }
}

/// A count is shown as it is, and a size with its unit.
impl Shown for u32 {
    fn shown(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Shown for u64 {
    fn shown(&self) -> Option<String> {
        let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let fits = units.iter().find(|(unit, _)| self >= unit && self.is_multiple_of(*unit));
        Some(fits.map_or_else(|| self.to_string(), |(unit, name)| format!("{}{name}", self / unit)))
    }
}

impl Shown for String {
    fn shown(&self) -> Option<String> {
        Some(self.clone())
    }
}

impl Shown for PathBuf {
    fn shown(&self) -> Option<String> {
        Some(self.display().to_string())
    }
}

impl Shown for Vec<String> {
    fn shown(&self) -> Option<String> {
        Some(format!("[{}]", self.join(", ")))
    }
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> Option<String> {
        self.as_ref().and_then(Shown::shown)
    }
}

pub(crate) fn shown_if_set(value: &Option<impl Display>) -> Option<String> {
    value.as_ref().map(ToString::to_string)
}

pub(crate) fn displayed(value: &impl Display) -> Option<String> {
    Some(value.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "10 s",
            "10S",
            "1h30m",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in
            [("0", 0), ("1024", 1024), ("1KiB", 1024), ("64MiB", 64 << 20), ("2GiB", 2 << 30)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "1MB", "1mib", "1.5GiB", "-1", "MiB", "99999999TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn a_line_becomes_a_list_and_a_scalar_of_a_file_does_not() {
        assert_eq!(variables(&Given::Line("A, B".into())).unwrap(), ["A", "B"]);
        assert_eq!(variables(&Given::Line(String::new())).unwrap(), [""; 0]);
        assert!(variables(&Given::Text("A".into())).unwrap_err().contains("a list of"));
        assert!(variables(&Given::List(vec!["A-B".into()])).unwrap_err().contains("`A-B` is none"));
    }

    #[test]
    fn programs_are_names_or_absolute() {
        for (text, fits) in [
            ("claude", true),
            ("/opt/claude", true),
            ("bin/claude", false),
            ("", false),
            ("a\nb", false),
        ] {
            assert_eq!(program(&Given::Text(text.into())).is_ok(), fits, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(millis in 0u64..10_000_000_000, bytes in any::<u64>()) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&duration.shown().unwrap()), Some(duration));
            prop_assert_eq!(parse_size(&bytes.shown().unwrap()), Some(bytes));
        }
    }
}
