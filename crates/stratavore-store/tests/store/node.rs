//! Nodes: what they say of themselves, whether they take runners, and how they join.

use std::time::Duration;

use stratavore_core::join::Redeemed;
use stratavore_core::node::{Label, Profile, Scheduling};
use stratavore_core::{DaemonId, NodeId, RunnerId};
use stratavore_store::{NewRunner, Store, StoreError, on_both_databases};

use crate::given::{self, at};

/// The kinds of all events that were not published yet.
async fn told(store: &Store) -> Vec<String> {
    let daemon = DaemonId::from_entropy(given::entropy());
    let lease = store.lease_acquire("relay", daemon, Duration::from_secs(60)).await.unwrap();
    let events = store.outbox_publish(&lease.unwrap(), 100).await.unwrap();
    events.into_iter().map(|event| event.kind).collect()
}

fn profile(capacity: Option<u64>) -> Profile {
    let label: Label = "gpu=a100".parse().unwrap();
    let labels = [(label.name, label.value)].into();
    Profile { labels, capacity, address: Some("db.example:7433".into()) }
}

on_both_databases! {
    async fn a_node_stands_in_the_list_as_it_says_of_itself(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        store.node_profile(node, &profile(Some(3)), true).await.unwrap();
        let project = given::project(store, "api").await;
        given::runner(store, &project, node, "one").await;
        let [seen] = store.node_list().await.unwrap().try_into().unwrap();
        assert_eq!((seen.id, &seen.profile, seen.runners, seen.signs), (node, &profile(Some(3)), 1, true));
        assert_eq!(seen.scheduling, Scheduling::Open);
        // On PostgreSQL whoever has the node holds its lease.
        assert_eq!(seen.ready, !store.is_shared());
        let lease = format!("host:{node}");
        store.lease_acquire(&lease, DaemonId::from_entropy(given::entropy()), Duration::from_secs(60)).await.unwrap();
        assert!(store.node_list().await.unwrap()[0].ready);
    }

    async fn whether_a_node_takes_runners_is_told_once(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        for (scheduling, changes) in [
            (Scheduling::Open, false),
            (Scheduling::Cordoned, true),
            (Scheduling::Cordoned, false),
            (Scheduling::Draining, true),
            (Scheduling::Open, true),
        ] {
            let changed = store.node_schedule(node, scheduling, false, &"ada".into(), at(2)).await.unwrap();
            assert_eq!(changed, changes, "{scheduling:?}");
            assert_eq!(store.node_list().await.unwrap()[0].scheduling, scheduling);
        }
        assert_eq!(told(store).await, ["node.cordoned", "node.draining", "node.opened"]);
        let nowhere = NodeId::from_entropy([9; 16]);
        let unknown = store.node_schedule(nowhere, Scheduling::Cordoned, false, &"ada".into(), at(2)).await;
        assert!(matches!(unknown, Err(StoreError::NotFound { noun: "node", .. })), "{unknown:?}");
    }

    async fn a_node_never_holds_more_than_its_capacity(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        store.node_profile(node, &profile(Some(5)), false).await.unwrap();
        // Of several projects, whose own locks keep nobody apart.
        let mut projects = Vec::new();
        for n in 0..4 {
            projects.push(given::project(store, &format!("p{n}")).await);
        }
        let mut launches = tokio::task::JoinSet::new();
        for n in 0..24 {
            let new = NewRunner {
                id: RunnerId::from_entropy([n; 16]),
                bounded: true,
                ..given::unborn(projects[usize::from(n) % 4].id, node, &format!("r{n}"))
            };
            let store = store.clone();
            launches.spawn(async move { store.runners_admit(vec![new], "ada", at(1), None).await });
        }
        let answers = launches.join_all().await;
        let admitted = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(admitted, 5, "{answers:?}");
        assert_eq!(store.node_list().await.unwrap()[0].runners, 5);
        for refused in answers.into_iter().filter_map(Result::err) {
            let full = matches!(refused, StoreError::NodeFull { live: 5, capacity: 5, .. });
            assert!(full, "{refused:?}");
        }
        // The control: unbounded, one more gets in.
        given::runner(store, &projects[0], node, "more").await;
        assert_eq!(store.node_list().await.unwrap()[0].runners, 6);
        assert_eq!(store.node_get(node).await.unwrap().unwrap().runners, 6);
    }

    async fn a_token_lets_one_host_in_and_a_second_one_puts_both_out(db: TestStore) {
        let store = db.store();
        let (first, second) = (given::node(store).await, given::node(store).await);
        let minute = Duration::from_secs(60);
        store.join_token_add("aaaa", "digest", minute, first, &"ada".into(), at(2)).await.unwrap();
        let join = async |secret: &str, node, key: &str| {
            store.node_join("aaaa", secret, node, key, &"host".into(), at(3)).await.unwrap()
        };
        assert!(matches!(join("guess", first, "key-1").await, Redeemed::Refused(_)));
        assert_eq!(join("digest", first, "key-1").await, Redeemed::Bound);
        assert_eq!(store.node_key(first).await.unwrap().as_deref(), Some("key-1"));
        assert_eq!(join("digest", first, "key-1").await, Redeemed::Again, "the reply was lost");
        assert_eq!(join("digest", second, "key-2").await, Redeemed::Stolen { node: first });
        assert_eq!(store.node_key(first).await.unwrap(), None, "nobody knows which was meant");
        assert_eq!(store.node_key(second).await.unwrap(), None);
        assert!(matches!(join("digest", first, "key-1").await, Redeemed::Refused(_)));
        assert_eq!(told(store).await, ["node.token_made", "node.joined", "node.token_stolen"]);
    }

    async fn of_many_hosts_with_one_token_one_is_first(db: TestStore) {
        let store = db.store();
        let mut hosts = Vec::new();
        for _ in 0..16 {
            hosts.push(given::node(store).await);
        }
        let (ada, minute) = ("ada".into(), Duration::from_secs(60));
        store.join_token_add("aaaa", "digest", minute, hosts[0], &ada, at(2)).await.unwrap();
        let mut racers = tokio::task::JoinSet::new();
        for host in hosts.clone() {
            let store = store.clone();
            racers.spawn(async move {
                let (key, by) = (host.to_string(), "host".into());
                store.node_join("aaaa", "digest", host, &key, &by, at(3)).await.unwrap()
            });
        }
        let answers = racers.join_all().await;
        let bound = answers.iter().filter(|answer| **answer == Redeemed::Bound).count();
        assert_eq!(bound, 1, "{answers:?}");
        for host in hosts {
            assert_eq!(store.node_key(host).await.unwrap(), None, "the race itself is a theft");
        }
    }

    async fn a_token_ends_by_itself_or_by_hand(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        let (ada, minute) = ("ada".into(), Duration::from_secs(60));
        store.join_token_add("aaaa", "one", Duration::ZERO, node, &ada, at(2)).await.unwrap();
        store.join_token_add("bbbb", "two", minute, node, &ada, at(2)).await.unwrap();
        assert!(store.join_token_revoke("bbbb", node, &ada, at(3)).await.unwrap());
        assert!(!store.join_token_revoke("bbbb", node, &ada, at(3)).await.unwrap());
        assert_eq!(told(store).await, ["node.token_made", "node.token_made", "node.token_revoked"]);
        for (accessor, secret) in [("aaaa", "one"), ("bbbb", "two")] {
            let refused = store.node_join(accessor, secret, node, "key", &ada, at(3)).await.unwrap();
            assert!(matches!(refused, Redeemed::Refused(_)), "{refused:?}");
        }
        assert_eq!(store.join_token_list().await.unwrap().len(), 2);
        let far = at(4_000_000_000);
        assert_eq!(store.join_token_purge(far).await.unwrap(), 2);
    }

    async fn a_removed_node_is_bound_to_nothing(db: TestStore) {
        let store = db.store();
        let node = given::node(store).await;
        assert!(store.node_bind(node, "key", &"ada".into(), at(2)).await.unwrap());
        assert!(!store.node_bind(node, "key", &"ada".into(), at(2)).await.unwrap());
        assert_eq!(told(store).await, ["node.joined"]);
        let project = given::project(store, "api").await;
        let runner = given::runner(store, &project, node, "one").await;
        let refused = store.node_remove(node, &"ada".into(), at(3)).await.unwrap_err().to_string();
        assert!(refused.contains("1 runners live there"), "{refused}");
        given::end(store, &runner).await;
        store.node_remove(node, &"ada".into(), at(3)).await.unwrap();
        assert_eq!(store.node_key(node).await.unwrap(), None);
        assert!(store.node_list().await.unwrap().is_empty());
        assert_eq!(store.node_get(node).await.unwrap(), None);
        // A new token lets it in again.
        assert!(store.node_bind(node, "another", &"ada".into(), at(4)).await.unwrap());
        assert_eq!(store.node_list().await.unwrap().len(), 1);
    }

    async fn a_cluster_is_founded_once(db: TestStore) {
        let store = db.store();
        assert_eq!(store.cluster_certificate().await.unwrap(), None);
        let (here, ada) = (given::node(store).await, "ada".into());
        assert!(store.cluster_found("one", here, &ada, at(1)).await.unwrap());
        assert!(!store.cluster_found("two", here, &ada, at(2)).await.unwrap());
        assert_eq!(told(store).await, ["node.ca_made"]);
        assert_eq!(store.cluster_certificate().await.unwrap().as_deref(), Some("one"));
    }
}
