use std::time::Duration;

use stratavore_core::daemon::{Daemon, Node};
use stratavore_core::event::NewEvent;
use stratavore_store::{Store, StoreError, on_both_databases};

use crate::given::{self, at};

on_both_databases! {
    async fn a_start_answers_the_node_as_it_was(db: TestStore) {
        let store = db.store();
        let node = given::host("boot-1");
        assert_eq!(store.daemon_started(&node, &given::daemon_on(&node)).await.unwrap(), None);
        let rebooted = Node { boot_id: "boot-2".into(), seen_at: at(60), ..node.clone() };
        let daemon = given::daemon_on(&rebooted);
        assert_eq!(store.daemon_started(&rebooted, &daemon).await.unwrap(), Some(node));
        // Repeated, as after an answer that was lost: no second daemon.
        assert_eq!(store.daemon_started(&rebooted, &daemon).await.unwrap(), Some(rebooted));
        assert_eq!(store.daemon_list().await.unwrap().len(), 2);
    }

    async fn events_of_a_node_are_numbered_in_turn(db: TestStore) {
        let store = db.store();
        let node = given::host("boot-1");
        let daemon = given::daemon_on(&node);
        store.daemon_started(&node, &daemon).await.unwrap();
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
        store.daemon_started(&node, &daemon).await.unwrap();
        for second in [20, 10] {
            store.daemon_seen(daemon.id, at(second)).await.unwrap();
        }
        for second in [30, 40] {
            store.daemon_stopped(daemon.id, at(second)).await.unwrap();
        }
        let expected = Daemon { seen_at: at(20), stopped_at: Some(at(30)), ..daemon.clone() };
        assert_eq!(store.daemon_list().await.unwrap(), [expected]);
        let before = store.daemon_started(&node, &given::daemon_on(&node)).await.unwrap().unwrap();
        assert_eq!(before.seen_at, at(20), "the node was seen with its daemon");
    }
}
