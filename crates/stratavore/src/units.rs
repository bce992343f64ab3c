//! Durations and sizes as people write and read them.

use std::time::Duration;

/// Reads `90s`, `10m`, `1h30m`, `500ms`, `2d`. A bare number is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{}` is no duration: write 30s, 10m, 1h30m or 2d", text.escape_debug());
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = after;
    }
    Ok(total)
}

/// Reads a duration of whole seconds, at least one.
pub(crate) fn parse_seconds(text: &str) -> Result<u64, String> {
    let duration = parse_duration(text)?;
    if duration < Duration::from_secs(1) || duration.subsec_nanos() != 0 {
        return Err(format!("`{}` has to be whole seconds, at least 1", text.escape_debug()));
    }
    Ok(duration.as_secs())
}

/// Reads `2GiB`, `512M`, `1.5g` or plain bytes. `K`, `M`, `G` and `T` are powers of 1024, with or
/// without `iB`; `kB`, `MB`, `GB` and `TB` are powers of 1000.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{}` is no size: write 2GiB, 512MiB or bytes", text.escape_debug());
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "t" | "ti" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    decimal(number, factor).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

/// Reads a number of cores, such as `1.5`, as thousandths of one.
pub(crate) fn parse_cpu(text: &str) -> Result<u64, String> {
    decimal(text, 1000)
        .filter(|millis| *millis > 0)
        .ok_or_else(|| format!("`{}` is no number of cores: write 2 or 0.5", text.escape_debug()))
}

/// Reads an amount of US dollars, such as `1.50`, as millionths of one.
pub(crate) fn parse_usd(text: &str) -> Result<i64, String> {
    let micros = decimal(text.strip_prefix('$').unwrap_or(text), 1_000_000);
    let micros = micros.and_then(|micros| i64::try_from(micros).ok()).filter(|micros| *micros > 0);
    micros.ok_or_else(|| format!("`{}` is no amount: write 2 or 0.50", text.escape_debug()))
}

/// `number` times `factor` without floating point, rounded down. `None` if it is no number or too
/// large.
fn decimal(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut value = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if !fraction.is_empty() {
        let parts = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor);
        value =
            value.checked_add(u64::try_from(parts / 10u128.pow(fraction.len() as u32)).ok()?)?;
    }
    Some(value)
}

/// A time span in one or two units: `3s`, `5m`, `2h10m`, `4d3h`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, 0) => format!("{hours}h"),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, 0, _) => format!("{days}d"),
        (days, hours, _) => format!("{days}d{hours}h"),
    }
}

/// Bytes with at most one decimal: `512 B`, `1.5 MiB`, `20 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let text = if value < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") };
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// A number with its thousands apart: `1,234,567`.
pub(crate) fn grouped(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut text = String::from(if n < 0 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Millionths of a dollar: `$12.34`, and with more places where it is less than that shows.
pub(crate) fn money(micros: i64) -> String {
    let (sign, micros) = (if micros < 0 { "-" } else { "" }, micros.unsigned_abs());
    let rounded = |unit: u64| (micros + unit / 2) / unit;
    if micros == 0 || micros >= 1_000_000 {
        let cents = rounded(10_000);
        let dollars = i64::try_from(cents / 100).unwrap_or(i64::MAX);
        return format!("{sign}${}.{:02}", grouped(dollars), cents % 100);
    }
    if micros < 100 {
        return format!("{sign}$0.{micros:06}");
    }
    let parts = rounded(100);
    format!("{sign}${}.{:04}", parts / 10_000, parts % 10_000)
}

/// Thousandths of a core as a number of cores.
pub(crate) fn cores(millis: u64) -> String {
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    text.trim_end_matches('0').trim_end_matches('.').into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_of_money_is_read_exactly() {
        for (text, micros) in [("2", 2_000_000), ("$1.50", 1_500_000), ("0.000001", 1)] {
            assert_eq!(parse_usd(text), Ok(micros), "{text}");
        }
        for wrong in ["", "0", "-1", "1e3", "two", "99999999999999999999"] {
            assert!(parse_usd(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("5", 5_000),
            ("5s", 5_000),
            ("250ms", 250),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "1x", "-5s", "1.5h", "1h 30m", "99999999999999999d", "5\u{1b}[31m"] {
            let error = parse_duration(text).unwrap_err();
            assert!(!error.contains('\u{1b}'), "{error}");
        }
        assert_eq!(parse_seconds("2h"), Ok(7200));
        assert!(parse_seconds("500ms").is_err());
        assert!(parse_seconds("0").is_err());
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, size) in [
            ("1", 1),
            ("2GiB", 2 << 30),
            ("2G", 2 << 30),
            ("1.5g", 3 << 29),
            ("512 MiB", 512 << 20),
            ("1MB", 1_000_000),
            ("0.5k", 512),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "GiB", "0", "0G", "-1", "1.2.3G", "1e9", "99999999999999T", "1XiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cores_are_read_and_shown() {
        assert_eq!(parse_cpu("1.5"), Ok(1500));
        assert_eq!(parse_cpu("2"), Ok(2000));
        assert_eq!(parse_cpu("0.001"), Ok(1));
        assert!(
            parse_cpu("0").is_err() && parse_cpu("0.0001").is_err() && parse_cpu(".5").is_err()
        );
        assert_eq!(
            (cores(1500).as_str(), cores(2000).as_str(), cores(1).as_str()),
            ("1.5", "2", "0.001")
        );
    }

    #[test]
    fn counts_and_money_are_read_at_a_glance() {
        let shown = [0, 7, 999, 1000, 1_234_567, -1000].map(grouped);
        assert_eq!(shown, ["0", "7", "999", "1,000", "1,234,567", "-1,000"]);
        let shown =
            [0, 1, 99, 150, 4_249, 999_960, 1_000_000, 12_345_678_901, -2_500_000].map(money);
        let expected = [
            "$0.00",
            "$0.000001",
            "$0.000099",
            "$0.0002",
            "$0.0042",
            "$1.0000",
            "$1.00",
            "$12,345.68",
            "-$2.50",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn spans_and_sizes_are_short() {
        let shown: Vec<_> = [0, 59, 60, 3599, 3600, 7800, 86_400, 97_200]
            .map(|s| span(Duration::from_secs(s)))
            .into();
        assert_eq!(shown, ["0s", "59s", "1m", "59m", "1h", "2h10m", "1d", "1d3h"]);
        let shown: Vec<_> =
            [0, 1023, 1024, 1536, 10 << 20, (1 << 30) - 1, 3 << 40].map(bytes).into();
        assert_eq!(shown, ["0 B", "1023 B", "1 KiB", "1.5 KiB", "10 MiB", "1 GiB", "3 TiB"]);
    }
}
