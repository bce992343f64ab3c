//! T-OUTBOX, the bus's part: what is called confirmed is in the queue, whatever happens to the wire.
//! Relays that are broken in the usual ways are noticed.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use stratavore_bus::rabbit::{Link, Outcome};
use stratavore_testkit::proxy::{Ambush, Proxy, Strike, Way};
use stratavore_testkit::rabbit::{Vhost, vhost};
use stratavore_testkit::trial::{Trial, scale};

use crate::rig::{EXCHANGE, channel, message, queue, settings, taken, without_alternate};

/// After so long a message that is not in the queue does not come any more.
const COMES_LATE: Duration = Duration::from_secs(1);

/// Whether all that was called delivered was received.
fn all_there(delivered: &HashSet<String>, received: &HashSet<String>) -> Result<(), String> {
    let lost: Vec<_> = delivered.difference(received).take(3).collect();
    if lost.is_empty() { Ok(()) } else { Err(format!("called delivered, and not there: {lost:?}")) }
}

/// A channel of the client library, with confirms.
async fn raw(vhost: &Vhost, at: std::net::SocketAddr) -> Channel {
    let url = vhost.url().replace(&vhost.address().to_string(), &at.to_string());
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel
}

async fn publish(channel: &Channel, id: &str, key: &str) -> Option<lapin::PublisherConfirm> {
    let properties = BasicProperties::default().with_message_id(id.into());
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    channel.basic_publish(EXCHANGE.into(), key.into(), options, b"{}", properties).await.ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_outbox_what_is_confirmed_over_a_bad_wire_is_there() {
    let mut trial = Trial::new("T-OUTBOX", "what the bus calls confirmed is in the queue");
    let mut dice = trial.dice();
    let vhost = vhost();
    let wire = Proxy::tcp(vhost.address());
    drop(Link::connect(settings(&vhost, vhost.address())).await.unwrap());
    let own = channel(&vhost).await;
    queue(&own, "own", "good.#", None).await;
    for round in 0..scale(8, 500) {
        let link = Link::connect(settings(&vhost, wire.address())).await.unwrap();
        let mut lane = link.lane().await.unwrap();
        let way = if dice.below(2) == 0 { Way::Up } else { Way::Down };
        let bytes = dice.below(if way == Way::Up { 8000 } else { 200 });
        wire.lay(Ambush { after: Vec::new(), way, bytes, then: Strike::Reset });
        let batch: Vec<_> = (0..64).map(|n| message(&format!("{round}-{n}"), "good.one")).collect();
        let outcomes = lane.send(&batch).await;
        wire.lift();
        let confirmed = batch.iter().zip(&outcomes).filter(|(_, o)| **o == Outcome::Confirmed);
        let delivered: HashSet<String> = confirmed.map(|(m, _)| m.id.clone()).collect();
        trial.tried_times(64, all_there(&delivered, &taken(&own, "own").await));
    }
    trial.counted("resets", wire.struck());

    // A relay that does not wait for confirms. Its library may notice the reset in time, and then it
    // loses nothing: so more than one is tried.
    let mut lost = false;
    for attempt in 0..20 {
        wire.lay(Ambush { after: Vec::new(), way: Way::Up, bytes: 3000, then: Strike::Reset });
        let channel = raw(&vhost, wire.address()).await;
        let mut sent = HashSet::new();
        for n in 0..200 {
            let id = format!("sent-{attempt}-{n}");
            if publish(&channel, &id, "good.one").await.is_some() {
                sent.insert(id);
            }
        }
        wire.lift();
        // What comes late is not lost.
        let (mut received, began) = (HashSet::new(), Instant::now());
        lost = loop {
            received.extend(taken(&own, "own").await);
            let missing = all_there(&sent, &received).is_err();
            if !missing || began.elapsed() > COMES_LATE {
                break missing;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        if lost {
            break;
        }
    }
    trial.control("a relay without confirms", lost);
    trial.end();
}

/// The library gives a returned message to the next confirm that comes, and resolves confirms that
/// come together in any order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_outbox_a_returned_message_is_known_by_its_id() {
    let mut trial =
        Trial::new("T-OUTBOX", "of messages that go together, those that are returned are known");
    let mut dice = trial.dice();
    let vhost = vhost();
    let link = Link::connect(settings(&vhost, vhost.address())).await.unwrap();
    let own = channel(&vhost).await;
    queue(&own, "own", "good.#", None).await;
    without_alternate(&vhost);
    let mut lane = link.lane().await.unwrap();
    for round in 0..scale(20, 1000) {
        let batch: Vec<_> = (0..64)
            .map(|n| {
                let key = if dice.below(2) == 0 { "good.one" } else { "nobody.wants" };
                message(&format!("{round}-{n}"), key)
            })
            .collect();
        let outcomes = lane.send(&batch).await;
        let right = batch.iter().zip(&outcomes).all(|(message, outcome)| match outcome {
            Outcome::Confirmed => message.routing_key == "good.one",
            Outcome::Unroutable(_) => message.routing_key == "nobody.wants",
            Outcome::Nacked | Outcome::Refused(_) | Outcome::Unknown => false,
        });
        let held = if right { Ok(()) } else { Err(format!("{outcomes:?}")) };
        trial.tried_times(64, held);
    }
    taken(&own, "own").await;

    // A relay that takes the library's word for which message was returned.
    let channel = raw(&vhost, vhost.address()).await;
    let mut caught = false;
    for round in 0..500 {
        let keys: Vec<_> = (0..64)
            .map(|n| {
                (format!("c{round}-{n}"), if n % 2 == 0 { "good.one" } else { "nobody.wants" })
            })
            .collect();
        let sent = keys.iter().map(|(id, key)| async {
            let confirm = publish(&channel, id, key).await?.await.ok()?;
            matches!(confirm, Confirmation::Ack(None)).then(|| id.clone())
        });
        let delivered: HashSet<String> = join_all(sent).await.into_iter().flatten().collect();
        if all_there(&delivered, &taken(&own, "own").await).is_err() {
            caught = true;
            break;
        }
    }
    trial.control("a relay that takes the next confirm for the one of a returned message", caught);
    trial.end();
}
