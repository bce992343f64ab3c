//! Keeps a flood of plain output from being drawn line by line, or looked at more than once.
//!
//! Of a long stretch of text and colours only the last lines stay on the screen. What scrolls
//! through is left out; its colours are not, for they may still be in force at the end. A long
//! stretch is not drawn before somebody wants to see the screen, or something else comes.
//!
//! Invariant: the screen is the same as if everything had been drawn.

/// A shorter stretch is drawn at once: that costs little, and keeps no memory.
const LONG: usize = 4 * 1024;
/// A longer stretch is shortened to what stays on the screen, or drawn.
const LONGEST: usize = 64 * 1024;
/// The longest sequence of colours that counts as one here.
const COLOR_MAX: usize = 64;

/// Output that only prints, colours, and goes to the next line, and is still to be drawn.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    bytes: Vec<u8>,
}

fn prints(byte: u8) -> bool {
    byte >= 0x20 || matches!(byte, b'\n' | b'\r' | b'\t' | 0x07 | 0x08)
}

/// True if the bytes do nothing but print and go on to the next line.
pub(super) fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|&byte| prints(byte))
}

/// True if the sequence only sets how text looks.
pub(super) fn is_color(sequence: &[u8]) -> bool {
    match sequence {
        [0x1b, b'[', params @ .., b'm'] => params.iter().all(|byte| matches!(byte, b'0'..=b';')),
        _ => false,
    }
}

fn is_reset(sequence: &[u8]) -> bool {
    matches!(sequence, b"\x1b[m" | b"\x1b[0m")
}

/// How many bytes at the beginning of `data`, which begins outside of any sequence, only print,
/// colour, and go to the next line. None if they are too few to be worth it.
pub(super) fn prefix(data: &[u8]) -> usize {
    let mut end = 0;
    if data.len() < LONG {
        return 0;
    }
    while let Some(at) = data[end..].iter().position(|&byte| !prints(byte)) {
        end += at;
        let Some(length) = color_at(&data[end..]) else { break };
        end += length;
    }
    if data[end..].iter().all(|&byte| prints(byte)) {
        end = data.len() - crate::escape::unfinished(data);
    }
    if end < LONG { 0 } else { end }
}

/// The length of the sequence of colours that `data` begins with.
fn color_at(data: &[u8]) -> Option<usize> {
    let rest = data.strip_prefix(b"\x1b[")?;
    let params = rest.iter().take(COLOR_MAX).position(|byte| !matches!(byte, b'0'..=b';'))?;
    (rest[params] == b'm').then_some(params + 3)
}

impl Stretch {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_short(&self) -> bool {
        self.bytes.len() < LONG
    }

    pub(super) fn is_too_long(&self) -> bool {
        self.bytes.len() > LONGEST
    }

    /// Forgets what scrolls through on a screen of `rows` that scrolls as a whole. False if it is
    /// no shorter for that.
    pub(super) fn shorten(&mut self, rows: usize) -> bool {
        let Some(skipped) = self.skippable(rows) else { return false };
        // It comes after a return and a line feed, so the cursor is in the first column.
        let mut head = b"\r".to_vec();
        for (start, end) in self.in_force(skipped).into_iter().rev() {
            head.extend_from_slice(&self.bytes[start..end]);
        }
        if head.len() >= skipped {
            return false;
        }
        self.bytes.splice(..skipped, head);
        !self.is_too_long()
    }

    /// Hands out what has to be drawn on a screen of `rows` that scrolls as a whole, or all of it
    /// if it does not.
    pub(super) fn flush(&mut self, rows: Option<usize>, draw: impl FnOnce(&[u8])) {
        if self.bytes.is_empty() {
            return;
        }
        if let Some(rows) = rows {
            self.shorten(rows);
        }
        draw(&self.bytes);
        // One flood must not keep its memory for ever.
        self.bytes.clear();
        self.bytes.shrink_to(LONG);
    }

    /// How many bytes scroll through. From there on come lines enough to bring the cursor to the
    /// last row, and then everything older off the screen.
    fn skippable(&self, rows: usize) -> Option<usize> {
        let mut lines = 0;
        let mut end = self.bytes.len();
        while let Some(at) = self.bytes[..end].iter().rposition(|&byte| byte == b'\n') {
            lines += 1;
            if lines > 2 * rows && at > 0 && self.bytes[at - 1] == b'\r' {
                return Some(at + 1);
            }
            end = at;
        }
        None
    }

    /// Where the colours are set, last first, that are in force at `end`.
    fn in_force(&self, end: usize) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        let mut before = end;
        while let Some(start) = self.bytes[..before].iter().rposition(|&byte| byte == 0x1b) {
            before = start;
            // Only colours are in here, and their first letter ends them.
            let Some(length) = self.bytes[start..end].iter().position(|&byte| byte == b'm') else {
                continue;
            };
            let color = (start, start + length + 1);
            found.push(color);
            if is_reset(&self.bytes[color.0..color.1]) {
                break;
            }
        }
        found
    }
}
