use std::collections::BTreeMap;

use stratavore_core::caller::By;
use stratavore_core::destination::Health;
use stratavore_core::event::EventFilter;
use stratavore_core::lease::Lease;
use stratavore_core::notify::{Attempt, Message, Notification, Severity, State};
use stratavore_core::{NodeId, NotificationId, Timestamp};
use stratavore_store::{Store, StoreError, on_both_databases};

use crate::given::{self, at};
use crate::lease::{LONG, daemon};

fn by() -> By {
    By::from("ada")
}

async fn hook(store: &Store) -> NodeId {
    let here = given::node(store).await;
    assert!(store.destination_define("hook", "webhook", "{}", here, &by(), at(0)).await.unwrap());
    here
}

async fn duty(store: &Store) -> Lease {
    store.lease_acquire("relay:hook", daemon(), LONG).await.unwrap().unwrap()
}

/// Gives positions to all that happened; answers the kinds since `after`.
async fn published(store: &Store, after: i64) -> Vec<String> {
    let lease = store.lease_acquire("relay", daemon(), LONG).await.unwrap().unwrap();
    store.outbox_publish(&lease, 1000).await.unwrap();
    store.lease_release(&lease).await.unwrap();
    let events = store.event_list(after, &EventFilter::default(), 100).await.unwrap();
    events.into_iter().map(|event| event.kind).collect()
}

fn message(created_at: Timestamp) -> Notification {
    Notification {
        id: NotificationId::from_entropy(given::entropy()),
        destination: "hook".into(),
        message: Message {
            kinds: BTreeMap::from([("runner.lost".into(), 2)]),
            severity: Severity::Error,
            title: "2 events \u{1f41e}".into(),
            lines: vec!["a".into(), "b".into()],
            hint: String::new(),
            count: 2,
            at: at(0),
            first: 1,
            last: 2,
            events: vec![serde_json::json!({ "a": 1 })],
        },
        state: State::Waiting,
        created_at,
        due_at: created_at,
        attempts: 0,
        history: Vec::new(),
    }
}

fn attempt(delivered: bool) -> Attempt {
    let detail = if delivered { String::new() } else { "no".into() };
    Attempt { at: at(5), took_ms: 7, delivered, status: Some(500), detail, next_at: Some(at(9)) }
}

