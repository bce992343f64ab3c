//! What every bus inside the process promises. Another implementation adds its constructor to [`buses`].

use std::time::Duration;

use stratavore_bus::{Bus, Received, Subscription};
use stratavore_core::event::{Entity, Event};
use stratavore_core::{EventId, Timestamp};

const BOUND: Duration = Duration::from_secs(20);

/// One of each kind, each keeping `capacity` batches.
fn buses(capacity: usize) -> Vec<Bus> {
    vec![Bus::new(capacity)]
}

fn event(position: i64) -> Event {
    Event {
        id: EventId::from_entropy(i128::from(position).to_be_bytes()),
        position: Some(position),
        entity: Entity::Runner.as_str().into(),
        entity_id: "run_1".into(),
        name: "one".into(),
        project: None,
        seq: position,
        kind: "runner.started".into(),
        at: Timestamp::UNIX_EPOCH,
        by: "daemon".into(),
        origin: None,
        decision: stratavore_core::event::Decision::Allowed,
        reason: None,
        data: serde_json::json!({ "n": position }),
    }
}

async fn next(subscription: &mut Subscription) -> Received {
    let waited = tokio::time::timeout(BOUND, subscription.recv()).await;
    waited.expect("something comes within the bound")
}

fn positions(received: &Received) -> Vec<i64> {
    match received {
        Received::Events(events) => events.iter().filter_map(|event| event.position).collect(),
        Received::Lagged | Received::Closed => panic!("{received:?}"),
    }
}

#[tokio::test]
async fn every_subscriber_hears_what_is_published_after_it_came_whole_and_in_order() {
    for bus in buses(16) {
        bus.publish(&[event(1)]);
        let mut early = bus.subscribe();
        bus.publish(&[event(2), event(3)]);
        let mut late = bus.clone().subscribe();
        bus.publish(&[]);
        bus.publish(&[event(4)]);

        let first = next(&mut early).await;
        assert_eq!(first, Received::Events([event(2), event(3)].into()));
        assert_eq!(positions(&next(&mut early).await), [4]);
        assert_eq!(positions(&next(&mut late).await), [4]);
    }
}

#[tokio::test]
async fn a_slow_subscriber_is_told_and_holds_nobody_up() {
    for bus in buses(4) {
        let mut slow = bus.subscribe();
        let mut quick = bus.subscribe();
        for position in 1..=100 {
            bus.publish(&[event(position)]);
            assert_eq!(positions(&next(&mut quick).await), [position]);
        }
        assert_eq!(next(&mut slow).await, Received::Lagged);
        // From here on it hears everything again.
        let mut rest = positions(&next(&mut slow).await);
        while rest.last() != Some(&100) {
            rest.extend(positions(&next(&mut slow).await));
        }
        let expected: Vec<i64> = (rest[0]..=100).collect();
        assert_eq!(rest, expected);
    }
}

#[tokio::test]
async fn publishing_without_a_subscriber_is_no_error() {
    for bus in buses(1) {
        for position in 1..=10 {
            bus.publish(&[event(position)]);
        }
        let mut subscription = bus.subscribe();
        bus.publish(&[event(11)]);
        assert_eq!(positions(&next(&mut subscription).await), [11]);
    }
}

#[tokio::test]
async fn a_wait_that_is_dropped_loses_nothing() {
    for bus in buses(16) {
        let mut subscription = bus.subscribe();
        // Polled once, while there is nothing to hear.
        let waited = tokio::time::timeout(Duration::ZERO, subscription.recv()).await;
        assert!(waited.is_err(), "{waited:?}");
        bus.publish(&[event(1)]);
        assert_eq!(positions(&next(&mut subscription).await), [1]);
    }
}

#[tokio::test]
async fn a_subscriber_hears_the_rest_and_then_that_the_bus_is_gone() {
    for bus in buses(16) {
        let mut subscription = bus.subscribe();
        bus.publish(&[event(1)]);
        drop(bus);
        assert_eq!(positions(&next(&mut subscription).await), [1]);
        assert_eq!(next(&mut subscription).await, Received::Closed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_publishers_keep_their_own_order() {
    for bus in buses(1024) {
        let mut subscription = bus.subscribe();
        let mut publishers = tokio::task::JoinSet::new();
        for publisher in 0..4_i64 {
            let bus = bus.clone();
            publishers.spawn(async move {
                for n in 0..100 {
                    bus.publish(&[event(publisher * 1000 + n)]);
                }
            });
        }
        let mut heard = vec![Vec::new(); 4];
        for _ in 0..400 {
            for position in positions(&next(&mut subscription).await) {
                heard[(position / 1000) as usize].push(position % 1000);
            }
        }
        publishers.join_all().await;
        let expected: Vec<i64> = (0..100).collect();
        assert!(heard.iter().all(|of_one| *of_one == expected), "{heard:?}");
    }
}
