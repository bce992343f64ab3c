//! Finds the detach key in what is typed, however the terminal encodes and cuts it.
//!
//! A key with control is one byte in an old terminal. A program can ask the terminal for other
//! encodings (kitty's keyboard protocol, xterm's modifyOtherKeys), and many assistants do, so the
//! key is looked for in those too.
//!
//! Invariant: what is not the detach key goes to the runner unchanged and in order, and what could
//! still become it is held back.

use stratavore_config::DetachKey;

/// Caps lock and num lock, which kitty's protocol counts among the modifiers.
const LOCKS: [u8; 3] = [64, 128, 192];

/// Everything that a terminal may send for each key in turn.
fn forms(key: &DetachKey) -> Vec<Vec<Vec<u8>>> {
    let mut keys = key.forms();
    for forms in &mut keys {
        for form in forms.clone() {
            // The modifiers follow the first semicolon: `ESC [ 113 ; 5 u`, `ESC [ 27 ; 5 ; 113 ~`.
            let Some((head, rest)) =
                str::from_utf8(&form).ok().and_then(|text| text.split_once(';'))
            else {
                continue;
            };
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let Ok(modifiers) = rest[..digits].parse::<u8>() else { continue };
            for lock in LOCKS {
                forms.push(
                    format!("{head};{}{}", modifiers.saturating_add(lock), &rest[digits..])
                        .into_bytes(),
                );
            }
        }
    }
    keys
}

/// What to do with what was typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    /// For the runner.
    pub input: Vec<u8>,
    /// The detach key was pressed; what was typed after it is dropped.
    pub detach: bool,
}

/// Reads what is typed, in chunks.
#[derive(Debug)]
pub(crate) struct KeyReader {
    /// Each key with all its forms.
    wanted: Vec<Vec<Vec<u8>>>,
    /// How many keys of the sequence were pressed.
    matched: usize,
    /// The bytes of those keys, and of the beginning of the next one.
    held: Vec<u8>,
    /// Where in `held` the key begins that is not yet whole.
    key_start: usize,
}

enum Look {
    /// A key of this many bytes.
    Whole(usize),
    /// It could become one.
    Partial,
    No,
}

impl KeyReader {
    pub(crate) fn new(key: &DetachKey) -> Self {
        Self { wanted: forms(key), matched: 0, held: Vec::new(), key_start: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Typed {
        let mut input = Vec::with_capacity(bytes.len());
        self.held.extend_from_slice(bytes);
        while self.key_start < self.held.len() {
            match self.look() {
                Look::Whole(length) => {
                    self.key_start += length;
                    self.matched += 1;
                    if self.matched == self.wanted.len() {
                        self.forget();
                        return Typed { input, detach: true };
                    }
                }
                Look::Partial => return Typed { input, detach: false },
                Look::No => {
                    // Not the sequence after all: its first byte is the runner's, and the rest
                    // may be the beginning of another try.
                    let whole_keys = self.matched > 0;
                    if whole_keys {
                        input.push(self.held.remove(0));
                        self.matched = 0;
                        self.key_start = 0;
                    } else {
                        let plain = self.plain_run();
                        input.extend(self.held.drain(..plain));
                    }
                }
            }
        }
        Typed { input, detach: false }
    }

    /// How the bytes at `key_start` compare with the key that is due.
    fn look(&self) -> Look {
        let rest = &self.held[self.key_start..];
        let mut partial = false;
        for form in &self.wanted[self.matched] {
            if rest.starts_with(form) {
                return Look::Whole(form.len());
            }
            // `ESC` and `ESC [` are keys of their own, and must not wait for more.
            partial |= rest.len() > 2 && form.starts_with(rest);
        }
        if partial { Look::Partial } else { Look::No }
    }

    /// The length of what cannot be the beginning of the sequence: at least 1.
    fn plain_run(&self) -> usize {
        let begins = |byte: &u8| self.wanted[0].iter().any(|form| form.first() == Some(byte));
        let more = self.held[1..].iter().position(begins);
        more.map_or(self.held.len(), |n| n + 1)
    }

    fn forget(&mut self) {
        self.held.clear();
        self.matched = 0;
        self.key_start = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes `chunks` and answers all input and whether it detached.
    fn typed(key: &str, chunks: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut reader = KeyReader::new(&key.parse().unwrap());
        let mut input = Vec::new();
        for chunk in chunks {
            let part = reader.push(chunk);
            input.extend(part.input);
            if part.detach {
                return (input, true);
            }
        }
        (input, false)
    }

    #[test]
    fn the_key_is_found_in_every_encoding() {
        for encoding in [
            &b"\x1c"[..],
            b"\x1b[92;5u",
            b"\x1b[92;5:1u",
            b"\x1b[27;5;92~",
            b"\x1b[92;133u",
            b"\x1b[92;69:1u",
        ] {
            assert_eq!(
                typed("ctrl-\\", &[b"ab", encoding, b"c"]),
                (b"ab".to_vec(), true),
                "{encoding:?}"
            );
        }
        assert!(!typed("ctrl-\\", &[b"\x1b[92;5:3u"]).1, "the release of the key is not its press");
    }

    #[test]
    fn a_sequence_is_found_across_reads() {
        assert_eq!(typed("ctrl-a d", &[b"x\x01", b"d"]), (b"x".to_vec(), true));
        assert_eq!(typed("ctrl-a d", &[b"x\x01dy"]), (b"x".to_vec(), true));
        assert_eq!(typed("ctrl-a d", &[b"\x1b[97;", b"5u", b"d"]), (vec![], true));
    }

    #[test]
    fn what_is_not_the_key_arrives_unchanged() {
        assert_eq!(typed("ctrl-a d", &[b"\x01", b"x"]), (b"\x01x".to_vec(), false));
        assert_eq!(typed("ctrl-a d", &[b"\x01\x01", b"d"]), (b"\x01".to_vec(), true));
        assert_eq!(typed("ctrl-\\", &[b"\x1b"]), (b"\x1b".to_vec(), false), "escape does not wait");
        assert_eq!(typed("ctrl-\\", &[b"\x1b["]), (b"\x1b[".to_vec(), false));
        assert_eq!(typed("ctrl-\\", &[b"\x1b[93;5u\x1b[A"]), (b"\x1b[93;5u\x1b[A".to_vec(), false));
        let everything: Vec<u8> = (0..=255).filter(|b| *b != 0x1c).collect();
        assert_eq!(typed("ctrl-\\", &[&everything]), (everything.clone(), false));
    }

    #[test]
    fn cuts_change_nothing() {
        let text = b"ls -la\r\x1b[A\x1b[92;2u\x01 \x01\x01x\x1b[97;5:3u end";
        let whole = typed("ctrl-a d", &[text]);
        for cut in 0..text.len() {
            let (a, b) = text.split_at(cut);
            // A cut after ESC or `ESC [` may make an encoding unrecognisable, never lose a byte.
            assert_eq!(typed("ctrl-a d", &[a, b]), whole, "cut at {cut}");
        }
    }
}
