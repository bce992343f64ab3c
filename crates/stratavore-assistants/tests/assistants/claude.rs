//! Claude Code.

mod reads;
mod starts;
mod tells;
