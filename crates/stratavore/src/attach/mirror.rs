//! Shows a runner's screen on a terminal of another size.
//!
//! Bytes that were meant for one size make no sense on another: lines wrap elsewhere and scrolling
//! begins at another row. So while the sizes differ the output goes into a screen model of the
//! runner's size, and of that as much is drawn, at the top left, as the viewer's terminal holds.
//!
//! Invariant: nothing is drawn outside the part that both have, but for a mark at its edge.

use std::fmt::Write as _;
use std::num::NonZeroU16;

use vt100::{Cell, Color, Parser, Screen};

/// A runner's screen, drawn on a viewer's terminal.
pub(crate) struct Mirror {
    model: Parser,
    /// The screen as it was drawn last; `None`: the viewer's terminal shows something else.
    drawn: Option<Screen>,
    /// Columns and rows of the viewer's terminal.
    viewer: (u16, u16),
    /// The first row of the runner's that is shown, where it has more than the viewer.
    top: u16,
}

fn size(cells: u16) -> NonZeroU16 {
    NonZeroU16::new(cells).unwrap_or(NonZeroU16::MIN)
}

impl Mirror {
    /// A mirror of a runner's terminal of `runner` columns and rows, on one of `viewer`.
    pub(crate) fn new(runner: (u16, u16), viewer: (u16, u16)) -> Self {
        Self { model: Parser::new(size(runner.1), size(runner.0), 0), drawn: None, viewer, top: 0 }
    }

    /// Takes in output of the runner's.
    pub(crate) fn push(&mut self, output: &[u8]) {
        self.model.process(output);
    }

    /// Appends to `out` what brings the viewer's terminal up to date.
    pub(crate) fn draw(&mut self, out: &mut Vec<u8>) {
        let screen = self.model.screen().clone();
        let (rows, columns) = (screen.size().0.get(), screen.size().1.get());
        let shown_rows = rows.min(self.viewer.1);
        let shown_columns = columns.min(self.viewer.0);
        let (cursor_row, cursor_column) = screen.cursor_position();
        let top = scrolled_to(self.top, shown_rows, rows, cursor_row);
        let whole = self.drawn.is_none() || top != self.top;
        self.top = top;

        let mut text = String::from("\x1b[?25l");
        if whole {
            text.push_str("\x1b[m\x1b[H\x1b[2J");
            self.draw_edge(&mut text, rows, columns);
        }
        for y in 0..shown_rows {
            let line = row_drawing(&screen, top + y, shown_columns);
            let before = self.drawn.as_ref().filter(|_| !whole);
            if before.is_none_or(|before| row_drawing(before, top + y, shown_columns) != line) {
                let _ = write!(text, "\x1b[{};1H{line}", y + 1);
            }
        }
        match &self.drawn {
            Some(drawn) if !whole => text.push_str(&screen.input_mode_diff(drawn)),
            _ => text.push_str(&screen.input_mode_formatted()),
        }
        let y = cursor_row.saturating_sub(top).min(shown_rows.saturating_sub(1));
        let x = cursor_column.min(shown_columns.saturating_sub(1));
        let _ = write!(text, "\x1b[{};{}H", y + 1, x + 1);
        if !screen.hide_cursor() {
            text.push_str("\x1b[?25h");
        }
        out.extend_from_slice(text.as_bytes());
        self.drawn = Some(screen);
    }

    /// Marks where the runner's screen ends and the viewer's goes on.
    fn draw_edge(&self, text: &mut String, rows: u16, columns: u16) {
        text.push_str("\x1b[2m");
        if columns < self.viewer.0 {
            for row in 1..=rows.min(self.viewer.1) {
                let _ = write!(text, "\x1b[{row};{}H│", columns + 1);
            }
        }
        if rows < self.viewer.1 {
            let width = usize::from(columns.min(self.viewer.0));
            let _ = write!(text, "\x1b[{};1H{}", rows + 1, "─".repeat(width));
            if columns < self.viewer.0 {
                text.push('┘');
            }
        }
        text.push_str("\x1b[m");
    }
}

/// The first `columns` cells of a row, as text and attributes, beginning and ending in plain ones.
fn row_drawing(screen: &Screen, row: u16, columns: u16) -> String {
    let mut text = String::new();
    let mut current = String::new();
    for column in 0..columns {
        let Some(cell) = screen.cell(row, column) else { break };
        if cell.is_wide_continuation() {
            continue;
        }
        let style = style_of(cell);
        if style != current {
            let _ = write!(text, "\x1b[0{style}m");
            current = style;
        }
        // A wide letter at the edge has no room for its second half.
        let cut = cell.is_wide() && column + 1 == columns;
        text.push_str(if cell.has_contents() && !cut { cell.contents() } else { " " });
    }
    text.push_str("\x1b[m");
    text
}

