//! A runner's output as plain text, for logs.
//!
//! Not a screen: where a full-screen program jumps to another row, the line ends. What a program
//! writes over within a line (a progress bar, a spinner) is kept in its last version only.
//!
//! Invariant: the output holds no control character but `\n` and `\t`.

use super::sequence::{Kind, Sequence, numbers};
use super::token::{Token, Tokenizer};

/// The longest line that can still be changed, in bytes. Of a longer one, the beginning is settled.
const LINE_MAX: usize = 64 * 1024;

/// The most columns that one cursor movement adds as spaces.
const SKIP_MAX: u32 = 256;

/// Turns a stream of terminal output into text. Feed it chunks of any size.
#[derive(Debug, Default)]
pub struct PlainText {
    tokenizer: Tokenizer,
    line: Line,
}

#[derive(Debug, Default)]
struct Line {
    /// What may still be changed.
    text: String,
    /// True after a lone `\r`: what comes next begins the line anew.
    returned: bool,
    /// True when the beginning of this line is out already.
    settled: bool,
}

impl PlainText {
    /// Reads a chunk and appends the lines that it ended to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        let mut rest = bytes;
        while let Some(token) = self.tokenizer.next(&mut rest) {
            self.line.token(token, out);
        }
    }

    /// The line that has not ended yet, as far as it is known: a prompt, for example.
    pub fn unfinished(&self) -> &str {
        &self.line.text
    }

    /// Ends the stream: appends the unfinished line, without a line end.
    pub fn finish(mut self, out: &mut String) {
        if let Some(token) = self.tokenizer.finish() {
            self.line.token(token, out);
        }
        out.push_str(&self.line.text);
    }
}

impl Line {
    fn token(&mut self, token: Token<'_>, out: &mut String) {
        match token {
            Token::Text(text) => self.write(text, out),
            Token::Invalid(_) | Token::C1 => self.write("\u{fffd}", out),
            Token::Control(b'\t') => self.write("\t", out),
            // Vertical tab and form feed go down a line in every terminal.
            Token::Control(b'\n' | 0x0b | 0x0c) => self.end(out),
            Token::Control(b'\r') => self.returned = true,
            Token::Control(0x08) if !self.returned => {
                self.text.pop();
            }
            Token::Control(_) => {}
            Token::Sequence(sequence) => self.sequence(&sequence, out),
        }
    }

    /// Most sequences are nothing in plain text. Those that move the cursor end words and lines.
    fn sequence(&mut self, sequence: &Sequence<'_>, out: &mut String) {
        let (params, last) = match sequence.kind {
            Kind::Escape { intermediates: [], last: b'D' | b'E' } => return self.end(out),
            Kind::Csi { marker: None, params, intermediates: [], last } => (params, last),
            Kind::Escape { .. } | Kind::Csi { .. } | Kind::String { .. } => return,
        };
        let number = numbers(params).next().flatten();
        match (last, number) {
            // To column one, as with a carriage return.
            (b'G', None | Some(0..=1)) => self.returned = true,
            (b'K', Some(2)) => self.text.clear(),
            (b'K', None | Some(0)) if self.returned => self.text.clear(),
            (b'C', n) => {
                for _ in 0..n.unwrap_or(1).clamp(1, SKIP_MAX) {
                    self.write(" ", out);
                }
            }
            (b'A' | b'B' | b'E' | b'F' | b'H' | b'd' | b'f', _)
                if !self.text.is_empty() || self.settled =>
            {
                self.end(out);
            }
            _ => {}
        }
    }

    fn write(&mut self, text: &str, out: &mut String) {
        if std::mem::take(&mut self.returned) {
            self.text.clear();
            if std::mem::take(&mut self.settled) {
                // What is out cannot be written over.
                out.push('\n');
            }
        }
        let mut text = text;
        // Settled when the next character has no room, so that it does not matter how text is cut.
        while self.text.len() + text.len() > LINE_MAX {
            let (fits, rest) = text.split_at(text.floor_char_boundary(LINE_MAX - self.text.len()));
            out.push_str(&self.text);
            out.push_str(fits);
            self.text.clear();
            self.settled = true;
            text = rest;
        }
        self.text.push_str(text);
    }

