//! The part of the log that is on its way to a destination: what may go out now, and how far the
//! destination has everything.
//!
//! Pure: it is told what happens and asked what to do. It knows no broker and no store.
//!
//! Invariant: of one entity at most one event is out at a time, and always the first that is not
//! settled.
//! Invariant: the cursor passes no event that is not settled.
//! Invariant: it holds at most [`ITEMS_MAX`] events, and reads at most [`SPAN_MAX`] positions past
//! the cursor.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use stratavore_core::event::Event;

/// The most events that are held.
const ITEMS_MAX: usize = 4096;
/// How far past an event that is not taken others go on. After a crash so many may be sent again.
const SPAN_MAX: i64 = 20_000;

/// An event on its way.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) event: Event,
    /// How often the destination has said no, and when it first did.
    pub(super) refusals: u32,
    pub(super) refused_since: Option<Duration>,
    /// Whether the destination was put in order for it before.
    pub(super) asserted: bool,
    /// It ended its channel, perhaps: it goes alone the next time.
    pub(super) suspect: bool,
}

#[derive(Debug)]
pub(super) struct Window {
    /// Everything up to here is settled.
    cursor: i64,
    /// The last position that was taken in.
    read: i64,
    items: BTreeMap<i64, Item>,
    /// Settled, past the cursor.
    settled: BTreeSet<i64>,
    /// What waits for each entity, in order; the first of them is ready, out, or backing off.
    queues: HashMap<String, VecDeque<i64>>,
    ready: BTreeSet<i64>,
    /// By the monotonic clock.
    later: BTreeSet<(Duration, i64)>,
}

impl Window {
    pub(super) fn new(cursor: i64) -> Self {
        Self {
            cursor,
            read: cursor,
            items: BTreeMap::new(),
            settled: BTreeSet::new(),
            queues: HashMap::new(),
            ready: BTreeSet::new(),
            later: BTreeSet::new(),
        }
    }

    pub(super) fn cursor(&self) -> i64 {
        self.cursor
    }

    pub(super) fn read(&self) -> i64 {
        self.read
    }

    /// Whether it takes in more.
    pub(super) fn has_room(&self) -> bool {
        self.items.len() < ITEMS_MAX && self.read - self.cursor < SPAN_MAX
    }

    /// How many events the destination has said no to, and still has to take.
    pub(super) fn refused(&self) -> usize {
        self.later.len()
    }

    pub(super) fn item(&mut self, position: i64) -> Option<&mut Item> {
        self.items.get_mut(&position)
    }

    /// Takes in an event. False, and nothing done, if it is not the one after the last.
    pub(super) fn push(&mut self, event: Event) -> bool {
        let Some(position) = event.position.filter(|position| *position == self.read + 1) else {
            return false;
        };
        self.read = position;
        let queue = self.queues.entry(event.entity_id.clone()).or_default();
        queue.push_back(position);
        if queue.len() == 1 {
            self.ready.insert(position);
        }
        let item =
            Item { event, refusals: 0, refused_since: None, asserted: false, suspect: false };
        self.items.insert(position, item);
        true
    }

    /// Passes by the event after the last: it was given up before.
    pub(super) fn pass(&mut self) {
        self.read += 1;
        self.settled.insert(self.read);
        self.advance();
    }

    fn advance(&mut self) {
        while self.settled.first() == Some(&(self.cursor + 1)) {
            self.settled.pop_first();
            self.cursor += 1;
        }
    }

    /// Takes out up to `most` that may go now, each of another entity. One that is suspect goes alone.
    pub(super) fn take(&mut self, now: Duration, most: usize) -> Vec<i64> {
        while let Some((due, position)) = self.later.first().copied() {
            if due > now {
                break;
            }
            self.later.pop_first();
            self.ready.insert(position);
        }
        let mut taken = Vec::new();
        for &position in &self.ready {
            if taken.len() == most {
                break;
            }
            let suspect = self.items.get(&position).is_some_and(|item| item.suspect);
            if suspect && !taken.is_empty() {
                break;
            }
            taken.push(position);
            if suspect {
                break;
            }
        }
        for position in &taken {
            self.ready.remove(position);
        }
        taken
    }

    /// It was delivered or given up.
    pub(super) fn settle(&mut self, position: i64) {
        let Some(item) = self.items.remove(&position) else { return };
        self.settled.insert(position);
        self.advance();
        if let Some(queue) = self.queues.get_mut(&item.event.entity_id) {
            queue.pop_front();
            match queue.front() {
                Some(next) => {
                    self.ready.insert(*next);
                }
                None => {
                    self.queues.remove(&item.event.entity_id);
                }
            }
        }
    }

    /// It may be there or not: it goes again as soon as it can.
    pub(super) fn again(&mut self, position: i64) {
        if self.items.contains_key(&position) {
            self.ready.insert(position);
        }
    }

