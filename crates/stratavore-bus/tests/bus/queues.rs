//! The queues that are declared for consumers: what a consumer fails on, what is missing, and how
//! they are.

use lapin::Channel;
use lapin::options::{BasicGetOptions, BasicRejectOptions};
use stratavore_bus::rabbit::{DEAD, Link, Outcome, Queue, RabbitError, Settings, UNROUTED};
use stratavore_testkit::rabbit::{Vhost, vhost};

use crate::rig::{channel, message, queue, settings, taken};

const OWN: &str = "work";

fn with_queue(vhost: &Vhost) -> Settings {
    Settings { queues: vec![OWN.into()], ..settings(vhost, vhost.address()) }
}

fn delete(vhost: &Vhost, what: &str) {
    vhost.eval(&format!(
        "rabbit_exchange:delete(rabbit_misc:r(VHOST, exchange, <<\"{what}\">>), false, <<\"tests\">>)."
    ));
}

/// Takes a message from the queue and fails on it.
async fn fail_on(channel: &Channel) -> Option<String> {
    let got = channel.basic_get(OWN.into(), BasicGetOptions::default()).await.unwrap()?;
    let id = got.properties.message_id().as_ref().unwrap().to_string();
    // What is given back by `nack` does not count as failed on since RabbitMQ 4.3.
    got.reject(BasicRejectOptions { requeue: true }).await.unwrap();
    Some(id)
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = std::time::Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed().as_secs() < 20, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_consumer_always_fails_on_is_set_aside() {
    let vhost = vhost();
    let link = Link::connect(with_queue(&vhost)).await.unwrap();
    let own = channel(&vhost).await;
    let sent = link.lane().await.unwrap().send(&[message("poison", "a.b")]).await;
    assert_eq!(sent, [Outcome::Confirmed]);
    let mut failures = 0;
    until("it is set aside", async || {
        failures += usize::from(fail_on(&own).await.is_some());
        taken(&own, DEAD).await.contains("poison").then_some(())
    })
    .await;
    assert_eq!(failures, 6, "it is given five times more");
    assert_eq!(fail_on(&own).await, None, "it stands in nobody's way any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_way_for_dead_letters_is_made_or_told() {
    let vhost = vhost();
    Link::connect(with_queue(&vhost)).await.unwrap().close().await;
    // What somebody has deleted is made again.
    delete(&vhost, DEAD);
    let link = Link::connect(with_queue(&vhost)).await.unwrap();
    let own = channel(&vhost).await;
    link.lane().await.unwrap().send(&[message("poison", "a.b")]).await;
    until("it is set aside", async || {
        fail_on(&own).await;
        taken(&own, DEAD).await.contains("poison").then_some(())
    })
    .await;
    link.close().await;
    // If it may not be made, that is told, with its name.
    delete(&vhost, DEAD);
    let (user, all) = (&vhost.user, "<<\".*\">>");
    vhost.eval(&format!(
        "rabbit_auth_backend_internal:set_permissions(<<\"{user}\">>, VHOST, \
         <<\"^(stratavore.events|stratavore.unrouted|work)$\">>, {all}, {all}, <<\"tests\">>)."
    ));
    let Some(RabbitError::Misconfigured { what, hint }) =
        Link::connect(with_queue(&vhost)).await.err()
    else {
        panic!("it is not told")
    };
    assert!(what.contains(DEAD) && hint.contains("set_permissions"), "{what}; {hint}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_sets_nothing_aside_is_told() {
    let vhost = vhost();
    let link = Link::connect(settings(&vhost, vhost.address())).await.unwrap();
    let own = channel(&vhost).await;
    // Somebody made it before, without a limit or a way for dead letters.
    queue(&own, OWN, "#", None).await;
    link.close().await;
    let Some(RabbitError::Misconfigured { what, hint }) =
        Link::connect(with_queue(&vhost)).await.err()
    else {
        panic!("it is not told")
    };
    assert!(what.contains("the queue work") && hint.contains("other arguments"), "{what}; {hint}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_seen_how_the_queues_are() {
    let vhost = vhost();
    let link = Link::connect(with_queue(&vhost)).await.unwrap();
    let mut lane = link.lane().await.unwrap();
    lane.send(&[message("a", "a.b"), message("b", "a.b")]).await;
    let seen = until("both are there", async || {
        let seen = link.queues().await.unwrap();
        seen.iter().any(|queue| queue.messages == 2).then_some(seen)
    })
    .await;
    let of = |name: &str, messages| Queue { name: name.into(), messages, consumers: 0 };
    assert_eq!(seen, [of(UNROUTED, 0), of(DEAD, 0), of(OWN, 2)]);
    let own = channel(&vhost).await;
    let consumer = own
        .basic_consume(OWN.into(), "me".into(), Default::default(), Default::default())
        .await
        .unwrap();
    until("the consumer is seen", async || {
        let seen = link.queues().await.unwrap();
        seen.iter().any(|queue| queue.name == OWN && queue.consumers == 1).then_some(())
    })
    .await;
    drop(consumer);
}
