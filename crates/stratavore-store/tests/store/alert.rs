//! Of each problem one event tells that it has begun, and one that it is over.

use stratavore_core::alert::{Alert, Key, Scope};
use stratavore_core::event::EventFilter;
use stratavore_core::notify::Severity;
use stratavore_store::testing::TestStore;
use stratavore_store::{StoreError, Teller, on_both_databases};

use crate::given;
use crate::lease::{LONG, daemon};

fn alert(scope: Scope, problem: &str) -> Alert {
    let key = Key { scope, problem: problem.into(), about: "x".into() };
    Alert { key, severity: Severity::Warning, words: "it is so".into() }
}

/// What was told, as `state problem`, in order.
async fn told(db: &TestStore) -> Vec<String> {
    let store = db.store();
    let lease = store.lease_acquire("relay", daemon(), LONG).await.unwrap();
    let lease = lease.expect("nobody else holds it");
    store.outbox_publish(&lease, 100).await.unwrap();
    store.lease_release(&lease).await.unwrap();
    let filter = EventFilter { kinds: vec!["system.alert".into()], ..EventFilter::default() };
    let events = store.event_list(0, &filter, 100).await.unwrap();
    let word = |data: &serde_json::Value, field: &str| data[field].as_str().unwrap().to_owned();
    events
        .iter()
        .map(|e| format!("{} {}", word(&e.data, "state"), word(&e.data, "problem")))
        .collect()
}

on_both_databases! {
    async fn each_edge_of_a_problem_is_told_once(db: TestStore) {
        let (store, node) = (db.store(), given::node(db.store()).await);
        let teller = Teller { node, lease: None };
        let own = alert(Scope::Host(node), "disk_low");
        let later = Alert { words: "it is more so".into(), ..own.clone() };
        let now = given::at(0);
        assert!(store.alert_raise(teller, &own, "daemon", now).await.unwrap());
        assert!(!store.alert_raise(teller, &later, "daemon", now).await.unwrap());
        assert_eq!(store.alert_list(Scope::Host(node)).await.unwrap(), [own.clone()]);
        assert_eq!(store.alert_list(Scope::Cluster).await.unwrap(), []);
        // Of another scope or about something else it is another one.
        let all = alert(Scope::Cluster, "disk_low");
        assert!(store.alert_raise(teller, &all, "daemon", now).await.unwrap());
        assert!(!store.alert_clear(teller, &alert(Scope::Cluster, "task"), "daemon", now).await.unwrap());

        assert!(store.alert_clear(teller, &own, "daemon", now).await.unwrap());
        assert!(!store.alert_clear(teller, &own, "daemon", now).await.unwrap());
        assert!(store.alert_raise(teller, &own, "daemon", now).await.unwrap(), "it begins again");
        let expected = ["raised", "raised", "cleared", "raised"].map(|state| format!("{state} disk_low"));
        assert_eq!(told(&db).await, expected);
    }

    async fn who_has_the_duty_no_longer_tells_nothing(db: TestStore) {
        let (store, node) = (db.store(), given::node(db.store()).await);
        let lease = store.lease_acquire("alerts", daemon(), LONG).await.unwrap().unwrap();
        store.lease_release(&lease).await.unwrap();
        store.lease_acquire("alerts", daemon(), LONG).await.unwrap().unwrap();
        let stale = Teller { node, lease: Some(&lease) };
        let all = alert(Scope::Cluster, "destination");
        let refused = store.alert_raise(stale, &all, "daemon", given::at(0)).await;
        assert!(matches!(refused, Err(StoreError::StaleLease { .. })), "{refused:?}");
        assert!(told(&db).await.is_empty());
        // The control: who has it tells.
        let fresh = Teller { node, lease: None };
        assert!(store.alert_raise(fresh, &all, "daemon", given::at(0)).await.unwrap());
        assert_eq!(told(&db).await.len(), 1);
    }
}
