//! What an attached viewer's terminal receives of a runner's output.
//!
//! A viewer's terminal obeys whatever is written to it, and what it answers is typed into the
//! runner. The agent answers a program's questions itself ([`super::Queries`]), so here they are
//! withheld; so is everything that would reach past the screen: clipboard, printer, files, keys,
//! other programs. The rest passes byte for byte.
//!
//! Text and well-known sequences pass; of the wide fields (control strings, sequences with
//! intermediates or markers) only what is known to be harmless does. A new query that some
//! terminal invents is thereby withheld too.
//!
//! The viewer's terminal must be a UTF-8 one. `ESC %`, which would change that, is withheld.
//!
//! Invariant: no byte of a sequence is passed before the whole sequence is known to pass.
//! Invariant: no C1 control is passed, in UTF-8 or as a bare byte.

use super::sequence::{Introducer, Kind, Sequence, numbers};
use super::token::{Token, Tokenizer};
use super::{escape_untrusted, truncate_to_width};

/// Puts a terminal back into the state that a shell expects, when a viewer detaches.
///
/// It leaves the alternate screen, resets margins, modes, keyboard protocols, character sets and
/// colours of text, and shows the cursor. What is on the screen stays, and so does the cursor:
/// leaving an alternate screen that was not entered, and resetting margins, move it, so it is
/// saved and restored around both.
pub const RESET: &[u8] = concat!(
    // First, or a terminal in synchronized output shows nothing of the rest.
    "\x1b[?2026l",
    // Mouse, its encodings, focus, paste, colour scheme and size reports.
    "\x1b[?9l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1005l\x1b[?1006l\x1b[?1015l\x1b[?1016l",
    "\x1b[?1004l\x1b[?2004l\x1b[?2031l\x1b[?2048l",
    // The kitty keyboard's stack, which each screen has for itself; xterm's key modifiers.
    "\x1b[<99u\x1b7\x1b[?1049l\x1b[<99u\x1b[>4m",
    // Margins, then application keys, insert mode, reverse screen, wrapping, cursor.
    "\x1b7\x1b[?69l\x1b[r\x1b8",
    "\x1b[?1l\x1b>\x1b[4l\x1b[?5l\x1b[?7h\x1b[?25h\x1b[0 q",
    "\x0f\x1b(B\x1b[0m"
)
.as_bytes();

/// What precedes every title that a runner sets.
const TITLE_PREFIX: &str = "stratavore: ";
/// The widest title, in columns.
const TITLE_MAX: usize = 200;

/// What has been withheld so far, to tell the viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Withheld {
    /// Attempts to write to the viewer's clipboard.
    pub clipboard_writes: u64,
    /// Everything else: questions, and sequences that reach past the screen.
    pub others: u64,
}

/// Filters the output for one viewer. Feed it chunks of any size, in order.
#[derive(Debug, Default)]
pub struct AttachFilter {
    tokenizer: Tokenizer,
    judge: Judge,
}

#[derive(Debug, Default)]
struct Judge {
    withheld: Withheld,
    colors_changed: bool,
}

enum Verdict {
    Pass,
    Title,
    Withhold,
    WithholdClipboard,
}

impl AttachFilter {
    /// Reads a chunk and appends to `out` what the viewer may have. An unfinished sequence or
    /// character is held back until a later chunk ends it.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        out.reserve(bytes.len());
        let mut rest = bytes;
        while let Some(token) = self.tokenizer.next(&mut rest) {
            match token {
                Token::Text(text) => out.extend_from_slice(text.as_bytes()),
                Token::Invalid(bytes) => {
                    for &byte in bytes {
                        // A terminal that is not in UTF-8 mode takes these for controls.
                        if (0x80..0xa0).contains(&byte) {
                            out.extend_from_slice(REPLACEMENT)
                        } else {
                            out.push(byte)
                        }
                    }
                }
                Token::C1 => out.extend_from_slice(REPLACEMENT),
                // ENQ: the terminal answers with whatever it was told to answer.
                Token::Control(0x05) => self.judge.withheld.others += 1,
                Token::Control(byte) => out.push(byte),
                Token::Sequence(sequence) => self.judge.sequence(&sequence, out),
            }
        }
    }

    /// What has been withheld since the beginning.
    pub fn withheld(&self) -> Withheld {
        self.judge.withheld
    }

    /// What to send to the viewer's terminal on detach: [`RESET`], and the colours of the
    /// terminal itself if the runner changed them.
    pub fn reset(&self) -> Vec<u8> {
        let mut reset = RESET.to_vec();
        if self.judge.colors_changed {
            reset.extend_from_slice(b"\x1b]104\x1b\\\x1b]110\x1b\\\x1b]111\x1b\\\x1b]112\x1b\\");
        }
        reset
    }
}

/// U+FFFD.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

impl Judge {
    fn sequence(&mut self, sequence: &Sequence<'_>, out: &mut Vec<u8>) {
        let verdict = match sequence.kind {
            Kind::Escape { intermediates, last } => escape(intermediates, last),
            Kind::Csi { marker, params, intermediates, last } => {
                csi(marker, params, intermediates, last)
            }
            Kind::String { introducer: Introducer::Osc, payload, .. } => self.osc(payload),
            Kind::String { introducer: Introducer::Dcs, payload, .. } => dcs(payload),
            Kind::String { introducer: Introducer::Private | Introducer::ScreenTitle, .. } => {
                Verdict::Withhold
            }
        };
        match verdict {
            Verdict::Pass => out.extend_from_slice(sequence.raw),
            Verdict::Title => title(sequence, out),
            Verdict::Withhold => self.withheld.others += 1,
            Verdict::WithholdClipboard => self.withheld.clipboard_writes += 1,
        }
    }

