//! A channel with confirms, that takes one batch of messages after the other.
//!
//! lapin hands a returned message to whichever confirm comes next, which need not be the confirm of
//! that message. So a lane waits for all confirms of a batch before it believes any of them, and
//! goes by the message ids of what was returned. While one lane waits, others send.

use std::collections::HashMap;

use futures_util::future::join_all;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};

use super::error::{code, is_soft, words};
use super::{Message, Outcome, ROUTING_KEY_MAX};

const PERSISTENT: u8 = 2;
/// RabbitMQ routes by the keys in this header too ("sender-selected distribution").
const FURTHER_KEYS: &str = "CC";
/// What a channel that meets a message of a wrong kind or size ends with.
const PRECONDITION_FAILED: u16 = 406;

/// A channel of its own. What was sent on it and not confirmed when it is dropped is unknown.
#[derive(Debug)]
pub struct Lane {
    channel: Channel,
    exchange: ShortString,
    message_max: usize,
}

impl Lane {
    pub(super) fn new(channel: Channel, exchange: ShortString, message_max: usize) -> Self {
        Self { channel, exchange, message_max }
    }

    /// False once it has ended: what is sent on it from now on is unknown.
    pub fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    /// Sends all of them at once and waits until each was answered for, or the channel has ended.
    /// The outcomes are in the order of the messages.
    ///
    /// No two messages of a batch may depend on each other's order.
    pub async fn send(&mut self, batch: &[Message]) -> Vec<Outcome> {
        let answers = join_all(batch.iter().map(|message| self.publish(message))).await;
        let mut returned = HashMap::new();
        for answer in &answers {
            if let Ok(Ok(Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message)))) =
                answer
                && let Some(id) = message.delivery.properties.message_id()
            {
                returned.insert(id.to_string(), message.reply_text.to_string());
            }
        }
        let is_whole = answers.iter().all(|answer| matches!(answer, Ok(Ok(_)) | Err(_)));
        let outcome =
            |(message, answer): (&Message, Result<lapin::Result<Confirmation>, Outcome>)| {
                if let Some(why) = returned.get(&message.id) {
                    return Outcome::Unroutable(why.clone());
                }
                match answer {
                    // Some that were returned may not have been told.
                    Ok(Ok(Confirmation::Ack(_))) if !is_whole && !returned.is_empty() => {
                        Outcome::Unknown
                    }
                    Ok(Ok(Confirmation::Ack(_))) => Outcome::Confirmed,
                    Ok(Ok(Confirmation::Nack(_))) => Outcome::Nacked,
                    // This channel asks for confirms.
                    Ok(Ok(Confirmation::NotRequested)) => Outcome::Unknown,
                    // Alone on the channel, it is the one that was meant.
                    Ok(Err(error))
                        if batch.len() == 1
                            && is_soft(&error)
                            && code(&error) == Some(PRECONDITION_FAILED) =>
                    {
                        Outcome::Refused(words(&error))
                    }
                    Ok(Err(_)) => Outcome::Unknown,
                    Err(outcome) => outcome,
                }
            };
        batch.iter().zip(answers).map(outcome).collect()
    }

    /// `Err`: it was not even tried.
    async fn publish(&self, message: &Message) -> Result<lapin::Result<Confirmation>, Outcome> {
        let size = message.body.len();
        if size > self.message_max {
            let limit = self.message_max;
            return Err(Outcome::Refused(format!(
                "the message has {size} bytes, and bus.rabbitmq.message_max is {limit}"
            )));
        }
        let short = |text: &str| {
            ShortString::try_new(text.to_owned()).map_err(|_| {
                Outcome::Refused(format!(
                    "`{}` has more than the {ROUTING_KEY_MAX} bytes that AMQP allows",
                    text.escape_debug()
                ))
            })
        };
        let properties = BasicProperties::default()
            .with_content_type("application/cloudevents+json".into())
            .with_content_encoding("utf-8".into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(short(&message.id)?)
            .with_timestamp(message.at.as_second().unsigned_abs())
            .with_type(short(&message.kind)?)
            .with_app_id("stratavore".into());
        let properties = match &message.further_key {
            Some(key) => {
                let keys =
                    AMQPValue::FieldArray(vec![AMQPValue::LongString(key.as_str().into())].into());
                let mut headers = FieldTable::default();
                headers.insert(FURTHER_KEYS.into(), keys);
                properties.with_headers(headers)
            }
            None => properties,
        };
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let key = short(&message.routing_key)?;
        let sent = self
            .channel
            .basic_publish(self.exchange.clone(), key, options, &message.body, properties)
            .await;
        Ok(match sent {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        })
    }
}
