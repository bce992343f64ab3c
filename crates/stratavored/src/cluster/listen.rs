//! The door for other hosts: TLS, then who is there, then what they may ask.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use stratavore_control::Error;
use stratavore_core::caller::{Caller, Origin, Principal};
use stratavore_core::join::JoinToken;
use stratavore_core::{NodeId, RequestId};
use stratavore_proto::v1;
use stratavore_proto::v1::joining_server::{Joining, JoiningServer};
use stratavore_proto::v1::peers_server::Peers;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use super::{Cluster, certificate};
use crate::clock::entropy;
use crate::grpc::{Api, caller, problem, serve_nodes};
use crate::peer::Visitor;
use crate::times::or_as_tested;

/// Handshakes that are under way at a time; others wait in the kernel.
const HANDSHAKES: usize = 64;
/// Connections that are accepted and not yet served.
const QUEUE: usize = 16;
/// Hosts without a certificate that are served at a time, and for how long each: one request.
pub(super) const STRANGERS: usize = 32;
const STRANGER: std::time::Duration = std::time::Duration::from_secs(30);
/// The largest request of a stranger.
const REQUEST_MAX: usize = 16 << 10;
const WAIT: std::time::Duration = std::time::Duration::from_millis(100);

/// Serves other hosts until the daemon stops.
pub(crate) async fn serve(cluster: Cluster, api: Api, listener: TcpListener) {
    let (nodes, of_nodes) = mpsc::channel(QUEUE);
    let (strangers, of_strangers) = mpsc::channel(QUEUE);
    let supervisor = cluster.control().supervisor().clone();
    supervisor.spawn(accept(cluster.clone(), listener, nodes, strangers));
    let stopping = supervisor.stopping().clone();
    let joining = Server::builder()
        .timeout(super::tls::HANDSHAKE * 2)
        .max_concurrent_streams(Some(2))
        .add_service(JoiningServer::new(Door { cluster }).max_decoding_message_size(REQUEST_MAX))
        .serve_with_incoming_shutdown(
            ReceiverStream::new(of_strangers),
            stopping.cancelled_owned(),
        );
    supervisor.spawn(async move {
        if let Err(error) = joining.await {
            tracing::error!(error = %stratavore_control::chain(&error), "no host can join");
        }
    });
    if let Err(error) = serve_nodes(api, ReceiverStream::new(of_nodes)).await {
        tracing::error!(error = %stratavore_control::chain(&error), "other nodes are not served");
    }
}

/// A connection whose other end is a node.
type OfNode = io::Result<Wire<Visitor>>;
/// One whose other end is nobody yet.
type OfStranger = io::Result<Wire<()>>;

async fn accept(
    cluster: Cluster,
    listener: TcpListener,
    nodes: mpsc::Sender<OfNode>,
    strangers: mpsc::Sender<OfStranger>,
) {
    let stopping = cluster.control().supervisor().stopping().clone();
    let room = Arc::new(Semaphore::new(HANDSHAKES));
    let seats = Arc::new(Semaphore::new(STRANGERS));
    let stranger = or_as_tested("stranger", STRANGER);
    let mut tls = cluster.tls();
    loop {
        let accepting = async {
            // Nobody closes it.
            let place = room.clone().acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            accepted = accepting => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection of another host; waiting");
                tokio::time::sleep(WAIT).await;
                continue;
            }
        };
        // Before this node has joined it has nothing to show.
        let Some(tls) = tls.borrow_and_update().clone() else { continue };
        let (cluster, nodes, strangers) = (cluster.clone(), nodes.clone(), strangers.clone());
        let seats = seats.clone();
        cluster.control().supervisor().clone().spawn(async move {
            let admitted = async {
                let stream = tls.accept(stream).await?;
                let who = who(&cluster, &stream).await?;
                Ok::<_, io::Error>((stream, who))
            };
            let admitted = admitted.await;
            drop(place);
            // Nobody takes it only while the daemon is stopping.
            match admitted {
                Ok((stream, Some((node, key_digest)))) => {
                    let caller = Caller::from(Principal::Node(node));
                    let info = Visitor { caller, over: None };
                    let cut = cluster.welcome(node, key_digest);
                    let ends = (*cut).clone().cancelled_owned();
                    let wire = Wire::new(stream, info, ends, cut);
                    nodes.send(Ok(wire)).await.ok();
                }
                Ok((stream, None)) => {
                    let Ok(seat) = seats.try_acquire_owned() else {
                        tracing::warn!(%from, "too many hosts without a certificate are here");
                        return;
                    };
                    let wire = Wire::new(stream, (), tokio::time::sleep(stranger), seat);
                    strangers.send(Ok(wire)).await.ok();
                }
                Err(error) => {
                    tracing::warn!(%from, %error, "a connection of another host was refused");
                }
            }
        });
    }
}