    fn end(&mut self, out: &mut String) {
        out.push_str(&self.text);
        out.push('\n');
        self.text.clear();
        self.returned = false;
        self.settled = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(bytes: &[u8]) -> String {
        let (mut plain, mut out) = (PlainText::default(), String::new());
        plain.push(bytes, &mut out);
        plain.finish(&mut out);
        out
    }

    #[test]
    fn the_terminal_is_taken_out_of_the_text() {
        for (name, stream, text) in [
            ("colours", "\x1b[1;31mred\x1b[0m\r\n", "red\n"),
            ("a title", "\x1b]0;title\x07a\x1b]2;title\x1b\\b", "ab"),
            ("strings", "\x1bPq#0;2\x1b\\a\x1b_apc\x1b\\b\x1b^pm\x1b\\c\x1bXsos\x1b\\d", "abcd"),
            ("charsets and shifts", "\x1b(0\x1b)Ba\x0e\x0fb\x1bNxc", "abc"),
            ("tabs stay", "a\tb\n", "a\tb\n"),
            ("dos line ends", "a\r\nb\r\r\nc\n", "a\nb\nc\n"),
            ("progress keeps its last", "10%\r55%\r100%\ndone", "100%\ndone"),
            ("a return alone keeps the line", "prompt\r", "prompt"),
            ("an erased line", "working\r\x1b[Kdone\nagain\x1b[2K\x1b[1Gnow\n", "done\nnow\n"),
            ("an erased line with nothing after", "working\r\x1b[K\n", "\n"),
            ("erasing to the end of line keeps what is before", "kept\x1b[K\n", "kept\n"),
            ("backspace", "abd\x08c\x08\x08\x08\x08x\n", "x\n"),
            (
                "a full-screen program",
                "\x1b[2J\x1b[Hone\x1b[2;1Htwo\x1b[5Bthree",
                "one\ntwo\nthree",
            ),
            ("words set apart by movement", "a\x1b[Cb\x1b[3Cc", "a b   c"),
            ("bells and nulls", "a\x07\0b", "ab"),
            ("eight-bit controls", "a\u{9b}b\u{85}c", "a\u{fffd}b\u{fffd}c"),
            ("text", "ě✳漢 \u{1f600}\n", "ě✳漢 \u{1f600}\n"),
        ] {
            assert_eq!(plain(stream.as_bytes()), text, "{name}");
        }
        assert_eq!(plain(b"a\xff\xe2\x82b\xe2\x82"), "a\u{fffd}\u{fffd}b\u{fffd}", "not UTF-8");
    }

    #[test]
    fn a_prompt_can_be_seen_before_its_line_ends() {
        let (mut plain, mut out) = (PlainText::default(), String::new());
        plain.push(b"one\n$ ", &mut out);
        assert_eq!((out.as_str(), plain.unfinished()), ("one\n", "$ "));
    }

    #[test]
    fn an_endless_line_is_told_in_parts_and_nothing_of_it_is_lost() {
        let (mut plain, mut out) = (PlainText::default(), String::new());
        for _ in 0..1000 {
            plain.push(&[b'x'; 1000], &mut out);
            assert!(plain.line.text.len() <= LINE_MAX, "held {}", plain.line.text.len());
        }
        plain.push(b"\rover\n", &mut out);
        assert!(out.starts_with(&"x".repeat(900_000)));
        assert!(out.ends_with("x\nover\n"));
        assert!(plain.line.text.capacity() <= 2 * LINE_MAX);
    }

    proptest! {
        #[test]
        fn only_newlines_and_tabs_are_left(bytes in super::super::tests::stream()) {
            let out = plain(&bytes);
            prop_assert!(!out.chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{out:?}");
        }

        #[test]
        fn chunks_do_not_matter(bytes in super::super::tests::stream(), cuts in super::super::tests::cuts()) {
            let (mut split, mut out) = (PlainText::default(), String::new());
            for chunk in super::super::tests::chunks(&bytes, &cuts) {
                split.push(chunk, &mut out);
            }
            split.finish(&mut out);
            prop_assert_eq!(out, plain(&bytes));
        }
    }
}
