//! The bus of one process: a bounded ring that each subscriber reads at its own pace.

use std::sync::Arc;

use stratavore_core::event::Event;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::Received;

#[derive(Debug, Clone)]
pub struct LocalBus {
    sender: broadcast::Sender<Arc<[Event]>>,
}

#[derive(Debug)]
pub struct LocalSubscription {
    receiver: broadcast::Receiver<Arc<[Event]>>,
}

impl LocalBus {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { sender: broadcast::Sender::new(capacity.max(1)) }
    }

    pub(crate) fn publish(&self, events: &[Event]) {
        // The one error is that nobody listens.
        drop(self.sender.send(events.into()));
    }

    /// As a batch without events, which is never published otherwise.
    pub(crate) fn published_elsewhere(&self) {
        drop(self.sender.send(Arc::default()));
    }

    pub(crate) fn subscribe(&self) -> LocalSubscription {
        LocalSubscription { receiver: self.sender.subscribe() }
    }
}

impl LocalSubscription {
    pub(crate) async fn recv(&mut self) -> Received {
        match self.receiver.recv().await {
            Ok(events) if events.is_empty() => Received::Lagged,
            Ok(events) => Received::Events(events),
            Err(RecvError::Lagged(_)) => Received::Lagged,
            Err(RecvError::Closed) => Received::Closed,
        }
    }
}
