//! What the adapters make of what the programs really wrote, and how they start them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod aider;
mod claude;
mod codex;
mod gemini;
mod generic;
mod opencode;
mod reading;
mod sample;
