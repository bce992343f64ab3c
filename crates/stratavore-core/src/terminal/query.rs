//! The questions that programs ask their terminal, and our answers.
//!
//! The agent answers them itself, whether anyone is attached or not, so that a program never waits
//! for a terminal that is not there, and several viewers never answer the same question.

use super::sequence::{Introducer, Kind, numbers};
use super::token::{Token, Tokenizer};

/// A question in a runner's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// DA1: what are you?
    PrimaryDeviceAttributes,
    /// DA2: which version?
    SecondaryDeviceAttributes,
    /// DSR 6: where is the cursor? The extended form is answered with a page.
    CursorPosition { extended: bool },
    /// DSR 5: are you well?
    DeviceStatus,
    /// Which program are you?
    XtVersion,
    /// Which of the kitty keyboard's flags are on?
    KittyKeyboard,
    /// OSC 10: the colour of text. `bell` is how the question ended, and how its answer will.
    ForegroundColor { bell: bool },
    /// OSC 11: the colour behind text.
    BackgroundColor { bell: bool },
    /// DECRQM: is this mode on?
    Mode { number: u16, private: bool },
}

/// Finds the questions in a stream of output. Feed it chunks of any size.
#[derive(Debug, Default)]
pub struct Queries {
    tokenizer: Tokenizer,
}

impl Queries {
    /// True if the next byte is in no sequence that began before it.
    pub fn is_between(&self) -> bool {
        self.tokenizer.is_between()
    }

    /// Reads a chunk and tells each question that ends in it, with how many bytes of the chunk
    /// come before and up to its end: the cursor must be asked for as it is there.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(usize, Query)) {
        let mut rest = bytes;
        while let Some(token) = {
            // Nothing in between can be a question, and most output has none.
            self.tokenizer.skip_to_sequence(&mut rest);
            self.tokenizer.next(&mut rest)
        } {
            let Token::Sequence(sequence) = token else { continue };
            let at = bytes.len() - rest.len();
            match sequence.kind {
                Kind::Csi { marker, params, intermediates, last } => {
                    if let Some(query) = csi(marker, params, intermediates, last) {
                        each(at, query);
                    }
                }
                Kind::Escape { intermediates: [], last: b'Z' } => {
                    each(at, Query::PrimaryDeviceAttributes)
                }
                Kind::String { introducer: Introducer::Osc, payload, bell } => {
                    colors(payload, bell).for_each(|query| each(at, query));
                }
                Kind::Escape { .. } | Kind::String { .. } => {}
            }
        }
    }
}

fn csi(marker: Option<u8>, params: &[u8], intermediates: &[u8], last: u8) -> Option<Query> {
    let number = numbers(params).next().flatten();
    match (marker, intermediates, last, number) {
        (None, [], b'c', None | Some(0)) => Some(Query::PrimaryDeviceAttributes),
        (Some(b'>'), [], b'c', None | Some(0)) => Some(Query::SecondaryDeviceAttributes),
        (Some(b'>'), [], b'q', None | Some(0)) => Some(Query::XtVersion),
        (None, [], b'n', Some(5)) => Some(Query::DeviceStatus),
        (None, [], b'n', Some(6)) => Some(Query::CursorPosition { extended: false }),
        (Some(b'?'), [], b'n', Some(6)) => Some(Query::CursorPosition { extended: true }),
        (Some(b'?'), [], b'u', None) => Some(Query::KittyKeyboard),
        (None, b"$", b'p', Some(n)) => {
            Some(Query::Mode { number: u16::try_from(n).ok()?, private: false })
        }
        (Some(b'?'), b"$", b'p', Some(n)) => {
            Some(Query::Mode { number: u16::try_from(n).ok()?, private: true })
        }
        _ => None,
    }
}

/// `10;?` asks for the text's colour, `10;?;?` for both, `11;?` for the background's.
fn colors(payload: &[u8], bell: bool) -> impl Iterator<Item = Query> + '_ {
    let mut fields = payload.split(|&b| b == b';');
    let first = match fields.next() {
        Some(b"10") => 10,
        Some(b"11") => 11,
        _ => usize::MAX / 2,
    };
    fields.enumerate().filter(|(_, field)| *field == b"?").filter_map(move |(nth, _)| {
        match first + nth {
            10 => Some(Query::ForegroundColor { bell }),
            11 => Some(Query::BackgroundColor { bell }),
            _ => None,
        }
    })
}

