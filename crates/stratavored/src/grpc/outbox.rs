//! Destinations of events.

use stratavore_control::Error;
use stratavore_core::destination::Retry;
use stratavore_proto::v1;
use stratavore_proto::v1::outbox_server::Outbox;
use tonic::{Request, Response, Status};

use super::problem::status;
use super::{Api, caller, view};

#[tonic::async_trait]
impl Outbox for Api {
    async fn status(
        &self,
        _: Request<v1::OutboxStatusRequest>,
    ) -> Result<Response<v1::OutboxStatus>, Status> {
        let found = self.control.destinations().await.map_err(status)?;
        let destinations = found.into_iter().map(view::destination).collect();
        Ok(Response::new(v1::OutboxStatus { destinations }))
    }

    async fn dead_letters(
        &self,
        request: Request<v1::ListDeadLetters>,
    ) -> Result<Response<v1::DeadLetterList>, Status> {
        let v1::ListDeadLetters { destination, after, limit } = request.into_inner();
        let found = self.control.dead_letters(&destination, after, limit).await.map_err(status)?;
        let dead_letters = found.into_iter().map(view::dead_letter).collect();
        Ok(Response::new(v1::DeadLetterList { dead_letters }))
    }

    async fn retry(
        &self,
        request: Request<v1::RetryDeadLetters>,
    ) -> Result<Response<v1::RetryReply>, Status> {
        let caller = caller(&request)?;
        let v1::RetryDeadLetters { id, destination } = request.into_inner();
        let which = match id.as_str() {
            "" => Retry::All(destination),
            id => Retry::One(id.parse().map_err(|error: stratavore_core::id::IdError| {
                status(Error::invalid(
                    error.to_string(),
                    "see which there are: stratavore outbox dead",
                ))
            })?),
        };
        let (control, by) = (self.control.clone(), caller.clone());
        let retry = async move { control.dead_letter_retry(&by, which).await };
        let count =
            self.control.decided(&caller, "outbox.retry", "", retry).await.map_err(status)?;
        Ok(Response::new(v1::RetryReply { count }))
    }

    async fn forget(
        &self,
        request: Request<v1::ForgetDestination>,
    ) -> Result<Response<v1::ForgottenDestination>, Status> {
        let caller = caller(&request)?;
        let v1::ForgetDestination { name } = request.into_inner();
        let (control, by, on) = (self.control.clone(), caller.clone(), name.clone());
        let forgotten = async move { control.destination_forget(&by, &name).await };
        let left =
            self.control.decided(&caller, "outbox.forget", &on, forgotten).await.map_err(status)?;
        Ok(Response::new(v1::ForgottenDestination { pending: left.pending, dead: left.dead }))
    }
}
