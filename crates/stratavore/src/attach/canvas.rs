//! The viewer's terminal as what is drawn on.
//!
//! Where both terminals have the same size, output passes through a filter and nothing else. Where
//! they differ it goes through a [`Mirror`]. In both cases the position in the output is known, so
//! a fresh screen can be shown at any time without losing or repeating a byte.
//!
//! Invariant: only what the filter or the mirror made reaches the viewer's terminal.

use std::io;

use stratavore_core::terminal::{AttachFilter, Untrusted};
use stratavore_proto::v1;

use super::mirror::Mirror;
use super::tty;

/// Saves and restores the window's title, where the terminal can.
const TITLE_PUSH: &[u8] = b"\x1b[22;0t";
const TITLE_POP: &[u8] = b"\x1b[23;0t";
/// To the lower left corner, and on to a fresh line.
const TO_END: &[u8] = b"\x1b[999;1H\r\n";

/// Columns and rows.
pub(super) type Cells = (u16, u16);

/// What is on the viewer's terminal, and what is to be written to it next.
pub(super) struct Canvas {
    filter: AttachFilter,
    /// Attempts to write to the clipboard that filters before this one withheld.
    withheld: u64,
    mirror: Option<Mirror>,
    pub(super) viewer: Cells,
    pub(super) runner: Cells,
    /// Up to where the output is on the screen.
    offset: u64,
    /// What is on the screen does not go with what comes: a fresh screen is due.
    pub(super) stale: bool,
    title: String,
    /// Titles that the runner saved and has not taken back. The terminal keeps them on ours.
    titles_saved: usize,
    out: Vec<u8>,
}

impl Canvas {
    /// A terminal of this size. What is on it moves into the scrollback, so that it is not drawn
    /// over.
    pub(super) fn new(viewer: Cells) -> Self {
        let mut out = TITLE_PUSH.to_vec();
        out.extend(format!("\x1b[{};1H", viewer.1).bytes());
        out.extend(std::iter::repeat_n(b'\n', usize::from(viewer.1)));
        out.extend_from_slice(b"\x1b[H");
        Self {
            filter: AttachFilter::default(),
            withheld: 0,
            mirror: None,
            viewer,
            runner: viewer,
            offset: 0,
            stale: false,
            title: String::new(),
            titles_saved: 0,
            out,
        }
    }

    /// Shows a whole screen in place of what is shown.
    pub(super) fn show(&mut self, screen: &v1::Screen) {
        self.runner = size(screen.columns, screen.rows);
        self.offset = screen.offset;
        self.stale = false;
        let spent = std::mem::take(&mut self.filter);
        self.withheld += spent.withheld().clipboard_writes;
        self.out.extend(spent.reset());
        self.out.extend_from_slice(b"\x1b[H\x1b[2J");
        if self.fits() {
            self.mirror = None;
            self.filter.push(&screen.drawing, &mut self.out);
        } else {
            let mut mirror = Mirror::new(self.runner, self.viewer);
            mirror.push(&screen.drawing);
            self.mirror = Some(mirror);
        }
        // The drawing has a title of its own.
        self.write_title();
    }

    /// Prints output, but for what is on the screen already.
    pub(super) fn print(&mut self, offset: u64, data: &[u8]) {
        let known = self.offset.saturating_sub(offset).min(data.len() as u64) as usize;
        let fresh = &data[known..];
        self.offset = self.offset.max(offset + data.len() as u64);
        match &mut self.mirror {
            Some(mirror) => mirror.push(fresh),
            None => {
                let before = self.out.len();
                self.filter.push(fresh, &mut self.out);
                self.count_titles(before);
            }
        }
    }

    /// Counts the titles that the output from `start` on saves and restores.
    fn count_titles(&mut self, start: usize) {
        let mut ours_taken = false;
        for save in title_operations(&self.out[start..]) {
            match (save, self.titles_saved) {
                (true, n) => self.titles_saved = n + 1,
                // A program that ran before the attach restores what it saved then.
                (false, 0) => ours_taken = true,
                (false, n) => self.titles_saved = n - 1,
            }
        }
        if ours_taken && self.titles_saved == 0 {
            // The terminal has its own title now: it is saved again.
            self.out.extend_from_slice(TITLE_PUSH);
            self.write_title();
        }
    }

    /// True where the way of showing the runner has to change, for which a fresh screen is needed.
    pub(super) fn is_unfit(&self) -> bool {
        self.mirror.is_some() || !self.fits()
    }

    fn fits(&self) -> bool {
        self.runner == self.viewer
    }

    pub(super) fn set_title(&mut self, title: String) {
        self.title = title;
        self.write_title();
    }

