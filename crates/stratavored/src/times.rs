//! Times that a test need not wait for.

use std::time::Duration;

/// In debug builds `STRATAVORE_TEST_TIMES="node_life=6s,stranger=2s"` has other ones than the usual.
pub(crate) fn or_as_tested(name: &str, usual: Duration) -> Duration {
    if !cfg!(debug_assertions) {
        return usual;
    }
    let given = std::env::var("STRATAVORE_TEST_TIMES").unwrap_or_default();
    let mut entries = given.split(',').filter_map(|entry| entry.split_once('='));
    let found = entries.find_map(|(n, value)| (n == name).then_some(value));
    found.and_then(stratavore_config::parse_duration).unwrap_or(usual)
}
