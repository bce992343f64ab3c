//! The one reader of terminal streams: cuts bytes into text, controls and whole sequences.
//!
//! A state machine in the manner of a VT500, for UTF-8 streams. It is stricter than a terminal:
//! a sequence that is malformed, interrupted or longer than [`SEQUENCE_MAX`] yields nothing, so
//! whoever passes tokens on passes only what every terminal reads in the same way.
//!
//! C1 controls (U+0080 to U+009F, as UTF-8 or as bare bytes) never introduce a sequence. Most
//! terminals ignore them, doubly encoded quotation marks are full of them, and reading one as the
//! beginning of a string would swallow the text that follows.
//!
//! Invariant: the tokens of a stream do not depend on how it is split, but for where text is cut.

use super::sequence::{Introducer, Sequence};

/// The longest escape sequence that is kept, in bytes, with its introducer and terminator.
pub(super) const SEQUENCE_MAX: usize = 8 * 1024;

/// How much text is looked at in one step. Bounds the work done twice where it is cut.
const WINDOW: usize = 256;

const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
const ESC: u8 = 0x1b;
const DEL: u8 = 0x7f;

/// One piece of a stream. Dropped sequences yield no token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// Text without any C0 or C1 control. May be cut between any two characters.
    Text(&'a str),
    /// Bytes that are not UTF-8, as one decoding error: 1 to 3 of them.
    Invalid(&'a [u8]),
    /// A C0 control or DEL. One inside a sequence comes before it, as terminals act on it.
    Control(u8),
    /// A C1 control that came as UTF-8.
    C1,
    Sequence(Sequence<'a>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ground,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate.
    EscapeIntermediate,
    /// After `ESC N` or `ESC O`.
    SingleShift,
    CsiParams,
    CsiIntermediate,
    /// In a CSI that no terminal agrees on: dropped at its final byte.
    CsiIgnored,
    String(Introducer),
    /// After an ESC in a string: `\` ends it, anything else was the end of it.
    StringEscape(Introducer),
}

/// Reads a stream in chunks. Keeps an unfinished sequence or character between them.
#[derive(Debug)]
pub(super) struct Tokenizer {
    state: State,
    /// The sequence so far, then the one that was last handed out.
    sequence: Vec<u8>,
    /// True once the sequence is too long: it is read to its end and dropped.
    overlong: bool,
    /// The beginning of a character.
    partial: [u8; 4],
    partial_len: usize,
    /// So many bytes of the input are known to be without controls.
    run: usize,
}

enum Step {
    /// Nothing to tell yet.
    More,
    Control(u8),
    /// The sequence has ended with this byte.
    Done,
    /// The sequence has ended before this byte, which is read anew.
    DoneBefore,
    /// The sequence is dropped; the byte is read anew.
    Aborted,
}

impl Default for Tokenizer {
    fn default() -> Self {
        Self {
            state: State::Ground,
            sequence: Vec::new(),
            overlong: false,
            partial: [0; 4],
            partial_len: 0,
            run: 0,
        }
    }
}

impl Tokenizer {
    /// The next token of `input`, which is shortened by what was read. `None` when it is used up,
    /// and not before then may another input be given.
    pub(super) fn next<'t, 'i: 't>(&'t mut self, input: &mut &'i [u8]) -> Option<Token<'t>> {
        loop {
            if self.state == State::Ground {
                match self.ground(input) {
                    Ground::Empty => return None,
                    Ground::Entered => {}
                    Ground::Partial(len) => return Some(in_partial(&self.partial[..len])),
                    Ground::Token(token) => return Some(token),
                }
                continue;
            }
            if let State::String(_) = self.state {
                self.take_plain_string(input);
            }
            let &byte = input.first()?;
            let step = self.step(byte);
            if !matches!(step, Step::DoneBefore | Step::Aborted) {
                *input = &input[1..];
            }
            match step {
                Step::More => {}
                Step::Control(control) => return Some(Token::Control(control)),
                Step::Aborted => self.overlong = false,
                Step::Done | Step::DoneBefore => {
                    if !std::mem::take(&mut self.overlong) {
                        return Some(Token::Sequence(Sequence::parse(&self.sequence)));
                    }
                }
            }
        }
    }

    /// True if the next byte is in no sequence that began before it.
    pub(super) fn is_between(&self) -> bool {
        self.state == State::Ground
    }

    /// Goes past text and controls to the next escape sequence, or to the end of the input.
    ///
    /// For who wants sequences only. Inside a sequence it does nothing.
    pub(super) fn skip_to_sequence(&mut self, input: &mut &[u8]) {
        if self.state == State::Ground {
            (self.partial_len, self.run) = (0, 0);
            let end = input.iter().position(|&b| b == ESC).unwrap_or(input.len());
            *input = &input[end..];
        }
    }

    /// Ends the stream: the beginning of a character that never came, if there is one.
    pub(super) fn finish(&mut self) -> Option<Token<'_>> {
        (self.state, self.run) = (State::Ground, 0);
        let len = std::mem::take(&mut self.partial_len);
        (len > 0).then(|| Token::Invalid(&self.partial[..len]))
    }

    fn ground<'i>(&mut self, input: &mut &'i [u8]) -> Ground<'i> {
        if self.partial_len > 0 {
            return self.complete(input);
        }
        // Four bytes decide what a character is, so fewer are looked at with what follows them.
        if self.run < 4 {
            let window = &input[..input.len().min(WINDOW)];
            self.run = match window.iter().position(|&b| b < 0x20 || b == DEL) {
                Some(0) => {
                    let control = window[0];
                    *input = &input[1..];
                    self.run = 0;
                    if control == ESC {
                        self.enter();
                        return Ground::Entered;
                    }
                    return Ground::Token(Token::Control(control));
                }
                Some(end) => end,
                None if window.is_empty() => return Ground::Empty,
                None => window.len(),
            };
        }
        let run = &input[..self.run];
        let (text, error) = match std::str::from_utf8(run) {
            Ok(text) => (text, None),
            Err(error) => {
                let text =
                    std::str::from_utf8(&run[..error.valid_up_to()]).expect("valid up to there");
                (text, Some(error))
            }
        };
        if !text.is_empty() {
            let (text, token) = match find_c1(text) {
                Some(0) => (&text[..2], Token::C1),
                Some(at) => (&text[..at], Token::Text(&text[..at])),
                None => (text, Token::Text(text)),
            };
            *input = &input[text.len()..];
            self.run -= text.len();
            return Ground::Token(token);
        }
        match error.and_then(|e| e.error_len()) {
            // Undecided, and so the run ends here or at a control.
            None if run.len() == input.len() => {
                self.partial[..run.len()].copy_from_slice(run);
                self.partial_len = run.len();
                self.run = 0;
                *input = &[];
                Ground::Empty
            }
            len => {
                let invalid = &run[..len.unwrap_or(run.len())];
                *input = &input[invalid.len()..];
                self.run -= invalid.len();
                Ground::Token(Token::Invalid(invalid))
            }
        }
    }

    /// Goes on with a character whose beginning came earlier.
    fn complete<'i>(&mut self, input: &mut &'i [u8]) -> Ground<'i> {
        let Some(&byte) = input.first() else { return Ground::Empty };
        let len = self.partial_len;
        self.partial[len] = byte;
        match std::str::from_utf8(&self.partial[..=len]) {
            Ok(_) => {
                *input = &input[1..];
                self.partial_len = 0;
                Ground::Partial(len + 1)
            }
            Err(error) if error.error_len().is_none() => {
                *input = &input[1..];
                self.partial_len += 1;
                Ground::Entered
            }
            Err(_) => {
                self.partial_len = 0;
                Ground::Partial(len)
            }
        }
    }

    fn enter(&mut self) {
        self.sequence.clear();
        self.sequence.push(ESC);
        self.state = State::Escape;
        self.overlong = false;
    }

    fn keep(&mut self, byte: u8) {
        if self.sequence.len() < SEQUENCE_MAX {
            self.sequence.push(byte);
        } else {
            self.overlong = true;
        }
    }

    /// Takes all of a string up to the next byte that may end it.
    fn take_plain_string(&mut self, input: &mut &[u8]) {
        let end =
            input.iter().position(|&b| matches!(b, ESC | BEL | CAN | SUB)).unwrap_or(input.len());
        let (string, rest) = input.split_at(end);
        let room = SEQUENCE_MAX.saturating_sub(self.sequence.len());
        self.overlong |= string.len() > room;
        self.sequence.extend_from_slice(&string[..string.len().min(room)]);
        *input = rest;
    }

    fn step(&mut self, byte: u8) -> Step {
        match self.state {
            State::Ground => unreachable!("read by ground"),
            State::String(introducer) => return self.step_string(introducer, byte),
            State::StringEscape(_) => {
                if byte == b'\\' {
                    self.keep(ESC);
                    self.keep(byte);
                    self.state = State::Ground;
                    return Step::Done;
                }
                // The ESC began another sequence, and the string was cut off.
                self.enter();
                return Step::Aborted;
            }
            State::SingleShift => {
                self.state = State::Ground;
                if matches!(byte, 0x20..=0x7e) {
                    self.keep(byte);
                    return Step::Done;
                }
                return Step::DoneBefore;
            }
            State::Escape
            | State::EscapeIntermediate
            | State::CsiParams
            | State::CsiIntermediate
            | State::CsiIgnored => {}
        }
        match byte {
            ESC => {
                self.enter();
                return Step::More;
            }
            CAN | SUB => {
                self.state = State::Ground;
                self.overlong = false;
                return Step::More;
            }
            0x00..0x20 => return Step::Control(byte),
            DEL => return Step::More,
            0x80.. => {
                self.state = State::Ground;
                return Step::Aborted;
            }
            0x20..DEL => {}
        }
        self.keep(byte);
        let (next, done) = match (self.state, byte) {
            (State::Escape, b'[') => (State::CsiParams, false),
            (State::Escape, b']') => (State::String(Introducer::Osc), false),
            (State::Escape, b'P') => (State::String(Introducer::Dcs), false),
            (State::Escape, b'X' | b'^' | b'_') => (State::String(Introducer::Private), false),
            (State::Escape, b'k') => (State::String(Introducer::ScreenTitle), false),
            (State::Escape, b'N' | b'O') => (State::SingleShift, false),
            (State::Escape | State::EscapeIntermediate, 0x20..=0x2f) => {
                (State::EscapeIntermediate, false)
            }
            // A marker is a marker only where it comes first.
            (State::CsiParams, b'<'..=b'?') if self.sequence.len() > 3 => {
                (State::CsiIgnored, false)
            }
            (State::CsiParams, 0x30..=0x3f) => (State::CsiParams, false),
            (State::CsiParams | State::CsiIntermediate, 0x20..=0x2f) => {
                (State::CsiIntermediate, false)
            }
            (State::CsiIntermediate, 0x30..=0x3f) => (State::CsiIgnored, false),
            (State::CsiIgnored, 0x20..=0x3f) => (State::CsiIgnored, false),
            (State::CsiIgnored, _) => {
                self.overlong = true;
                (State::Ground, true)
            }
            _ => (State::Ground, true),
        };
        self.state = next;
        if done { Step::Done } else { Step::More }
    }

    fn step_string(&mut self, introducer: Introducer, byte: u8) -> Step {
        match byte {
            ESC => self.state = State::StringEscape(introducer),
            CAN | SUB => {
                self.state = State::Ground;
                self.overlong = false;
            }
            BEL if matches!(introducer, Introducer::Osc | Introducer::ScreenTitle) => {
                self.keep(byte);
                self.state = State::Ground;
                return Step::Done;
            }
            _ => self.keep(byte),
        }
        Step::More
    }
}

