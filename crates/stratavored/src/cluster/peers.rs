//! The daemons of other nodes, as this one reaches them.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use stratavore_control::Error;
use stratavore_core::NodeId;
use stratavore_core::node::NodeView;
use stratavore_proto::client::Client;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::Cluster;
use super::tls::HANDSHAKE;

/// A connection over which nothing comes for so long, though it was asked, is given up.
const SILENCE: Duration = Duration::from_secs(5);

/// Connections to other nodes, made when they are needed and kept.
#[derive(Clone)]
pub(crate) struct Peers {
    cluster: Cluster,
    known: Arc<Mutex<HashMap<NodeId, Known>>>,
}

struct Known {
    address: String,
    client: Client,
}

impl Peers {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster, known: Arc::default() }
    }

    /// The daemon of a node that is not this one. It may be gone all the same: requests tell.
    pub(crate) async fn daemon_of(&self, node: NodeId) -> Result<Client, Error> {
        let view = self.cluster.control().node_by_id(node).await?;
        let unreachable =
            |name: String, why: &str| Error::NodeUnreachable { node: name, why: why.into() };
        let Some(view) = view else {
            return Err(unreachable(node.to_string(), "it is no node of this cluster any more"));
        };
        let NodeView { hostname, profile, ready, .. } = view;
        if !ready {
            return Err(unreachable(hostname, "no daemon runs there"));
        }
        let Some(address) = profile.address else {
            return Err(unreachable(hostname, "its daemon does not listen to others: node.listen"));
        };
        if self.cluster.tls_now().is_none() {
            // It has joined, and has just started, or its database did not answer since.
            let why = match self.cluster.has_certificate() {
                true => "this node's daemon could not look at the cluster yet; try again",
                false => "this node has not joined the cluster: stratavore nodes join",
            };
            return Err(unreachable(hostname, why));
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&node).filter(|known| known.address == address) {
            return Ok(known.client.clone());
        }
        let client = Client::over(self.channel(node, address.clone()));
        known.insert(node, Known { address, client: client.clone() });
        Ok(client)
    }

    fn channel(&self, node: NodeId, address: String) -> Channel {
        let cluster = self.cluster.clone();
        let connector = service_fn(move |_: Uri| {
            let (cluster, address) = (cluster.clone(), address.clone());
            async move {
                // The certificate of the moment: it is renewed every day.
                let tls = cluster.tls_now();
                let tls = tls.ok_or_else(|| io::Error::other("this node has not joined"))?;
                tls.connect(&address, node).await.map(TokioIo::new)
            }
        });
        // The address is never used: the connector knows it.
        Endpoint::from_static("http://stratavore.node")
            .connect_timeout(HANDSHAKE)
            .http2_keep_alive_interval(SILENCE)
            .keep_alive_timeout(SILENCE)
            .connect_with_connector_lazy(connector)
    }
}
