//! The exchanges and queues that Stratavore needs, declared at each connect.
//!
//! Declaring what is there with the same arguments changes nothing; with others the broker refuses,
//! and that is told. What is declared is understood by RabbitMQ 3.10 and by 4.x.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, ExchangeKind};

use super::{RabbitError, Settings};

/// Takes events that no queue is bound for, so that they are not lost before somebody binds one.
pub const UNROUTED: &str = "stratavore.unrouted";
/// Takes what a consumer has failed on too often.
pub const DEAD: &str = "stratavore.dead";

/// What our own queues hold at most; of the unrouted and dead the oldest go first.
const MAX_BYTES: i64 = 256 << 20;
/// How long unrouted and dead messages are kept.
const KEPT_MS: i64 = 7 * 24 * 3600 * 1000;
/// How often a consumer may fail on a message.
const DELIVERIES: i64 = 5;

/// How a queue is that was declared here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    pub name: String,
    /// That wait to be taken.
    pub messages: u32,
    pub consumers: u32,
}

/// Looks at the queues that [`declare`] declares. A missing one ends `channel`.
pub(super) async fn look(
    channel: &Channel,
    settings: &Settings,
) -> Result<Vec<Queue>, RabbitError> {
    let dead = (!settings.queues.is_empty()).then_some(DEAD);
    let own = settings.queues.iter().map(String::as_str);
    let mut seen = Vec::new();
    for name in [UNROUTED].into_iter().chain(dead).chain(own) {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = channel.queue_declare(short(name)?, options, FieldTable::default()).await;
        let found =
            found.map_err(|error| RabbitError::of(&format!("look at the queue {name}"), &error))?;
        let (messages, consumers) = (found.message_count(), found.consumer_count());
        seen.push(Queue { name: name.into(), messages, consumers });
    }
    Ok(seen)
}

/// Declares everything. A refusal ends `channel`.
pub(super) async fn declare(channel: &Channel, settings: &Settings) -> Result<(), RabbitError> {
    let aside = [
        ("x-queue-type", text("quorum")),
        ("x-max-length-bytes", AMQPValue::LongLongInt(MAX_BYTES)),
        ("x-overflow", text("drop-head")),
        ("x-message-ttl", AMQPValue::LongLongInt(KEPT_MS)),
    ];
    for name in [UNROUTED, DEAD] {
        if name == DEAD && settings.queues.is_empty() {
            continue;
        }
        exchange(channel, name, ExchangeKind::Fanout, table([])).await?;
        queue(channel, name, table(aside.clone())).await?;
        bind(channel, name, name, "").await?;
    }
    let events = table([("alternate-exchange", text(UNROUTED))]);
    exchange(channel, &settings.exchange, ExchangeKind::Topic, events).await?;
    for name in &settings.queues {
        let arguments = table([
            ("x-queue-type", text("quorum")),
            ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERIES)),
            ("x-dead-letter-exchange", text(DEAD)),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
            ("x-max-length-bytes", AMQPValue::LongLongInt(MAX_BYTES)),
        ]);
        queue(channel, name, arguments).await?;
        bind(channel, name, &settings.exchange, "#").await?;
    }
    Ok(())
}

async fn exchange(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    arguments: FieldTable,
) -> Result<(), RabbitError> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declared = channel.exchange_declare(short(name)?, kind, options, arguments).await;
    declared.map_err(|error| RabbitError::of(&format!("declare the exchange {name}"), &error))
}

async fn queue(channel: &Channel, name: &str, arguments: FieldTable) -> Result<(), RabbitError> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(short(name)?, options, arguments).await;
    declared
        .map(drop)
        .map_err(|error| RabbitError::of(&format!("declare the queue {name}"), &error))
}

async fn bind(channel: &Channel, queue: &str, to: &str, key: &str) -> Result<(), RabbitError> {
    let bound = channel
        .queue_bind(
            short(queue)?,
            short(to)?,
            short(key)?,
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await;
    bound.map_err(|error| RabbitError::of(&format!("bind the queue {queue} to {to}"), &error))
}

/// A name as AMQP has it: at most 255 bytes.
pub(super) fn short(name: &str) -> Result<ShortString, RabbitError> {
    ShortString::try_new(name.to_owned()).map_err(|_| {
        RabbitError::misconfigured(
            format!("the name `{}` is too long", name.escape_debug()),
            "names of exchanges and queues have at most 255 bytes",
        )
    })
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert(key.into(), value);
    }
    table
}
