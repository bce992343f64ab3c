//! Sessions.

use stratavore_control::{NamedGroup, SessionDetails, SessionQuery, SessionView};
use stratavore_core::Timestamp;
use stratavore_core::session::Held;
use stratavore_proto::v1;
use stratavore_proto::v1::sessions_server::Sessions;
use tonic::{Request, Response, Status};

use super::problem::status;
use super::{Api, caller, keyed, usage};

#[tonic::async_trait]
impl Sessions for Api {
    async fn list(
        &self,
        request: Request<v1::ListSessions>,
    ) -> Result<Response<v1::SessionList>, Status> {
        let caller = caller(&request)?;
        let v1::ListSessions { project, assistant, text, state, limit, page } =
            request.into_inner();
        let query = SessionQuery { project, assistant, text, state, limit, page };
        let found = self.control.session_list(&caller, query).await.map_err(status)?;
        Ok(Response::new(v1::SessionList {
            sessions: found.sessions.into_iter().map(session).collect(),
            next: found.next.unwrap_or_default(),
        }))
    }

    async fn get(
        &self,
        request: Request<v1::GetSession>,
    ) -> Result<Response<v1::SessionDetails>, Status> {
        let caller = caller(&request)?;
        let wanted = request.into_inner().session;
        let (control, by, on) = (self.control.clone(), caller.clone(), wanted.clone());
        let shown = async move { control.session_show(&by, &wanted).await };
        let shown =
            self.control.decided(&caller, "sessions.get", &on, shown).await.map_err(status)?;
        Ok(Response::new(details(shown)))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveSession>,
    ) -> Result<Response<v1::Session>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let key = keyed!("sessions.remove", request);
        let (control, by, on) = (self.control.clone(), caller.clone(), request.session.clone());
        let removed = async move { control.session_remove(&by, &request.session, key).await };
        let removed =
            self.control.decided(&caller, "sessions.remove", &on, removed).await.map_err(status)?;
        Ok(Response::new(session(removed)))
    }
}

fn micros(at: Option<Timestamp>) -> i64 {
    at.map_or(0, |at| at.as_microsecond())
}

pub(super) fn session(view: SessionView) -> v1::Session {
    let SessionView { session, project, runner } = view;
    let id = |id: Option<String>| id.unwrap_or_default();
    v1::Session {
        id: session.id.to_string(),
        project_id: session.project.to_string(),
        project,
        assistant: session.assistant.to_string(),
        external_id: session.external_id.unwrap_or_default(),
        parent_id: id(session.parent.map(|id| id.to_string())),
        lineage: session.lineage.map(|kind| kind.as_str().into()).unwrap_or_default(),
        runner_id: id(session.runner.map(|id| id.to_string())),
        runner: runner.map(String::from).unwrap_or_default(),
        title: session.title.unwrap_or_default(),
        first_prompt: session.first_prompt.unwrap_or_default(),
        directory: session.directory.unwrap_or_default(),
        transcript: session.transcript.unwrap_or_default(),
        node_id: id(session.node.map(|id| id.to_string())),
        models: session.models,
        user_messages: session.messages.user,
        assistant_messages: session.messages.assistant,
        tool_messages: session.messages.tool,
        started_at_us: micros(session.started_at),
        ended_at_us: micros(session.ended_at),
        created_at_us: session.created_at.as_microsecond(),
        updated_at_us: session.updated_at.as_microsecond(),
    }
}

fn details(details: SessionDetails) -> v1::SessionDetails {
    let SessionDetails { view, parent, children, held, usage: used, by_model } = details;
    v1::SessionDetails {
        session: Some(session(view)),
        parent: parent.map(session),
        children: children.into_iter().map(session).collect(),
        held: held.into_iter().map(holder).collect(),
        usage: Some(usage::sums(used)),
        by_model: by_model.into_iter().map(|group: NamedGroup| usage::group(group)).collect(),
    }
}

fn holder(held: Held) -> v1::SessionHolder {
    v1::SessionHolder {
        runner_id: held.runner.to_string(),
        runner: held.name.into(),
        epoch: held.epoch,
        first_at_us: held.first_at.as_microsecond(),
        last_at_us: held.last_at.as_microsecond(),
    }
}