on_both_databases! {
    async fn a_destination_is_defined_once_and_every_change_is_on_the_record(db: TestStore) {
        let store = db.store();
        let here = hook(store).await;
        let again = store.destination_define("hook", "webhook", "{}", here, &by(), at(1)).await;
        assert!(!again.unwrap(), "the same one is left as it is");
        let other = store.destination_define("hook", "webhook", "{\"a\":1}", here, &by(), at(1)).await;
        assert!(matches!(other, Err(StoreError::Conflict { .. })), "{other:?}");
        assert!(store.destination_switch("hook", false, "410", here, &by(), at(2)).await.unwrap());
        assert!(!store.destination_switch("hook", false, "x", here, &by(), at(3)).await.unwrap());
        let (found, _) = store.destination_list().await.unwrap().remove(0);
        assert_eq!((found.enabled, found.problem.as_str(), found.health), (false, "410", Health::Stopped));
        assert!(store.destination_switch("hook", true, "", here, &by(), at(4)).await.unwrap());
        store.notification_note(&message(at(4))).await.unwrap();
        store.destination_forget("hook", None, here, &by(), at(5)).await.unwrap();
        let gone = store.destination_forget("hook", None, here, &by(), at(5)).await;
        assert!(matches!(gone, Err(StoreError::NotFound { noun: "destination", .. })), "{gone:?}");
        assert!(store.destination_list().await.unwrap().is_empty());
        assert!(store.notification_list("hook", 9).await.unwrap().is_empty());
        let kinds = published(store, 0).await;
        let of: Vec<&str> =
            kinds.iter().filter_map(|kind| kind.strip_prefix("node.destination_")).collect();
        assert_eq!(of, ["added", "disabled", "enabled", "removed"]);
    }

    async fn a_message_and_the_position_are_written_together_or_not_at_all(db: TestStore) {
        let store = db.store();
        let here = hook(store).await;
        let lease = duty(store).await;
        let (one, two) = (message(at(1)), message(at(2)));
        let both = [one.clone(), two.clone()];
        assert!(store.notification_add(&lease, "hook", at(0), 7, &both).await.unwrap());
        assert_eq!(store.notification_waiting("hook", 9).await.unwrap(), both);
        assert_eq!(store.notification_list("hook", 9).await.unwrap(), [two.clone(), one.clone()]);
        assert_eq!(store.notification_waiting("hook", 1).await.unwrap(), [one]);
        assert_eq!(store.notification_count("hook", at(1)).await.unwrap(), 1);
        let (found, backlog) = store.destination_list().await.unwrap().remove(0);
        assert_eq!((found.position, backlog.dead), (7, 0));

        // The same once more, by one who does not know: nothing is written.
        let third = [message(at(3))];
        assert!(!store.notification_add(&lease, "hook", at(0), 7, &third).await.unwrap());
        // One that was made anew since, or is off.
        assert!(!store.notification_add(&lease, "hook", at(99), 8, &third).await.unwrap());
        store.destination_switch("hook", false, "", here, &by(), at(4)).await.unwrap();
        assert!(!store.notification_add(&lease, "hook", at(0), 8, &third).await.unwrap());
        store.destination_switch("hook", true, "", here, &by(), at(4)).await.unwrap();
        // A message that cannot be written leaves the position where it is.
        let twice = [third[0].clone(), third[0].clone()];
        assert!(store.notification_add(&lease, "hook", at(0), 8, &twice).await.is_err());
        assert_eq!(store.destination_list().await.unwrap()[0].0.position, 7);
        assert_eq!(store.notification_waiting("hook", 9).await.unwrap().len(), 2);
        // The control: as it should be it is written.
        assert!(store.notification_add(&lease, "hook", at(0), 8, &third).await.unwrap());

        store.lease_release(&lease).await.unwrap();
        duty(store).await;
        let stale = store.notification_add(&lease, "hook", at(0), 9, &[]).await;
        assert!(matches!(stale, Err(StoreError::StaleLease { .. })), "{stale:?}");
        let stale = store.notification_tried(&lease, &two, at(9)).await;
        assert!(matches!(stale, Err(StoreError::StaleLease { .. })), "{stale:?}");
    }

    async fn attempts_are_kept_and_what_was_given_up_goes_again(db: TestStore) {
        let store = db.store();
        let here = hook(store).await;
        let again = async |id, now| store.notification_again("hook", id, here, &by(), now).await;
        let lease = duty(store).await;
        let mut one = message(at(1));
        store.notification_add(&lease, "hook", at(0), 7, &[one.clone()]).await.unwrap();
        one.attempts = 1;
        one.due_at = at(9);
        one.history.push(attempt(false));
        store.notification_tried(&lease, &one, at(5)).await.unwrap();
        assert_eq!(store.notification_waiting("hook", 9).await.unwrap(), [one.clone()]);
        assert_eq!(again(None, at(6)).await.unwrap(), 0, "it waits still");

        one.state = State::Dead;
        store.notification_tried(&lease, &one, at(10)).await.unwrap();
        assert!(store.notification_waiting("hook", 9).await.unwrap().is_empty());
        assert_eq!(store.destination_list().await.unwrap()[0].1.dead, 1);
        let other = NotificationId::from_entropy(given::entropy());
        let gone = again(Some(other), at(11)).await;
        assert!(matches!(gone, Err(StoreError::NotFound { .. })), "{gone:?}");
        assert_eq!(again(Some(one.id), at(11)).await.unwrap(), 1);
        let kinds = published(store, 0).await;
        let asked = kinds.iter().filter(|kind| **kind == "request.notify_retry").count();
        assert_eq!(asked, 2, "what was not there is not on the record");
        let waiting = store.notification_waiting("hook", 9).await.unwrap();
        assert_eq!((waiting[0].attempts, waiting[0].due_at, waiting[0].id), (0, at(11), one.id));
        assert_eq!(waiting[0].history, one.history);
    }

    async fn what_is_settled_is_forgotten_in_time_and_what_waits_never(db: TestStore) {
        let store = db.store();
        hook(store).await;
        let lease = duty(store).await;
        let all: Vec<Notification> = (1..=6).map(|n| message(at(n))).collect();
        store.notification_add(&lease, "hook", at(0), 7, &all).await.unwrap();
        for message in &all[1..] {
            let mut message = message.clone();
            message.state = State::Delivered;
            store.notification_tried(&lease, &message, message.created_at).await.unwrap();
        }
        let left = async || {
            let left = store.notification_list("hook", 9).await.unwrap();
            left.iter().map(|message| message.created_at).collect::<Vec<_>>()
        };
        assert_eq!(store.notification_purge(at(3), 100).await.unwrap(), 1);
        assert_eq!(left().await, [at(6), at(5), at(4), at(3), at(1)]);
        assert_eq!(store.notification_purge(at(0), 2).await.unwrap(), 2);
        assert_eq!(left().await, [at(6), at(5), at(1)]);
    }
}
