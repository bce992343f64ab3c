//! Logs: for people, or one JSON object a line. Always to standard error.
//!
//! Invariant: each entry is one line, and nothing in it can be obeyed by a terminal.

use std::io::{self, Write};

use stratavore_core::terminal::{Untrusted, escape_json};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,sqlx=warn,sqlx_core::pool=off,lapin=off";

/// Begins to log. `level` is a filter such as `info` or `stratavore_control=debug`.
pub(crate) fn begin(json: bool, level: &str) -> Result<(), String> {
    // A level is meant for us; the libraries below would drown us out.
    let filter = match level.parse::<tracing::Level>() {
        Ok(level) => format!("{level},{QUIET}"),
        Err(_) => level.to_owned(),
    };
    let filter = EnvFilter::try_new(&filter)
        .map_err(|error| format!("the log level `{level}` cannot be used: {error}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Lines { json })
        // It would say so on standard error, which is what cannot be written, and panic over it.
        .log_internal_errors(false)
        .with_target(false);
    // `.ok()`: a second daemon in one process, as in tests, keeps the first one's log.
    if json {
        log.json().flatten_event(true).try_init().ok();
    } else {
        log.with_ansi(false).try_init().ok();
    }
    Ok(())
}

/// Escapes what is untrusted in an entry, wherever in it that stands: names, paths, errors.
struct Lines {
    json: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Entry;

    fn make_writer(&'a self) -> Entry {
        Entry { json: self.json }
    }
}

/// Writes one entry, which the formatter hands over whole.
struct Entry {
    json: bool,
}

impl Write for Entry {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(entry);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let line = if self.json {
            format!("{}\n", escape_json(text))
        } else {
            format!("{}\n", Untrusted(text))
        };
        io::stderr().write_all(line.as_bytes())?;
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
