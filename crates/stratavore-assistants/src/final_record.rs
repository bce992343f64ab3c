//! The last record of a run without a screen, by which it is known how it came out.

use serde_json::Value;

use crate::adapter::Outcome;
use crate::excerpt::{SAID_MAX, clipped};

/// The last line of this kind. Lines that are cut or no JSON are passed over.
pub(crate) fn last_record(output: &str, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
    let records = output.lines().rev().filter(|line| line.trim_start().starts_with('{'));
    records.filter_map(|line| serde_json::from_str(line).ok()).find(|record| wanted(record))
}

/// How a run without a final record came out: one that printed no record at all and failed could not
/// even begin, and says why.
pub(crate) fn cut(output: &str, exit: Option<i32>) -> Outcome {
    let began = last_record(output, |record| record.get("type").is_some()).is_some();
    let code = exit.filter(|code| *code != 0 && !began);
    let said = output.lines().rev().map(str::trim).find(|line| !line.is_empty());
    match (code, said) {
        (Some(code), Some(said)) => {
            Outcome::Failed { why: format!("exit {code}: {}", clipped(said, SAID_MAX)) }
        }
        (Some(code), None) => Outcome::Failed { why: format!("exit {code}") },
        (None, _) => Outcome::Cut,
    }
}

/// True if a failure is that its maker lets it do no more for some time.
pub(crate) fn says_limit(text: &str) -> bool {
    const SAYINGS: [&str; 6] = [
        "hit your",
        "usage limit",
        "rate limit",
        "rate_limit",
        "limit reached",
        "too many requests",
    ];
    let text = text.to_ascii_lowercase();
    SAYINGS.iter().any(|saying| text.contains(saying))
}
