//! Cuts terminal output where nothing is cut in half.
//!
//! The screen model can be asked and told things only between sequences, and a viewer can begin
//! to read only there. So what is unfinished at the end of a chunk is held back until the rest of
//! it comes. This looks at the form of sequences only; what they mean is the screen's matter.
//!
//! Invariant: the pieces, put together, are the stream.

/// The longest sequence that is held back. Of a longer one the rest passes as [`Piece::Overlong`].
pub(crate) const HELD_MAX: usize = 16 * 1024;

const ESC: u8 = 0x1b;

/// A part of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Whole characters and control characters; bytes that are no UTF-8 too.
    Text(&'a [u8]),
    /// A whole escape sequence. What a terminal does at once or passes over is left where it stands.
    Sequence(&'a [u8]),
    /// A part of a control string that is too long to be kept.
    Overlong(&'a [u8]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Ground,
    Escape,
    /// After ESC and a byte that only the last one gives a meaning.
    Intermediate,
    Csi,
    /// In a control string; true if BEL ends it (OSC).
    String(bool),
    StringEscape(bool),
}

/// Reads a stream in chunks.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    state: State,
    held: Vec<u8>,
    overlong: bool,
}

impl Cutter {
    /// What was read and not handed out yet.
    pub(crate) fn held(&self) -> &[u8] {
        &self.held
    }

    /// True if the next byte begins something new.
    pub(crate) fn is_between(&self) -> bool {
        self.state == State::Ground && self.held.is_empty() && !self.overlong
    }

    /// What opens a string that a terminal reads to the same end and ignores, if the stream is in
    /// the middle of one that is not kept.
    pub(crate) fn opened_string(&self) -> &'static [u8] {
        match (self.overlong, self.state) {
            (true, State::String(true) | State::StringEscape(true)) => b"\x1b]7777;",
            (true, _) => b"\x1b_",
            (false, _) => b"",
        }
    }

    /// Reads a chunk and hands out its pieces.
    pub(crate) fn push(&mut self, data: &[u8], mut each: impl FnMut(Piece<'_>)) {
        if self.held.is_empty() && !self.overlong {
            let passed = self.cut(data, 0, &mut each);
            self.held.extend_from_slice(&data[passed..]);
        } else {
            let mut joined = std::mem::take(&mut self.held);
            let seen = joined.len();
            joined.extend_from_slice(data);
            let passed = self.cut(&joined, seen, &mut each);
            joined.drain(..passed);
            self.held = joined;
        }
        if self.held.len() > HELD_MAX {
            self.overlong = true;
        }
        if self.overlong && !self.held.is_empty() {
            each(Piece::Overlong(&self.held));
            self.held.clear();
        }
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }

    /// Cuts `data`, of which the first `at` bytes were looked at before. Returns how many bytes
    /// were handed out.
    fn cut(&mut self, data: &[u8], mut at: usize, each: &mut impl FnMut(Piece<'_>)) -> usize {
        let mut start = 0;
        if self.state == State::Ground {
            at = 0;
        }
        while at < data.len() {
            if self.state == State::Ground {
                let end =
                    data[at..].iter().position(|&byte| byte == ESC).map_or(data.len(), |n| at + n);
                let whole = if end == data.len() { end - unfinished(&data[at..end]) } else { end };
                if whole > start {
                    each(Piece::Text(&data[start..whole]));
                    start = whole;
                }
                if end == data.len() {
                    return start;
                }
                self.state = State::Escape;
                at = end + 1;
                continue;
            }
            let byte = data[at];
            // A new ESC breaks off what came before it. In a string that is known only after it.
            let new = match self.state {
                State::StringEscape(_) if byte != b'\\' => {
                    self.state = State::Escape;
                    at.saturating_sub(1)
                }
                State::Escape | State::Intermediate | State::Csi if byte == ESC => at,
                State::Ground
                | State::Escape
                | State::Intermediate
                | State::Csi
                | State::String(_)
                | State::StringEscape(_) => start,
            };
            if new > start {
                self.hand_out(&data[start..new], each);
                start = new;
            }
            let (state, ended) = step(self.state, byte);
            self.state = state;
            at += 1;
            if ended {
                self.hand_out(&data[start..at], each);
                start = at;
            }
        }
        start
    }

    fn hand_out(&mut self, piece: &[u8], each: &mut impl FnMut(Piece<'_>)) {
        if std::mem::take(&mut self.overlong) {
            each(Piece::Overlong(piece));
        } else {
            each(Piece::Sequence(piece));
        }
    }
}

/// The state after `byte`, and whether the sequence ends with it. In a sequence the cell model does
/// control characters at once and passes over DEL and what is no ASCII; here they stay where they are.
fn step(state: State, byte: u8) -> (State, bool) {
    match (state, byte) {
        (State::String(bel), ESC) => (State::StringEscape(bel), false),
        (State::StringEscape(_), b'\\') => (State::Ground, true),
        (State::StringEscape(bel), _) => (State::String(bel), false),
        (_, ESC) => (State::Escape, false),
        (_, 0x18 | 0x1a) => (State::Ground, true),
        (State::String(true), 0x07) => (State::Ground, true),
        (State::String(bel), _) => (State::String(bel), false),
        (State::Escape, b'[') => (State::Csi, false),
        (State::Escape, b']') => (State::String(true), false),
        (State::Escape, b'P' | b'X' | b'^' | b'_') => (State::String(false), false),
        (State::Escape, 0x20..=0x2f) => (State::Intermediate, false),
        (State::Escape, 0x00..=0x1f | 0x7f..) => (State::Escape, false),
        (State::Intermediate, 0x00..=0x2f | 0x7f..) => (State::Intermediate, false),
        (State::Escape | State::Intermediate, _) => (State::Ground, true),
        (State::Csi, 0x40..=0x7e) => (State::Ground, true),
        (State::Csi, _) => (State::Csi, false),
        (State::Ground, _) => (State::Ground, false),
    }
}

/// How many bytes at the end are the beginning of a character.
pub(crate) fn unfinished(text: &[u8]) -> usize {
    for back in 1..=text.len().min(3) {
        let byte = text[text.len() - back];
        let needed = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if back < needed { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(chunks: &[&[u8]]) -> (Vec<(char, Vec<u8>)>, Vec<u8>) {
        let mut cutter = Cutter::default();
        let mut all: Vec<(char, Vec<u8>)> = Vec::new();
        for chunk in chunks {
            cutter.push(chunk, |piece| {
                let (kind, bytes) = match piece {
                    Piece::Text(bytes) => ('t', bytes),
                    Piece::Sequence(bytes) => ('s', bytes),
                    Piece::Overlong(bytes) => ('o', bytes),
                };
                match all.last_mut() {
                    Some((last, text)) if *last == kind && kind != 's' => {
                        text.extend_from_slice(bytes)
                    }
                    _ => all.push((kind, bytes.to_vec())),
                }
            });
        }
        (all, cutter.held().to_vec())
    }

    fn shown(stream: &str) -> Vec<String> {
        let (all, held) = pieces(&[stream.as_bytes()]);
        let mut shown: Vec<_> =
            all.iter().map(|(kind, bytes)| format!("{kind} {}", bytes.escape_ascii())).collect();
        if !held.is_empty() {
            shown.push(format!("held {}", held.escape_ascii()));
        }
        shown
    }

    #[test]
    fn sequences_are_whole() {
        assert_eq!(
            shown("a\r\n\x1b[1;31mb\x1b]0;t\x07\x1b]2;u\x1b\\\x1b(0q\x1b(B\x1b7\x1bP+q\x1b\\x"),
            [
                "t a\\r\\n",
                "s \\x1b[1;31m",
                "t b",
                "s \\x1b]0;t\\x07",
                "s \\x1b]2;u\\x1b\\\\",
                "s \\x1b(0",
                "t q",
                "s \\x1b(B",
                "s \\x1b7",
                "s \\x1bP+q\\x1b\\\\",
                "t x"
            ]
        );
    }

    #[test]
    fn what_is_unfinished_is_held_back() {
        for unfinished in
            ["\x1b", "\x1b[", "\x1b[38;5", "\x1b]0;tit", "\x1b]0;t\x1b", "\x1b(", "\x1bPq"]
        {
            assert_eq!(
                shown(&format!("a{unfinished}")),
                [
                    "t a",
                    &format!(
                        "held {}",
                        unfinished.escape_default().to_string().replace("\\u{1b}", "\\x1b")
                    )
                ]
            );
        }
        let (all, held) = pieces(&[b"a\xe2\x94"]);
        assert_eq!((all, held), (vec![('t', b"a".to_vec())], b"\xe2\x94".to_vec()));
        let (all, held) = pieces(&[b"a\xe2\x94", b"\x80b"]);
        assert_eq!((all, held), (vec![('t', "a─b".as_bytes().to_vec())], vec![]));
    }

    #[test]
    fn an_overlong_string_passes_and_its_end_is_found() {
        let long = [b"\x1b]52;c;".to_vec(), vec![b'A'; HELD_MAX * 3]].concat();
        let mut cutter = Cutter::default();
        for chunk in long.chunks(1000) {
            cutter.push(chunk, |_| {});
        }
        assert!(cutter.held().is_empty() && !cutter.opened_string().is_empty());
        let mut after = Vec::new();
        cutter.push(b"AA\x07text", |piece| {
            if let Piece::Text(text) = piece {
                after.extend_from_slice(text);
            }
        });
        assert_eq!(after, b"text");
        assert!(cutter.opened_string().is_empty());
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            Just(b"\x1b".to_vec()),
            Just(b"\x1b[".to_vec()),
            Just(b"\x1b]2;".to_vec()),
            Just(b"\x1b\\".to_vec()),
            Just(b"\x07".to_vec()),
            "[a-z0-9;ěš─✳]{1,6}".prop_map(String::into_bytes),
        ];
        proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_chunks_do_not_matter(stream in stream(), cuts in proptest::collection::vec(0usize..60, 0..6)) {
            let mut chunks = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts {
                let (chunk, after) = rest.split_at(cut.min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            chunks.push(rest);
            let (cut, held) = pieces(&chunks);
            let whole = pieces(&[&stream]);
            prop_assert_eq!((&cut, &held), (&whole.0, &whole.1));
            let joined: Vec<u8> = cut.into_iter().flat_map(|(_, bytes)| bytes).chain(held).collect();
            prop_assert_eq!(joined, stream);
        }
    }
}
