//! The gRPC services: one file per noun; each handler translates, calls one use case, translates.

mod audit;
mod connect;
mod daemon;
mod event;
mod outbox;
mod problem;
mod project;
mod runner;
mod view;

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use sha2::{Digest, Sha256};
use stratavore_control::{Control, Error};
use stratavore_core::RequestId;
use stratavore_core::caller::Caller;
use stratavore_core::idempotency::Idempotency;
use stratavore_proto::v1::audit_server::AuditServer;
use stratavore_proto::v1::daemon_server::DaemonServer;
use stratavore_proto::v1::events_server::EventsServer;
use stratavore_proto::v1::outbox_server::OutboxServer;
use stratavore_proto::v1::projects_server::ProjectsServer;
use stratavore_proto::v1::runners_server::RunnersServer;
use tokio::net::UnixListener;
use tonic::transport::Server;
use tonic::{Request, Status};

use crate::clock::entropy;
use crate::crowd::Crowd;
use crate::peer::{Peer, Visitor, own_name};
use crate::run::ShutdownWish;

/// What all services share.
#[derive(Clone)]
pub(crate) struct Api {
    control: Control,
    shutdown: Arc<ShutdownWish>,
}

type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves the API on `listener` until the daemon stops.
pub(crate) async fn serve(
    control: Control,
    shutdown: Arc<ShutdownWish>,
    listener: UnixListener,
) -> Result<(), tonic::transport::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let stopping = control.supervisor().stopping().clone();
    let api = Api { control, shutdown };
    let user: Arc<str> = own_name().into();
    let runners: Arc<Path> = api.control.runtime().runners().into();
    let crowd = Arc::new(Crowd::default());
    let incoming = futures_util::stream::unfold(
        (listener, user, runners, crowd),
        |(listener, user, runners, crowd)| async move {
            let peer = loop {
                let (stream, cred) = Peer::accept(&listener).await;
                if let Some(peer) = Peer::new(stream, &cred, &user, &runners, &crowd) {
                    break peer;
                }
            };
            Some((Ok::<_, std::io::Error>(peer), (listener, user, runners, crowd)))
        },
    );
    let telling = health.clone();
    let mut ready = api.control.ready();
    api.control.clone().supervisor().spawn({
        let stopping = stopping.clone();
        async move {
            // Ready only while the store answers: others may then ask another daemon.
            while let Some(Ok(())) = stopping.run_until_cancelled(ready.changed()).await {
                let status = match *ready.borrow_and_update() {
                    true => tonic_health::ServingStatus::Serving,
                    false => tonic_health::ServingStatus::NotServing,
                };
                telling.set_service_status("", status).await;
            }
        }
    });
    let going_down = stopping.clone();
    let door = api.control.clone();
    Server::builder()
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(30)))
        .max_concurrent_streams(Some(256))
        .layer(tonic::service::InterceptorLayer::new(move |request| let_in(&door, request)))
        .add_service(health_service)
        .add_service(ProjectsServer::new(api.clone()))
        .add_service(RunnersServer::new(api.clone()))
        .add_service(EventsServer::new(api.clone()))
        .add_service(OutboxServer::new(api.clone()))
        .add_service(AuditServer::new(api.clone()))
        .add_service(DaemonServer::new(api))
        .serve_with_incoming_shutdown(incoming, async move {
            going_down.cancelled().await;
            health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        })
        .await
}

/// Refuses the requests of connections that are too many.
fn let_in(control: &Control, request: Request<()>) -> Result<Request<()>, Status> {
    let Some(visitor) = request.extensions().get::<Visitor>() else { return Ok(request) };
    let Some(limit) = visitor.over else { return Ok(request) };
    let (refusing, caller) = (control.clone(), visitor.caller.clone());
    control.supervisor().spawn(async move {
        refusing.refused(&caller, "connections", "", &Error::TooMany { limit }).await;
    });
    Err(problem::status(Error::TooMany { limit }))
}

/// Who sent the request.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let visitor = request.extensions().get::<Visitor>();
    let visitor = visitor.ok_or_else(|| Status::unauthenticated("the caller is not known"))?;
    let mut caller = visitor.caller.clone();
    caller.origin.request = Some(RequestId::from_entropy(entropy()));
    Ok(caller)
}

/// The idempotency of a request: its key, and a digest of the rest of it.
fn idempotency(
    operation: &str,
    key: String,
    request: impl FnOnce() -> Vec<u8>,
) -> Result<Option<Idempotency>, Error> {
    if key.is_empty() {
        return Ok(None);
    }
    let digest =
        Sha256::new().chain_update(operation).chain_update([0]).chain_update(request()).finalize();
    Ok(Some(Idempotency::new(key, digest.into())?))
}

/// Splits a mutation into its idempotency and the rest.
macro_rules! keyed {
    ($operation:literal, $request:ident) => {{
        let key = std::mem::take(&mut $request.idempotency_key);
        crate::grpc::idempotency($operation, key, || prost::Message::encode_to_vec(&$request))
            .map_err(crate::grpc::problem::status)?
    }};
}
use keyed;

/// `None` for an empty text: an optional field that was not given.
fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
