//! Which database server the daemon speaks to.

use std::time::Duration;

use stratavore_store::StoreError;

use crate::control::Control;
use crate::error::Error;

/// How often it is looked where the server's address leads.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);

impl Control {
    /// The periodic task of daemons that share a server: notices that another one was promoted, also
    /// while the one before still answers on the connections that there are.
    pub(crate) async fn look_at_server(&self) -> Result<String, Error> {
        match self.inner.store.server_look().await {
            Ok(()) => Ok(format!("timeline {}", self.inner.store.timeline())),
            Err(error @ StoreError::WrongServer { .. }) => Err(error.into()),
            // Whoever asks it something is told so.
            Err(error) => Ok(format!("it does not answer: {error}")),
        }
    }
}
