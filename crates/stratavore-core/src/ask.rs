//! What an assistant asks its person, and prompts on their way to it.
//!
//! Invariant: an ask is answered once, whoever tries; a prompt is typed once, whatever dies meanwhile.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::observation::{AskKind, Asked};
use crate::{AskId, PromptId, RunnerId};

/// The most characters that are kept of what is asked.
pub const ASK_TEXT_MAX: usize = 4000;

/// A question or a request for a permission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub id: AskId,
    pub runner: RunnerId,
    pub epoch: i64,
    /// The conversation, as the assistant names it. Untrusted text, as are `tool` and `text`.
    pub session: String,
    /// The call of the hook that waits for the answer; `None`: only the assistant's screen takes it.
    pub call: Option<String>,
    pub kind: AskKind,
    pub tool: String,
    pub text: String,
    pub asked_at: Timestamp,
    /// What the hook was given: its answer depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<serde_json::Value>,
    pub state: AskState,
}

impl Ask {
    /// What an assistant asked, as it is kept.
    pub fn new(
        id: AskId,
        runner: RunnerId,
        epoch: i64,
        asked: Asked,
        hook: Option<serde_json::Value>,
    ) -> Self {
        let cut = |text: String, most: usize| text.chars().take(most).collect();
        Self {
            id,
            runner,
            epoch,
            session: cut(asked.session, 200),
            call: asked.call,
            kind: asked.kind,
            tool: cut(asked.tool, 200),
            text: cut(asked.text, ASK_TEXT_MAX),
            asked_at: asked.at,
            hook,
            state: AskState::Open,
        }
    }
}

/// What has become of an ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum AskState {
    Open,
    /// Somebody has answered; once `delivered`, the assistant has it.
    Answered {
        allow: bool,
        message: Option<String>,
        by: String,
        at: Timestamp,
        delivered: bool,
    },
    /// It was answered on the assistant's own screen, or the assistant has gone on without.
    Over {
        at: Timestamp,
    },
}

impl AskState {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Answered { .. } => "answered",
            Self::Over { .. } => "over",
        }
    }
}

/// A prompt on its way to an assistant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    pub id: PromptId,
    pub runner: RunnerId,
    pub epoch: i64,
    pub text: String,
    pub by: String,
    pub made_at: Timestamp,
    pub state: PromptState,
}

/// How far a prompt has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PromptState {
    /// Nothing of it was typed.
    Queued,
    /// It was handed to the agent of this epoch, or was about to be; that one types it once, however often
    /// it is sent.
    Written {
        at: Timestamp,
        /// 0: by a daemon that did not say.
        #[serde(default)]
        epoch: i64,
    },
    /// The assistant says that it has it.
    Taken { at: Timestamp },
    /// It was not typed, and will not be.
    Failed { at: Timestamp, why: String },
}

impl PromptState {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Written { .. } => "written",
            Self::Taken { .. } => "taken",
            Self::Failed { .. } => "failed",
        }
    }
}

/// True if what an assistant says that it was asked (`taken`) is what was typed (`typed`): white space
/// may be another one, and long texts may be cut.
pub fn is_same_prompt(typed: &str, taken: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (typed, taken) = (words(typed), words(taken));
    match taken.strip_suffix('…') {
        Some(beginning) => typed.starts_with(beginning.trim_end()),
        None => typed == taken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_known_again() {
        assert!(is_same_prompt("fix\nit  now ", "fix it now"));
        assert!(is_same_prompt("a long text", "a long…"));
        assert!(!is_same_prompt("a long text", "a short…"));
        assert!(!is_same_prompt("fix it", "fix it now"));
        assert!(!is_same_prompt("", "x"));
    }
}
