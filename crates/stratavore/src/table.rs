//! Tables for people: columns that fit the terminal, and cells that cannot do anything to it.
//!
//! Invariant: what a cell is given is escaped, whoever wrote it.
//! Invariant: no row is wider than the width that was given.

use std::fmt::Write as _;

use owo_colors::{OwoColorize, Style};
use stratavore_core::terminal::{escape_untrusted, truncate_to_width};
use unicode_width::UnicodeWidthStr;

/// The width below which a column that may shrink is left alone.
const SHRUNK: usize = 8;

/// What a text says, in colour where there is colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Tone {
    #[default]
    Plain,
    Good,
    Warning,
    Bad,
    Dim,
    Strong,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good => Style::new().green(),
            Self::Warning => Style::new().yellow(),
            Self::Bad => Style::new().red(),
            Self::Dim => Style::new().dimmed(),
            Self::Strong => Style::new().bold(),
        }
    }

    /// `text` in this tone. The escape sequences are taken out again where there is no colour.
    pub(crate) fn paint(self, text: &str) -> String {
        if self == Self::Plain { text.into() } else { text.style(self.style()).to_string() }
    }
}

/// One cell: a line of text.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self::toned(text, Tone::Plain)
    }

    pub(crate) fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { text: escape_untrusted(text.as_ref()), tone }
    }

    /// The escaped text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell::new(text)
    }
}

/// A column's heading and nature.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    heading: &'static str,
    right: bool,
    shrinks: bool,
}

impl Column {
    pub(crate) const fn new(heading: &'static str) -> Self {
        Self { heading, right: false, shrinks: false }
    }

    /// For numbers.
    pub(crate) const fn right(self) -> Self {
        Self { right: true, ..self }
    }

    /// May be cut where the terminal is narrow.
    pub(crate) const fn shrinks(self) -> Self {
        Self { shrinks: true, ..self }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row, which has a cell for each column.
    pub(crate) fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        let cells = cells.into();
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// The table's lines, none wider than `width` columns; `None` is no limit.
    pub(crate) fn lines(&self, width: Option<usize>) -> Vec<String> {
        let widths = self.widths(width);
        let headings: Vec<Cell> =
            self.columns.iter().map(|c| Cell::toned(c.heading, Tone::Dim)).collect();
        std::iter::once(&headings)
            .chain(&self.rows)
            .map(|row| self.line(row, &widths, width))
            .collect()
    }

    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|c| c.heading.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        let Some(limit) = limit else { return widths };
        loop {
            let total: usize = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
            let excess = total.saturating_sub(limit);
            if excess == 0 {
                return widths;
            }
            let shrinkable = |i: usize| {
                self.columns[i].shrinks && widths[i] > SHRUNK.max(self.columns[i].heading.width())
            };
            let Some(widest) =
                (0..widths.len()).filter(|i| shrinkable(*i)).max_by_key(|i| widths[*i])
            else {
                return widths; // what is left over is cut at the end of the line
            };
            let floor = SHRUNK.max(self.columns[widest].heading.width());
            // Not all at once, so that two wide columns share what has to go.
            let step = excess.min(widths[widest] - floor).min((widths[widest] / 4).max(1));
            widths[widest] -= step;
        }
    }

    fn line(&self, row: &[Cell], widths: &[usize], limit: Option<usize>) -> String {
        let mut line = String::new();
        let mut at = 0;
        for (i, ((cell, column), width)) in row.iter().zip(&self.columns).zip(widths).enumerate() {
            if i > 0 {
                at += 2;
                line.push_str("  ");
            }
            let room = limit.map_or(*width, |limit| (*width).min(limit.saturating_sub(at)));
            let text = truncate_to_width(&cell.text, room);
            let blank = room.saturating_sub(text.width());
            let last = i + 1 == widths.len();
            let (before, after) =
                if column.right { (blank, 0) } else { (0, if last { 0 } else { blank }) };
            let _ = write!(line, "{:before$}{}{:after$}", "", cell.tone.paint(&text), "");
            at += room;
            if limit.is_some_and(|limit| at + 2 >= limit) {
                break;
            }
        }
        line.truncate(line.trim_end_matches(' ').len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(lines: &[String]) -> Vec<String> {
        lines.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect()
    }

    #[test]
    fn columns_line_up_and_nothing_is_cut_without_a_terminal() {
        let mut table = Table::new([
            Column::new("NAME").shrinks(),
            Column::new("SIZE").right(),
            Column::new("WHY"),
        ]);
        table.row(["a-rather-long-name-of-something".into(), "5".into(), "ok".into()]);
        table.row(["b".into(), "1234567".into(), "".into()]);
        let lines = plain(&table.lines(None));
        assert_eq!(lines[0], "NAME                                SIZE  WHY");
        assert_eq!(lines[1], "a-rather-long-name-of-something        5  ok");
        assert_eq!(lines[2], "b                                1234567");
    }

    #[test]
    fn hostile_names_neither_escape_nor_overflow() {
        let hostile = [
            "\u{1b}[2J\u{1b}]0;pwned\u{7}name",
            "name\r\nsecond line",
            "\u{202e}gnp.exe",
            "wide 漢字漢字漢字漢字漢字漢字漢字漢字",
            "e\u{301}\u{301}\u{301}\u{301}combining",
            "zero\u{200b}width",
        ];
        for width in [1, 5, 20, 40, 80] {
            let mut table = Table::new([
                Column::new("NAME").shrinks(),
                Column::new("STATE"),
                Column::new("WHY").shrinks(),
            ]);
            for name in hostile {
                table.row([name.into(), "running".into(), name.into()]);
            }
            for line in plain(&table.lines(Some(width))) {
                assert!(line.width() <= width, "{line:?} in {width}");
                assert!(
                    !line.contains(['\u{1b}', '\r', '\n', '\u{7}', '\u{202e}', '\u{200b}']),
                    "{line:?}"
                );
            }
        }
    }

    #[test]
    fn only_what_may_shrink_does_while_there_is_room() {
        let mut table = Table::new([Column::new("ID"), Column::new("TEXT").shrinks()]);
        table.row(["run_0123456789".into(), "x".repeat(200).into()]);
        let lines = plain(&table.lines(Some(40)));
        assert!(
            lines[1].starts_with("run_0123456789  xxx") && lines[1].ends_with('…'),
            "{lines:?}"
        );
        assert_eq!(lines[1].width(), 40);
    }
}
