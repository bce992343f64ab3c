//! Text from outside, made fit to be shown among our own.

use std::fmt;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Shows a text with everything that cannot be seen written as an escape: controls as `\x1b`, `\n`,
/// and bidirectional, zero-width and other invisible characters as `\u{202e}`.
///
/// A backslash stays as it is, so the result is for people and cannot be read back.
#[derive(Debug, Clone, Copy)]
pub struct Untrusted<'a>(pub &'a str);

impl fmt::Display for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some((at, c)) = rest.char_indices().find(|&(_, c)| is_invisible(c)) {
            f.write_str(&rest[..at])?;
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                '\0'..='\x7f' => write!(f, "\\x{:02x}", u32::from(c))?,
                _ => write!(f, "\\u{{{:x}}}", u32::from(c))?,
            }
            rest = &rest[at + c.len_utf8()..];
        }
        f.write_str(rest)
    }
}

/// The text as [`Untrusted`] shows it.
pub fn escape_untrusted(text: &str) -> String {
    Untrusted(text).to_string()
}

/// A JSON text with everything in its strings that cannot be seen written as JSON's own escapes.
///
/// It stays the same value. Between its strings JSON has no character that is changed here.
pub fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if is_invisible(c) && c != '\n' {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// True if a text holds what [`Untrusted`] would write as an escape, line ends aside.
pub fn has_invisible(text: &str) -> bool {
    text.chars().any(|c| c != '\n' && is_invisible(c))
}

/// Cuts a text to at most `columns` columns of a terminal; what is cut ends in `…`.
///
/// For escaped text: a control counts as one column here and does as it likes in a terminal.
pub fn truncate_to_width(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.into();
    }
    let Some(room) = columns.checked_sub(1) else {
        return String::new();
    };
    let mut width = 0;
    let fits = text.char_indices().find(|(_, c)| {
        width += c.width().unwrap_or(1);
        width > room
    });
    let mut cut = text[..fits.map_or(text.len(), |(at, _)| at)].to_string();
    // Some characters are wider together than alone.
    while cut.width() > room {
        cut.pop();
    }
    cut.push('…');
    cut
}

/// Controls, and what changes how text is read without being seen itself.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\0'..='\x1f' | '\x7f'..='\u{9f}'
        | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{70f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{13430}'..='\u{1345f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_cannot_be_seen_is_written_out() {
        for (text, shown) in [
            ("plain Ünïcödé 漢字", "plain Ünïcödé 漢字"),
            ("a\u{202e}b", "a\\u{202e}b"),
            ("\x1b[31m", "\\x1b[31m"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("\u{9b}c\x7f", "\\u{9b}c\\x7f"),
            ("zero\u{200b}width\u{feff}", "zero\\u{200b}width\\u{feff}"),
            ("\u{2028}\u{2029}\u{e0041}", "\\u{2028}\\u{2029}\\u{e0041}"),
            ("", ""),
        ] {
            assert_eq!(escape_untrusted(text), shown);
        }
    }

    #[test]
    fn a_text_is_cut_by_columns_and_not_by_characters() {
        assert_eq!(truncate_to_width("abc", 3), "abc");
        assert_eq!(truncate_to_width("abcd", 3), "ab…");
        assert_eq!(truncate_to_width("漢字漢字", 5), "漢字…");
        assert_eq!(truncate_to_width("漢字漢字", 4), "漢…");
        assert_eq!(truncate_to_width("e\u{301}e\u{301}e\u{301}", 2), "e\u{301}…");
        assert_eq!(truncate_to_width("abc", 0), "");
        assert_eq!(truncate_to_width("abc", 1), "…");
    }

    proptest! {
        #[test]
        fn escaped_json_is_the_same_value_and_can_be_seen(text in any::<String>()) {
            let json = serde_json::to_string_pretty(&[&text]).unwrap();
            let escaped = escape_json(&json);
            prop_assert!(!has_invisible(&escaped));
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&escaped).unwrap(), [text]);
        }

        #[test]
        fn shown_text_has_no_control_and_no_invisible_character(text in any::<String>()) {
            prop_assert!(!escape_untrusted(&text).chars().any(is_invisible));
        }

        #[test]
        fn a_cut_text_fits(text in any::<String>(), columns in 0usize..40) {
            let text = escape_untrusted(&text);
            prop_assert!(truncate_to_width(&text, columns).width() <= columns.max(text.width().min(columns)));
        }
    }
}
