use stratavore_core::destination::{Backlog, DeadLetter, Destination, Health, Retry};
use stratavore_core::event::Event;
use stratavore_core::lease::Lease;
use stratavore_core::{DeadLetterId, EventId};
use stratavore_store::{Store, StoreError, on_both_databases};

use crate::given::{self, at};
use crate::lease::{LONG, daemon};
use crate::raw;

async fn duty(store: &Store) -> Lease {
    store.lease_acquire("relay:mq", daemon(), LONG).await.unwrap().unwrap()
}

/// So many events with positions.
async fn published(store: &Store, count: usize) -> Vec<Event> {
    for n in 0..count {
        given::project(store, &format!("p{n}-{}", given::entropy()[0])).await;
    }
    let lease = store.lease_acquire("relay", daemon(), LONG).await.unwrap().unwrap();
    let events = store.outbox_publish(&lease, 1000).await.unwrap();
    store.lease_release(&lease).await.unwrap();
    events
}

async fn only(store: &Store) -> (Destination, Backlog) {
    let mut all = store.destination_list().await.unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn ids(letters: &[(DeadLetter, Event)]) -> Vec<EventId> {
    assert!(
        letters
            .iter()
            .all(|(letter, event)| letter.event == event.id
                && event.position == Some(letter.position))
    );
    letters.iter().map(|(letter, _)| letter.event).collect()
}

on_both_databases! {
    async fn a_destination_begins_now_and_goes_forward_only(db: TestStore) {
        let store = db.store();
        published(store, 2).await;
        store.destination_ensure("mq", "rabbitmq", "{}", at(5)).await.unwrap();
        let (made, backlog) = only(store).await;
        assert_eq!((made.position, made.health, made.created_at), (2, Health::Stopped, at(5)));
        assert_eq!(backlog, Backlog { pending: 0, oldest: None, dead: 0 });

        let events = published(store, 3).await;
        store.destination_ensure("mq", "rabbitmq", r#"{"a":1}"#, at(6)).await.unwrap();
        let (again, backlog) = only(store).await;
        assert_eq!((again.position, again.settings.as_str()), (2, r#"{"a":1}"#), "only its settings are others");
        assert_eq!(backlog, Backlog { pending: 3, oldest: Some(events[0].at), dead: 0 });

        let lease = duty(store).await;
        store.destination_advance(&lease, "mq", 4).await.unwrap();
        store.destination_advance(&lease, "mq", 3).await.unwrap();
        store.destination_tell(&lease, "mq", Health::Blocked, "short of\0memory", at(7)).await.unwrap();
        let (now, backlog) = only(store).await;
        assert_eq!((now.position, backlog.pending, now.health), (4, 1, Health::Blocked));
        assert_eq!((now.problem.as_str(), now.told_at), ("short of memory", at(7)));
    }

    /// A daemon that was stopped beyond its time can neither move the cursor nor bury anything.
    async fn whoever_lost_the_duty_writes_nothing(db: TestStore) {
        let store = db.store();
        store.destination_ensure("mq", "rabbitmq", "{}", at(0)).await.unwrap();
        let events = published(store, 2).await;
        let stale = duty(store).await;
        store.lease_release(&stale).await.unwrap();
        let lease = duty(store).await;
        assert!(lease.term > stale.term);
        let letter = DeadLetterId::from_entropy(given::entropy());
        let refused = [
            store.destination_advance(&stale, "mq", 2).await,
            store.destination_tell(&stale, "mq", Health::Connected, "", at(1)).await,
            store.dead_letter_bury(&stale, "mq", &events[0], "no", 1, at(1)).await,
            store.dead_letter_replayed(&stale, letter, at(1)).await,
        ];
        for answer in refused {
            assert!(matches!(answer, Err(StoreError::StaleLease { .. })), "{answer:?}");
        }
        let (destination, backlog) = only(store).await;
        assert_eq!((destination.position, backlog.dead), (0, 0));
        // The control: the one who has it can.
        store.destination_advance(&lease, "mq", 2).await.unwrap();
        assert_eq!(only(store).await.0.position, 2);
    }

    async fn a_dead_letter_is_kept_until_it_is_delivered(db: TestStore) {
        let store = db.store();
        store.destination_ensure("mq", "rabbitmq", "{}", at(0)).await.unwrap();
        let events = published(store, 3).await;
        let lease = duty(store).await;
        for event in &events[..2] {
            store.dead_letter_bury(&lease, "mq", event, "too large", 1, at(1)).await.unwrap();
        }
        store.dead_letter_bury(&lease, "mq", &events[0], "still", 2, at(2)).await.unwrap();
        let letters = store.dead_letter_list("", 0, 10).await.unwrap();
        assert_eq!(ids(&letters), [events[0].id, events[1].id], "each event once");
        assert_eq!((letters[0].0.reason.as_str(), letters[0].0.attempts), ("still", 2));
        assert_eq!(store.dead_letter_positions("mq", 0).await.unwrap(), [1, 2]);
        assert_eq!(store.dead_letter_positions("mq", 1).await.unwrap(), [2]);
        assert_eq!(ids(&store.dead_letter_list("mq", 1, 10).await.unwrap()), [events[1].id]);
        assert_eq!(store.dead_letter_list("mq", 0, 1).await.unwrap().len(), 1);
        assert!(store.dead_letter_list("other", 0, 10).await.unwrap().is_empty());
        assert_eq!(only(store).await.1.dead, 2);

        assert!(store.dead_letter_wanted("mq", 10).await.unwrap().is_empty());
        let first = letters[0].0.id;
        let (here, ada) = (given::node(store).await, "ada".into());
        let retry = async |which, now| store.dead_letter_retry(&which, here, &ada, now).await;
        assert_eq!(retry(Retry::One(first), at(3)).await.unwrap(), 1);
        assert_eq!(ids(&store.dead_letter_wanted("mq", 10).await.unwrap()), [events[0].id]);
        assert_eq!(retry(Retry::All("mq".into()), at(4)).await.unwrap(), 2);
        assert_eq!(retry(Retry::All(String::new()), at(4)).await.unwrap(), 2);
        assert_eq!(store.dead_letter_wanted("mq", 10).await.unwrap().len(), 2);

        // One gets there, and the other does not.
        store.dead_letter_replayed(&lease, first, at(5)).await.unwrap();
        store.dead_letter_bury(&lease, "mq", &events[1], "again", 2, at(5)).await.unwrap();
        assert!(store.dead_letter_wanted("mq", 10).await.unwrap().is_empty());
        assert_eq!(ids(&store.dead_letter_list("mq", 0, 10).await.unwrap()), [events[1].id]);
        assert_eq!(only(store).await.1.dead, 1);
        let gone = retry(Retry::One(first), at(6)).await;
        assert!(matches!(gone, Err(StoreError::NotFound { noun: "dead letter", .. })), "{gone:?}");
        let none = retry(Retry::All("other".into()), at(6)).await;
        assert!(matches!(none, Err(StoreError::NotFound { noun: "destination", .. })), "{none:?}");
        let asked = "SELECT count(*) FROM events WHERE kind = 'request.retry'";
        assert_eq!(raw::number(&db, asked).await, 3, "what was not there is not on the record");
    }

    /// While a destination is away nothing is written for it, however much happens.
    async fn what_waits_takes_no_room(db: TestStore) {
        let store = db.store();
        store.destination_ensure("mq", "rabbitmq", "{}", at(0)).await.unwrap();
        published(store, 40).await;
        let (_, backlog) = only(store).await;
        assert_eq!(backlog.pending, 40);
        for (table, rows) in [("outbox", 0), ("destinations", 1), ("dead_letters", 0)] {
            assert_eq!(raw::number(&db, &format!("SELECT count(*) FROM {table}")).await, rows, "{table}");
        }
    }
}