/// A cell's attributes as parameters of SGR, to follow a `0`.
fn style_of(cell: &Cell) -> String {
    let mut style = String::new();
    for (is, parameter) in [
        (cell.bold(), 1),
        (cell.dim(), 2),
        (cell.italic(), 3),
        (cell.underline(), 4),
        (cell.inverse(), 7),
    ] {
        if is {
            let _ = write!(style, ";{parameter}");
        }
    }
    for (color, base) in [(cell.fgcolor(), 38), (cell.bgcolor(), 48)] {
        let _ = match color {
            Color::Default => Ok(()),
            Color::Idx(n) => write!(style, ";{base};5;{n}"),
            Color::Rgb(r, g, b) => write!(style, ";{base};2;{r};{g};{b}"),
        };
    }
    style
}

/// The first row to show, so that the cursor's is among those that are.
fn scrolled_to(top: u16, shown: u16, rows: u16, cursor: u16) -> u16 {
    let lowest = cursor.saturating_sub(shown.saturating_sub(1));
    top.min(rows - shown).clamp(lowest, cursor.max(lowest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(viewer: (u16, u16)) -> Parser {
        Parser::new(size(viewer.1), size(viewer.0), 0)
    }

    fn shown(mirror: &mut Mirror, terminal: &mut Parser) -> String {
        let mut out = Vec::new();
        mirror.draw(&mut out);
        terminal.process(&out);
        text(terminal)
    }

    fn text(terminal: &Parser) -> String {
        let contents = terminal.screen().contents();
        contents.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_larger_terminal_shows_the_runner_at_the_top_left() {
        let viewer = (20, 6);
        let (mut mirror, mut terminal) = (Mirror::new((5, 3), viewer), terminal(viewer));
        mirror.push(b"wrapped line");
        assert_eq!(shown(&mut mirror, &mut terminal), "wrapp│\ned li│\nne   │\n─────┘");
        assert_eq!(terminal.screen().cursor_position(), (2, 2));

        // Scrolling happens at the runner's last row and not at the viewer's.
        mirror.push(b"\r\none\r\ntwo");
        assert_eq!(shown(&mut mirror, &mut terminal), "ne   │\none  │\ntwo  │\n─────┘");
    }

    #[test]
    fn a_smaller_terminal_shows_where_the_cursor_is() {
        let viewer = (4, 2);
        let (mut mirror, mut terminal) = (Mirror::new((10, 4), viewer), terminal(viewer));
        mirror.push(b"one\r\ntwo\r\nthree\r\nfour fi");
        assert_eq!(shown(&mut mirror, &mut terminal), "thre\nfour");
        assert_eq!(terminal.screen().cursor_position(), (1, 3), "kept at the edge");
        mirror.push(b"\x1b[H");
        assert_eq!(shown(&mut mirror, &mut terminal), "one\ntwo");
    }

    #[test]
    fn what_did_not_change_is_not_drawn_again() {
        let viewer = (20, 6);
        let (mut mirror, mut terminal) = (Mirror::new((10, 4), viewer), terminal(viewer));
        mirror.push(b"one\r\ntwo");
        shown(&mut mirror, &mut terminal);
        mirror.push(b"!");
        let mut out = Vec::new();
        mirror.draw(&mut out);
        let drawn = String::from_utf8(out.clone()).unwrap();
        assert!(drawn.contains("two!") && !drawn.contains("one"), "{drawn:?}");
        terminal.process(&out);
        let now = text(&terminal);
        assert!(now.starts_with("one       │\ntwo!"), "{now}");
    }

    #[test]
    fn colours_and_wide_letters_survive_the_edge() {
        let viewer = (5, 2);
        let (mut mirror, mut terminal) = (Mirror::new((8, 2), viewer), terminal(viewer));
        mirror.push("\x1b[31mab漢字漢\x1b[m\r\n\x1b[7minverse".as_bytes());
        shown(&mut mirror, &mut terminal);
        let screen = terminal.screen();
        assert_eq!(screen.cell(0, 2).unwrap().contents(), "漢");
        assert_eq!(screen.cell(0, 2).unwrap().fgcolor(), vt100::Color::Idx(1));
        assert!(screen.cell(1, 4).unwrap().inverse());
    }

    #[test]
    fn input_modes_follow_the_runner() {
        let viewer = (20, 6);
        let (mut mirror, mut terminal) = (Mirror::new((10, 4), viewer), terminal(viewer));
        mirror.push(b"\x1b[?2004h\x1b[?1h");
        shown(&mut mirror, &mut terminal);
        assert!(terminal.screen().bracketed_paste() && terminal.screen().application_cursor());
        mirror.push(b"\x1b[?2004l");
        shown(&mut mirror, &mut terminal);
        assert!(!terminal.screen().bracketed_paste() && terminal.screen().application_cursor());
    }
}
