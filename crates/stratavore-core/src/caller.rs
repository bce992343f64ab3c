//! Who asks for something, and from where.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{DaemonId, NodeId, RequestId, RunnerId};

/// Whoever is behind a request, as the transport established it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub principal: Principal,
    pub origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A local user whose uid the kernel vouched for.
    User { uid: u32, name: String },
    /// The daemon itself: reconciling, restarting, recovering.
    Daemon,
    /// The agent of one runner, which proved that it holds its key.
    Agent(RunnerId),
    /// A program inside a runner. It may look, and change nothing.
    Inside(RunnerId),
    /// The daemon of another node, which showed its certificate, and speaks for itself.
    Node(NodeId),
}

/// By which way a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// None: the daemon acts by itself.
    #[default]
    Inside,
    /// The Unix socket of the API.
    Unix,
    /// The socket that agents dial.
    Agent,
    /// A runner's own socket; its agent told of it.
    Runner,
    /// The port for other nodes.
    Node,
}

/// How the principal was established.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// The kernel told who is at the other end of the socket.
    Peer,
    /// The agent showed the key that its runner is bound to.
    AgentKey,
    /// A node showed its certificate, and named whom it asks for.
    Certificate,
}

/// Where something came from, for the record.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Origin {
    #[serde(default)]
    pub door: Door,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Of the daemon that was asked; all that one request changes has the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// The idempotency key, so that a caller finds what its request has done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The daemon that carried it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon: Option<DaemonId>,
}

/// Who did something and from where, as it stands beside the deed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct By {
    pub name: String,
    pub origin: Origin,
}

impl Caller {
    /// The daemon itself.
    pub fn daemon() -> Self {
        Self { principal: Principal::Daemon, origin: Origin::default() }
    }

    /// The agent of a runner, on its connection.
    pub fn agent(runner: RunnerId) -> Self {
        let origin = Origin { door: Door::Agent, auth: Some(Auth::AgentKey), ..Origin::default() };
        Self { principal: Principal::Agent(runner), origin }
    }
}

impl From<Principal> for Caller {
    fn from(principal: Principal) -> Self {
        Self { principal, origin: Origin::default() }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.principal.fmt(f)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { name, .. } => f.write_str(name),
            Self::Daemon => f.write_str("daemon"),
            Self::Agent(id) => write!(f, "agent of {id}"),
            Self::Inside(id) => write!(f, "program inside {id}"),
            Self::Node(id) => write!(f, "daemon of {id}"),
        }
    }
}

impl From<&str> for By {
    fn from(name: &str) -> Self {
        Self { name: name.into(), origin: Origin::default() }
    }
}

impl From<&By> for By {
    fn from(by: &By) -> Self {
        by.clone()
    }
}
