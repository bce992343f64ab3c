//! What a terminal remembers besides its cells, and sequences that the cell model does not know.

use std::collections::BTreeSet;

/// Puts a terminal of which nothing is known into the state that a drawing starts from.
pub(super) const RESET: &[u8] = b"\x1b(B\x1b)B\x0f\x1b[m\x1b[4l\x1b[20l\x1b[?7h\x1b[?9l\x1b[?1000l\x1b[?1002l\x1b[?1003l\
\x1b[?1004l\x1b[?1005l\x1b[?1006l\x1b[?1007l\x1b[?1015l\x1b[?1016l\x1b[?2004l\x1b[?2031l\x1b[>4m\x1b[<99u\x1b[r\x1b[?6l";

/// Private modes that a drawing sets again. Those that the cell model knows are not among them.
const MODES: [u16; 6] = [1004, 1007, 1015, 1016, 2031, 5];
/// How deep kitty's keyboard flags are stacked.
const STACK: usize = 16;
/// The most repetitions of one character that are carried out.
const REPEAT_MAX: u32 = 1000;

/// What belongs to one buffer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Buffer {
    /// First and last row of the scroll region, counted from 1; `None` is the whole screen.
    region: Option<(u16, u16)>,
    origin: bool,
    saved: Option<Saved>,
}

/// A cursor that was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Saved {
    /// Row and column, counted from 0.
    at: (u16, u16),
    /// How text looked then.
    attributes: String,
    origin: bool,
}

/// The state that is kept for drawings.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// The primary buffer and the alternate one.
    buffers: [Buffer; 2],
    /// True if switching over to the alternate buffer saved the cursor.
    saved_at_switch: bool,
    modes: BTreeSet<u16>,
    no_wrap: bool,
    insert: bool,
    newline: bool,
    /// Kitty's keyboard flags, the ones in force last.
    keyboard: Vec<u32>,
    /// xterm's `modifyOtherKeys`.
    other_keys: Option<u32>,
}

impl Extra {
    /// Follows a sequence, which `screen` has not seen yet. What comes back is shown in its place.
    pub(super) fn note(&mut self, sequence: &[u8], screen: &vt100::Screen) -> Option<Vec<u8>> {
        let alternate = screen.alternate_screen();
        match sequence {
            [0x1b, b'7'] => self.save(screen),
            [0x1b, b'8'] => self.restore(alternate),
            [0x1b, b'D'] => return Some(b"\n".to_vec()),
            [0x1b, b'E'] => return Some(b"\r\n".to_vec()),
            [0x1b, b'c'] => *self = Self::default(),
            [0x1b, b'[', body @ .., last] => {
                let marker = body.first().copied().filter(|byte| matches!(byte, b'<'..=b'?'));
                let params = if marker.is_some() { &body[1..] } else { body };
                if params.iter().any(|byte| matches!(byte, 0x20..=0x2f)) {
                    return self.with_intermediate(sequence, screen);
                }
                let numbers = numbers(params);
                let first = numbers.first().copied().flatten();
                return match (marker, last) {
                    (None, b'r') => {
                        self.buffer(alternate).region = region(&numbers, screen.size().0.get());
                        None
                    }
                    (None, b's') if params.is_empty() => {
                        self.save(screen);
                        Some(b"\x1b7".to_vec())
                    }
                    (None, b'u') if params.is_empty() => {
                        self.restore(alternate);
                        Some(b"\x1b8".to_vec())
                    }
                    (None, b'Z') => Some(back_tab(first.unwrap_or(1), screen.cursor_position().1)),
                    (None, b'b') if first > Some(REPEAT_MAX) => {
                        Some(format!("\x1b[{REPEAT_MAX}b").into_bytes())
                    }
                    (None, b'h' | b'l') => {
                        for number in numbers.into_iter().flatten() {
                            match number {
                                4 => self.insert = *last == b'h',
                                20 => self.newline = *last == b'h',
                                _ => {}
                            }
                        }
                        None
                    }
                    (Some(b'?'), b'h' | b'l') => {
                        self.private_modes(&numbers, *last == b'h', screen)
                    }
                    (Some(b'>'), b'm') if first == Some(4) => {
                        self.other_keys = numbers.get(1).copied().flatten();
                        None
                    }
                    (Some(marker), b'u') => {
                        self.keyboard(marker, &numbers);
                        None
                    }
                    _ => None,
                };
            }
            _ => {}
        }
        None
    }

