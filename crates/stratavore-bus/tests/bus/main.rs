//! What the buses promise: the one inside the process, and RabbitMQ.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod contract;
mod link;
mod queues;
mod relays;
mod rig;
mod tls;
