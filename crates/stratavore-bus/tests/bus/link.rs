//! A connection to a broker, and what is sent over it.

use std::time::{Duration, Instant};

use stratavore_bus::rabbit::{Link, Outcome, RabbitError, Settings, UNROUTED};
use stratavore_testkit::proxy::{Flow, Proxy};
use stratavore_testkit::rabbit::vhost;

use crate::rig::{channel, message, queue, settings, taken, without_alternate};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_confirmed_is_in_its_queue() {
    let vhost = vhost();
    let link = Link::connect(settings(&vhost, vhost.address())).await.unwrap();
    let own = channel(&vhost).await;
    queue(&own, "own", "good.#", None).await;
    let mut lane = link.lane().await.unwrap();
    let batch: Vec<_> = (0..64).map(|n| message(&format!("m{n}"), "good.one")).collect();
    assert_eq!(lane.send(&batch).await, vec![Outcome::Confirmed; 64]);
    assert_eq!(taken(&own, "own").await.len(), 64);

    // What no queue is bound for is kept aside.
    assert_eq!(lane.send(&[message("lonely", "nobody.wants")]).await, [Outcome::Confirmed]);
    assert!(taken(&own, UNROUTED).await.contains("lonely"));
    link.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_taken_says_why() {
    let vhost = vhost();
    let small = Settings { message_max: 1000, ..settings(&vhost, vhost.address()) };
    let link = Link::connect(small).await.unwrap();
    let own = channel(&vhost).await;
    queue(&own, "full", "full.#", Some(0)).await;
    queue(&own, "own", "good.#", None).await;
    without_alternate(&vhost);
    let mut lane = link.lane().await.unwrap();
    let mut large = message("large", "good.one");
    large.body = vec![b'x'; 1001];
    let long = message("long", &format!("good.{}", "x".repeat(255)));
    let batch = [
        message("full", "full.one"),
        large,
        message("good", "good.one"),
        long,
        message("nowhere", "nobody.wants"),
    ];
    let outcomes = lane.send(&batch).await;
    assert_eq!(outcomes[0], Outcome::Nacked);
    assert!(
        matches!(&outcomes[1], Outcome::Refused(why) if why.contains("1001 bytes")),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[2], Outcome::Confirmed);
    assert!(
        matches!(&outcomes[3], Outcome::Refused(why) if why.contains("255 bytes")),
        "{outcomes:?}"
    );
    assert!(
        matches!(&outcomes[4], Outcome::Unroutable(why) if why.contains("NO_ROUTE")),
        "{outcomes:?}"
    );

    // Declared once more, the way aside is there again.
    link.declare().await.unwrap();
    assert_eq!(lane.send(&[message("nowhere", "nobody.wants")]).await, [Outcome::Confirmed]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_ends_takes_no_other_with_it() {
    let vhost = vhost();
    let link = Link::connect(settings(&vhost, vhost.address())).await.unwrap();
    let mut lane = link.lane().await.unwrap();
    vhost.eval(
        "rabbit_exchange:delete(rabbit_misc:r(VHOST, exchange, <<\"stratavore.events\">>), \
         false, <<\"tests\">>).",
    );
    let batch = [message("a", "x.y"), message("b", "x.y")];
    assert_eq!(lane.send(&batch).await, [Outcome::Unknown, Outcome::Unknown]);
    assert!(!lane.is_open() && link.is_open());
    link.declare().await.unwrap();
    let mut lane = link.lane().await.unwrap();
    assert_eq!(lane.send(&batch).await, [Outcome::Confirmed, Outcome::Confirmed]);
}

/// Threads of the client that wait for brokers.
fn waiting_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("lapin-io-loop")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_says_nothing_is_given_up_and_costs_no_thread() {
    let vhost = vhost();
    let wire = Proxy::tcp(vhost.address());
    wire.set(|wire| wire.down.flow = Flow::Hold);
    let quick = Settings {
        connect_timeout: Duration::from_millis(200),
        ..settings(&vhost, wire.address())
    };
    let before = waiting_threads();
    for _ in 0..10 {
        let refused = Link::connect(quick.clone()).await.err();
        assert!(matches!(refused, Some(RabbitError::Away(_))), "{refused:?}");
    }
    // Other tests have some too, that come and go.
    let began = Instant::now();
    while waiting_threads() >= before + 10 {
        assert!(began.elapsed().as_secs() < 20, "{} threads wait still", waiting_threads());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_has_to_mend_is_told_so() {
    let vhost = vhost();
    let good = settings(&vhost, vhost.address());
    let nobody = Settings { user: "nobody".into(), ..good.clone() };
    let nowhere = Settings { vhost: "nowhere".into(), ..good.clone() };
    let amq = Settings { exchange: "stratavore.unrouted".into(), ..good.clone() };
    for (wrong, said) in
        [(nobody, "password_file"), (nowhere, "bus.rabbitmq.vhost"), (amq, "other arguments")]
    {
        let refused = Link::connect(wrong).await.err();
        let Some(RabbitError::Misconfigured { what, hint }) = &refused else {
            panic!("{said}: {refused:?}")
        };
        assert!(hint.contains(said), "{what}; {hint}");
        assert!(!format!("{what}{hint}").contains(&vhost.password));
    }
    let away = Settings { port: 1, ..good };
    let refused = Link::connect(away).await.err();
    assert!(matches!(refused, Some(RabbitError::Away(_))), "{refused:?}");
}
