//! What was said in a conversation, for lists and for search.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Where something was read: a file and the offset of the line that has it.
///
/// What came as an event has the runner's log of signals as its file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    pub file: String,
    pub offset: u64,
}

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    User,
    Assistant,
    /// A tool that the assistant used, or what came of it.
    Tool,
}

impl Role {
    pub const ALL: [Role; 3] = [Self::User, Self::Assistant, Self::Tool];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// The most bytes of a message's text that are kept for search. The vault has all of it.
pub const MESSAGE_MAX: usize = 64 << 10;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its id in the transcript, unique in its session. Untrusted text, as all of it.
    pub id: String,
    /// The conversation, as the assistant names it.
    pub session: String,
    pub role: Role,
    pub at: Timestamp,
    pub model: Option<String>,
    /// What was said, without what is no text. For a tool: its name and what it was given.
    pub text: String,
    pub place: Place,
}
