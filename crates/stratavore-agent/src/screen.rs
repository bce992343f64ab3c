//! The screen as the runner's program sees it, so that whoever attaches sees it at once.
//!
//! The cells are kept by `vt100`. This adds what that leaves out and programs use (line drawing
//! characters, a few sequences, modes that only a real terminal acts on), answers the questions
//! that programs ask their terminal, and turns all of it back into a drawing.
//!
//! Invariant: a fresh terminal that is written a drawing is in the state that was drawn.
//! Invariant: no output, whatever it is, ends the agent.

mod charset;
mod extra;
mod flood;

use std::borrow::Cow;
use std::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};

use stratavore_core::terminal::Queries;

use self::charset::Charsets;
use self::extra::Extra;
use self::flood::Stretch;
use crate::escape::{Cutter, Piece};

/// The largest terminal: columns, rows.
pub(crate) const SIZE_MAX: (u16, u16) = (1000, 500);
/// The largest drawing, so that it fits into a frame with all the rest.
const DRAWING_MAX: usize = 2 << 20;
/// The longest title that is kept, in characters.
const TITLE_MAX: usize = 512;

/// The size of a terminal, in cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub columns: u16,
    pub rows: u16,
}

impl Size {
    /// A size that a terminal can have; 0 is none.
    pub(crate) fn new(columns: u32, rows: u32) -> Option<Self> {
        let limited = |n: u32, max: u16| u16::try_from(n).unwrap_or(max).min(max);
        let size = Self { columns: limited(columns, SIZE_MAX.0), rows: limited(rows, SIZE_MAX.1) };
        (size.columns > 0 && size.rows > 0).then_some(size)
    }

    fn rows_and_columns(self) -> (NonZeroU16, NonZeroU16) {
        (
            NonZeroU16::new(self.rows).unwrap_or(NonZeroU16::MIN),
            NonZeroU16::new(self.columns).unwrap_or(NonZeroU16::MIN),
        )
    }
}

/// What a viewer is shown first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    pub size: Size,
    /// Escape sequences that draw it on any terminal of this size.
    pub drawing: Vec<u8>,
    pub text: String,
    pub title: String,
    /// Row and column, both counted from 0.
    pub cursor: (u16, u16),
    pub alternate: bool,
}

/// What is heard besides the cells.
#[derive(Debug, Default)]
struct Heard {
    title: String,
}

impl vt100::Callbacks for Heard {
    fn set_window_title(&mut self, _: &mut vt100::Screen, title: &[u8]) {
        let title = String::from_utf8_lossy(title);
        self.title = title.chars().filter(|c| !c.is_control()).take(TITLE_MAX).collect();
    }
}

/// The screen of one runner.
pub(crate) struct Screen {
    size: Size,
    cutter: Cutter,
    queries: Queries,
    model: Model,
}

/// The part that sees whole sequences only.
struct Model {
    cells: vt100::Parser<Heard>,
    charsets: Charsets,
    extra: Extra,
    /// Output that is still to be drawn.
    stretch: Stretch,
}

impl Screen {
    /// The terminal's title, as far as its output was drawn.
    pub(crate) fn title(&self) -> &str {
        &self.model.cells.callbacks().title
    }

    pub(crate) fn new(size: Size) -> Self {
        Self {
            size,
            cutter: Cutter::default(),
            queries: Queries::default(),
            model: Model::new(size),
        }
    }

    /// The screen that was drawn before an upgrade, with the bytes that were read but not whole.
    pub(crate) fn restore(size: Size, drawing: &[u8], held: &[u8]) -> Self {
        let mut screen = Self::new(size);
        screen.feed(drawing);
        screen.feed(held);
        screen
    }

    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// Takes in output, and returns what the terminal answers.
    pub(crate) fn feed(&mut self, data: &[u8]) -> Vec<u8> {
        // A flood asks nothing and cuts nothing, which one look tells.
        let plain = if self.is_between() { flood::prefix(data) } else { 0 };
        let (flood, data) = data.split_at(plain);
        self.model.stretch.push(flood);
        let mut asked = Vec::new();
        self.queries.push(data, |at, query| asked.push((at, query)));
        let mut answers = Vec::new();
        let mut from = 0;
        for (at, query) in asked {
            self.show(&data[from..at]);
            self.settle();
            from = at;
            answers.extend(query.answer(self.cursor()));
        }
        self.show(&data[from..]);
        answers
    }

