//! Codex CLI.

mod reads;
mod starts;
mod tells;
