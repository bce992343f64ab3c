//! Which database server the daemon speaks to.

use std::time::Duration;

use crate::control::Control;
use crate::error::Error;

/// How often it is looked where the server's address leads.
pub const LOOK_EVERY: Duration = Duration::from_secs(15);

impl Control {
    /// The periodic task of daemons that share a server: notices that another one was promoted, also
    /// while the one before still answers on the connections that there are.
    pub(crate) async fn look_at_server(&self) -> Result<String, Error> {
        self.inner.store.server_look().await?;
        Ok(format!("timeline {}", self.inner.store.timeline()))
    }
}
