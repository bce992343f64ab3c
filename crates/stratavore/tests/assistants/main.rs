//! The real assistants in the real Stratavore: one file for each subject. Their model is a stand-in on
//! loopback, whose own record says what was asked and what it cost.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod approvals;
mod bare;
mod exports;
mod holder;
mod journeys;
mod ledger;
mod prompts;
mod resume;
mod scene;
