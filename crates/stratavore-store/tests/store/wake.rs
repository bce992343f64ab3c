//! The daemons of one PostgreSQL wake each other; SQLite has one daemon, and nobody to hear.

use std::time::Duration;

use stratavore_store::testing::TestStore;
use stratavore_store::{Listener, StoreError, Wake, on_both_databases};

const WRITTEN: Wake = Wake { written: true, published: false };
const PUBLISHED: Wake = Wake { written: false, published: true };

async fn heard(listener: &mut Listener) -> Result<Wake, StoreError> {
    tokio::time::timeout(Duration::from_secs(20), listener.heard())
        .await
        .expect("something is told")
}

/// Ends every connection of this database that listens.
fn deafen(db: &TestStore) {
    let ended = db.server().expect("it is PostgreSQL").query(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'stratavore listens'",
    );
    assert_ne!(ended, "0");
}

on_both_databases! {
    async fn what_one_daemon_tells_is_heard_by_the_others_only(db: TestStore) {
        let (ours, theirs) = (db.store(), db.another().await);
        ours.tell_others(WRITTEN).await.unwrap();
        let (Some(mut one), Some(mut other)) =
            (ours.listen().await.unwrap(), theirs.listen().await.unwrap())
        else {
            assert!(db.file().is_some(), "there is nobody to hear on SQLite only");
            return;
        };
        theirs.tell_others(WRITTEN).await.unwrap();
        assert_eq!(heard(&mut one).await.unwrap(), WRITTEN);
        ours.tell_others(PUBLISHED).await.unwrap();
        theirs.tell_others(Wake::ALL).await.unwrap();
        assert_eq!(heard(&mut one).await.unwrap(), Wake::ALL, "and not its own word");
        assert_eq!(heard(&mut other).await.unwrap(), PUBLISHED, "nor what was told before");
    }

    async fn who_cannot_hear_any_more_learns_so_and_listens_again(db: TestStore) {
        let (ours, theirs) = (db.store(), db.another().await);
        let Some(mut one) = ours.listen().await.unwrap() else { return };
        deafen(&db);
        let error = heard(&mut one).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        drop(one);
        let mut again = ours.listen().await.unwrap().expect("it is PostgreSQL");
        theirs.tell_others(PUBLISHED).await.unwrap();
        assert_eq!(heard(&mut again).await.unwrap(), PUBLISHED);
    }
}
