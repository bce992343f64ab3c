//! The real assistants in the real Stratavore: one file for each subject. Their model is a stand-in on
//! loopback, whose own record says what was asked and what it cost.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod activity;
mod again;
mod aider;
mod approvals;
mod bare;
mod behind;
mod booked;
mod budget;
mod exports;
mod headless;
mod holder;
mod hooks;
mod idle;
mod imports;
mod ledger;
mod moves;
mod prompts;
mod restored;
mod resume;
mod run_limit;
mod scene;
mod stops;
mod vault;
mod windows;
