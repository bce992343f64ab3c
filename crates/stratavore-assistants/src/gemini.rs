//! Gemini CLI: `gemini`.

use crate::{Assistant, no_flags};

pub(crate) const ASSISTANT: Assistant = Assistant {
    name: "gemini",
    title: "Gemini CLI",
    program: Some("gemini"),
    flags: no_flags,
    // Otherwise it starts itself a second time, and a signal meets the wrong one of the two.
    env: &[("GEMINI_CLI_NO_RELAUNCH", "true")],
    adapter: &crate::generic::Generic,
};

/// Set for the tools of a running Gemini.
pub(crate) const MARKS: [&str; 1] = ["GEMINI_CLI"];
