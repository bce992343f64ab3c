//! What is read of a line of a transcript of Claude Code. All else in it is passed over.

use jiff::Timestamp;
use serde::Deserialize;
use stratavore_core::usage::Tokens;

use crate::content::{Content, Text};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) uuid: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) session_id: Option<Text<'a>>,
    pub(super) timestamp: Option<Timestamp>,
    #[serde(borrow)]
    pub(super) cwd: Option<Text<'a>>,
    #[serde(default)]
    pub(super) is_sidechain: bool,
    #[serde(default)]
    pub(super) is_meta: bool,
    #[serde(default)]
    pub(super) is_compact_summary: bool,
    #[serde(default)]
    pub(super) is_api_error_message: bool,
    pub(super) api_error_status: Option<u64>,
    #[serde(borrow)]
    pub(super) request_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) interrupted_message_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) custom_title: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) ai_title: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) message: Option<Reply<'a>>,
    #[serde(borrow)]
    pub(super) attachment: Option<Attachment<'a>>,
    #[serde(borrow)]
    pub(super) forked_from: Option<ForkedFrom<'a>>,
}

/// A line that was copied when a conversation was branched off.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ForkedFrom<'a> {
    #[serde(borrow)]
    pub(super) session_id: Option<Text<'a>>,
}

/// A message of either side.
#[derive(Deserialize)]
pub(super) struct Reply<'a> {
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) stop_reason: Option<Text<'a>>,
    pub(super) usage: Option<Billed>,
    #[serde(borrow, default)]
    pub(super) content: Content<'a>,
}

#[derive(Deserialize)]
pub(super) struct Billed {
    #[serde(default)]
    input_tokens: u64,
    #[serde(default)]
    output_tokens: u64,
    #[serde(default)]
    cache_read_input_tokens: u64,
    #[serde(default)]
    cache_creation_input_tokens: u64,
    cache_creation: Option<Written>,
}

#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    ephemeral_1h_input_tokens: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attachment<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) command_mode: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) prompt: Content<'a>,
}

impl Billed {
    pub(super) fn tokens(&self) -> Tokens {
        let hour = self.cache_creation.as_ref().map_or(0, |by| by.ephemeral_1h_input_tokens);
        let hour = hour.min(self.cache_creation_input_tokens);
        Tokens {
            input: self.input_tokens,
            output: self.output_tokens,
            cache_read: self.cache_read_input_tokens,
            cache_write: self.cache_creation_input_tokens - hour,
            cache_write_1h: hour,
            reasoning: 0,
        }
    }
}
