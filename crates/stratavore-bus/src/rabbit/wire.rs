//! What a connection runs over: TCP, or TLS on it.
//!
//! TLS is rustls as the rest of the daemon has it. lapin's own would also believe the system's
//! certificates where others were named, and pass over those that it cannot read.
//!
//! Invariant: with TLS, nothing is said to a broker that has not proved that it is the one named.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_compat::Compat;
use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use lapin::AsyncTcpStream;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{RabbitError, Tls};

const ROOTS: &str = "bus.rabbitmq.root_cert names the certificates (PEM) of the CA that signed the \
                     broker's, and bus.rabbitmq.host a name that the broker's is for";
const OWN: &str = "bus.rabbitmq.client_cert and client_key_file name a certificate (PEM) that this \
                   broker believes, and its key";

/// A stream in the form that lapin takes, whichever it is.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// tokio, where a connection is a [`Wire`].
#[derive(Debug, Clone)]
pub(super) struct Net(Tokio);

/// What lapin runs on.
pub(super) fn runtime() -> Runtime<RuntimeParts<Tokio, Net>> {
    Runtime::new(RuntimeParts::new(Tokio::current(), Net(Tokio::current())))
}

/// The connection as it is, in lapin's hands.
pub(super) fn plain(stream: TcpStream) -> AsyncTcpStream<Box<dyn Wire>> {
    AsyncTcpStream::Plain(Box::new(Compat::new(stream)))
}

/// The same, once the broker has proved that it is `host`.
pub(super) async fn encrypted(
    stream: TcpStream,
    host: &str,
    tls: &Tls,
) -> Result<AsyncTcpStream<Box<dyn Wire>>, RabbitError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        let what = format!("`{}` is no name that a certificate could be for", host.escape_debug());
        RabbitError::misconfigured(what, "bus.rabbitmq.host is a name, or an address")
    })?;
    let connector = TlsConnector::from(Arc::new(config(tls)?));
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(AsyncTcpStream::Plain(Box::new(Compat::new(stream)))),
        Err(error) => Err(refused(&error)
            .unwrap_or_else(|| RabbitError::Away(format!("encrypt the connection: {error}")))),
    }
}

fn config(tls: &Tls) -> Result<ClientConfig, RabbitError> {
    let mut roots = RootCertStore::empty();
    match &tls.roots {
        Some(pem) => {
            for certificate in certificates(pem, "bus.rabbitmq.root_cert")? {
                roots.add(certificate).map_err(|error| {
                    let what = format!("a certificate of bus.rabbitmq.root_cert: {error}");
                    RabbitError::misconfigured(what, ROOTS)
                })?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let what = "this host has no certificates of its own to check the broker's against";
                return Err(RabbitError::misconfigured(what, ROOTS));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let failed = |error: rustls::Error| RabbitError::misconfigured(error.to_string(), OWN);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots);
    let Some(own) = &tls.own else { return Ok(config.with_no_client_auth()) };
    let chain = certificates(&own.certificate, "bus.rabbitmq.client_cert")?;
    // Its own error may quote what is in the file.
    let key = PrivateKeyDer::from_pem_slice(own.key.expose_secret().as_bytes())
        .map_err(|_| RabbitError::misconfigured("the client's key file holds no key", OWN))?;
    config.with_client_auth_cert(chain, key).map_err(failed)
}

fn certificates(pem: &str, key: &str) -> Result<Vec<CertificateDer<'static>>, RabbitError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(read) if !read.is_empty() => Ok(read),
        Ok(_) | Err(_) => {
            Err(RabbitError::misconfigured(format!("{key} holds no certificate"), ROOTS))
        }
    }
}

/// What TLS had against the connection, if it was that, and what to do about it.
pub(super) fn refused(error: &io::Error) -> Option<RabbitError> {
    let said = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let of_own = [
        AlertDescription::CertificateRequired,
        AlertDescription::BadCertificate,
        AlertDescription::UnknownCA,
        AlertDescription::AccessDenied,
        AlertDescription::HandshakeFailure,
    ];
    let hint = if let rustls::Error::AlertReceived(alert) = said
        && of_own.contains(alert)
    {
        OWN
    } else if matches!(said, rustls::Error::InvalidMessage(_)) {
        "see that bus.rabbitmq.port is the broker's port for TLS, usually 5671"
    } else {
        ROOTS
    };
    Some(RabbitError::misconfigured(format!("the connection is not safe: {said}"), hint))
}

impl Reactor for Net {
    type TcpStream = Box<dyn Wire>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(Box::new(connecting.await?) as Self::TcpStream) }
    }
}
