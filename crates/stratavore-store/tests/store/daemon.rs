use stratavore_core::daemon::{Daemon, Node};
use stratavore_store::on_both_databases;

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