    /// True if nothing is unfinished, so that what comes next can be taken for what it looks like.
    fn is_between(&self) -> bool {
        self.cutter.is_between() && self.queries.is_between() && !self.model.charsets.active()
    }

    fn show(&mut self, data: &[u8]) {
        self.guarded(|screen| {
            let (cutter, model) = (&mut screen.cutter, &mut screen.model);
            cutter.push(data, |piece| model.take(piece));
            model.settle_if_due();
        });
    }

    /// Draws what was put off: whoever looks at the cells comes here first.
    pub(crate) fn settle(&mut self) {
        self.guarded(|screen| screen.model.settle());
    }

    fn guarded(&mut self, act: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| act(self))).is_err() {
            // The screen is lost, and the runner is not. What it prints next is shown.
            crate::log::note(format_args!(
                "the screen model failed on some output, and starts anew"
            ));
            *self = Self::new(self.size);
        }
    }

    pub(crate) fn resize(&mut self, size: Size) {
        if size == self.size {
            return;
        }
        self.settle();
        self.size = size;
        let (rows, columns) = size.rows_and_columns();
        let cells = &mut self.model.cells;
        if catch_unwind(AssertUnwindSafe(|| cells.set_size(rows, columns))).is_err() {
            *self = Self::new(size);
        }
        self.model.extra.resized();
    }

    /// What was read and is not on the screen yet, because it is not whole.
    pub(crate) fn held(&self) -> &[u8] {
        self.cutter.held()
    }

    /// True if the program has asked that pastes be marked.
    pub(crate) fn bracketed_paste(&self) -> bool {
        // Nothing that is put off changes a mode.
        self.model.cells.screen().bracketed_paste()
    }

    /// How many bytes are still to be drawn.
    #[cfg(test)]
    fn put_off(&self) -> usize {
        self.model.stretch.len()
    }

    fn cursor(&self) -> (u16, u16) {
        let (row, column) = self.model.cells.screen().cursor_position();
        // After the last column the cursor is still said to be on it.
        (row, column.min(self.size.columns - 1))
    }

    /// The screen as it is, after all that was fed but for what is held.
    pub(crate) fn picture(&mut self) -> Picture {
        self.settle();
        let mut drawing = self.model.draw();
        let screen = self.model.cells.screen();
        let mut rows: Vec<String> =
            screen.rows(0, self.size.columns).map(|row| row.trim_end().to_owned()).collect();
        while rows.last().is_some_and(String::is_empty) {
            rows.pop();
        }
        let text = rows.join("\n");
        if drawing.len() > DRAWING_MAX {
            // Every cell in a colour of its own, on a huge screen: then without the colours.
            drawing =
                [extra::RESET, b"\x1b[H\x1b[2J", text.replace('\n', "\r\n").as_bytes()].concat();
        }
        drawing.extend_from_slice(self.cutter.opened_string());
        Picture {
            size: self.size,
            drawing,
            text,
            title: self.model.cells.callbacks().title.clone(),
            cursor: self.cursor(),
            alternate: screen.alternate_screen(),
        }
    }
}

impl Model {
    fn new(size: Size) -> Self {
        let (rows, columns) = size.rows_and_columns();
        let cells = vt100::Parser::new_with_callbacks(rows, columns, 0, Heard::default());
        Self {
            cells,
            charsets: Charsets::default(),
            extra: Extra::default(),
            stretch: Stretch::default(),
        }
    }