enum Ground<'i> {
    Empty,
    /// Something was read, and there is nothing to tell.
    Entered,
    /// So many bytes of `partial` are to be told.
    Partial(usize),
    Token(Token<'i>),
}

fn in_partial(bytes: &[u8]) -> Token<'_> {
    match std::str::from_utf8(bytes) {
        Ok(text) if find_c1(text).is_some() => Token::C1,
        Ok(text) => Token::Text(text),
        Err(_) => Token::Invalid(bytes),
    }
}

/// Where the first C1 control stands.
fn find_c1(text: &str) -> Option<usize> {
    if text.is_ascii() {
        return None;
    }
    text.as_bytes().windows(2).position(|pair| pair[0] == 0xc2 && pair[1] < 0xa0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(bytes: &[u8]) -> Vec<String> {
        let (mut tokenizer, mut rest, mut all) = (Tokenizer::default(), bytes, Vec::new());
        while let Some(token) = tokenizer.next(&mut rest) {
            all.push(match token {
                Token::Text(text) => format!("text {text}"),
                Token::Invalid(bytes) => format!("invalid {bytes:x?}"),
                Token::Control(byte) => format!("control {byte:x}"),
                Token::C1 => "c1".into(),
                Token::Sequence(sequence) => format!("sequence {}", sequence.raw.escape_ascii()),
            });
        }
        all
    }

    #[test]
    fn a_stream_is_cut_into_text_controls_and_sequences() {
        assert_eq!(
            tokens("a\u{1b}[1;31mř\r\n\u{1b}]0;✳ t\u{7}\u{1b}(B\u{1b}OAx".as_bytes()),
            [
                "text a",
                "sequence \\x1b[1;31m",
                "text ř",
                "control d",
                "control a",
                "sequence \\x1b]0;\\xe2\\x9c\\xb3 t\\x07",
                "sequence \\x1b(B",
                "sequence \\x1bOA",
                "text x"
            ]
        );
    }

    #[test]
    fn a_control_inside_a_sequence_comes_first_and_the_sequence_stays_whole() {
        assert_eq!(tokens(b"\x1b[3\n1\x7fm"), ["control a", "sequence \\x1b[31m"]);
    }

    #[test]
    fn what_terminals_disagree_on_is_dropped() {
        assert_eq!(tokens(b"\x1b[6?na"), ["text a"]);
        assert_eq!(tokens(b"\x1b[$6na"), ["text a"]);
        assert_eq!(tokens("\u{1b}[ãa".as_bytes()), ["text ãa"]);
        assert_eq!(tokens(b"\x1b]0;cut\x1b[ma"), ["sequence \\x1b[m", "text a"]);
        assert_eq!(tokens(b"\x1b[1\x18a"), ["text a"]);
        assert_eq!(tokens(b"\x1b\x1b[m"), ["sequence \\x1b[m"]);
    }

    #[test]
    fn the_eight_bit_controls_are_told_apart_from_text() {
        assert_eq!(tokens("ěc\u{9b}c".as_bytes()), ["text ěc", "c1", "text c"]);
        assert_eq!(tokens(b"\x9bc"), ["invalid [9b]", "text c"]);
        assert_eq!(tokens(b"\xe2\x82A"), ["invalid [e2, 82]", "text A"]);
        assert_eq!(tokens(b"\xe2\x1b[m"), ["invalid [e2]", "sequence \\x1b[m"]);
    }

    #[test]
    fn an_overlong_sequence_is_read_to_its_end_and_dropped() {
        let mut stream = b"\x1b]0;".to_vec();
        stream.resize(SEQUENCE_MAX * 3, b'x');
        stream.extend_from_slice(b"\x07after");
        assert_eq!(tokens(&stream), ["text after"]);

        let fits = SEQUENCE_MAX - 5;
        let stream = [b"\x1b]0;", "x".repeat(fits).as_bytes(), b"\x07"].concat();
        assert_eq!(tokens(&stream).len(), 1, "the longest one is kept");
        let stream = [b"\x1b]0;", "x".repeat(fits + 1).as_bytes(), b"\x07"].concat();
        assert_eq!(tokens(&stream).len(), 0);
    }
}
