//! Runs without a screen.

use futures_util::{StreamExt, stream};
use stratavore_assistants::adapter::Step;
use stratavore_control::{RunProgress, RunResult};
use stratavore_core::caller::Caller;
use stratavore_core::run::RunOutcome;
use stratavore_core::usage::UsageSums;
use stratavore_proto::v1;
use stratavore_proto::v1::runs_server::Runs;
use tonic::{Request, Response, Status};

use super::forward::{elsewhere, forwarded, passed_back};
use super::problem::status;
use super::{Api, Streaming, caller, view};

fn step(step: Step) -> v1::RunStep {
    let (kind, tool, text) = match step {
        Step::Session { session } => ("session", String::new(), session),
        Step::Text { text } => ("text", String::new(), text),
        Step::Tool { tool, text } => ("tool", tool, text),
        Step::ToolResult { text } => ("tool_result", String::new(), text),
        Step::Retry { why } => ("retry", String::new(), why),
        Step::Asks { tool, text } => ("asks", tool, text),
    };
    v1::RunStep { kind: kind.into(), text, tool }
}

pub(super) fn usage(sums: UsageSums) -> v1::RunUsage {
    v1::RunUsage {
        input: sums.tokens.input,
        output: sums.tokens.output,
        cache_read: sums.tokens.cache_read,
        cache_write: sums.tokens.cache_write,
        cache_write_1h: sums.tokens.cache_write_1h,
        reasoning: sums.tokens.reasoning,
        messages: sums.messages,
        cost: sums.cost,
        unpriced: sums.unpriced,
        reported_cost: sums.reported,
        reporting: sums.reporting,
    }
}

impl Api {
    async fn run_result(&self, by: &Caller, result: RunResult) -> Result<v1::RunResult, Status> {
        let RunResult { runner, outcome, usage: used, session } = result;
        let resets_at = match &outcome {
            RunOutcome::RateLimited { resets_at, .. } => *resets_at,
            RunOutcome::Done { .. }
            | RunOutcome::LimitReached { .. }
            | RunOutcome::TimedOut
            | RunOutcome::Stopped { .. }
            | RunOutcome::Cut { .. }
            | RunOutcome::Failed { .. } => None,
        };
        let runner = self.control.runner_view(by, runner).await.map_err(status)?;
        Ok(v1::RunResult {
            runner: Some(view::runner(runner)),
            outcome: outcome.as_str().into(),
            text: outcome.text().unwrap_or_default().into(),
            why: outcome.why().into(),
            resets_at_us: resets_at.map_or(0, |at| at.as_microsecond()),
            usage: Some(usage(used)),
            assistant_session: session.and_then(|session| session.external_id).unwrap_or_default(),
        })
    }
}

#[tonic::async_trait]
impl Runs for Api {
    type WatchStream = Streaming<v1::RunProgress>;

    async fn watch(
        &self,
        request: Request<v1::WatchRun>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = caller(&request)?;
        // It shows what a runner prints.
        if let Err(error) = self.control.may_attach(&caller) {
            let on = request.get_ref().runner.as_str();
            self.control.refused(&caller, "runs.watch", on, &error).await;
            return Err(status(error));
        }
        let about = request.get_ref();
        let runner = self.find(&about.runner, &about.project).await?;
        if let Some(client) = self.elsewhere(runner.node, &request).await? {
            let passed_on = forwarded(request.into_inner(), &caller);
            let answer = client.runs().watch(passed_on).await;
            let stream = self.answered(runner.node, answer).await?.into_inner();
            return Ok(Response::new(passed_back(runner.node, stream)));
        }
        let watch = self.control.run_watch(&runner, request.get_ref().from).map_err(status)?;
        let state = Some((self.clone(), caller, watch));
        let progress = stream::unfold(state, async |state| {
            let (api, caller, mut watch) = state?;
            use v1::run_progress::Kind;
            let kind = match watch.next().await {
                Ok(Some(RunProgress::Steps { next, steps })) => {
                    let steps = steps.into_iter().map(step).collect();
                    Ok(Kind::Steps(v1::RunSteps { next, steps }))
                }
                Ok(Some(RunProgress::Ended(result))) => api
                    .run_result(&caller, *result)
                    .await
                    .map(|result| Kind::Result(Box::new(result))),
                Ok(None) => return None,
                Err(error) => Err(status(error)),
            };
            let goes_on = kind.is_ok().then_some((api, caller, watch));
            Some((kind.map(|kind| v1::RunProgress { kind: Some(kind) }), goes_on))
        });
        Ok(Response::new(progress.boxed()))
    }

    async fn result(
        &self,
        request: Request<v1::GetRunner>,
    ) -> Result<Response<v1::RunResult>, Status> {
        let caller = caller(&request)?;
        if let Err(error) = self.control.may_attach(&caller) {
            let on = request.get_ref().runner.as_str();
            self.control.refused(&caller, "runs.result", on, &error).await;
            return Err(status(error));
        }
        let about = request.get_ref();
        let runner = self.find(&about.runner, &about.project).await?;
        elsewhere!(self, runner.node, request, &caller, runs.result);
        let (control, id) = (self.control.clone(), runner.id);
        // In a task of its own: it takes in what the assistant told last.
        let result =
            self.control.supervisor().detached(async move { control.run_result(id).await });
        let result = self.run_result(&caller, result.await.map_err(status)?).await?;
        Ok(Response::new(result))
    }
}
