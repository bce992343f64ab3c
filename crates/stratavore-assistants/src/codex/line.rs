//! What is read of a line of a rollout. All else in it is passed over.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use stratavore_core::usage::Tokens;

use crate::content::{Content, Text};

#[derive(Deserialize)]
pub(super) struct Line<'a> {
    pub(super) timestamp: Timestamp,
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) payload: Payload<'a>,
}

/// What is read of the payloads of all kinds. What a name means depends on the kind.
#[derive(Deserialize)]
pub(super) struct Payload<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) session_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) thread_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) turn_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) forked_from_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) parent_thread_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) cwd: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) response_id: Option<Text<'a>>,
    pub(super) usage: Option<Billed>,
    pub(super) info: Option<Totals>,
    #[serde(borrow)]
    pub(super) rate_limits: Option<Limits<'a>>,
    #[serde(borrow)]
    pub(super) last_agent_message: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) reason: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) error: Option<Failure<'a>>,
    #[serde(borrow)]
    pub(super) thread_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) role: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) call_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) arguments: Content<'a>,
    #[serde(borrow, default)]
    pub(super) input: Content<'a>,
    #[serde(borrow)]
    pub(super) action: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) output: Content<'a>,
    #[serde(borrow, default)]
    pub(super) content: Content<'a>,
    #[serde(borrow, default)]
    pub(super) message: Content<'a>,
    #[serde(borrow)]
    pub(super) internal_chat_message_metadata_passthrough: Option<Passthrough<'a>>,
}

/// Why a turn ended without a last word.
#[derive(Deserialize)]
pub(super) struct Failure<'a> {
    #[serde(borrow)]
    pub(super) message: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Passthrough<'a> {
    #[serde(borrow)]
    pub(super) content_item_kinds: Option<Vec<Text<'a>>>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
pub(super) struct Billed {
    #[serde(default)]
    pub(super) input_tokens: u64,
    #[serde(default)]
    pub(super) cached_input_tokens: u64,
    #[serde(default)]
    pub(super) cache_write_input_tokens: u64,
    #[serde(default)]
    pub(super) output_tokens: u64,
    #[serde(default)]
    pub(super) reasoning_output_tokens: u64,
}

#[derive(Deserialize)]
pub(super) struct Totals {
    pub(super) total_token_usage: Option<Billed>,
    pub(super) last_token_usage: Option<Billed>,
}

#[derive(Deserialize)]
pub(super) struct Limits<'a> {
    #[serde(borrow)]
    pub(super) limit_id: Option<Text<'a>>,
    pub(super) primary: Option<Window>,
    pub(super) secondary: Option<Window>,
    #[serde(borrow)]
    pub(super) rate_limit_reached_type: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Window {
    pub(super) used_percent: f64,
    pub(super) window_minutes: Option<u64>,
    pub(super) resets_at: Option<i64>,
    /// Older versions told the time until then.
    pub(super) resets_in_seconds: Option<i64>,
}

impl Billed {
    /// Codex counts what was cached with the input, and reasoning with the output.
    pub(super) fn tokens(self) -> Tokens {
        let cached = self.cached_input_tokens.min(self.input_tokens);
        let written = self.cache_write_input_tokens.min(self.input_tokens - cached);
        let reasoning = self.reasoning_output_tokens.min(self.output_tokens);
        Tokens {
            input: self.input_tokens - cached - written,
            output: self.output_tokens - reasoning,
            cache_read: cached,
            cache_write: written,
            cache_write_1h: 0,
            reasoning,
        }
    }
}