    fn take(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Text(text) => match self.charsets.translate(text) {
                Some(translated) => {
                    self.settle();
                    self.cells.process(&translated);
                }
                None if flood::is_plain(text) => self.stretch.push(text),
                None => {
                    self.settle();
                    self.cells.process(text);
                }
            },
            Piece::Sequence(sequence) if flood::is_color(sequence) => self.stretch.push(sequence),
            Piece::Sequence(sequence) => {
                self.settle();
                let meant = meant(sequence);
                self.charsets.note(&meant);
                let cells = self.cells.screen();
                match self.extra.note(&meant, cells) {
                    Some(instead) => {
                        let controls = sequence[1..].iter().copied().filter(|byte| *byte < b' ');
                        self.cells.process(&controls.collect::<Vec<_>>());
                        self.cells.process(&instead);
                    }
                    None => self.cells.process(sequence),
                }
            }
            // Nothing that long draws anything.
            Piece::Overlong(_) => {}
        }
    }

    /// Draws what was put off.
    fn settle(&mut self) {
        let rows = self.scrolling_rows();
        self.stretch.flush(rows, |bytes| self.cells.process(bytes));
    }

    /// Draws what was put off, unless it is long and nobody has asked for it yet.
    fn settle_if_due(&mut self) {
        let too_long = self.stretch.is_too_long();
        if self.stretch.is_short() || too_long && !self.shorten() {
            self.settle();
        }
    }

    fn shorten(&mut self) -> bool {
        self.scrolling_rows().is_some_and(|rows| self.stretch.shorten(rows))
    }

    /// How many rows there are, if all of them scroll.
    fn scrolling_rows(&self) -> Option<usize> {
        let screen = self.cells.screen();
        let scrolls = self.extra.scrolls_as_a_whole(screen.alternate_screen());
        scrolls.then(|| usize::from(screen.size().0.get()))
    }

    fn draw(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let alternate = self.cells.screen().alternate_screen();
        out.extend_from_slice(extra::RESET);
        out.extend_from_slice(b"\x1b[?1049l");
        if alternate {
            // Switching over and back changes nothing in either buffer.
            self.cells.process(b"\x1b[?47l");
            self.draw_buffer(false, &mut out);
            self.cells.process(b"\x1b[?47h");
            out.extend_from_slice(&self.extra.switch());
        }
        self.draw_buffer(alternate, &mut out);
        out.extend_from_slice(&self.extra.modes());
        out.extend_from_slice(self.cells.screen().input_mode_formatted().as_bytes());
        out.extend_from_slice(&self.charsets.drawing());
        let title = &self.cells.callbacks().title;
        if !title.is_empty() {
            out.extend_from_slice(format!("\x1b]2;{title}\x1b\\").as_bytes());
        }
        out
    }

    /// Draws the buffer that is shown now, with its cursor, region and saved cursor.
    fn draw_buffer(&self, alternate: bool, out: &mut Vec<u8>) {
        let screen = self.cells.screen();
        out.extend_from_slice(b"\x1b[r\x1b[?6l");
        out.extend_from_slice(screen.contents_formatted().as_bytes());
        let placed = self.extra.placement(alternate);
        if placed.is_empty() {
            return;
        }
        out.extend_from_slice(&placed);
        out.extend_from_slice(b"\x1b[m");
        out.extend_from_slice(screen.cursor_state_formatted().as_bytes());
        out.extend_from_slice(screen.attributes_formatted().as_bytes());
        out.extend_from_slice(&self.extra.origin(alternate, screen.cursor_position()));
    }
}

/// A sequence without what a terminal passes over in one, or does before it: what is noted of it and
/// what the cell model makes of it must be the same.
fn meant(sequence: &[u8]) -> Cow<'_, [u8]> {
    let counts = |byte: &u8| matches!(byte, b' '..=b'~');
    if sequence[1..].iter().all(counts) {
        return Cow::Borrowed(sequence);
    }
    let rest = sequence[1..].iter().copied().filter(counts);
    Cow::Owned(std::iter::once(sequence[0]).chain(rest).collect())
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
