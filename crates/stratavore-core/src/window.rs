//! The windows of a subscription: how much of what an assistant's maker allows within a time is used.
//!
//! An assistant tells of the account that it is logged in with, and not which one that is. So a window is
//! known by the host, the assistant and its name, and the latest that any runner there was told holds.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::observation::RateWindow;
use crate::{NodeId, RunnerId, Timestamp};

/// A window as it was last told.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    pub node: NodeId,
    pub assistant: Name,
    /// Whose assistant told it.
    pub runner: RunnerId,
    pub told: RateWindow,
}

impl Window {
    /// True once it has begun anew since it was told: nobody knows what is used of it.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.told.resets_at.is_some_and(|resets| resets <= now)
    }
}

/// What is done with an assistant that its maker's limit has stopped, once the limit is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterLimit {
    /// It waits for its person.
    #[default]
    Wait,
    /// It is told to go on, where the time of the reset is known.
    Continue,
}

/// It is no such policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not what can be done after a limit: wait or continue", .0.escape_debug())]
pub struct AfterLimitError(String);

impl AfterLimit {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Continue => "continue",
        }
    }

    pub fn is_wait(&self) -> bool {
        *self == Self::Wait
    }
}

impl FromStr for AfterLimit {
    type Err = AfterLimitError;

    fn from_str(text: &str) -> Result<Self, AfterLimitError> {
        match text {
            "wait" => Ok(Self::Wait),
            "continue" => Ok(Self::Continue),
            _ => Err(AfterLimitError(text.into())),
        }
    }
}
