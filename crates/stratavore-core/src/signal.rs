//! What a running assistant tells of itself, as its agent wrote it down.
//!
//! The agent only records; what a signal means is read from it by the assistant's adapter, in the
//! daemon. So the agent stays small, and a daemon that was away finds everything.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One line of the log of signals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    pub at: Timestamp,
    /// The runner's epoch.
    pub epoch: i64,
    #[serde(flatten)]
    pub what: What,
}

/// What was told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// The assistant called its hook: what it wrote to the hook's standard input. Texts that are
    /// long are cut.
    Hook {
        /// Names the call if its hook waits for an answer, unique in the runner.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<String>,
        body: Value,
    },
    /// The hook of this call is gone, answered or not.
    HookOver { call: String },
    /// OpenTelemetry logs in the JSON form of OTLP: one log record, with its resource's attributes.
    Telemetry { record: Value },
    /// The terminal's title has changed.
    Title { title: String },
    /// Something was typed into the runner by way of Stratavore, and the enter key pressed.
    Sent { bytes: u64 },
}
