//! Requests about a runner of another node, passed on to that node's daemon with the name of whoever
//! asked.
//!
//! Invariant: what was passed on once is not passed on again.

use std::error::Error as _;

use futures_util::TryStreamExt;
use prost::Message;
use stratavore_control::Error;
use stratavore_core::NodeId;
use stratavore_core::caller::{Auth, Caller, Door, Origin, Principal};
use stratavore_proto::client::Client;
use stratavore_proto::v1::{LocalUser, OnBehalfOf, on_behalf_of::Who};
use tonic::metadata::{BinaryMetadataValue, MetadataMap};
use tonic::{Request, Status};

use super::problem::status;
use super::{Api, Streaming, Visitor};

const HEADER: &str = "stratavore-caller-bin";
/// A name is somebody's text, and stands in every event that they cause.
const NAME_MAX: usize = 200;

/// Whoever asked the node; the node itself if it says nothing of anybody.
pub(super) fn on_behalf_of(node: NodeId, headers: &MetadataMap) -> Result<Caller, Status> {
    let origin = Origin { door: Door::Node, auth: Some(Auth::Certificate), ..Origin::default() };
    let Some(value) = headers.get_bin(HEADER) else {
        return Ok(Caller { principal: Principal::Node(node), origin });
    };
    let unreadable = || Status::invalid_argument("whom the node asks for cannot be read");
    let bytes = value.to_bytes().map_err(|_| unreadable())?;
    let principal = match OnBehalfOf::decode(bytes).map_err(|_| unreadable())?.who {
        Some(Who::User(LocalUser { uid, name })) => {
            let name: String = name.chars().take(NAME_MAX).collect();
            Principal::User { uid, name: format!("{name} by {node}") }
        }
        Some(Who::Inside(runner)) => Principal::Inside(runner.parse().map_err(|_| unreadable())?),
        None => return Err(unreadable()),
    };
    let uid = if let Principal::User { uid, .. } = &principal { Some(*uid) } else { None };
    Ok(Caller { principal, origin: Origin { uid, ..origin } })
}

/// True if another node has passed the request on.
pub(super) fn is_forwarded<T>(request: &Request<T>) -> bool {
    let visitor = request.extensions().get::<Visitor>();
    visitor.is_some_and(|visitor| matches!(visitor.caller.principal, Principal::Node(_)))
}

/// The message as a request of ours for `caller`.
pub(super) fn forwarded<M>(message: M, caller: &Caller) -> Request<M> {
    let mut request = Request::new(message);
    let who = match &caller.principal {
        Principal::User { uid, name } => {
            Some(Who::User(LocalUser { uid: *uid, name: name.clone() }))
        }
        Principal::Inside(runner) => Some(Who::Inside(runner.to_string())),
        Principal::Daemon | Principal::Agent(_) | Principal::Node(_) => None,
    };
    if who.is_some() {
        let bytes = OnBehalfOf { who }.encode_to_vec();
        request.metadata_mut().insert_bin(HEADER, BinaryMetadataValue::from_bytes(&bytes));
    }
    request
}

impl Api {
    /// The daemon of another node; `None` if the node is this one, or the request came from another
    /// already: then it is carried out, or refused, here.
    pub(super) async fn elsewhere<T>(
        &self,
        node: NodeId,
        request: &Request<T>,
    ) -> Result<Option<Client>, Status> {
        if node == self.control.here() || is_forwarded(request) {
            return Ok(None);
        }
        self.peers.daemon_of(node).await.map(Some).map_err(status)
    }

    /// Passes on what only has to be written down, so that it is done at once. `None`: it is written
    /// down here, since it is this node's, or since that node's daemon cannot be asked: it will look
    /// for what was wished meanwhile.
    pub(super) async fn sooner<M: Clone, A>(
        &self,
        node: NodeId,
        request: &Request<M>,
        caller: &Caller,
        ask: impl AsyncFnOnce(Client, Request<M>) -> Result<A, Status>,
    ) -> Result<Option<A>, Status> {
        let Ok(Some(client)) = self.elsewhere(node, request).await else { return Ok(None) };
        match ask(client, forwarded(request.get_ref().clone(), caller)).await {
            Ok(answer) => Ok(Some(answer)),
            Err(failed) if failed.details().is_empty() => Ok(None),
            Err(failed) => Err(failed),
        }
    }

    /// What the other daemon said, or that it cannot be reached.
    pub(super) async fn answered<T>(
        &self,
        node: NodeId,
        answer: Result<T, Status>,
    ) -> Result<T, Status> {
        match answer {
            // A daemon that answers puts the problem in.
            Err(failed) if failed.details().is_empty() => {
                let named = self.control.node(&node.to_string()).await;
                let node = named.map_or_else(|_| node.to_string(), |node| node.hostname);
                Err(status(Error::NodeUnreachable { node, why: reason(&failed) }))
            }
            answer => answer,
        }
    }
}

/// What the other daemon goes on to say; that the way to it is lost is told as that, and not as if it
/// were the way to this one.
pub(super) fn passed_back<T: Send + 'static>(
    node: NodeId,
    stream: tonic::Streaming<T>,
) -> Streaming<T> {
    Box::pin(stream.map_err(move |failed| {
        if !failed.details().is_empty() {
            return failed;
        }
        status(Error::NodeUnreachable { node: node.to_string(), why: reason(&failed) })
    }))
}

/// Why no daemon answered, in words: what was noticed, and what that came from. A status displays
/// itself as code, with all that it was made of.
fn reason(failed: &Status) -> String {
    let mut why = failed.message().to_owned();
    if why.is_empty() {
        failed.code().description().clone_into(&mut why);
    }
    let mut root = None;
    let mut cause = failed.source();
    while let Some(error) = cause {
        root = Some(error.to_string());
        cause = error.source();
    }
    if let Some(root) = root.filter(|root| !why.contains(root)) {
        why = format!("{why}: {root}");
    }
    why
}

/// Passes a request about a runner on to the daemon of its node, and returns what that says.
macro_rules! elsewhere {
    ($api:expr, $node:expr, $request:ident, $caller:expr, $method:ident) => {
        elsewhere!($api, $node, $request, $caller, runners.$method)
    };
    ($api:expr, $node:expr, $request:ident, $caller:expr, $service:ident.$method:ident) => {
        if let Some(client) = $api.elsewhere($node, &$request).await? {
            let passed_on = $crate::grpc::forward::forwarded($request.into_inner(), $caller);
            let answer = client.$service().$method(passed_on).await;
            return $api.answered($node, answer).await;
        }
    };
}
pub(super) use elsewhere;
