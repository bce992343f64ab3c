//! What runs without a screen print as JSON and YAML.

use jiff::Timestamp;
use serde::Serialize;
use stratavore_proto::v1;

use super::{given, time};

/// One step of a run. `kind` is session, text, tool, tool_result, retry or asks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StepView {
    pub kind: String,
    pub text: String,
    pub tool: Option<String>,
}

impl From<&v1::RunStep> for StepView {
    fn from(step: &v1::RunStep) -> Self {
        Self { kind: step.kind.clone(), text: step.text.clone(), tool: given(&step.tool) }
    }
}

/// Tokens by kind, and money in millionths of a US dollar; `null` is "not known".
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RunUsageView {
    pub input: i64,
    pub output: i64,
    pub cache_read: i64,
    pub cache_write: i64,
    pub cache_write_1h: i64,
    pub reasoning: i64,
    pub messages: i64,
    pub cost: Option<i64>,
    pub reported_cost: Option<i64>,
}

impl From<&v1::RunUsage> for RunUsageView {
    fn from(usage: &v1::RunUsage) -> Self {
        Self {
            input: usage.input,
            output: usage.output,
            cache_read: usage.cache_read,
            cache_write: usage.cache_write,
            cache_write_1h: usage.cache_write_1h,
            reasoning: usage.reasoning,
            messages: usage.messages,
            // A sum in which something is missing is none.
            cost: (usage.messages > 0 && usage.unpriced == 0).then_some(usage.cost),
            reported_cost: (usage.reporting > 0).then_some(usage.reported_cost),
        }
    }
}

/// How a run came out; `kind` is `result`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RunResultView {
    pub kind: &'static str,
    pub outcome: String,
    pub text: Option<String>,
    pub why: Option<String>,
    pub resets_at: Option<Timestamp>,
    pub usage: RunUsageView,
    pub runner: String,
    pub name: String,
    pub state: String,
    pub cause: String,
    pub session: Option<String>,
    pub assistant_session: Option<String>,
}

impl From<&v1::RunResult> for RunResultView {
    fn from(result: &v1::RunResult) -> Self {
        let runner = result.runner.clone().unwrap_or_default();
        Self {
            kind: "result",
            outcome: result.outcome.clone(),
            text: given(&result.text),
            why: given(&result.why),
            resets_at: time(result.resets_at_us),
            usage: (&result.usage.unwrap_or_default()).into(),
            session: given(&runner.session_id),
            runner: runner.id,
            name: runner.name,
            state: runner.state,
            cause: runner.cause,
            assistant_session: given(&result.assistant_session),
        }
    }
}
