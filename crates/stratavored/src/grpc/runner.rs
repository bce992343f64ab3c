//! Runners.

use std::time::Duration;

use stratavore_control::{Error, Launch, WaitFor};
use stratavore_core::caller::Caller;
use stratavore_core::restart::RestartPolicy;
use stratavore_core::runner::{Headless, Runner, RunnerState};
use stratavore_core::window::{AfterLimit, AfterLimitError};
use stratavore_core::{RunnerId, Timestamp};
use stratavore_proto::client::Client;
use stratavore_proto::v1;
use stratavore_proto::v1::runners_server::Runners;
use stratavore_store::RunnerFilter;
use tonic::{Request, Response, Status, Streaming as Incoming};

use super::forward::{elsewhere, forwarded, is_forwarded, passed_back};
use super::problem::status;
use super::{Api, Streaming, caller, connect, given, keyed, view};

/// The most runners in one page of a list. Each may have a mebibyte of arguments.
const PAGE: u32 = 200;

impl Api {
    async fn runner_view(&self, caller: &Caller, runner: Runner) -> Result<v1::Runner, Status> {
        Ok(view::runner(self.control.runner_view(caller, runner).await.map_err(status)?))
    }

    async fn runner_views(
        &self,
        caller: &Caller,
        runners: Vec<Runner>,
    ) -> Result<Vec<v1::Runner>, Status> {
        let views = self.control.runner_views(caller, runners).await.map_err(status)?;
        Ok(views.into_iter().map(view::runner).collect())
    }

    pub(super) async fn find(&self, runner: &str, project: &str) -> Result<Runner, Status> {
        self.control.runner(runner, given(project)).await.map_err(status)
    }
}

#[tonic::async_trait]
impl Runners for Api {
    async fn launch(
        &self,
        request: Request<v1::LaunchRunners>,
    ) -> Result<Response<v1::RunnerList>, Status> {
        let caller = caller(&request)?;
        if !is_forwarded(&request) {
            let mut wish = view::wish(request.get_ref()).map_err(status)?;
            if let Some(session) = given(&request.get_ref().session).filter(|_| wish.is_any()) {
                let node = self.control.node_of_session(&caller, session).await.map_err(status)?;
                wish.node = node.map(|node| node.to_string());
            }
            let node = self.control.place(&wish, request.get_ref().count).await.map_err(status)?;
            // The other daemon looks at its own host; where it is to go is decided.
            elsewhere!(self, node, request, &caller, launch);
        }
        let labels = view::wish(request.get_ref()).map_err(status)?.labels;
        let mut request = request.into_inner();
        let key = keyed!("runners.launch", request);
        let restart = match given(&request.restart) {
            Some(text) => {
                text.parse().map_err(|error: String| status(Error::invalid(error, "")))?
            }
            None => RestartPolicy::default(),
        };
        let after_limit = match given(&request.after_limit) {
            Some(text) => text.parse().map_err(|error: AfterLimitError| {
                status(Error::invalid(error.to_string(), "stratavore launch --help"))
            })?,
            None => AfterLimit::default(),
        };
        let launch = Launch {
            assistant: given(&request.assistant).map(Into::into),
            args: request.args,
            name: given(&request.name).map(Into::into),
            count: request.count,
            env: request.env,
            restart,
            limits: view::limits(request.limits),
            directory: given(&request.directory).map(Into::into),
            columns: request.columns.min(u32::from(u16::MAX)) as u16,
            rows: request.rows.min(u32::from(u16::MAX)) as u16,
            prompt: given(&request.prompt).map(Into::into),
            bare: request.bare,
            headless: request.headless.then(|| Headless {
                max_turns: (request.max_turns != 0).then_some(request.max_turns),
                max_cost: (request.max_cost != 0).then_some(request.max_cost),
                item: None,
            }),
            after_limit,
            labels,
            resume: match given(&request.session) {
                Some(wanted) => {
                    let resume =
                        self.control.session_to_resume(&caller, wanted, request.fork).await;
                    Some(resume.map_err(status)?)
                }
                None => None,
            },
        };
        let resumed = launch.resume.as_ref();
        let remarks = resumed.map(|resume| resume.remarks.clone()).unwrap_or_default();
        let (control, by, on) = (self.control.clone(), caller.clone(), request.project.clone());
        let launched = async move { control.launch(&by, &request.project, launch, key).await };
        let runners =
            self.control.decided(&caller, "runners.launch", &on, launched).await.map_err(status)?;
        let runners = view::shortened(self.runner_views(&caller, runners).await?);
        Ok(Response::new(v1::RunnerList { runners, remarks, ..v1::RunnerList::default() }))
    }

