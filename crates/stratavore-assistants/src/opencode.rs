//! opencode: `opencode`.

use crate::{Assistant, no_flags};

pub(crate) const ASSISTANT: Assistant = Assistant {
    name: "opencode",
    title: "opencode",
    program: Some("opencode"),
    flags: no_flags,
    env: &[],
    adapter: &crate::generic::Generic,
};

/// Set for the tools of a running opencode.
pub(crate) const MARKS: [&str; 1] = ["OPENCODE"];
