//! Which of the texts that came with an id were typed, so that none of them is typed twice.
//!
//! A daemon that dies cannot say how far a text of its has come. The next one sends it again; only the agent
//! knows whether it had it.
//!
//! Invariant: of one id at most one text is typed, over upgrades of the agent too.

use std::cell::RefCell;
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// How many ids are kept. A daemon asks again about young ones only.
const KEPT: usize = 1000;

/// The ids that came, the oldest first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sent {
    ids: RefCell<VecDeque<String>>,
    /// False: an agent that kept none has typed before.
    knows_all: bool,
}

/// What is to be done with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Type,
    /// It was typed already.
    Drop,
    /// It may have been typed, and nobody knows.
    Unsure,
}

impl Default for Sent {
    fn default() -> Self {
        Self { ids: RefCell::default(), knows_all: true }
    }
}

impl Sent {
    /// What an agent knows that takes over from one whose state has none of this.
    pub(crate) fn of_before() -> Self {
        Self { knows_all: false, ..Self::default() }
    }

    pub(crate) fn copy(&self) -> Self {
        Self { ids: self.ids.clone(), knows_all: self.knows_all }
    }

    /// Judges a text of this id, which is typed if that is the answer; `again`: it may have come before.
    pub(crate) fn take(&self, id: &str, again: bool) -> Fate {
        let mut ids = self.ids.borrow_mut();
        if id.is_empty() {
            return if again { Fate::Unsure } else { Fate::Type };
        }
        if ids.iter().any(|known| known == id) {
            return Fate::Drop;
        }
        if again && !self.knows_all {
            return Fate::Unsure;
        }
        if ids.len() == KEPT {
            ids.pop_front();
        }
        ids.push_back(id.to_owned());
        Fate::Type
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_id_one_text_is_typed() {
        let sent = Sent::default();
        assert_eq!(sent.take("a", false), Fate::Type);
        assert_eq!(sent.take("a", true), Fate::Drop);
        assert_eq!(sent.take("b", true), Fate::Type, "its first try was lost before it came");
        assert_eq!(sent.take("b", false), Fate::Drop, "the first try comes late");
        assert_eq!(sent.take("", false), Fate::Type);
        assert_eq!(sent.take("", false), Fate::Type);
        assert_eq!(sent.take("", true), Fate::Unsure);
    }

    #[test]
    fn an_upgrade_forgets_nothing_and_knows_what_it_cannot_know() {
        let sent = Sent::default();
        sent.take("a", false);
        let saved = serde_json::to_string(&sent.copy()).unwrap();
        let restored: Sent = serde_json::from_str(&saved).unwrap();
        assert_eq!(restored.take("a", true), Fate::Drop);
        assert_eq!(restored.take("b", true), Fate::Type);

        let before = Sent::of_before();
        assert_eq!(before.take("a", true), Fate::Unsure);
        assert_eq!(before.take("b", false), Fate::Type);
        assert_eq!(before.take("b", true), Fate::Drop);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let sent = Sent::default();
        for n in 0..KEPT + 1 {
            sent.take(&n.to_string(), false);
        }
        assert_eq!(sent.ids.borrow().len(), KEPT);
        assert_eq!(sent.take("0", false), Fate::Type, "the oldest is forgotten");
        assert_eq!(sent.take(&KEPT.to_string(), true), Fate::Drop);
    }
}