impl Query {
    /// The bytes that the terminal would send. `cursor` is (row, column), both counted from 0.
    ///
    /// We say that we are a VT220 with colour, and claim no extension: what a program gets must
    /// not depend on who is attached.
    pub fn answer(&self, cursor: (u16, u16)) -> Vec<u8> {
        let (row, column) = (u32::from(cursor.0) + 1, u32::from(cursor.1) + 1);
        match *self {
            Self::PrimaryDeviceAttributes => "\x1b[?62;22c".into(),
            Self::SecondaryDeviceAttributes => "\x1b[>1;10;0c".into(),
            Self::CursorPosition { extended: false } => format!("\x1b[{row};{column}R"),
            Self::CursorPosition { extended: true } => format!("\x1b[?{row};{column};1R"),
            Self::DeviceStatus => "\x1b[0n".into(),
            Self::XtVersion => format!("\x1bP>|stratavore({})\x1b\\", env!("CARGO_PKG_VERSION")),
            Self::KittyKeyboard => "\x1b[?0u".into(),
            Self::ForegroundColor { bell } => color(10, "cccc/cccc/cccc", bell),
            Self::BackgroundColor { bell } => color(11, "0000/0000/0000", bell),
            Self::Mode { number, private: false } => format!("\x1b[{number};0$y"),
            Self::Mode { number, private: true } => format!("\x1b[?{number};0$y"),
        }
        .into_bytes()
    }
}

fn color(number: u8, rgb: &str, bell: bool) -> String {
    let end = if bell { "\x07" } else { "\x1b\\" };
    format!("\x1b]{number};rgb:{rgb}{end}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queries(chunks: &[&[u8]]) -> Vec<Query> {
        let (mut queries, mut all) = (Queries::default(), Vec::new());
        for chunk in chunks {
            queries.push(chunk, |_, query| all.push(query));
        }
        all
    }

    #[test]
    fn what_programs_ask_is_found_and_answered() {
        for (question, query, answer) in [
            ("\x1b[c", Query::PrimaryDeviceAttributes, "\x1b[?62;22c"),
            ("\x1b[0c", Query::PrimaryDeviceAttributes, "\x1b[?62;22c"),
            ("\x1bZ", Query::PrimaryDeviceAttributes, "\x1b[?62;22c"),
            ("\x1b[>c", Query::SecondaryDeviceAttributes, "\x1b[>1;10;0c"),
            (
                "\x1b[>0q",
                Query::XtVersion,
                concat!("\x1bP>|stratavore(", env!("CARGO_PKG_VERSION"), ")\x1b\\"),
            ),
            ("\x1b[5n", Query::DeviceStatus, "\x1b[0n"),
            ("\x1b[6n", Query::CursorPosition { extended: false }, "\x1b[3;8R"),
            ("\x1b[?6n", Query::CursorPosition { extended: true }, "\x1b[?3;8;1R"),
            ("\x1b[?u", Query::KittyKeyboard, "\x1b[?0u"),
            (
                "\x1b]10;?\x07",
                Query::ForegroundColor { bell: true },
                "\x1b]10;rgb:cccc/cccc/cccc\x07",
            ),
            (
                "\x1b]11;?\x1b\\",
                Query::BackgroundColor { bell: false },
                "\x1b]11;rgb:0000/0000/0000\x1b\\",
            ),
            ("\x1b[?2026$p", Query::Mode { number: 2026, private: true }, "\x1b[?2026;0$y"),
            ("\x1b[4$p", Query::Mode { number: 4, private: false }, "\x1b[4;0$y"),
        ] {
            assert_eq!(queries(&[question.as_bytes()]), [query], "{question:?}");
            assert_eq!(String::from_utf8(query.answer((2, 7))).unwrap(), answer, "{question:?}");
        }
        assert_eq!(
            queries(&[b"\x1b]10;?;?\x07"]),
            [Query::ForegroundColor { bell: true }, Query::BackgroundColor { bell: true }]
        );
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        // The answers themselves are among them: a program that echoes input must not start a loop.
        for stream in [
            "plain",
            "\x1b[31m",
            "\x1b]11;#000\x07",
            "\x1b[?62;22c",
            "\x1b[3;8R",
            "\x1b[0n",
            "\x1b[?0u",
        ] {
            assert_eq!(queries(&[stream.as_bytes()]), [], "{stream:?}");
        }
    }

    #[test]
    fn a_question_is_told_where_it_ends() {
        let mut ends = Vec::new();
        let mut queries = Queries::default();
        queries.push(b"ab\x1b[6", |at, _| ends.push(at));
        queries.push(b"ncd\x1b[5n", |at, _| ends.push(at));
        assert_eq!(ends, [1, 7]);
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(bytes in super::super::tests::stream(), cuts in super::super::tests::cuts()) {
            let chunks = super::super::tests::chunks(&bytes, &cuts);
            prop_assert_eq!(queries(&chunks), queries(&[&bytes]));
        }
    }
}
