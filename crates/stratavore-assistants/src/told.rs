//! Reading what an assistant tells: JSON whose shape its makers may change with any version.
//!
//! Invariant: what is missing or of another kind is `None` or nothing, never a failure.

use jiff::Timestamp;
use serde_json::Value;

/// The text at a JSON pointer. An empty one is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
}

/// The number at a JSON pointer, also if it was written as a text or with a fraction.
pub(crate) fn count(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(number).unwrap_or_default()
}

fn number(value: &Value) -> Option<u64> {
    if let Some(number) = value.as_u64() {
        return Some(number);
    }
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
    // Saturates, and is 0 for what is no number.
    Some(number as u64)
}

/// A time in milliseconds since 1970.
pub(crate) fn millis(value: &Value, pointer: &str) -> Option<Timestamp> {
    let millis = value.pointer(pointer)?;
    let millis = millis.as_i64().or_else(|| Some(millis.as_f64()? as i64))?;
    Timestamp::from_millisecond(millis).ok()
}

/// A time as RFC 3339 writes it.
pub(crate) fn time(value: &Value, pointer: &str) -> Option<Timestamp> {
    text(value, pointer)?.parse().ok()
}

/// US dollars, in millionths. Below zero is no cost.
pub(crate) fn micros(value: &Value, pointer: &str) -> Option<i64> {
    let dollars = value.pointer(pointer)?.as_f64().filter(|dollars| *dollars >= 0.0)?;
    Some((dollars * 1e6).round() as i64)
}

/// At most `bytes` of a text, whole characters.
pub(crate) fn cut(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}

/// What is said of a refusal by those who limit how often they may be asked.
pub(crate) fn is_rate_limit(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["429", "rate limit", "rate_limit", "too many requests", "quota", "resource_exhausted"]
        .into_iter()
        .any(|sign| text.contains(sign))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_read_however_they_were_written() {
        let told = json!({"a": 11, "b": "12", "c": 13.9, "d": -4, "e": "x", "f": null, "g": [1]});
        let counts = ["/a", "/b", "/c", "/d", "/e", "/f", "/g", "/h"].map(|at| count(&told, at));
        assert_eq!(counts, [11, 12, 13, 0, 0, 0, 0, 0]);
        assert_eq!(micros(&json!({"cost": 0.0011647}), "/cost"), Some(1165));
        assert_eq!(micros(&json!({"cost": -1}), "/cost"), None);
        assert_eq!(millis(&json!({"t": 1e300}), "/t"), None);
        assert_eq!(
            millis(&json!({"t": 1500}), "/t"),
            Some("1970-01-01T00:00:01.5Z".parse().unwrap())
        );
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("Grüße", 3), "Gr");
        assert_eq!(cut("Grüße", 4), "Grü");
        assert_eq!(cut("ab", 9), "ab");
    }
}
