//! Attached: a runner's terminal on the viewer's own.
//!
//! [`session`] is the loop between the two; [`link`] is the way to the agent, [`tty`] the viewer's
//! terminal, [`canvas`] what is drawn on it, [`mirror`] draws where the sizes differ, and [`keys`]
//! finds the detach key.

mod canvas;
mod keys;
pub(crate) mod link;
mod mirror;
pub(crate) mod session;
pub(crate) mod tty;

use stratavore_config::DetachKey;
use stratavore_proto::v1::{self, GetRunner, socket_hello};

use crate::api::Api;
use crate::exit::Exit;
use crate::local::LocalRunner;
use link::{Link, LinkError};

/// A runner and the way to it.
pub(crate) enum Target<'c> {
    /// Its agent is on this host; no daemon is needed.
    Local(LocalRunner),
    Remote {
        api: Api<'c>,
        runner: Box<v1::Runner>,
    },
}

impl Target<'_> {
    pub(crate) fn id(&self) -> String {
        match self {
            Self::Local(runner) => runner.id.to_string(),
            Self::Remote { runner, .. } => runner.id.clone(),
        }
    }

    /// The incarnation of the runner.
    pub(crate) fn epoch(&self) -> i64 {
        match self {
            Self::Local(runner) => runner.epoch,
            Self::Remote { runner, .. } => runner.epoch,
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Local(runner) => &runner.name,
            Self::Remote { runner, .. } => &runner.name,
        }
    }

    /// The runner and its project, for people.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Local(runner) => format!("{}/{}", runner.project, runner.name),
            Self::Remote { runner, .. } => format!("{}/{}", runner.project, runner.name),
        }
    }

    pub(crate) async fn connect(&self, wish: socket_hello::Wish) -> Result<Link, LinkError> {
        match self {
            Self::Local(runner) => Link::to_agent(&runner.dir, wish).await,
            Self::Remote { api, runner } => {
                let open = GetRunner { runner: runner.id.clone(), project: String::new() };
                Link::through_daemon(api, open, wish).await
            }
        }
    }
}

/// How to attach.
pub(crate) struct Options {
    pub read_only: bool,
    pub steal: bool,
    pub detach_key: DetachKey,
}

/// Why an attach ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Detached,
    /// The runner ended, with this cause.
    Ended(String),
    /// The connection was lost and did not come back.
    Lost(String),
    /// The viewer's terminal is gone.
    HungUp,
    Signalled(Exit),
}

/// What happened while attached that a viewer may want to know.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Bytes of output that were not shown, since the terminal was too slow for them.
    pub missed: u64,
    pub reconnects: u32,
    /// Attempts of the runner to write to the clipboard.
    pub withheld_clipboard: u64,
}
