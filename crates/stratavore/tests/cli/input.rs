//! Hostile input, through the real programs: rows 73 to 84 and 88 of the fault catalogue. Text is
//! text, wherever it comes in and wherever it is shown.
//!
//! [`untamed`] is the check of what is shown to people; the control below shows what it notices.

mod attached;
mod commands;
mod corpus;
mod escapes;
mod fields;
mod inside;
mod logs;
mod paths;
mod places;
mod race;
mod secrets;
mod variables;

use stratavore_testkit::world::Ran;

/// The first thing in `bytes` that a terminal would obey, or that a reader could not see: a control
/// other than a line end, or a character that hides or reorders others.
///
/// Written anew from Unicode's tables, and not by asking the program's own.
fn untamed(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
    match text.char_indices().find(|&(_, c)| c != '\n' && (c.is_control() || is_hidden(c))) {
        None => Ok(()),
        Some((at, c)) => {
            let from = text[..at].char_indices().rev().nth(40).map_or(0, |(from, _)| from);
            Err(format!("{c:?} after {:?}", &text[from..at]))
        }
    }
}

/// Format characters, blanks that are none, variation selectors, tags.
fn is_hidden(c: char) -> bool {
    const RANGES: [(u32, u32); 17] = [
        (0xad, 0xad),
        (0x34f, 0x34f),
        (0x61c, 0x61c),
        (0x115f, 0x1160),
        (0x17b4, 0x17b5),
        (0x180b, 0x180f),
        (0x200b, 0x200f),
        (0x2028, 0x202e),
        (0x2060, 0x206f),
        (0x3164, 0x3164),
        (0xfe00, 0xfe0f),
        (0xfeff, 0xfeff),
        (0xffa0, 0xffa0),
        (0xfff9, 0xfffb),
        (0x1bca0, 0x1bca3),
        (0x1d173, 0x1d17a),
        (0xe0001, 0xe01ef),
    ];
    RANGES.iter().any(|(from, to)| (*from..=*to).contains(&u32::from(c)))
}

/// Panics if a command has printed what a terminal would obey.
#[track_caller]
fn tame(ran: Ran, what: &str) -> Ran {
    for (stream, bytes) in [("output", &ran.output.stdout), ("errors", &ran.output.stderr)] {
        if let Err(found) = untamed(bytes) {
            panic!("{what} prints {found} in its {stream}");
        }
    }
    ran
}

/// The control: the check notices each kind of what it is there for, and nothing else.
#[test]
fn the_check_of_what_is_shown_notices_what_a_terminal_would_obey() {
    for harmless in ["", "plain\nlines\n", "Ünïcödé 漢字 e\u{301} 🦀", "\\x1b[31m \\u{202e}"]
    {
        untamed(harmless.as_bytes()).unwrap();
    }
    for harmful in
        ["\u{1b}[2J", "\u{9b}2J", "a\rb", "a\tb", "\u{7}", "\u{7f}", "\0", "\u{202e}", "\u{200b}"]
    {
        untamed(harmful.as_bytes()).unwrap_err();
    }
    untamed(b"\x9b2J").unwrap_err();
    for case in corpus::terminal() {
        let wide = case.what.starts_with("wide");
        assert_eq!(untamed(case.text.as_bytes()).is_ok(), wide, "{}: {:?}", case.what, case.text);
    }
}
