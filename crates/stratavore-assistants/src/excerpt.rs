//! Texts of others, cut to what is kept of them.

use serde_json::Value;

/// The most bytes of what a question or a failure says.
pub(crate) const SAID_MAX: usize = 4 << 10;
/// The most bytes of a name: of a session, a model, a tool.
pub(crate) const NAME_MAX: usize = 256;

/// The beginning of a text, of at most `max` bytes.
pub(crate) fn clip(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    &text[..end]
}

pub(crate) fn clipped(text: &str, max: usize) -> String {
    clip(text, max).to_owned()
}

/// What a tool is used with, in the words that tell most of it.
pub(crate) fn tool_text(input: &Value) -> String {
    const TELLING: [&str; 9] =
        ["command", "cmd", "file_path", "path", "url", "plan", "pattern", "query", "prompt"];
    let told = TELLING.iter().find_map(|key| input.get(key).and_then(Value::as_str));
    match (told, input) {
        (Some(told), _) => clipped(told, SAID_MAX),
        (None, Value::Null) => String::new(),
        (None, Value::String(text)) => clipped(text, SAID_MAX),
        (None, Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            clipped(&input.to_string(), SAID_MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(clip("aéb", 2), "a");
        assert_eq!(clip("aéb", 3), "aé");
        assert_eq!(clip("é", 0), "");
    }

    #[test]
    fn a_tool_is_told_by_what_it_is_used_with() {
        assert_eq!(tool_text(&json!({"description": "d", "command": "ls -l"})), "ls -l");
        assert_eq!(tool_text(&json!({"a": 1})), r#"{"a":1}"#);
        assert_eq!(tool_text(&Value::Null), "");
    }
}