    fn write_title(&mut self) {
        self.out.extend(format!("\x1b]2;{}\x1b\\", Untrusted(&self.title)).bytes());
    }

    /// Rings the bell.
    pub(super) fn ring(&mut self) {
        self.out.push(0x07);
    }

    /// Writes what is due to the terminal, in one piece.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Some(mirror) = &mut self.mirror {
            mirror.draw(&mut self.out);
        }
        let written = tty::write_all(&self.out);
        self.out.clear();
        written
    }

    /// What is written when the terminal is given back.
    pub(super) fn farewell(&self) -> Vec<u8> {
        let pops = TITLE_POP.repeat(self.titles_saved + 1);
        [&self.filter.reset()[..], &pops, TO_END].concat()
    }

    /// How often the runner tried to write to the clipboard.
    pub(super) fn withheld_clipboard(&self) -> u64 {
        self.withheld + self.filter.withheld().clipboard_writes
    }
}

/// Each `CSI 22 t` (true) and `CSI 23 t` (false) that is about the window's title.
fn title_operations(bytes: &[u8]) -> impl Iterator<Item = bool> + '_ {
    let starts = bytes.windows(4).enumerate();
    starts.filter_map(|(at, window)| {
        let save = match window {
            b"\x1b[22" => true,
            b"\x1b[23" => false,
            _ => return None,
        };
        let rest = &bytes[at + 4..];
        // The icon's title alone has another stack.
        let forms: [&[u8]; 5] = [b"t", b";0t", b";2t", b";0;0t", b";2;0t"];
        forms.iter().any(|form| rest.starts_with(form)).then_some(save)
    })
}

/// A size as the wire has it.
pub(super) fn size(columns: u32, rows: u32) -> Cells {
    let cells = |n: u32| u16::try_from(n).unwrap_or(u16::MAX).max(1);
    (cells(columns), cells(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(offset: u64, columns: u32, rows: u32, drawing: &str) -> v1::Screen {
        v1::Screen {
            offset,
            columns,
            rows,
            drawing: drawing.to_owned().into(),
            ..v1::Screen::default()
        }
    }

    /// What a terminal of 20 by 4 shows after all that is due.
    fn shown(canvas: &mut Canvas) -> String {
        let size = |n| std::num::NonZeroU16::new(n).unwrap();
        let mut terminal = vt100::Parser::new(size(4), size(20), 0);
        if let Some(mirror) = &mut canvas.mirror {
            mirror.draw(&mut canvas.out);
        }
        terminal.process(&canvas.out);
        let contents = terminal.screen().contents();
        contents.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn output_that_is_on_the_screen_is_not_printed_again() {
        let mut canvas = Canvas::new((20, 4));
        canvas.show(&screen(10, 20, 4, "0123456789"));
        canvas.print(0, b"01234");
        canvas.print(5, b"56789abc");
        canvas.print(13, b"def");
        assert_eq!(shown(&mut canvas), "0123456789abcdef");
    }

    #[test]
    fn the_title_is_restored_whatever_the_runner_has_saved() {
        let pops = |output: &[&[u8]]| {
            let mut canvas = Canvas::new((20, 4));
            canvas.show(&screen(0, 20, 4, ""));
            let mut offset = 0;
            for data in output {
                canvas.print(offset, data);
                offset += data.len() as u64;
            }
            let count = |bytes: &[u8], what: &[u8]| {
                bytes.windows(what.len()).filter(|window| *window == what).count()
            };
            (count(&canvas.out, TITLE_PUSH), count(&canvas.farewell(), TITLE_POP))
        };
        assert_eq!(pops(&[b"\x1b[22m plain"]), (1, 1));
        assert_eq!(pops(&[b"\x1b[22;2t\x1b[22;1t", b"vim"]), (1, 2), "left on");
        assert_eq!(pops(&[b"\x1b[22;2", b"t", b"\x1b[23;2t\x1b[23;1t"]), (1, 1), "ended");
        assert_eq!(pops(&[b"\x1b[23;2t"]), (2, 1), "begun before the attach");
    }

    #[test]
    fn a_fresh_screen_replaces_what_is_shown_whatever_the_size() {
        let mut canvas = Canvas::new((20, 4));
        canvas.show(&screen(0, 20, 4, "\x1b[?1049hfirst"));
        assert!(!canvas.is_unfit());
        canvas.show(&screen(5, 8, 2, "second"));
        assert!(canvas.is_unfit());
        canvas.print(5, b" and more");
        assert_eq!(shown(&mut canvas), "second a│\nnd more │\n────────┘");
        canvas.show(&screen(14, 20, 4, "third"));
        assert!(!canvas.is_unfit());
        assert_eq!(shown(&mut canvas), "third");
    }
}
