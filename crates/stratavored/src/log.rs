//! Logs: for people, or one JSON object a line. Always to standard error.

use tracing_subscriber::EnvFilter;

const QUIET: &str =
    "h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,sqlx=warn,sqlx_core::pool=error";

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
        .with_writer(std::io::stderr)
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