    fn buffer(&mut self, alternate: bool) -> &mut Buffer {
        &mut self.buffers[usize::from(alternate)]
    }

    fn save(&mut self, screen: &vt100::Screen) {
        let (at, attributes) = (screen.cursor_position(), screen.attributes_formatted());
        let buffer = self.buffer(screen.alternate_screen());
        buffer.saved = Some(Saved { at, attributes, origin: buffer.origin });
    }

    /// A cursor comes back with the way in which rows were counted when it was saved.
    fn restore(&mut self, alternate: bool) {
        let buffer = self.buffer(alternate);
        buffer.origin = buffer.saved.as_ref().is_some_and(|saved| saved.origin);
    }

    fn with_intermediate(&mut self, sequence: &[u8], screen: &vt100::Screen) -> Option<Vec<u8>> {
        if sequence != b"\x1b[!p" {
            return None;
        }
        // A soft reset leaves the cursor where it is, and the saved one at home.
        *self = Self {
            keyboard: std::mem::take(&mut self.keyboard),
            other_keys: self.other_keys,
            ..Self::default()
        };
        let (row, column) = screen.cursor_position();
        let home = "\x1b[r\x1b[?6l\x1b[m\x1b[H\x1b7";
        let rest = "\x1b[?25h\x1b[?1l\x1b>";
        Some(format!("{home}\x1b[{};{}H{rest}", row + 1, column + 1).into_bytes())
    }

    fn private_modes(
        &mut self,
        numbers: &[Option<u32>],
        on: bool,
        screen: &vt100::Screen,
    ) -> Option<Vec<u8>> {
        let mut alternate = screen.alternate_screen();
        let mut instead = Vec::new();
        let mut translated = false;
        for &number in numbers.iter().flatten() {
            let Ok(number) = u16::try_from(number) else { continue };
            let mut shown = format!("\x1b[?{number}{}", if on { 'h' } else { 'l' });
            match number {
                6 => self.buffer(alternate).origin = on,
                7 => self.no_wrap = !on,
                47 | 1047 | 1049 => {
                    if on {
                        self.saved_at_switch = number == 1049;
                    }
                    if on && number == 1049 {
                        self.save(screen);
                        *self.buffer(true) = Buffer::default();
                    }
                    alternate = on;
                    if !on && number == 1049 {
                        self.restore(false);
                    }
                    if number == 1047 {
                        translated = true;
                        shown = if on { "\x1b[?47h".into() } else { "\x1b[2J\x1b[?47l".into() };
                    }
                }
                1048 => {
                    translated = true;
                    if on {
                        self.save(screen);
                    } else {
                        self.restore(alternate);
                    }
                    shown = if on { "\x1b7".into() } else { "\x1b8".into() };
                }
                _ if MODES.contains(&number) => {
                    if on {
                        self.modes.insert(number);
                    } else {
                        self.modes.remove(&number);
                    }
                }
                _ => {}
            }
            instead.extend_from_slice(shown.as_bytes());
        }
        translated.then_some(instead)
    }

    fn keyboard(&mut self, marker: u8, numbers: &[Option<u32>]) {
        let first = numbers.first().copied().flatten();
        match marker {
            b'>' if self.keyboard.len() < STACK => self.keyboard.push(first.unwrap_or(0)),
            b'<' => {
                let left = self.keyboard.len().saturating_sub(first.unwrap_or(1) as usize);
                self.keyboard.truncate(left);
            }
            b'=' => {
                let mode = numbers.get(1).copied().flatten().unwrap_or(1);
                let flags = first.unwrap_or(0);
                match self.keyboard.last_mut() {
                    Some(last) => {
                        *last = match mode {
                            2 => *last | flags,
                            3 => *last & !flags,
                            _ => flags,
                        }
                    }
                    None if mode != 3 => self.keyboard.push(flags),
                    None => {}
                }
            }
            _ => {}
        }
    }

