//! The gRPC services: one file per noun; each handler translates, calls one use case, translates.

mod audit;
mod body;
mod budget;
mod connect;
mod daemon;
mod event;
mod forward;
mod inbox;
mod node;
mod notify;
mod outbox;
pub(crate) mod problem;
mod project;
mod queue;
mod run;
mod runner;
mod search;
mod session;
mod usage;
mod vault;
mod view;

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use sha2::{Digest, Sha256};
use stratavore_control::{Control, Error};
use stratavore_core::caller::{Caller, Principal};
use stratavore_core::idempotency::Idempotency;
use stratavore_core::{NodeId, RequestId};
use stratavore_proto::v1::audit_server::AuditServer;
use stratavore_proto::v1::budgets_server::BudgetsServer;
use stratavore_proto::v1::daemon_server::DaemonServer;
use stratavore_proto::v1::events_server::EventsServer;
use stratavore_proto::v1::inbox_server::InboxServer;
use stratavore_proto::v1::ledger_server::LedgerServer;
use stratavore_proto::v1::nodes_server::NodesServer;
use stratavore_proto::v1::notify_server::NotifyServer;
use stratavore_proto::v1::outbox_server::OutboxServer;
use stratavore_proto::v1::peers_server::PeersServer;
use stratavore_proto::v1::projects_server::ProjectsServer;
use stratavore_proto::v1::queue_server::QueueServer;
use stratavore_proto::v1::runners_server::RunnersServer;
use stratavore_proto::v1::runs_server::RunsServer;
use stratavore_proto::v1::search_server::SearchServer;
use stratavore_proto::v1::sessions_server::SessionsServer;
use stratavore_proto::v1::vault_server::VaultServer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Status};
use tower::util::MapRequestLayer;

use crate::clock::entropy;
use crate::cluster::{Cluster, Peers};
use crate::crowd::Crowd;
use crate::peer::{Peer, Visitor, own_name};
use crate::run::ShutdownWish;

/// What all services share.
#[derive(Clone)]
pub(crate) struct Api {
    control: Control,
    shutdown: Arc<ShutdownWish>,
    cluster: Cluster,
    peers: Peers,
}

impl Api {
    pub(crate) fn new(control: Control, shutdown: Arc<ShutdownWish>, cluster: Cluster) -> Self {
        let peers = Peers::new(cluster.clone());
        Self { control, shutdown, cluster, peers }
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }
}

type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves the API on `listener` until the daemon stops.
pub(crate) async fn serve(api: Api, listener: UnixListener) -> Result<(), tonic::transport::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let stopping = api.control.supervisor().stopping().clone();
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
        .layer(MapRequestLayer::new(body::in_time))
        .layer(tonic::service::InterceptorLayer::new(move |request| let_in(&door, request)))
        .add_service(health_service)
        .add_service(ProjectsServer::new(api.clone()))
        .add_service(RunnersServer::new(api.clone()))
        .add_service(RunsServer::new(api.clone()))
        .add_service(InboxServer::new(api.clone()))
        .add_service(SessionsServer::new(api.clone()))
        .add_service(LedgerServer::new(api.clone()))
        .add_service(QueueServer::new(api.clone()))
        .add_service(EventsServer::new(api.clone()))
        .add_service(OutboxServer::new(api.clone()))
        .add_service(NotifyServer::new(api.clone()))
        .add_service(BudgetsServer::new(api.clone()))
        .add_service(AuditServer::new(api.clone()))
        .add_service(SearchServer::new(api.clone()))
        .add_service(VaultServer::new(api.clone()))
        .add_service(NodesServer::new(api.clone()))
        .add_service(DaemonServer::new(api))
        .serve_with_incoming_shutdown(incoming, async move {
            going_down.cancelled().await;
            health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        })
        .await
}

/// Serves what a node asks for those who asked it, and for itself.
pub(crate) async fn serve_nodes<S>(
    api: Api,
    incoming: impl Stream<Item = std::io::Result<S>>,
) -> Result<(), tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Connected<ConnectInfo = Visitor> + Unpin + Send + 'static,
{
    let stopping = api.control.supervisor().stopping().clone();
    Server::builder()
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(30)))
        .max_concurrent_streams(Some(1024))
        .layer(MapRequestLayer::new(body::in_time))
        .add_service(RunnersServer::new(api.clone()))
        .add_service(RunsServer::new(api.clone()))
        .add_service(InboxServer::new(api.clone()))
        .add_service(AuditServer::new(api.clone()))
        .add_service(PeersServer::new(api))
        .serve_with_incoming_shutdown(incoming, stopping.cancelled_owned())
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

/// Who sent the request; of one that a node passed on, whoever asked there.
pub(crate) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let visitor = request.extensions().get::<Visitor>();
    let visitor = visitor.ok_or_else(|| Status::unauthenticated("the caller is not known"))?;
    let mut caller = match &visitor.caller.principal {
        Principal::Node(node) => forward::on_behalf_of(*node, request.metadata())?,
        Principal::User { .. } | Principal::Daemon | Principal::Agent(_) | Principal::Inside(_) => {
            visitor.caller.clone()
        }
    };
    caller.origin.request = Some(RequestId::from_entropy(entropy()));
    Ok(caller)
}

/// The node that sent the request, by its certificate.
pub(crate) fn peer_node<T>(request: &Request<T>) -> Result<NodeId, Status> {
    match request.extensions().get::<Visitor>().map(|visitor| &visitor.caller.principal) {
        Some(Principal::Node(node)) => Ok(*node),
        Some(_) | None => Err(Status::unauthenticated("only a node may ask this")),
    }
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