    fn osc(&mut self, payload: &[u8]) -> Verdict {
        let Some(text) = clean(payload) else { return Verdict::Withhold };
        let (number, rest) = text.split_once(';').unwrap_or((text, ""));
        let Ok(number) = number.parse::<u16>() else { return Verdict::Withhold };
        let pass = match number {
            0..=2 => return Verdict::Title,
            // The terminal's own colours. A colour has no `?` in it, and a question has.
            4 | 5 | 10..=19 | 104 | 105 | 110..=119 => {
                let harmless = !rest.contains('?');
                self.colors_changed |= harmless && number < 100;
                harmless
            }
            // Directory, link, marks of prompts.
            7 | 8 | 133 => true,
            // A notification, or progress; the other numbers command some terminals.
            9 => rest.starts_with("4;") || !rest.starts_with(|c: char| c.is_ascii_digit()),
            777 => rest.starts_with("notify;"),
            // The pointer's shape.
            22 => !rest.contains('?'),
            52 if !rest.contains('?') => return Verdict::WithholdClipboard,
            _ => false,
        };
        if pass { Verdict::Pass } else { Verdict::Withhold }
    }
}

fn escape(intermediates: &[u8], last: u8) -> Verdict {
    let pass = match (intermediates, last) {
        // Not `Z`, which asks who is there.
        (
            [],
            b'6'..=b'9'
            | b'='
            | b'>'
            | b'D'
            | b'E'
            | b'H'
            | b'M'
            | b'N'
            | b'O'
            | b'V'
            | b'W'
            | b'c',
        ) => true,
        ([], b'n' | b'o' | b'|' | b'}' | b'~' | b'\\') => true,
        // Character sets and line sizes. Not ` `, which makes a terminal send C1 controls, and not
        // `%`, which takes it out of UTF-8.
        ([b'(' | b')' | b'*' | b'+' | b'-' | b'.' | b'/' | b'#', ..], _) => true,
        _ => false,
    };
    if pass { Verdict::Pass } else { Verdict::Withhold }
}

fn csi(marker: Option<u8>, params: &[u8], intermediates: &[u8], last: u8) -> Verdict {
    let pass = match (marker, intermediates, last) {
        // Window operations: all but the stack of titles move, size or hide the window, or report
        // something.
        (None, [], b't') => {
            let operation = numbers(params).next().flatten().unwrap_or(0);
            !params.contains(&b':') && matches!(operation, 22 | 23)
        }
        // Attributes, status, printing, terminal parameters, self test.
        (None, [], b'c' | b'n' | b'i' | b'x' | b'y') => false,
        (None, [], _) => true,
        // Mode 2 turns the terminal into a VT52 with another grammar; 2048 makes it report its size.
        (Some(b'?'), [], b'h' | b'l') => {
            !numbers(params).any(|mode| matches!(mode, Some(2 | 2048)))
        }
        (Some(b'?'), [], b'J' | b'K' | b'r' | b's' | b'W') => true,
        (Some(b'>'), [], b'm' | b'n' | b'u' | b'p' | b's' | b'f') => true,
        (Some(b'<' | b'='), [], b'u') => true,
        // Cursor shape, shifts, soft reset, protection, columns, rectangles, saved attributes.
        (None, b" ", b'q' | b'@' | b'A') => true,
        (None, b"!", b'p') => true,
        (None, b"\"", b'q') => true,
        (None, b"'", b'}' | b'~') => true,
        (None, b"$", b'r' | b't' | b'v' | b'x' | b'z' | b'{') => true,
        (None, b"*", b'x') => true,
        (None, b"#", b'p' | b'q' | b'{' | b'}' | b'P' | b'Q') => true,
        _ => false,
    };
    if pass { Verdict::Pass } else { Verdict::Withhold }
}

/// Sixel graphics and the older form of synchronized output pass. Status requests, macros, keys
/// and what other programs are to pass on do not.
fn dcs(payload: &[u8]) -> Verdict {
    let introduced = payload.iter().position(|b| !matches!(b, b'0'..=b'9' | b';'));
    let pass = clean(payload).is_some()
        && (introduced.is_some_and(|at| payload[at] == b'q') || matches!(payload, b"=1s" | b"=2s"));
    if pass { Verdict::Pass } else { Verdict::Withhold }
}

/// The payload of a string as text, if no terminal could end it early or act inside it.
fn clean(payload: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(payload).ok()?;
    let dirty = text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r'));
    (!dirty).then_some(text)
}

/// Writes a title of the runner's as one of ours, with the terminator that it came with.
fn title(sequence: &Sequence<'_>, out: &mut Vec<u8>) {
    let Kind::String { payload, bell, .. } = sequence.kind else { return };
    let text = String::from_utf8_lossy(payload);
    let (number, text) = text.split_once(';').unwrap_or((&text, ""));
    out.extend_from_slice(b"\x1b]");
    out.extend_from_slice(number.as_bytes());
    out.push(b';');
    out.extend_from_slice(TITLE_PREFIX.as_bytes());
    out.extend_from_slice(truncate_to_width(&escape_untrusted(text), TITLE_MAX).as_bytes());
    out.extend_from_slice(if bell { b"\x07" } else { b"\x1b\\" });
}
