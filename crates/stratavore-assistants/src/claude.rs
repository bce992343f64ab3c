//! Claude Code: `claude`.

use crate::{Assistant, no_flags};

pub(crate) const ASSISTANT: Assistant = Assistant {
    name: "claude",
    title: "Claude Code",
    program: Some("claude"),
    flags: no_flags,
    // A runner must stay the program that was started.
    env: &[("DISABLE_AUTOUPDATER", "1")],
    adapter: &crate::generic::Generic,
};

/// An interactive session that finds these takes itself for the child of another one: it writes
/// no transcript and cannot be resumed.
pub(crate) const MARKS: [&str; 6] = [
    "CLAUDECODE",
    "CLAUDE_CODE_CHILD_SESSION",
    "CLAUDE_CODE_SESSION_ID",
    "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_EFFORT",
    "AI_AGENT",
];