    /// A new size undoes the scroll regions.
    pub(super) fn resized(&mut self) {
        for buffer in &mut self.buffers {
            buffer.region = None;
        }
    }

    /// True if a line feed in the last row moves all rows of the buffer up.
    pub(super) fn scrolls_as_a_whole(&self, alternate: bool) -> bool {
        let buffer = &self.buffers[usize::from(alternate)];
        buffer.region.is_none() && !buffer.origin
    }

    /// Sequences for a buffer that is drawn: its saved cursor, and its scroll region.
    pub(super) fn placement(&self, alternate: bool) -> Vec<u8> {
        let buffer = &self.buffers[usize::from(alternate)];
        let mut out = Vec::new();
        if let Some(Saved { at: (row, column), attributes, origin }) = &buffer.saved {
            let (on, off) = if *origin { ("\x1b[?6h", "\x1b[?6l") } else { ("", "") };
            let place = format!("{on}\x1b[{};{}H{attributes}\x1b7{off}", row + 1, column + 1);
            out.extend_from_slice(place.as_bytes());
        }
        if let Some((top, bottom)) = buffer.region {
            out.extend_from_slice(format!("\x1b[{top};{bottom}r").as_bytes());
        }
        if out.is_empty() && buffer.origin {
            out.extend_from_slice(b"\x1b[r");
        }
        out
    }

    /// Sequences that switch over to the alternate buffer as the program did. Where that saved the
    /// cursor it saved how text looked too, which is not how it looks now.
    pub(super) fn switch(&self) -> Vec<u8> {
        match &self.buffers[0].saved {
            Some(Saved { attributes, .. }) if self.saved_at_switch => {
                format!("{attributes}\x1b[?1049h").into_bytes()
            }
            Some(_) | None => b"\x1b[?47h".to_vec(),
        }
    }

    /// Sequences that count rows from the region's top, if that is so, with the cursor in place.
    pub(super) fn origin(&self, alternate: bool, (row, column): (u16, u16)) -> Vec<u8> {
        let buffer = &self.buffers[usize::from(alternate)];
        if !buffer.origin {
            return Vec::new();
        }
        let top = buffer.region.map_or(1, |(top, _)| top);
        format!("\x1b[?6h\x1b[{};{}H", (row + 1).saturating_sub(top) + 1, column + 1).into_bytes()
    }

    /// Sequences that set all modes that are on.
    pub(super) fn modes(&self) -> Vec<u8> {
        let mut out = String::new();
        for number in &self.modes {
            out.push_str(&format!("\x1b[?{number}h"));
        }
        for (on, sequence) in
            [(self.no_wrap, "\x1b[?7l"), (self.insert, "\x1b[4h"), (self.newline, "\x1b[20h")]
        {
            if on {
                out.push_str(sequence);
            }
        }
        if let Some(flags) = self.keyboard.last().filter(|flags| **flags > 0) {
            out.push_str(&format!("\x1b[>{flags}u"));
        }
        if let Some(level) = self.other_keys {
            out.push_str(&format!("\x1b[>4;{level}m"));
        }
        out.into_bytes()
    }
}

/// The numbers of a parameter string.
fn numbers(params: &[u8]) -> Vec<Option<u32>> {
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok();
    params.split(|&byte| byte == b';').map(number).collect()
}

/// The scroll region that the parameters set, as the cell model reads them.
fn region(numbers: &[Option<u32>], rows: u16) -> Option<(u16, u16)> {
    let nth = |n: usize| numbers.get(n).copied().flatten().filter(|n| *n > 0);
    let limited = |n: Option<u32>, or: u16| n.map_or(or, |n| u16::try_from(n).unwrap_or(u16::MAX));
    let (top, bottom) = (limited(nth(0), 1), limited(nth(1), rows).min(rows));
    (top < bottom && (top, bottom) != (1, rows)).then_some((top, bottom))
}

fn back_tab(count: u32, column: u16) -> Vec<u8> {
    let stops = u32::from(column).div_ceil(8).saturating_sub(count.max(1));
    format!("\x1b[{}G", stops * 8 + 1).into_bytes()
}
