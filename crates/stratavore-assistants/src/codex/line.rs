//! What is read of a line of a rollout. All else in it is passed over.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use stratavore_core::usage::Tokens;

use crate::excerpt::{NAME_MAX, clipped};

/// Text that is not copied unless it has escapes in it.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
pub(super) struct Line<'a> {
    pub(super) timestamp: Timestamp,
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) payload: Payload<'a>,
}

/// What is read of the payloads of all kinds. Names that mean different things are kept unread.
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
    #[serde(borrow)]
    pub(super) arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) input: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) action: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) output: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) content: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) message: Option<&'a RawValue>,
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

#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
}

impl Text<'_> {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn name(&self) -> String {
        clipped(&self.0, NAME_MAX)
    }
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

pub(super) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|text| text.0)
}

/// A text, or the texts of a list of pieces.
pub(super) fn texts(raw: &RawValue) -> Cow<'_, str> {
    if let Some(text) = string(raw) {
        return text;
    }
    let Ok(pieces) = serde_json::from_str::<Vec<Piece<'_>>>(raw.get()) else {
        return Cow::Borrowed("");
    };
    let mut texts = pieces.into_iter().filter_map(|piece| piece.text);
    let first = texts.next().map(|text| text.0).unwrap_or_default();
    texts.fold(first, |all, text| Cow::Owned(format!("{all}\n{}", text.as_str())))
}
