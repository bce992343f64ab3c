//! A standby is promoted that lacks the last of what its primary had. It has the rows of leases that were
//! taken before, and nobody may act on it by what was read of the other one.

use stratavore_core::lease::Lease;
use stratavore_store::testing::on_server;
use stratavore_store::{
    Database, Host, PoolSettings, PostgresSettings, Settings, Store, StoreError,
};
use stratavore_testkit::postgres::standby::{Name, leave_behind};
use stratavore_testkit::postgres::{Durable, TestPostgres};

use crate::given::{self, at};
use crate::lease::{LONG, daemon};

fn reached_by(name: &Name, server: &TestPostgres) -> Settings {
    let Database::Postgres(settings) = on_server(server) else { unreachable!("it is one") };
    let host = Host::Socket(name.path().to_owned());
    let pool = PoolSettings { min_connections: 0, ..PoolSettings::default() };
    Settings { database: Database::Postgres(PostgresSettings { host, ..settings }), pool }
}

/// Makes so many events and publishes them; answers the last position.
async fn publish(store: &Store, lease: &Lease, named: &str, count: usize) -> Option<i64> {
    for n in 0..count {
        given::project(store, &format!("{named}{n}")).await;
    }
    let published = store.outbox_publish(lease, 100).await.unwrap();
    published.last().and_then(|event| event.position)
}

fn is_stale<T>(answer: Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::StaleLease { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_does_not_outlive_the_server_that_it_was_taken_of() {
    let primary = Durable::primary();
    let old = primary.database();
    let leads = Name::of(&old);
    let store = Store::open(reached_by(&leads, &old)).await.unwrap();
    let (me, name) = (daemon(), "mq");
    let take = async |duty: &str| store.lease_acquire(duty, me, LONG).await.unwrap().unwrap();
    let (relay, duty) = (take("relay").await, take("relay:mq").await);
    store.timeline_begin(&relay).await.unwrap();
    store.destination_ensure(name, "rabbitmq", "{}", at(5)).await.unwrap();
    assert_eq!(publish(&store, &relay, "kept", 2).await, Some(2));
    store.destination_advance(&duty, name, 2).await.unwrap();

    let standby = primary.standby();
    let new = standby.copy_of(&old);
    leave_behind(&old, &new);
    assert_eq!(publish(&store, &relay, "lost", 3).await, Some(5));

    new.query("SELECT pg_promote()");
    leads.leads_to(&new);
    primary.kill();
    store.server_look().await.unwrap();

    let term = new.query("SELECT term FROM leases WHERE name = 'relay:mq'");
    assert_eq!(term, duty.term.to_string(), "the row is there, and says nothing");
    assert!(is_stale(store.destination_advance(&duty, name, 5).await));
    assert!(is_stale(store.outbox_publish(&relay, 100).await));
    assert!(is_stale(store.timeline_begin(&relay).await));
    assert_eq!(store.lease_renew(&duty, LONG).await.unwrap(), None);
    assert_eq!(new.query("SELECT position FROM destinations"), "2");

    // Who takes them anew reads anew, and what was read before is known to end where both agree.
    let (again, duty_again) = (take("relay").await, take("relay:mq").await);
    assert_eq!((again.term, again.timeline), (relay.term, relay.timeline + 1));
    assert_eq!(
        store.event_agreed_position(relay.timeline).await.unwrap(),
        2,
        "nothing is given yet"
    );
    store.timeline_begin(&again).await.unwrap();
    assert_eq!(publish(&store, &again, "new", 6).await, Some(8));
    store.timeline_begin(&again).await.unwrap();
    assert_eq!(store.event_agreed_position(relay.timeline).await.unwrap(), 2);
    assert_eq!(store.event_agreed_position(again.timeline).await.unwrap(), 8);
    store.destination_advance(&duty_again, name, 3).await.unwrap();
    assert_eq!(new.query("SELECT position FROM destinations"), "3");
}
