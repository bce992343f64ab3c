//! How many connections to the API there may be at a time.
//!
//! Those over the limit are told so, and cost little; those over another limit are closed.
//!
//! Invariant: programs inside a runner cannot use up what others need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stratavore_core::RunnerId;
use stratavore_core::caller::Principal;

/// How many connections the user may have open.
const OPEN_MAX: usize = 512;
/// How many the programs inside one runner may have open.
const INSIDE_MAX: usize = 16;
/// How many more of either are told that there are too many.
const REFUSED_MAX: usize = 16;

/// All connections there are.
#[derive(Default)]
pub(crate) struct Crowd {
    open: Mutex<HashMap<Counted, usize>>,
}

/// Those who are counted together: all of the user's, or all inside one runner.
type Counted = Option<RunnerId>;

/// The place of one connection, which it leaves with its end.
pub(crate) struct Entry {
    crowd: Arc<Crowd>,
    principal: Counted,
    /// The limit that it is over, if it is over one.
    over: Option<usize>,
}

impl Crowd {
    /// `None`: there are so many that not even a refusal is worth it.
    pub(crate) fn enter(self: &Arc<Self>, caller: &Principal) -> Option<Entry> {
        let (principal, limit) = match caller {
            Principal::Inside(runner) => (Some(*runner), INSIDE_MAX),
            Principal::User { .. }
            | Principal::Daemon
            | Principal::Agent(_)
            | Principal::Node(_) => (None, OPEN_MAX),
        };
        let mut open = self.open();
        let count = open.entry(principal).or_default();
        if *count >= limit + REFUSED_MAX {
            return None;
        }
        *count += 1;
        let over = (*count > limit).then_some(limit);
        Some(Entry { crowd: self.clone(), principal, over })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Counted, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    pub(crate) fn over(&self) -> Option<usize> {
        self.over
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut open = self.crowd.open();
        if let Some(count) = open.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_principal_does_not_use_up_what_another_needs() {
        let crowd = Arc::new(Crowd::default());
        let inside = Principal::Inside(RunnerId::from_entropy([1; 16]));
        let user = Principal::User { uid: 0, name: "root".into() };
        let entered: Vec<Entry> = std::iter::from_fn(|| crowd.enter(&inside)).collect();
        let over = |entries: &[Entry]| entries.iter().filter(|e| e.over().is_some()).count();
        assert_eq!((entered.len(), over(&entered)), (INSIDE_MAX + REFUSED_MAX, REFUSED_MAX));
        let first = crowd.enter(&user).expect("others are let in");
        assert_eq!(first.over(), None);
        drop(entered);
        assert_eq!(crowd.enter(&inside).expect("there is room again").over(), None);
        drop(first);
        assert!(crowd.open().is_empty(), "nobody who is gone is remembered");
    }
}
