//! This host among others.

use std::fmt;

use crate::value::{Given, Wanted, text};

/// This host, where several daemons share a store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// On which daemons of other nodes are served; `None`: they are not. Port 0 is any free one.
    pub listen: Option<HostPort>,
    /// What they dial, if that is another one.
    pub address: Option<HostPort>,
    /// `NAME=VALUE` each, or `NAME`.
    pub labels: Vec<String>,
    /// The most runners that may live here at a time.
    pub capacity: Option<u32>,
}

/// A name or an address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl HostPort {
    pub(crate) fn read(given: &Given) -> Result<Option<Self>, Wanted> {
        const WHAT: &str = "a host and a port, such as `10.0.0.5:7433` or `[::]:7433`";
        let text = text(given, WHAT)?;
        let (host, port) = text.rsplit_once(':').ok_or(WHAT)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'_');
        match port.parse() {
            Ok(port) if !host.is_empty() && host.bytes().all(is_host) => {
                Ok(Some(Self { host: host.into(), port }))
            }
            Ok(_) | Err(_) => Err(WHAT.into()),
        }
    }

    /// True for one that stands for every address of this host, and so names none.
    pub fn is_everywhere(&self) -> bool {
        matches!(self.host.as_str(), "0.0.0.0" | "::")
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}
