//! Connections: a name is resolved once, its addresses are judged, and one of those is dialled.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Failure;
use crate::address::{Range, judge};

/// Addresses of a name, as an answer that may come later.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Finds the addresses of a name.
pub trait Resolve: Send + Sync {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a>;
}

/// As the host is set up.
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            Ok(tokio::net::lookup_host((host, 0)).await?.map(|found| found.ip()).collect())
        })
    }
}

/// The authorities that browsers trust, and those of a PEM text.
pub fn roots(further: Option<&[u8]>) -> Result<RootCertStore, String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(pem) = further {
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| format!("it is no PEM: {error}"))?;
            roots
                .add(certificate)
                .map_err(|error| format!("a certificate is not good: {error}"))?;
            found += 1;
        }
        if found == 0 {
            return Err("it holds no certificate".into());
        }
    }
    Ok(roots)
}

pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection, in the clear or not.
pub(crate) type Stream = Box<dyn Io>;

pub(crate) struct Dialer {
    resolver: Arc<dyn Resolve>,
    allow: Vec<Range>,
    tls: Arc<ClientConfig>,
}

impl Dialer {
    pub(crate) fn new(resolver: Arc<dyn Resolve>, allow: Vec<Range>, roots: RootCertStore) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { resolver, allow, tls: Arc::new(tls) }
    }

    /// Refuses an address that may not be dialled, and knows nothing of names.
    pub(crate) fn check(&self, host: &str) -> Result<(), Failure> {
        match host.parse::<IpAddr>() {
            Ok(address) => judge(address, &self.allow).map_err(|why| denied(host, address, why)),
            Err(_) => Ok(()),
        }
    }

    /// Connects to the first address of `host` that may be dialled and answers.
    pub(crate) async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, Failure> {
        let found = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self
                .resolver
                .resolve(host)
                .await
                .map_err(|error| Failure::away(format!("{host} is not found: {error}")))?,
        };
        let mut why = Failure::away(format!("{host} has no address"));
        let mut good = Vec::new();
        for address in found {
            match judge(address, &self.allow) {
                Ok(()) => good.push(address),
                Err(reason) => why = denied(host, address, reason),
            }
        }
        for address in good {
            match TcpStream::connect(SocketAddr::new(address, port)).await {
                Ok(stream) => {
                    stream.set_nodelay(true).ok();
                    return Ok(stream);
                }
                Err(error) => why = Failure::away(format!("connect to {host}:{port}: {error}")),
            }
        }
        Err(why)
    }

    /// Makes a connection one by TLS, with the server that has this name.
    pub(crate) async fn protect(&self, stream: TcpStream, host: &str) -> Result<Stream, Failure> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Failure::misconfigured(format!("{host} is no name of a server")))?;
        let connected = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
        connected.map(|stream| Box::new(stream) as Stream).map_err(|error| {
            match error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
                true => Failure::misconfigured(format!("TLS with {host}: {error}")),
                false => Failure::away(format!("TLS with {host}: {error}")),
            }
        })
    }
}

fn denied(host: &str, address: IpAddr, why: &str) -> Failure {
    Failure::misconfigured(format!(
        "{host} is {address}, which is {why}; if it is meant, put it into notify.allow_addresses"
    ))
}
