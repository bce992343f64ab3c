use std::time::Duration;

use stratavore_core::daemon::{Daemon, Node};
use stratavore_core::event::NewEvent;
use stratavore_core::node::{Profile, Scheduling};
use stratavore_store::{Started, Store, StoreError, on_both_databases};

use crate::given::{self, at};

on_both_databases! {
    async fn a_start_answers_the_node_as_it_was(db: TestStore) {
        let store = db.store();
        let node = given::host("boot-1");
        let profile = Profile { capacity: Some(3), ..Profile::default() };
        let begun = async |node: &Node, daemon: &Daemon| {
            store.daemon_started(node, daemon, &profile).await.unwrap()
        };
        let first = begun(&node, &given::daemon_on(&node)).await;
        assert_eq!(first, Started { before: None, scheduling: Some(Scheduling::Open) });
        assert_eq!(store.node_list().await.unwrap()[0].profile, profile);
        store.node_schedule(node.id, Scheduling::Cordoned, false, &"ada".into(), at(2)).await.unwrap();
        let rebooted = Node { boot_id: "boot-2".into(), seen_at: at(60), ..node.clone() };
        let daemon = given::daemon_on(&rebooted);
        let second = begun(&rebooted, &daemon).await;
        let scheduling = Some(Scheduling::Cordoned);
        assert_eq!(second, Started { before: Some(node), scheduling });
        // Repeated, as after an answer that was lost: no second daemon.
        let again = begun(&rebooted, &daemon).await;
        assert_eq!(again, Started { before: Some(rebooted), scheduling });
        assert_eq!(store.daemon_list().await.unwrap().len(), 2);
    }

    async fn events_of_a_node_are_numbered_in_turn(db: TestStore) {
        let store = db.store();
        let node = given::host("boot-1");
        let daemon = given::daemon_on(&node);
        store.daemon_started(&node, &daemon, &Profile::default()).await.unwrap();
        let event = NewEvent::new("node.runners_removed", serde_json::json!({ "runners": [] }));
        let tell = |store: Store| {
            let (id, event) = (node.id, event.clone());
            async move { store.node_event(id, &event, "daemon", at(1)).await }
        };
        let (one, other) = (db.another().await, store.clone());
        let (a, b) = tokio::join!(tell(one), tell(other));
        a.and(b).unwrap();
        tell(store.clone()).await.unwrap();
        assert!(!store.outbox_is_empty().await.unwrap());
        let lease = store.lease_acquire("relay", daemon.id, Duration::from_secs(60)).await;
        let told = store.outbox_publish(&lease.unwrap().unwrap(), 10).await.unwrap();
        assert_eq!(told.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(store.outbox_is_empty().await.unwrap());
        let unknown = given::host("boot-1").id;
        let refused = store.node_event(unknown, &event, "daemon", at(1)).await;
        assert!(matches!(refused, Err(StoreError::NotFound { noun: "node", .. })), "{refused:?}");
    }

    async fn times_of_a_daemon_never_go_back(db: TestStore) {
        let store = db.store();
        let node = given::host("boot-1");
        let daemon = given::daemon_on(&node);
        store.daemon_started(&node, &daemon, &Profile::default()).await.unwrap();
        for second in [20, 10] {
            store.daemon_seen(daemon.id, at(second)).await.unwrap();
        }
        for second in [30, 40] {
            store.daemon_stopped(daemon.id, at(second)).await.unwrap();
        }
        let expected = Daemon { seen_at: at(20), stopped_at: Some(at(30)), ..daemon.clone() };
        assert_eq!(store.daemon_list().await.unwrap(), [expected]);
        let next = given::daemon_on(&node);
        let started = store.daemon_started(&node, &next, &Profile::default()).await.unwrap();
        assert_eq!(started.before.unwrap().seen_at, at(20), "the node was seen with its daemon");
    }
}
