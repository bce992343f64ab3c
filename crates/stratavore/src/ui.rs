//! The one place that prints: data to standard output, everything else to standard error.
//!
//! Colours follow the terminal, `NO_COLOR` and `CLICOLOR`; widths follow the terminal and
//! `COLUMNS`. Output to a pipe is never cut.
//!
//! Invariant: standard output carries what was asked for and nothing else.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;
use stratavore_core::terminal::{Untrusted, escape_json, has_invisible};

use crate::exit::Failure;
use crate::table::{Table, Tone};

/// How lists and shows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people; its form may change
    #[default]
    Table,
    /// For programs; its fields are stable
    Json,
    /// The same fields as YAML
    Yaml,
}

/// Where a command prints.
pub(crate) struct Ui {
    pub format: Format,
    pub quiet: bool,
    width: Option<usize>,
}

impl Ui {
    pub(crate) fn new(format: Format, quiet: bool) -> Self {
        Self { format, quiet, width: width() }
    }

    /// The columns of the terminal on standard output; `None` if it is none.
    pub(crate) fn width(&self) -> Option<usize> {
        self.width
    }

    /// True where standard output shows colours.
    pub(crate) fn has_colors(&self) -> bool {
        anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
    }

    /// True where a person can be told of progress.
    pub(crate) fn is_watched(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// Prints a line of data. Untrusted parts of it are escaped by the caller.
    pub(crate) fn line(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.text(format!("{}\n", text.as_ref()))
    }

    /// Prints data as it is; colours are taken out where there are none.
    pub(crate) fn text(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        let mut out = anstream::stdout().lock();
        written(out.write_all(text.as_ref().as_bytes()).and_then(|()| out.flush()))
    }

    /// Prints bytes exactly.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        written(out.write_all(bytes).and_then(|()| out.flush()))
    }

    pub(crate) fn table(&self, table: &Table) -> Result<(), Failure> {
        self.line(table.lines(self.width).join("\n"))
    }

    /// Prints one thing's fields, a line each; empty ones are left out.
    pub(crate) fn fields(&self, fields: &[(&str, String)]) -> Result<(), Failure> {
        let shown = || fields.iter().filter(|(_, value)| !value.is_empty());
        let width = shown().map(|(name, _)| name.len()).max().unwrap_or(0);
        let line = |(name, value): &(&str, String)| {
            format!("{}  {}", Tone::Dim.paint(&format!("{name:width$}")), Untrusted(value))
        };
        self.line(shown().map(line).collect::<Vec<_>>().join("\n"))
    }

    /// Prints `view` as JSON or YAML, or lets `people` print it for people.
    pub(crate) fn show<T: Serialize>(
        &self,
        view: &T,
        people: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => people(),
            Format::Json => self.line(pretty_json(view)?),
            Format::Yaml => self.text(yaml(view)?),
        }
    }

    /// Prints one of a stream of things: a line of JSON, or a document of YAML.
    pub(crate) fn item<T: Serialize>(
        &self,
        view: &T,
        people: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.line(people()),
            Format::Json => {
                self.line(escape_json(&serde_json::to_string(view).map_err(unwritable)?))
            }
            Format::Yaml => self.text(format!("---\n{}", yaml(view)?)),
        }
    }

    /// Tells a person something that is not data.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.tell(text.as_ref());
        }
    }

    /// Tells of something that is not as it should be.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        self.tell(&format!("{} {}", Tone::Warning.paint("warning:"), Untrusted(text.as_ref())));
    }

    /// Tells why a command was not carried out.
    pub(crate) fn fail(&self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        if self.format == Format::Json {
            let Failure { exit, code, message, next, related } = failure;
            let problem = serde_json::json!({
                "code": code, "message": message, "next": next, "related": related, "exit": *exit as u8,
            });
            self.tell(&escape_json(&problem.to_string()));
            return;
        }
        let mut text = format!("{} {failure}", Tone::Bad.paint("error:"));
        if !failure.next.is_empty() {
            let next = Untrusted(&failure.next);
            text.push_str(&format!("\n{} {next}", Tone::Strong.paint("next:")));
        }
        self.tell(&text);
    }

    fn tell(&self, text: &str) {
        let mut err = anstream::stderr().lock();
        // If not even this can be written, there is nobody to tell that to.
        // In one piece: each one wakes the terminal.
        let _ = err.write_all(format!("{text}\n").as_bytes()).and_then(|()| err.flush());
    }
}

fn width() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let columns =
        std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|n| *n > 0);
    columns.or_else(|| {
        terminal_size::terminal_size().map(|(width, _)| usize::from(width.0)).filter(|n| *n > 0)
    })
}

fn pretty_json<T: Serialize>(view: &T) -> Result<String, Failure> {
    Ok(escape_json(&serde_json::to_string_pretty(view).map_err(unwritable)?))
}

/// YAML, of which JSON is a part: what holds invisible characters is written as that, since plain
/// YAML has no escapes for them.
fn yaml<T: Serialize>(view: &T) -> Result<String, Failure> {
    let text = serde_saphyr::to_string(view).map_err(unwritable)?;
    if has_invisible(&text) { Ok(pretty_json(view)? + "\n") } else { Ok(text) }
}

fn written(result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| Failure::io("write to standard output", &error))
}

fn unwritable(error: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("write the answer down: {error}"))
}