    /// Nothing is out any more: whatever is held may go.
    pub(super) fn again_all(&mut self) {
        self.later.clear();
        self.ready = self.queues.values().filter_map(|queue| queue.front().copied()).collect();
    }

    /// It goes again at `due`, and until then nothing else of its entity.
    pub(super) fn back_off(&mut self, position: i64, due: Duration) {
        if self.items.contains_key(&position) {
            self.later.insert((due, position));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stratavore_core::EventId;
    use stratavore_core::event::Entity;

    use super::*;

    fn event(position: i64, entity: u8) -> Event {
        Event {
            id: EventId::from_entropy([position as u8; 16]),
            position: Some(position),
            entity: Entity::Runner.as_str().into(),
            entity_id: format!("run_{entity}"),
            name: String::new(),
            project: None,
            seq: position,
            kind: "runner.started".into(),
            at: stratavore_core::Timestamp::UNIX_EPOCH,
            by: String::new(),
            origin: None,
            decision: stratavore_core::event::Decision::Allowed,
            reason: None,
            data: serde_json::Value::Null,
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take(usize),
        Confirm(usize),
        Lose(usize),
        Refuse(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..5_usize).prop_map(Step::Take),
            (0..8_usize).prop_map(Step::Confirm),
            (0..8_usize).prop_map(Step::Lose),
            (0..8_usize).prop_map(Step::Refuse),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_entitys_events_settle_in_order_and_the_cursor_passes_none(
            entities in prop::collection::vec(0..4_u8, 1..60),
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut window = Window::new(0);
            for (i, entity) in entities.iter().enumerate() {
                prop_assert!(window.push(event(i as i64 + 1, *entity)));
            }
            let entity = |position: i64| entities[position as usize - 1];
            let (mut out, mut delivered) = (Vec::<i64>::new(), Vec::<i64>::new());
            let finish = (0..100).flat_map(|_| [Step::Take(9), Step::Confirm(0)]);
            for (now, step) in steps.into_iter().chain(finish).enumerate() {
                let now = Duration::from_secs(now as u64);
                let pick = |out: &mut Vec<i64>, n: usize| {
                    (!out.is_empty()).then(|| out.remove(n % out.len()))
                };
                match step {
                    Step::Take(most) => {
                        for position in window.take(now, most) {
                            prop_assert!(!out.iter().any(|o| entity(*o) == entity(position)));
                            out.push(position);
                        }
                    }
                    Step::Confirm(n) => if let Some(position) = pick(&mut out, n) {
                        window.settle(position);
                        delivered.push(position);
                    },
                    Step::Lose(n) => if let Some(position) = pick(&mut out, n) {
                        window.again(position);
                    },
                    Step::Refuse(n) => if let Some(position) = pick(&mut out, n) {
                        window.back_off(position, now + Duration::from_secs(3));
                    },
                }
                prop_assert!((1..=window.cursor()).all(|p| delivered.contains(&p)));
                for of in 0..4 {
                    let own: Vec<_> = delivered.iter().filter(|p| entity(**p) == of).collect();
                    prop_assert!(own.is_sorted());
                }
            }
            prop_assert_eq!(window.cursor(), entities.len() as i64, "all get there in the end");
        }
    }

    #[test]
    fn an_event_that_does_not_follow_is_not_taken() {
        let mut window = Window::new(5);
        assert!(!window.push(event(7, 1)));
        assert!(!window.push(event(5, 1)));
        assert!(window.push(event(6, 1)));
        assert_eq!((window.read(), window.cursor()), (6, 5));
    }

    #[test]
    fn a_suspect_goes_alone() {
        let mut window = Window::new(0);
        for position in 1..=4 {
            window.push(event(position, position as u8));
        }
        window.item(2).unwrap().suspect = true;
        let now = Duration::ZERO;
        assert_eq!(window.take(now, 9), [1]);
        assert_eq!(window.take(now, 9), [2]);
        assert_eq!(window.take(now, 9), [3, 4]);
    }

    #[test]
    fn others_go_on_past_one_that_is_not_taken_but_not_for_ever() {
        let mut window = Window::new(0);
        window.push(event(1, 0));
        assert_eq!(window.take(Duration::ZERO, 1), [1]);
        window.back_off(1, Duration::from_secs(9));
        let mut position = 1;
        while window.has_room() {
            position += 1;
            window.push(event(position, 1));
            for taken in window.take(Duration::ZERO, 9) {
                window.settle(taken);
            }
        }
        assert_eq!((window.cursor(), position), (0, SPAN_MAX));
        assert_eq!(window.take(Duration::from_secs(9), 9), [1]);
        window.settle(1);
        assert_eq!(window.cursor(), SPAN_MAX);
        assert!(window.has_room());
    }
}
