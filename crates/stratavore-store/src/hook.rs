//! What tests of a debug build do to the store of a daemon: let it die at a place, and leave a check out.
//! A daemon sets both once, before it opens its store; a release build sets neither.

use std::sync::OnceLock;

/// What is told each place that is passed, by its name.
pub static PASSING: OnceLock<fn(&str)> = OnceLock::new();

/// Answers whether a check is to be left out, by its name, which shows what it is for.
pub static LEFT_OUT: OnceLock<fn(&str) -> bool> = OnceLock::new();

pub(crate) fn passing(place: &str) {
    if let Some(tell) = PASSING.get() {
        tell(place);
    }
}

pub(crate) fn is_left_out(check: &str) -> bool {
    LEFT_OUT.get().is_some_and(|answer| answer(check))
}
