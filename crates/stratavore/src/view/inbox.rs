//! What the inbox and explanations print as JSON and YAML.

use jiff::Timestamp;
use serde::Serialize;
use stratavore_proto::v1;

use super::{RunnerView, given, time};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DoingView {
    pub since: Option<Timestamp>,
    pub source: String,
    pub confidence: String,
    pub signal: String,
    pub question: Option<String>,
    pub resets_at: Option<Timestamp>,
}

impl From<&v1::Doing> for DoingView {
    fn from(doing: &v1::Doing) -> Self {
        Self {
            since: time(doing.since_us),
            source: doing.source.clone(),
            confidence: doing.confidence.clone(),
            signal: doing.signal.clone(),
            question: given(&doing.question),
            resets_at: time(doing.resets_at_us),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct AskView {
    pub id: String,
    pub runner_id: String,
    pub kind: String,
    pub tool: String,
    pub text: String,
    pub asked_at: Option<Timestamp>,
    pub state: String,
    pub answerable: bool,
    pub allowed: Option<bool>,
    pub message: Option<String>,
    pub by: Option<String>,
    pub answered_at: Option<Timestamp>,
    pub delivered: bool,
}

impl From<&v1::Ask> for AskView {
    fn from(ask: &v1::Ask) -> Self {
        Self {
            id: ask.id.clone(),
            runner_id: ask.runner_id.clone(),
            kind: ask.kind.clone(),
            tool: ask.tool.clone(),
            text: ask.text.clone(),
            asked_at: time(ask.asked_at_us),
            state: ask.state.clone(),
            answerable: ask.answerable,
            allowed: (ask.state == "answered").then_some(ask.allow),
            message: given(&ask.message),
            by: given(&ask.by),
            answered_at: time(ask.answered_at_us),
            delivered: ask.delivered,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct WaitingView {
    pub since: Option<Timestamp>,
    pub runner: Option<RunnerView>,
    pub ask: Option<AskView>,
}

impl From<&v1::Waiting> for WaitingView {
    fn from(waiting: &v1::Waiting) -> Self {
        Self {
            since: time(waiting.since_us),
            runner: waiting.runner.as_ref().map(RunnerView::from),
            ask: waiting.ask.as_ref().map(AskView::from),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PromptView {
    pub id: String,
    pub runner_id: String,
    pub state: String,
    pub why: Option<String>,
    pub at: Option<Timestamp>,
}

impl From<&v1::Prompt> for PromptView {
    fn from(prompt: &v1::Prompt) -> Self {
        Self {
            id: prompt.id.clone(),
            runner_id: prompt.runner_id.clone(),
            state: prompt.state.clone(),
            why: given(&prompt.why),
            at: time(prompt.at_us),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SignalView {
    pub at: Option<Timestamp>,
    pub epoch: i64,
    pub signal: String,
    pub meaning: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ExplanationView {
    pub runner: Option<RunnerView>,
    pub observed: bool,
    pub proves: serde_json::Value,
    pub signals: Vec<SignalView>,
    pub asks: Vec<AskView>,
}

impl From<&v1::Explanation> for ExplanationView {
    fn from(explained: &v1::Explanation) -> Self {
        let signals = explained.signals.iter().map(|read| SignalView {
            at: time(read.at_us),
            epoch: read.epoch,
            signal: read.signal.clone(),
            meaning: given(&read.meaning),
        });
        Self {
            runner: explained.runner.as_ref().map(RunnerView::from),
            observed: explained.observed,
            // A daemon writes objects only.
            proves: serde_json::from_str(&explained.proves).unwrap_or_default(),
            signals: signals.collect(),
            asks: explained.asks.iter().map(AskView::from).collect(),
        }
    }
}
