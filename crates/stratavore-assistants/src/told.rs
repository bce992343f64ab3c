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

/// Arguments without the options named: `plain` ones, and `valued` ones with their value, whichever
/// way that was given. What comes after two dashes stays.
pub(crate) fn without(args: &[String], plain: &[&str], valued: &[&str]) -> Vec<String> {
    let mut kept = Vec::with_capacity(args.len());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            kept.push(arg.clone());
            kept.extend(args.by_ref().cloned());
        } else if valued.contains(&arg.as_str()) {
            args.next();
        } else if !plain.contains(&arg.as_str()) && !has_value_of(arg, valued) {
            kept.push(arg.clone());
        }
    }
    kept
}

fn has_value_of(arg: &str, valued: &[&str]) -> bool {
    arg.split_once('=').is_some_and(|(name, _)| valued.contains(&name))
}

/// True if one of these options is among the arguments.
pub(crate) fn has_option(args: &[String], options: &[&str]) -> bool {
    args.iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| options.contains(&arg.as_str()) || has_value_of(arg, options))
}

/// The value of the last of these options among the arguments.
pub(crate) fn option_value<'a>(args: &'a [String], options: &[&str]) -> Option<&'a str> {
    let mut value = None;
    let mut args = args.iter().take_while(|arg| *arg != "--");
    while let Some(arg) = args.next() {
        if options.contains(&arg.as_str()) {
            value = args.next().map(String::as_str);
        } else if has_value_of(arg, options) {
            value = arg.split_once('=').map(|(_, value)| value);
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

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

    #[test]
    fn options_are_found_and_left_out_with_their_values() {
        let args = strings(&["-c", "--session", "a", "-m", "x", "--session=b", "--", "-c"]);
        assert_eq!(without(&args, &["-c"], &["--session", "-s"]), ["-m", "x", "--", "-c"]);
        assert!(has_option(&args, &["--session"]) && !has_option(&strings(&["--", "-c"]), &["-c"]));
        assert_eq!(option_value(&args, &["-s", "--session"]), Some("b"));
        assert_eq!(option_value(&args, &["-x"]), None);
    }
}
