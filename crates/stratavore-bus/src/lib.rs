//! Carries published events to whoever listens: inside the process ([`Bus`]), and to RabbitMQ
//! ([`rabbit`]).
//!
//! The bus of the process is a wake-up and a short cut, not a store: a subscriber that falls behind is told so and
//! reads the events that it missed from the store, by position.
//!
//! Invariant: publishing never waits for a subscriber.
//! Invariant: between two events that a subscriber was given without being told [`Received::Lagged`]
//! it missed none.

mod local;
pub mod rabbit;

use std::sync::Arc;

use stratavore_core::event::Event;

/// Where published events go. Cheap to clone; all clones are the same bus.
#[derive(Debug, Clone)]
pub enum Bus {
    /// To subscribers in this process.
    Local(local::LocalBus),
}

/// A listener's end. It hears what is published after it was made.
#[derive(Debug)]
pub enum Subscription {
    Local(local::LocalSubscription),
}

/// What a subscriber hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// Events that were published together, in order.
    Events(Arc<[Event]>),
    /// Some were dropped before this subscriber took them, or were published by another process: read
    /// them from the store.
    Lagged,
    /// The bus is gone, and nothing more will come.
    Closed,
}

impl Bus {
    /// A bus inside the process that keeps the last `capacity` batches (at least one) for each
    /// subscriber that is slow.
    pub fn new(capacity: usize) -> Bus {
        Bus::Local(local::LocalBus::new(capacity))
    }

    /// Hands the events to all present subscribers, as one batch. Never blocks; without a
    /// subscriber they are gone, and nobody misses them.
    pub fn publish(&self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        match self {
            Self::Local(bus) => bus.publish(events),
        }
    }

    /// Tells all present subscribers that there are events which were published elsewhere.
    pub fn published_elsewhere(&self) {
        match self {
            Self::Local(bus) => bus.published_elsewhere(),
        }
    }

    /// Listens from now on. To miss nothing, subscribe first and read the store after that.
    pub fn subscribe(&self) -> Subscription {
        match self {
            Self::Local(bus) => Subscription::Local(bus.subscribe()),
        }
    }
}

impl Subscription {
    /// Waits for what comes next. May be dropped while it waits; nothing is lost by that.
    pub async fn recv(&mut self) -> Received {
        match self {
            Self::Local(subscription) => subscription.recv().await,
        }
    }
}