    async fn get(&self, request: Request<v1::GetRunner>) -> Result<Response<v1::Runner>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let runner = self.find(&request.runner, &request.project).await?;
        Ok(Response::new(self.runner_view(&caller, runner).await?))
    }

    async fn list(
        &self,
        request: Request<v1::ListRunners>,
    ) -> Result<Response<v1::RunnerList>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let project = match given(&request.project) {
            Some(project) => Some(self.control.project(project).await.map_err(status)?.id),
            None => None,
        };
        if let Some(unknown) =
            request.states.iter().find(|state| !RunnerState::NAMES.contains(&state.as_str()))
        {
            let message = format!("`{}` is no state of a runner", unknown.escape_debug());
            return Err(status(Error::invalid(
                message,
                format!("use one of {}", RunnerState::NAMES.join(", ")),
            )));
        }
        let before = match given(&request.before) {
            Some(id) => {
                let last = self.find(id, "").await?;
                Some((last.created_at, last.id))
            }
            None => None,
        };
        let limit = if request.limit == 0 { 500 } else { request.limit };
        let filter = RunnerFilter {
            project,
            live_only: !request.all && request.states.is_empty(),
            states: request.states,
            // One more than are answered tells whether there are more.
            limit: Some(limit.min(PAGE) + 1),
            before,
            ..RunnerFilter::default()
        };
        let listed = self.control.runner_list(&caller, &filter).await.map_err(status)?;
        let found = listed.len();
        let mut runners = view::page(listed.into_iter().map(view::runner).collect());
        runners.truncate(limit.min(PAGE) as usize);
        let next = match runners.last() {
            Some(last) if runners.len() < found => last.id.clone(),
            Some(_) | None => String::new(),
        };
        Ok(Response::new(v1::RunnerList { runners, remarks: Vec::new(), next }))
    }

    async fn stop(&self, request: Request<v1::StopRunner>) -> Result<Response<v1::Runner>, Status> {
        let caller = caller(&request)?;
        let about = request.get_ref();
        let runner = self.find(&about.runner, &about.project).await?;
        if let Some(answer) = self
            .sooner(runner.node, &request, &caller, async |client, request| {
                client.runners().stop(request).await
            })
            .await?
        {
            return Ok(answer);
        }
        let mut request = request.into_inner();
        let key = keyed!("runners.stop", request);
        let id = runner.id;
        let grace = (request.grace_ms != 0).then(|| Duration::from_millis(request.grace_ms));
        let (control, by, force) = (self.control.clone(), caller.clone(), request.force);
        let stopped = async move { control.stop(&by, id, force, grace, key).await };
        let runner = self
            .control
            .decided(&caller, "runners.stop", &request.runner, stopped)
            .await
            .map_err(status)?;
        Ok(Response::new(self.runner_view(&caller, runner).await?))
    }

    async fn restart(
        &self,
        request: Request<v1::RestartRunner>,
    ) -> Result<Response<v1::Runner>, Status> {
        let caller = caller(&request)?;
        let about = request.get_ref();
        let runner = self.find(&about.runner, &about.project).await?;
        if runner.is_terminal() {
            // Its successor starts where its directory is.
            elsewhere!(self, runner.node, request, &caller, restart);
        }
        let asked = async |client: Client, request| client.runners().restart(request).await;
        if let Some(answer) = self.sooner(runner.node, &request, &caller, asked).await? {
            return Ok(answer);
        }
        let mut request = request.into_inner();
        let key = keyed!("runners.restart", request);
        let id = runner.id;
        let (control, by, force) = (self.control.clone(), caller.clone(), request.force);
        let restarted = async move { control.restart(&by, id, force, key).await };
        let runner = self
            .control
            .decided(&caller, "runners.restart", &request.runner, restarted)
            .await
            .map_err(status)?;
        Ok(Response::new(self.runner_view(&caller, runner).await?))
    }

    async fn pause(
        &self,
        request: Request<v1::PauseRunner>,
    ) -> Result<Response<v1::Runner>, Status> {
        let caller = caller(&request)?;
        let about = request.get_ref();
        let runner = self.find(&about.runner, &about.project).await?;
        if let Some(answer) = self
            .sooner(runner.node, &request, &caller, async |client, request| {
                client.runners().pause(request).await
            })
            .await?
        {
            return Ok(answer);
        }
        let mut request = request.into_inner();
        let key = keyed!("runners.pause", request);
        let id = runner.id;
        let (control, by, wish) = (self.control.clone(), caller.clone(), request.paused);
        let paused = async move { control.pause(&by, id, wish, key).await };
        let runner = self
            .control
            .decided(&caller, "runners.pause", &request.runner, paused)
            .await
            .map_err(status)?;
        Ok(Response::new(self.runner_view(&caller, runner).await?))
    }

    async fn recover(
        &self,
        request: Request<v1::RecoverRunners>,
    ) -> Result<Response<v1::RunnerList>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let key = keyed!("runners.recover", request);
        let (control, by) = (self.control.clone(), caller.clone());
        let on = request.runners.join(" ");
        let recovered = async move {
            control
                .recover(&by, &request.runners, given(&request.project), request.dry_run, key)
                .await
        };
        let (runners, remarks) = self
            .control
            .decided(&caller, "runners.recover", &on, recovered)
            .await
            .map_err(status)?;
        let runners = view::shortened(self.runner_views(&caller, runners).await?);
        Ok(Response::new(v1::RunnerList { runners, remarks, next: String::new() }))
    }

    async fn wait(&self, request: Request<v1::WaitRunner>) -> Result<Response<v1::Runner>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let id: RunnerId = self.find(&request.runner, "").await?.id;
        let timeout = (request.timeout_ms != 0).then(|| Duration::from_millis(request.timeout_ms));
        let runner = self
            .control
            .wait(id, WaitFor { states: request.states, timeout, epoch: request.epoch })
            .await
            .map_err(status)?;
        Ok(Response::new(self.runner_view(&caller, runner).await?))
    }

    async fn send(&self, request: Request<v1::SendToRunner>) -> Result<Response<v1::Sent>, Status> {
        let caller = caller(&request)?;
        let about = request.get_ref();
        let runner = self.find(&about.runner, &about.project).await?;
        elsewhere!(self, runner.node, request, &caller, send);
        let (request, id) = (request.into_inner(), runner.id);
        let bytes = request.data.len() as u64;
        let (control, by) = (self.control.clone(), caller.clone());
        let sent = async move {
            control.send(&by, id, request.data.to_vec(), request.paste, request.enter).await
        };
        self.control
            .decided(&caller, "runners.send", &request.runner, sent)
            .await
            .map_err(status)?;
        Ok(Response::new(v1::Sent { bytes }))
    }

    type ReadOutputStream = Streaming<v1::OutputChunk>;

    async fn read_output(
        &self,
        request: Request<v1::ReadOutputRequest>,
    ) -> Result<Response<Self::ReadOutputStream>, Status> {
        let caller = caller(&request)?;
        if let Err(error) = self.control.may_attach(&caller) {
            let on = request.get_ref().runner.as_str();
            self.control.refused(&caller, "runners.read_output", on, &error).await;
            return Err(status(error));
        }
        let about = request.get_ref();
        let runner = self.find(&about.runner, &about.project).await?;
        if let Some(client) = self.elsewhere(runner.node, &request).await? {
            let passed_on = forwarded(request.into_inner(), &caller);
            let answer = client.runners().read_output(passed_on).await;
            let stream = self.answered(runner.node, answer).await?.into_inner();
            return Ok(Response::new(passed_back(runner.node, stream)));
        }
        let request = request.into_inner();
        self.control.has_output(&runner).map_err(status)?;
        let since = match request.since_us {
            Some(micros) => Some(Timestamp::from_microsecond(micros).map_err(|error| {
                status(Error::invalid(
                    error.to_string(),
                    "give a time between the years 1 and 9999",
                ))
            })?),
            None => None,
        };
        let start = connect::Start { from: request.from, lines: request.lines, since };
        let stream = connect::read_output(self.control.clone(), runner, start, request.follow);
        Ok(Response::new(Box::pin(stream)))
    }

    type ConnectStream = Streaming<v1::FromAgentSocket>;

    async fn connect(
        &self,
        request: Request<Incoming<v1::ConnectFrame>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let caller = caller(&request)?;
        let is_forwarded = is_forwarded(&request);
        connect::connect(self.clone(), caller, request.into_inner(), is_forwarded).await
    }

    async fn upgrade_agent(
        &self,
        request: Request<v1::UpgradeAgentRequest>,
    ) -> Result<Response<v1::UpgradedAgent>, Status> {
        let caller = caller(&request)?;
        let about = request.get_ref();
        let runner = self.find(&about.runner, &about.project).await?;
        elsewhere!(self, runner.node, request, &caller, upgrade_agent);
        let (request, id) = (request.into_inner(), runner.id);
        let upgraded = self.control.upgrade_agent(&caller, id).await;
        if let Err(error) = &upgraded {
            self.control.refused(&caller, "runners.upgrade_agent", &request.runner, error).await;
        }
        let (runner, version) = upgraded.map_err(status)?;
        let runner = Some(self.runner_view(&caller, runner).await?);
        Ok(Response::new(v1::UpgradedAgent { runner, version }))
    }
}
