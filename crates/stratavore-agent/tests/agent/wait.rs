//! Waiting for conditions, never for time.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long anything may take before a test gives up.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// Looks until `look` gives `Ok`; reports what was seen last if that does not come.
#[track_caller]
pub(crate) fn until<T, S: Debug>(
    what: &str,
    mut look: impl FnMut() -> Result<T, S>,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + BOUND;
        loop {
            match look() {
                Ok(found) => return found,
                Err(seen) if Instant::now() > deadline => {
                    panic!("{caller}: waited in vain for {what}; last seen: {seen:?}")
                }
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

/// Waits for a future, but not for ever.
#[track_caller]
pub(crate) fn soon<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(BOUND, future).await {
            Ok(value) => value,
            Err(_) => panic!("{caller}: waited in vain for {what}"),
        }
    }
}
