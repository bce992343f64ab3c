use std::time::Duration;

use stratavore_core::DaemonId;
use stratavore_core::lease::Lease;
use stratavore_store::testing::TestStore;
use stratavore_store::{StoreError, on_both_databases};
use tokio::task::JoinSet;

use crate::{given, raw};

/// Longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

pub(crate) fn daemon() -> DaemonId {
    DaemonId::from_entropy(given::entropy())
}

/// As if the time had passed on the database's clock.
async fn expire(db: &TestStore) {
    let sql = if db.file().is_some() {
        "UPDATE leases SET expires_at = 0"
    } else {
        "UPDATE leases SET expires_at = 'epoch'"
    };
    assert_eq!(raw::execute(db, sql).await, Ok(1));
}

on_both_databases! {
    async fn one_of_before_the_clock_was_set_back_does_not_outlast_its_time(db: TestStore) {
        let store = db.store();
        let (ours, theirs) = (daemon(), daemon());
        store.lease_acquire("relay", ours, LONG).await.unwrap().unwrap();
        // As if the database's clock had stood a year later then.
        let later = if db.file().is_some() {
            "UPDATE leases SET expires_at = expires_at + 31536000000000"
        } else {
            "UPDATE leases SET expires_at = expires_at + interval '1 year'"
        };
        assert_eq!(raw::execute(&db, later).await, Ok(1));
        let taken = store.lease_acquire("relay", theirs, LONG).await.unwrap().unwrap();
        assert_eq!((taken.holder, taken.term), (theirs, 2));
        // The control: it is held for its time.
        assert_eq!(store.lease_acquire("relay", ours, LONG).await.unwrap(), None);
    }

    async fn one_holds_it_until_it_is_given_back(db: TestStore) {
        let store = db.store();
        let (ours, theirs) = (daemon(), daemon());
        let lease = store.lease_acquire("relay", ours, LONG).await.unwrap().unwrap();
        assert_eq!((lease.holder, lease.term), (ours, 1));
        assert_eq!(store.lease_acquire("relay", theirs, LONG).await.unwrap(), None);
        assert_eq!(store.lease_get("relay").await.unwrap().as_ref(), Some(&lease));
        assert_eq!(store.lease_get("another").await.unwrap(), None);
        let again = store.lease_acquire("relay", ours, LONG).await.unwrap().unwrap();
        assert_eq!(again.term, 1, "the same holder, the same term");
        assert!(again.expires_at >= lease.expires_at);
        assert!(store.lease_acquire("other", theirs, LONG).await.unwrap().is_some());

        store.lease_release(&lease).await.unwrap();
        let taken = store.lease_acquire("relay", theirs, LONG).await.unwrap().unwrap();
        assert_eq!((taken.holder, taken.term), (theirs, 2), "terms go on counting");
        store.lease_release(&lease).await.unwrap();
        assert_eq!(store.lease_acquire("relay", ours, LONG).await.unwrap(), None, "a stale release does nothing");
    }

    async fn one_that_expired_is_anybodys_and_a_renewal_keeps_it(db: TestStore) {
        let store = db.store();
        let (ours, theirs) = (daemon(), daemon());
        let lease = store.lease_acquire("relay", ours, LONG).await.unwrap().unwrap();
        expire(&db).await;
        let renewed = store.lease_renew(&lease, LONG).await.unwrap().unwrap();
        assert_eq!(renewed.term, 1, "nobody took it meanwhile");
        assert_eq!(store.lease_acquire("relay", theirs, LONG).await.unwrap(), None);

        expire(&db).await;
        let taken = store.lease_acquire("relay", theirs, LONG).await.unwrap().unwrap();
        assert_eq!(taken.term, 2);
        assert_eq!(store.lease_renew(&lease, LONG).await.unwrap(), None, "lost");
        expire(&db).await;
        let back = store.lease_acquire("relay", ours, LONG).await.unwrap().unwrap();
        assert_eq!(back.term, 3);
        assert_eq!(store.lease_renew(&lease, LONG).await.unwrap(), None, "the same holder, but an old term");
    }

    async fn of_many_who_want_it_at_once_one_gets_it(db: TestStore) {
        let daemons = [db.store().clone(), db.another().await];
        for round in 1..=5 {
            let mut asking = JoinSet::new();
            for n in 0..10 {
                let store = daemons[n % 2].clone();
                asking.spawn(async move { store.lease_acquire("relay", daemon(), LONG).await.unwrap() });
            }
            let won: Vec<Lease> = asking.join_all().await.into_iter().flatten().collect();
            assert_eq!(won.len(), 1, "{won:?}");
            assert_eq!(won[0].term, round);
            expire(&db).await;
        }
    }

    /// T-FENCE, the store's part: who believes in a term that is over can write nothing under it.
    async fn a_write_under_a_stale_term_is_refused(db: TestStore) {
        let store = db.store();
        let stale = store.lease_acquire("relay", daemon(), LONG).await.unwrap().unwrap();
        given::project(store, "alpha").await;
        expire(&db).await;
        // The control: expired and not taken, the term still counts.
        assert_eq!(store.outbox_publish(&stale, 10).await.unwrap().len(), 1);

        let taken = store.lease_acquire("relay", daemon(), LONG).await.unwrap().unwrap();
        given::project(store, "beta").await;
        let answer = store.outbox_publish(&stale, 10).await;
        assert!(matches!(&answer, Err(StoreError::StaleLease { name }) if name == "relay"), "{answer:?}");
        assert_eq!(store.outbox_depth().await.unwrap().pending, 1, "nothing was published");
        let forged = Lease { term: taken.term, ..stale };
        assert!(matches!(store.outbox_publish(&forged, 10).await, Err(StoreError::StaleLease { .. })));
        assert_eq!(store.outbox_publish(&taken, 10).await.unwrap().len(), 1);
    }
}
