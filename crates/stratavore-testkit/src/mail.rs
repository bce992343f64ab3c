//! A mail server in another language: Python's aiosmtpd, from PyPI.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::{Value, json};

use crate::rabbit::python;

const SCRIPT: &str = include_str!("mail.py");
/// What it lets in.
pub const PASSWORD: &str = "open sesame";

/// A running mail server. Dropping it ends it.
#[derive(Debug)]
pub struct MailServer {
    pub address: SocketAddr,
    child: Child,
    _lifeline: ChildStdin,
    file: PathBuf,
}

impl MailServer {
    /// One that speaks TLS by `how` (`off`, `starttls`, `tls`) with `server.pem` and `server.key` of
    /// `directory`, and keeps there what it takes. With TLS it wants a login first.
    ///
    /// # Panics
    /// If Python or its packages cannot be had.
    pub fn start(how: &str, directory: &Path) -> Self {
        // Somebody else may take the port in between; then it is another one's turn.
        for _ in 0..10 {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
            if let Some(server) = Self::try_start(how, directory, free.expect("a port is free")) {
                return server;
            }
        }
        panic!("no mail server can be started");
    }

    fn try_start(how: &str, directory: &Path, address: SocketAddr) -> Option<Self> {
        let file = directory.join(format!("mail-{}", address.port()));
        let mut child = Command::new(python())
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the mail server can be started");
        let mut input = child.stdin.take().expect("it is a pipe");
        let settings = json!({
            "how": how, "port": address.port(), "file": file, "password": PASSWORD,
            "certificate": directory.join("server.pem"), "key": directory.join("server.key"),
        });
        writeln!(input, "{settings}").expect("the mail server listens");
        let mut said = String::new();
        let output = child.stdout.take().expect("it is a pipe");
        BufReader::new(output).read_line(&mut said).expect("the mail server says something");
        let server = Self { address, child, _lifeline: input, file };
        (said == "ready\n").then_some(server)
    }

    /// The mails that it has taken.
    pub fn taken(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("it writes JSON")).collect()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
