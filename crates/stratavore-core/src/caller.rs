//! Who asks for something.

use std::fmt;

use crate::RunnerId;

/// The principal behind a request, as the transport established it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A local user whose uid the kernel vouched for.
    User { uid: u32, name: String },
    /// The daemon itself: reconciling, restarting, recovering.
    Daemon,
    /// The agent of one runner, which proved that it holds its key.
    Agent(RunnerId),
    /// A program inside a runner. It may look, and change nothing.
    Inside(RunnerId),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { name, .. } => f.write_str(name),
            Self::Daemon => f.write_str("daemon"),
            Self::Agent(id) => write!(f, "agent of {id}"),
            Self::Inside(id) => write!(f, "program inside {id}"),
        }
    }
}
