//! What goes to and comes from terminals: untrusted text, plain text, the attach filter, queries.
//!
//! A runner's output is written by a program that nobody vouches for. It is shown in three ways,
//! and each has its own rule. Names, titles and causes go through [`Untrusted`], which shows every
//! invisible character as an escape. Logs go through [`PlainText`], which takes the terminal out of
//! the text. An attached viewer gets the real bytes through an [`AttachFilter`], which keeps out
//! what would make the viewer's terminal answer, print, or touch the clipboard. [`Queries`]
//! finds the questions, so that the agent answers them itself and programs work with no viewer.
//!
//! This is not a screen model: it knows no cells and no cursor.
//!
//! Invariant: how a stream is split into chunks never changes what comes out.
//! Invariant: memory is bounded, whatever comes in.

mod filter;
mod plain;
mod query;
mod sequence;
#[cfg(test)]
mod tests;
mod token;
mod untrusted;

pub use filter::{AttachFilter, RESET, Withheld};
pub use plain::PlainText;
pub use query::{Queries, Query};
pub use untrusted::{Untrusted, escape_json, escape_untrusted, has_invisible, truncate_to_width};
