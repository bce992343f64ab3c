//! How a host gets its certificate, and the next one.

use hyper_util::rt::TokioIo;
use stratavore_control::Error;
use stratavore_core::NodeId;
use stratavore_core::caller::Caller;
use stratavore_core::join::{JoinToken, PIN};
use stratavore_core::node::NodeView;
use stratavore_proto::client::{Client, problem};
use stratavore_proto::v1;
use tonic::Status;
use tonic::transport::{Endpoint, Uri};
use tower::service_fn;

use super::certificate::Public;
use super::{Cluster, Peers, tls};

impl Cluster {
    /// Makes this node join: shows the token to a node that signs, and keeps the certificate.
    pub(crate) async fn join(&self, caller: &Caller, token: &str) -> Result<NodeView, Error> {
        self.control().may_administer(caller, "make this node join")?;
        let read: JoinToken =
            token.trim().parse().map_err(|error: stratavore_core::join::TokenError| {
                Error::invalid(
                    error.to_string(),
                    "make one where the CA is: stratavore nodes token",
                )
            })?;
        let (ca, fingerprint) = self.ca().await?;
        if fingerprint.get(..PIN) != Some(read.pin.as_str()) {
            return Err(Error::invalid(
                "the join token is for another CA than this cluster has in its database",
                "see that this daemon uses the cluster's database: stratavore ca show",
            ));
        }
        let node = self.control().here();
        let (key, proof) = self.state().identity.prove(&read.accessor).map_err(Error::internal)?;
        let request = v1::SignRequest {
            token: read.reveal(),
            node_id: node.to_string(),
            public_key: key.into(),
            proof: proof.into(),
        };
        let signer = self.signer().await?;
        let signed = self.ask_as_stranger(&ca, &signer, request).await?;
        self.keep_certificate(&signed.certificates)?;
        self.look().await?;
        self.control().node(&node.to_string()).await
    }

    /// A node that holds the CA's key, and is there.
    async fn signer(&self) -> Result<NodeView, Error> {
        let nodes = self.control().nodes().await?;
        let signers: Vec<NodeView> = nodes.into_iter().filter(|node| node.signs).collect();
        let there = signers.iter().find(|node| node.ready && node.profile.address.is_some());
        match (there, signers.first()) {
            (Some(there), _) => Ok(there.clone()),
            (None, Some(away)) => Err(Error::NodeUnreachable {
                node: away.hostname.clone(),
                why: match away.ready {
                    true => "it keeps the CA, and its daemon does not listen: node.listen".into(),
                    false => "it keeps the CA, and no daemon runs there".into(),
                },
            }),
            (None, None) => Err(Error::invalid(
                "no node of this cluster keeps a CA",
                "make one: stratavore ca init",
            )),
        }
    }

    async fn ask_as_stranger(
        &self,
        ca: &str,
        signer: &NodeView,
        request: v1::SignRequest,
    ) -> Result<v1::SignedCertificate, Error> {
        let (ca, id) = (ca.to_owned(), signer.id);
        let address = signer.profile.address.clone().unwrap_or_default();
        let connector = service_fn(move |_: Uri| {
            let (ca, address) = (ca.clone(), address.clone());
            async move { tls::connect_as_stranger(&ca, &address, id).await.map(TokioIo::new) }
        });
        let channel =
            Endpoint::from_static("http://stratavore.node").connect_with_connector_lazy(connector);
        let answer = Client::over(channel).joining().sign(request).await;
        answer.map(|reply| reply.into_inner()).map_err(|status| said(&signer.hostname, &status))
    }

    /// Gets a new certificate for the same key.
    pub(super) async fn renew(&self) -> Result<(), Error> {
        let signer = self.signer().await?;
        let what = self.control().here().to_string();
        let (key, proof) = self.state().identity.prove(&what).map_err(Error::internal)?;
        let request = v1::RenewRequest { public_key: key.into(), proof: proof.into() };
        let client = Peers::new(self.clone()).daemon_of(signer.id).await?;
        let answer = client.peers().renew(request).await;
        let signed = answer.map_err(|status| said(&signer.hostname, &status))?.into_inner();
        self.keep_certificate(&signed.certificates)?;
        tracing::info!("this node's certificate was renewed");
        Ok(())
    }

    fn keep_certificate(&self, pem: &str) -> Result<(), Error> {
        let directory = &self.inner.own_dir;
        self.state().identity.keep(directory, pem).map_err(Error::internal)
    }

    /// Where the CA is: signs for a node that shows a good token and holds its key.
    pub(super) async fn sign_for_token(
        &self,
        caller: &Caller,
        node: NodeId,
        request: &v1::SignRequest,
    ) -> Result<v1::SignedCertificate, Error> {
        let refused = |message: &str| Error::Forbidden { message: message.into() };
        let token: JoinToken =
            request.token.parse().map_err(|_| refused("the join token is not good"))?;
        let (key, what) = (&request.public_key, &token.accessor);
        let public = Public::proven(key, &request.proof, what)
            .map_err(|error| refused(&error.to_string()))?;
        self.must_sign()?;
        self.control().redeem_join_token(caller, &token, node, &public.digest()).await?;
        self.sign(node, key, &request.proof, what)
    }

    /// The same for a node that showed its certificate.
    pub(super) async fn sign_for_peer(
        &self,
        node: NodeId,
        request: &v1::RenewRequest,
    ) -> Result<v1::SignedCertificate, Error> {
        let what = node.to_string();
        let refused = |message: &str| Error::Forbidden { message: message.into() };
        let public = Public::proven(&request.public_key, &request.proof, &what)
            .map_err(|error| refused(&error.to_string()))?;
        self.must_sign()?;
        if !self.control().is_bound(node, &public.digest()).await? {
            return Err(refused("the node is bound to another key, or to none"));
        }
        self.sign(node, &request.public_key, &request.proof, &what)
    }

    fn must_sign(&self) -> Result<(), Error> {
        match self.state().authority {
            Some(_) => Ok(()),
            None => Err(Error::invalid("this node does not keep the CA", "ask the one that does")),
        }
    }

    fn sign(
        &self,
        node: NodeId,
        key: &[u8],
        proof: &[u8],
        what: &str,
    ) -> Result<v1::SignedCertificate, Error> {
        let now = self.inner.clock.now();
        let state = self.state();
        let authority = state.authority.as_ref();
        let authority = authority.ok_or_else(|| Error::internal("the CA is gone"))?;
        let certificates = authority.sign(node, key, proof, what, now).map_err(Error::internal)?;
        Ok(v1::SignedCertificate { certificates })
    }
}

/// What another daemon answered, as an answer of ours.
fn said(node: &str, status: &Status) -> Error {
    let problem = problem(status);
    match problem.code.as_str() {
        "forbidden" => Error::Forbidden { message: problem.message },
        "invalid" => Error::invalid(problem.message, problem.hint),
        _ => Error::NodeUnreachable { node: node.into(), why: problem.message },
    }
}
