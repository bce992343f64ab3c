//! The line drawing characters of the VT100, which programs use outside of UTF-8 locales.

/// The characters from 0x5f to 0x7e in the graphics set.
const GRAPHICS: [char; 32] = [
    ' ', '◆', '▒', '␉', '␌', '␍', '␊', '°', '±', '␤', '␋', '┘', '┐', '┌', '└', '┼', '⎺', '⎻', '─',
    '⎼', '⎽', '├', '┤', '┴', '┬', '│', '≤', '≥', 'π', '≠', '£', '·',
];

/// Which set is where. True: graphics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Charsets {
    g0: bool,
    g1: bool,
    /// G1 is in use, after SO.
    shifted: bool,
}

impl Charsets {
    /// Text as UTF-8 with its line drawing characters; `None` if it is so already.
    pub(super) fn translate(&mut self, text: &[u8]) -> Option<Vec<u8>> {
        let shifts = text.iter().any(|byte| matches!(byte, 0x0e | 0x0f));
        if !shifts && !self.active() {
            return None;
        }
        let mut translated = Vec::with_capacity(text.len() * 2);
        for &byte in text {
            match byte {
                0x0e => self.shifted = true,
                0x0f => self.shifted = false,
                0x5f..=0x7e if self.active() => {
                    let mut buffer = [0; 4];
                    let drawn = GRAPHICS[usize::from(byte - 0x5f)].encode_utf8(&mut buffer);
                    translated.extend_from_slice(drawn.as_bytes());
                }
                _ => translated.push(byte),
            }
        }
        Some(translated)
    }

    pub(super) fn active(&self) -> bool {
        if self.shifted { self.g1 } else { self.g0 }
    }

    /// Follows the sequences that choose a set.
    pub(super) fn note(&mut self, sequence: &[u8]) {
        match sequence {
            [0x1b, b'(', set] => self.g0 = *set == b'0',
            [0x1b, b')', set] => self.g1 = *set == b'0',
            [0x1b, b'c'] | [0x1b, b'[', b'!', b'p'] => *self = Self::default(),
            _ => {}
        }
    }

    /// Sequences that choose the same sets.
    pub(super) fn drawing(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.g0 {
            out.extend_from_slice(b"\x1b(0");
        }
        if self.g1 {
            out.extend_from_slice(b"\x1b)0");
        }
        if self.shifted {
            out.push(0x0e);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_drawn_and_letters_stay() {
        let mut charsets = Charsets::default();
        assert_eq!(charsets.translate(b"lqk"), None);
        charsets.note(b"\x1b(0");
        assert_eq!(charsets.translate(b"lqk A").unwrap(), "┌─┐ A".as_bytes());
        charsets.note(b"\x1b(B");
        assert_eq!(charsets.translate(b"lqk"), None);
        charsets.note(b"\x1b)0");
        assert_eq!(charsets.translate(b"x\x0ex\x0fx").unwrap(), "x│x".as_bytes());
        assert_eq!(charsets.drawing(), b"\x1b)0");
    }
}
