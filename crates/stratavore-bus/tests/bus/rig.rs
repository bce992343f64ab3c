//! What tests of RabbitMQ start from.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use stratavore_bus::rabbit::{Message, Settings};
use stratavore_core::Timestamp;
use stratavore_testkit::rabbit::Vhost;

pub(crate) const EXCHANGE: &str = "stratavore.events";

pub(crate) fn settings(vhost: &Vhost, at: SocketAddr) -> Settings {
    Settings {
        host: at.ip().to_string(),
        port: at.port(),
        vhost: vhost.name.clone(),
        user: vhost.user.clone(),
        password: vhost.password.clone().into(),
        tls: None,
        exchange: EXCHANGE.into(),
        queues: Vec::new(),
        message_max: 1 << 20,
        connect_timeout: Duration::from_secs(5),
        heartbeat: Duration::from_secs(10),
        name: "test".into(),
    }
}

pub(crate) fn message(id: &str, key: &str) -> Message {
    Message {
        id: id.into(),
        routing_key: key.into(),
        further_key: None,
        kind: "stratavore.test".into(),
        at: Timestamp::UNIX_EPOCH,
        body: b"{}".to_vec(),
    }
}

/// A channel of the test's own, past everything that is tested.
pub(crate) async fn channel(vhost: &Vhost) -> Channel {
    let connection = Connection::connect(&vhost.url(), ConnectionProperties::default()).await;
    connection.unwrap().create_channel().await.unwrap()
}

/// A queue that takes what `key` matches; with a limit it refuses what is more.
pub(crate) async fn queue(channel: &Channel, name: &str, key: &str, limit: Option<i64>) {
    let mut arguments = FieldTable::default();
    if let Some(limit) = limit {
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(limit));
        let refuse = AMQPValue::LongString("reject-publish".into());
        arguments.insert("x-overflow".into(), refuse);
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, arguments).await.unwrap();
    let options = QueueBindOptions::default();
    let bound = channel.queue_bind(
        name.into(),
        EXCHANGE.into(),
        key.into(),
        options,
        FieldTable::default(),
    );
    bound.await.unwrap();
}

/// The ids of all messages in a queue, which is empty then.
pub(crate) async fn taken(channel: &Channel, queue: &str) -> HashSet<String> {
    let mut ids = HashSet::new();
    let options = BasicGetOptions { no_ack: true };
    while let Some(got) = channel.basic_get(queue.into(), options).await.unwrap() {
        ids.insert(got.properties.message_id().as_ref().unwrap().to_string());
    }
    ids
}

/// Events that no queue is for are returned from now on, and not put aside.
pub(crate) fn without_alternate(vhost: &Vhost) {
    vhost.eval(
        "rabbit_exchange:delete(rabbit_misc:r(VHOST, exchange, <<\"stratavore.unrouted\">>), \
         false, <<\"tests\">>).",
    );
}
