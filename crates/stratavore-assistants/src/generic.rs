//! Any program: the caller's arguments are the whole command.

use crate::{Assistant, no_flags};

pub(crate) const ASSISTANT: Assistant =
    Assistant { name: "generic", title: "any command", program: None, flags: no_flags, env: &[] };
