//! What no source of an assistant tells: what it bills and no ledger can know of.
//!
//! Found by comparing what each program wrote down with what a model API billed it.

/// What the ledger does not have of an assistant's usage, in words for people.
pub fn not_covered(assistant: &str) -> &'static [&'static str] {
    match assistant {
        "claude" => &[
            "answers that were cut off: no source has their last figures",
            "requests for titles and compaction, where its telemetry was not received",
        ],
        "codex" => &[
            "requests for the titles of threads, where its telemetry was not received",
            "answers that were cut off: no source has their last figures",
        ],
        "opencode" => &[
            "requests for titles, which it makes only where nothing was injected",
            "answers that were cut off",
        ],
        "gemini" => &[
            "requests of the model router and for summaries, where its telemetry was not received",
            "answers that were cut off",
        ],
        "aider" => &["exact figures, unless it runs with --no-stream: else they are its own guess"],
        _ => &["all of it: nothing is known of how this program tells what it used"],
    }
}
