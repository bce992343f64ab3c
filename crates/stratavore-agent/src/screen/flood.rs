//! Keeps a flood of plain output from being drawn line by line.
//!
//! Of a long stretch of text and colours only the last lines stay on the screen. What scrolls
//! through is left out; its colours are not, for they may still be in force at the end.
//!
//! Invariant: the screen is the same as if everything had been drawn.

/// Output that only prints, colours, and goes to the next line.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    bytes: Vec<u8>,
    /// Where colours are set.
    colors: Vec<(usize, usize)>,
}

/// True if the bytes do nothing but print and go on to the next line.
pub(super) fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|&byte| byte >= 0x20 || matches!(byte, b'\n' | b'\r' | b'\t' | 0x07 | 0x08))
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

impl Stretch {
    pub(super) fn text(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
    }

    pub(super) fn color(&mut self, sequence: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(sequence);
        self.colors.push((start, self.bytes.len()));
    }

    /// Hands out what has to be drawn on a screen of `rows` that scrolls as a whole, or all of it
    /// if it does not.
    pub(super) fn flush(&mut self, rows: Option<u16>, mut draw: impl FnMut(&[u8])) {
        if self.bytes.is_empty() {
            return;
        }
        match rows.and_then(|rows| self.skippable(usize::from(rows))) {
            None => draw(&self.bytes),
            Some(skipped) => {
                // It comes after a return and a line feed, so the cursor is in the first column.
                draw(b"\r");
                let before = self.colors.partition_point(|(start, _)| *start < skipped);
                let in_force = self.colors[..before]
                    .iter()
                    .rposition(|&(start, end)| is_reset(&self.bytes[start..end]));
                for &(start, end) in &self.colors[in_force.unwrap_or(0)..before] {
                    draw(&self.bytes[start..end]);
                }
                draw(&self.bytes[skipped..]);
            }
        }
        self.bytes.clear();
        self.colors.clear();
        // One flood must not keep its memory for ever.
        self.bytes.shrink_to(4096);
        self.colors.shrink_to(64);
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
}