/// Who is there: a node by its certificate, if the store has its key; or `None`, a stranger.
async fn who(
    cluster: &Cluster,
    stream: &TlsStream<TcpStream>,
) -> io::Result<Option<(NodeId, String)>> {
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let Some(shown) = shown else { return Ok(None) };
    let (node, key_digest) = certificate::holder(shown)?;
    let bound = cluster.control().is_bound(node, &key_digest).await;
    match bound.map_err(super::other)? {
        true => Ok(Some((node, key_digest))),
        false => Err(super::other(format!("{node} is bound to another key, or to none"))),
    }
}

/// A connection of another host, and what is known of it.
pub(crate) struct Wire<I> {
    stream: TlsStream<TcpStream>,
    info: I,
    /// The connection ends with it.
    is_cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// What the connection has as long as it is there: a seat, or what it can be cut by.
    _held: Box<dyn Send>,
}

impl<I> Wire<I> {
    fn new(
        stream: TlsStream<TcpStream>,
        info: I,
        ends: impl Future<Output = ()> + Send + 'static,
        held: impl Send + 'static,
    ) -> Self {
        Self { stream, info, is_cut: Box::pin(ends), _held: Box::new(held) }
    }
}

impl<I: Clone + Send + Sync + 'static> Connected for Wire<I> {
    type ConnectInfo = I;

    fn connect_info(&self) -> I {
        self.info.clone()
    }
}

impl<I: Unpin> AsyncRead for Wire<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<I: Unpin> AsyncWrite for Wire<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What a host may ask that has no certificate: for one.
struct Door {
    cluster: Cluster,
}

/// Whoever says that it is this node: nothing has proved it, so its origin names no proof.
fn stranger(node: NodeId) -> Caller {
    let origin = Origin {
        door: stratavore_core::caller::Door::Node,
        request: Some(RequestId::from_entropy(entropy())),
        ..Origin::default()
    };
    Caller { principal: Principal::Node(node), origin }
}

/// What of a token may stand on the record.
fn named(token: &str) -> String {
    token.parse::<JoinToken>().map_or_else(|_| String::new(), |token| token.accessor)
}

#[tonic::async_trait]
impl Joining for Door {
    async fn sign(
        &self,
        request: Request<v1::SignRequest>,
    ) -> Result<Response<v1::SignedCertificate>, Status> {
        let (cluster, request) = (self.cluster.clone(), request.into_inner());
        let node: NodeId = request.node_id.parse().map_err(|_| {
            problem::status(Error::Forbidden { message: "no node has that id".into() })
        })?;
        let (by, on) = (stranger(node), named(&request.token));
        let caller = by.clone();
        let signed = async move { cluster.sign_for_token(&caller, node, &request).await };
        let signed = self.cluster.control().decided(&by, "joining.sign", &on, signed).await;
        signed.map(Response::new).map_err(problem::status)
    }
}

#[tonic::async_trait]
impl Peers for Api {
    async fn renew(
        &self,
        request: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::SignedCertificate>, Status> {
        let (node, by) = (crate::grpc::peer_node(&request)?, caller(&request)?);
        let (cluster, request) = (self.cluster().clone(), request.into_inner());
        let signed = async move { cluster.sign_for_peer(node, &request).await };
        let signed = self.cluster().control().decided(&by, "peers.renew", "", signed).await;
        signed.map(Response::new).map_err(problem::status)
    }
}
