//! Events.

use futures_util::{StreamExt, stream};
use stratavore_control::Place;
use stratavore_proto::v1;
use stratavore_proto::v1::events_server::Events;
use tonic::{Request, Response, Status};

use super::problem::status;
use super::{Api, Streaming, view};

impl Api {
    async fn event_filter(
        &self,
        filter: Option<v1::EventFilter>,
    ) -> Result<stratavore_core::event::EventFilter, Status> {
        let v1::EventFilter { project, runner, kinds } = filter.unwrap_or_default();
        self.control.event_filter(&project, &runner, kinds).await.map_err(status)
    }
}

#[tonic::async_trait]
impl Events for Api {
    async fn list(
        &self,
        request: Request<v1::ListEvents>,
    ) -> Result<Response<v1::EventList>, Status> {
        let request = request.into_inner();
        let filter = self.event_filter(request.filter).await?;
        let events =
            self.control.event_list(&filter, request.after, request.limit).await.map_err(status)?;
        Ok(Response::new(v1::EventList { events: events.into_iter().map(view::event).collect() }))
    }

    type SubscribeStream = Streaming<v1::Event>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeEvents>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        let filter = self.event_filter(request.filter).await?;
        let timeline = request.timeline;
        let after = request.after.map(|position| Place { position, timeline });
        let subscription = self.control.subscribe(filter, after).await.map_err(status)?;
        let pages = stream::unfold(Some(subscription), |subscription| async {
            let mut subscription = subscription?;
            match subscription.next().await {
                Ok(Some((timeline, events))) => {
                    let shown = |event| v1::Event { timeline, ..view::event(event) };
                    let events: Vec<_> = events.into_iter().map(|event| Ok(shown(event))).collect();
                    Some((stream::iter(events), Some(subscription)))
                }
                Ok(None) => None,
                // The reader comes back with the position of the last event that it has seen.
                Err(error) => Some((stream::iter(vec![Err(status(error))]), None)),
            }
        });
        Ok(Response::new(Box::pin(pages.flatten())))
    }
}
