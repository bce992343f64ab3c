//! What each adapter makes of what its assistant wrote and told.

#![expect(clippy::unwrap_used, reason = "also in what the tests share")]

mod aider;
mod gemini;
mod generic;
mod opencode;
mod sample;
