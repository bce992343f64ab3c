//! The store's contract: what every function promises, on both databases.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod admit;
mod alone;
mod ask;
mod bloat;
mod budget;
mod budget_exact;
mod cancel;
mod daemon;
mod destination;
mod embedding;
mod given;
mod growth;
mod hostile;
mod idempotency;
mod lease;
mod ledger;
mod liveness;
mod message;
mod nearby;
mod node;
mod notify;
mod observed;
mod open;
mod outbox;
mod project;
mod queue;
mod raw;
mod rights;
mod runner;
mod schema;
mod session;
mod statement;
mod tamper;
mod transcript;
mod trim;
