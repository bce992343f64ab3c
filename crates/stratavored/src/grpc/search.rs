//! Search.

use stratavore_control::{self as control, Error, SearchBy};
use stratavore_core::Timestamp;
use stratavore_core::caller::Caller;
use stratavore_core::message::Role;
use stratavore_core::search::{Hit, SearchFilter};
use stratavore_proto::v1;
use stratavore_proto::v1::search_server::Search;
use stratavore_store::KeptMessage;
use tonic::{Request, Response, Status};

use super::problem::status;
use super::{Api, caller, given};

#[tonic::async_trait]
impl Search for Api {
    async fn find(
        &self,
        request: Request<v1::FindRequest>,
    ) -> Result<Response<v1::FoundMessages>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let (control, by) = (self.control.clone(), caller.clone());
        let found = async move {
            let search = wish(&control, &by, request).await?;
            let page = control.search(&by, search).await?;
            let projects = page.hits.iter().map(|hit| hit.project).collect();
            let names = control.project_names(&projects).await?;
            let name = |hit: &Hit| names.get(&hit.project).cloned().unwrap_or_default();
            Ok(v1::FoundMessages {
                found: page.hits.into_iter().map(|hit| (name(&hit), hit)).map(view).collect(),
                has_more: page.has_more,
                note: page.note.unwrap_or_default(),
            })
        };
        let found = self.control.decided(&caller, "search", "", found).await.map_err(status)?;
        Ok(Response::new(found))
    }

    async fn messages(
        &self,
        request: Request<v1::ListMessages>,
    ) -> Result<Response<v1::MessageList>, Status> {
        let caller = caller(&request)?;
        let v1::ListMessages { session, from, after_us, after_number, limit } =
            request.into_inner();
        let (control, by, on) = (self.control.clone(), caller.clone(), session.clone());
        let listed = async move {
            let session = control.session(&by, &session).await?.id;
            let after = (after_us != 0).then(|| time(after_us)).transpose()?;
            let after = after.map(|at| (at, after_number));
            let messages = control.messages(&by, session, given(&from), after, limit).await?;
            Ok(v1::MessageList {
                session_id: session.to_string(),
                messages: messages.into_iter().map(message).collect(),
            })
        };
        let listed =
            self.control.decided(&caller, "messages", &on, listed).await.map_err(status)?;
        Ok(Response::new(listed))
    }
}

async fn wish(
    control: &control::Control,
    by: &Caller,
    request: v1::FindRequest,
) -> Result<control::Search, Error> {
    let project = match given(&request.project) {
        Some(name) => Some(control.project(name).await?.id),
        None => None,
    };
    let session = match given(&request.session) {
        Some(name) => Some(control.session(by, name).await?.id),
        None => None,
    };
    let role = given(&request.role)
        .map(|role| {
            Role::parse(role).ok_or_else(|| {
                let message = format!("`{}` is no role", role.escape_debug());
                Error::invalid(message, "a role is user, assistant or tool")
            })
        })
        .transpose()?;
    let assistant = given(&request.assistant)
        .map(|name| {
            let wrong = |error| Error::invalid(format!("{error}"), "see: stratavore doctor");
            name.parse().map_err(wrong)
        })
        .transpose()?;
    let at = |us: i64| (us != 0).then(|| time(us)).transpose();
    Ok(control::Search {
        text: request.text,
        filter: SearchFilter {
            project,
            session,
            assistant,
            role,
            since: at(request.since_us)?,
            until: at(request.until_us)?,
        },
        by: match request.by.as_str() {
            "" | "both" => SearchBy::Both,
            "words" => SearchBy::Words,
            "meaning" => SearchBy::Meaning,
            other => {
                let message = format!("`{}` is no way to search", other.escape_debug());
                return Err(Error::invalid(message, "search by words, meaning or both"));
            }
        },
        limit: request.limit,
        offset: request.offset,
    })
}

fn time(us: i64) -> Result<Timestamp, Error> {
    Timestamp::from_microsecond(us)
        .map_err(|error| Error::invalid(format!("{us} is no time: {error}"), "give another time"))
}

fn view((project, hit): (String, Hit)) -> v1::FoundMessage {
    let pieces = hit.snippet.into_iter();
    v1::FoundMessage {
        session_id: hit.session.to_string(),
        external_id: hit.external_id.unwrap_or_default(),
        project_id: hit.project.to_string(),
        project,
        assistant: hit.assistant.to_string(),
        message_id: hit.message,
        role: hit.role.as_str().into(),
        at_us: hit.at.as_microsecond(),
        model: hit.model.unwrap_or_default(),
        snippet: pieces
            .map(|piece| v1::SnippetPiece { text: piece.text, is_match: piece.is_match })
            .collect(),
        file: hit.place.file,
        offset: hit.place.offset,
        score: hit.score,
        found_by: hit.found_by.as_str().into(),
    }
}

fn message(kept: KeptMessage) -> v1::Message {
    let message = kept.message;
    v1::Message {
        number: kept.number,
        id: message.id,
        role: message.role.as_str().into(),
        at_us: message.at.as_microsecond(),
        model: message.model.unwrap_or_default(),
        text: message.text,
        file: message.place.file,
        offset: message.place.offset,
    }
}
