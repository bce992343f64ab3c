//! TLS between daemons: 1.3 only, certificates of the cluster's CA on both sides.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use stratavore_core::NodeId;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::certificate::server_name;
use super::other;

/// How long a handshake may take, or the way to a connection.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);
const HTTP_2: &[u8] = b"h2";

/// What this node shows, and whom it believes.
pub(crate) struct Tls {
    chain: Vec<CertificateDer<'static>>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    pub(crate) fn new(
        ca: &str,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> io::Result<Self> {
        let roots = Arc::new(roots(ca)?);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        // One without a certificate may ask for one; see `listen`.
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(other)?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(other)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(other)?;
        server.alpn_protocols = vec![HTTP_2.into()];
        // What is resumed was verified once and not again: a removed node would come back.
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(other)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.clone(), key)
            .map_err(other)?;
        client.alpn_protocols = vec![HTTP_2.into()];
        Ok(Self { chain, server: Arc::new(server), client: Arc::new(client) })
    }

    /// True if it shows this certificate.
    pub(crate) fn is_of(&self, chain: &[CertificateDer<'static>]) -> bool {
        self.chain == chain
    }

    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<server::TlsStream<TcpStream>> {
        stream.set_nodelay(true)?;
        let accepted = TlsAcceptor::from(self.server.clone()).accept(stream);
        in_time(accepted).await
    }

    /// Connects to the daemon of `node`, and to no other.
    pub(crate) async fn connect(
        &self,
        address: &str,
        node: NodeId,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        connect(self.client.clone(), address, node).await
    }
}

/// The same for a host that has no certificate yet: it shows none, and believes `ca` alone.
pub(crate) async fn connect_as_stranger(
    ca: &str,
    address: &str,
    node: NodeId,
) -> io::Result<client::TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(other)?
        .with_root_certificates(roots(ca)?)
        .with_no_client_auth();
    client.alpn_protocols = vec![HTTP_2.into()];
    connect(Arc::new(client), address, node).await
}

async fn connect(
    config: Arc<ClientConfig>,
    address: &str,
    node: NodeId,
) -> io::Result<client::TlsStream<TcpStream>> {
    let name = server_name(node)?;
    in_time(async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(config).connect(name, stream).await
    })
    .await
}

async fn in_time<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "it took too long");
    tokio::time::timeout(HANDSHAKE, future).await.unwrap_or_else(|_| Err(late()))
}

fn roots(ca: &str) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.map_err(other)?).map_err(other)?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use stratavore_core::Timestamp;
    use stratavore_core::clock::Clock;
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock::SystemClock;
    use crate::cluster::certificate::{self, Authority, Identity, holder};

    struct Host {
        node: NodeId,
        identity: Identity,
        _directory: tempfile::TempDir,
    }

    fn now() -> Timestamp {
        SystemClock::new().now()
    }

    fn authority() -> Authority {
        let directory = tempfile::tempdir().unwrap();
        Authority::create(&directory.path().join("ca"), now()).unwrap()
    }

    /// A host with a certificate of `ca`, made `ago`.
    fn host(n: u8, ca: &Authority, ago: Duration) -> Host {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("tls");
        let node = NodeId::from_entropy([n; 16]);
        let mut identity = Identity::load(&own).unwrap();
        let (key, proof) = identity.prove("x").unwrap();
        let pem = ca.sign(node, &key, &proof, "x", now() - ago).unwrap();
        identity.keep(&own, &pem).unwrap();
        Host { node, identity, _directory: directory }
    }

    fn tls(host: &Host, ca: &Authority) -> Tls {
        let chain = host.identity.chain.clone().unwrap();
        Tls::new(&ca.pem, chain, host.identity.private_key()).unwrap()
    }

    /// Lets `client` connect to `server`, in the belief that it is `believed`; answers whom the
    /// server saw.
    async fn meet(server: &Tls, client: &Tls, believed: NodeId) -> io::Result<Option<NodeId>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let accepting = async {
            let stream = server.accept(listener.accept().await?.0).await?;
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            shown.map(|shown| holder(shown).map(|(node, _)| node)).transpose()
        };
        let (seen, connected) = tokio::join!(accepting, client.connect(&address, believed));
        connected?;
        seen
    }

    #[tokio::test]
    async fn nodes_of_one_cluster_know_each_other_and_nobody_else() {
        let (ours, theirs) = (authority(), authority());
        let fresh = Duration::ZERO;
        let (one, two) = (host(1, &ours, fresh), host(2, &ours, fresh));
        let (a, b) = (tls(&one, &ours), tls(&two, &ours));
        assert_eq!(meet(&a, &b, one.node).await.unwrap(), Some(two.node));
        // Another node does not pass for the one that is wanted.
        assert!(meet(&b, &b, one.node).await.is_err());
        // Nor does one of another cluster, on either side.
        let stranger = host(3, &theirs, fresh);
        let c = tls(&stranger, &ours);
        assert!(meet(&a, &c, one.node).await.is_err());
        assert!(meet(&c, &b, stranger.node).await.is_err());
        // Nor one whose certificate is over.
        let late = host(4, &ours, certificate::node_life() * 2);
        assert!(meet(&a, &tls(&late, &ours), one.node).await.is_err());
        assert!(meet(&tls(&late, &ours), &b, late.node).await.is_err());
    }

    #[test]
    fn no_certificate_without_the_key() {
        let ca = authority();
        let (mine, other) = (host(1, &ca, Duration::ZERO), host(2, &ca, Duration::ZERO));
        let (key, proof) = mine.identity.prove("token").unwrap();
        let (foreign, _) = other.identity.prove("token").unwrap();
        assert!(ca.sign(mine.node, &key, &proof, "token", now()).is_ok());
        assert!(ca.sign(mine.node, &foreign, &proof, "token", now()).is_err(), "another's key");
        assert!(ca.sign(mine.node, &key, &proof, "again", now()).is_err(), "another's proof");
        assert!(ca.sign(mine.node, &key[..31], &proof, "token", now()).is_err(), "half a key");
        // A certificate for another key is not kept.
        let (key, proof) = other.identity.prove("x").unwrap();
        let pem = ca.sign(mine.node, &key, &proof, "x", now()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("tls");
        let mut identity = Identity::load(&own).unwrap();
        assert!(identity.keep(&own, &pem).is_err());
    }
}
