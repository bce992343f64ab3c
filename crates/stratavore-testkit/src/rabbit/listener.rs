//! A port of the broker's that speaks TLS, with a certificate of a test's own.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use super::{Address, Vhost};
use crate::tls::{Ca, Certified};

/// The broker listens there until this is dropped.
#[derive(Debug)]
pub struct TlsListener {
    at: Address,
    port: u16,
}

impl Vhost {
    /// Has the broker listen on a port of its own, where it shows `shown`. With `clients`, it takes only
    /// who shows a certificate of that CA.
    pub fn listen(&self, shown: &Certified, clients: Option<&Ca>) -> TlsListener {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.expect("a port is free").port();
        let file = |name: &str, content: &str| {
            let path = self.at.directory.join(format!("{port}-{name}.pem"));
            fs::write(&path, content).expect("the broker's directory can be written");
            path.display().to_string()
        };
        let (certificate, key) = (file("certificate", &shown.certificate), file("key", &shown.key));
        let clients = clients.map_or_else(String::new, |ca| {
            let ca = file("clients", &ca.pem);
            format!(", {{cacertfile, \"{ca}\"}}, {{verify, verify_peer}}, {{fail_if_no_peer_cert, true}}")
        });
        let started = self.eval(&format!(
            "{{ok, _}} = application:ensure_all_started(ssl), \
             rabbit_networking:start_ssl_listener({{\"127.0.0.1\", {port}}}, \
             [{{certfile, \"{certificate}\"}}, {{keyfile, \"{key}\"}}{clients}], 1)."
        ));
        assert_eq!(started, "ok", "the broker listens with TLS");
        TlsListener { at: self.at.clone(), port }
    }
}

impl TlsListener {
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        // The broker may be gone, and a failing test has something better to say.
        let port = self.port;
        drop(
            self.at
                .eval(&format!("rabbit_networking:stop_tcp_listener({{\"127.0.0.1\", {port}}}).")),
        );
    }
}
