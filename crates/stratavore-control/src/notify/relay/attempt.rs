//! One attempt to send a message, and what comes of it.

use std::time::Duration;

use stratavore_core::Timestamp;
use stratavore_core::caller::Caller;
use stratavore_core::destination::Health;
use stratavore_core::notify::{Attempt, HISTORY_MAX, Notification, State, retry};
use stratavore_notify::{Answer, Fault};
use stratavore_runtime::failpoint;
use stratavore_store::StoreError;

use super::{End, Telling};
use crate::outbox::duty::Over;
use crate::supervisor::chain;

impl Telling<'_> {
    /// Sends one message, and draws the consequences of what is answered.
    pub(super) async fn attempt(&mut self, index: usize) -> Result<(), End> {
        let mut message = self.waiting.swap_remove(index);
        let (at, began) = (self.now(), self.monotonic());
        failpoint("notify_before_send");
        let (sender, channel) = (&self.relay.settings.sender, &self.relay.definition.channel);
        let answer = self.duty.held(sender.send(channel, message.id, &message.message, at)).await?;
        failpoint("notify_sent");
        let took = self.monotonic().saturating_sub(began);
        message.attempts = message.attempts.saturating_add(1);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let is_gone = matches!(&answer, Err(failure) if failure.fault == Fault::Gone);
        let attempt = self.judge(&mut message, answer, at, took_ms);
        message.history.push(attempt);
        if message.history.len() > HISTORY_MAX {
            message.history.remove(0);
        }
        self.write_attempt(message).await?;
        if is_gone {
            return self.switch_off().await;
        }
        self.how_it_goes().await;
        Ok(())
    }

    fn judge(
        &mut self,
        message: &mut Notification,
        answer: Answer,
        at: Timestamp,
        took_ms: u64,
    ) -> Attempt {
        let haste = self.relay.settings.haste;
        let failure = match answer {
            Ok(status) => {
                self.breaker.succeeded();
                self.failure = None;
                message.state = State::Delivered;
                let detail = String::new();
                return Attempt { at, took_ms, delivered: true, status, detail, next_at: None };
            }
            Err(failure) => failure,
        };
        let asked = failure.retry_after.map(|asked| asked.min(retry::RETRY_AFTER_MAX));
        self.breaker.failed(self.monotonic(), asked, haste);
        let [dice, ..] = self.relay.control.entropy();
        let now = self.now();
        let wait = match failure.fault {
            // It is off from now on; once it is on again it goes at once.
            Fault::Gone => Some(Duration::ZERO),
            Fault::Away | Fault::Refused | Fault::Misconfigured => {
                retry::wait(message.attempts, dice)
            }
        };
        let next_at = wait.map(|wait| now + wait.max(asked.unwrap_or_default()) / haste);
        match next_at {
            Some(next_at) => message.due_at = next_at,
            None => {
                message.state = State::Dead;
                let destination = self.relay.destination.name.as_str();
                tracing::warn!(
                    destination,
                    message = %message.id,
                    why = failure.detail,
                    "a message is given up: stratavore notify show"
                );
            }
        }
        let (status, detail) = (failure.status, failure.detail.clone());
        self.failure = Some(failure);
        Attempt { at, took_ms, delivered: false, status, detail, next_at }
    }

    /// Writes an attempt down; what cannot be is kept, and nothing else is sent before it is.
    pub(super) async fn write_attempt(&mut self, message: Notification) -> Result<(), End> {
        let (store, now) = (&self.relay.control.inner.store, self.now());
        match store.notification_tried(&self.duty.lease, &message, now).await {
            Ok(()) => {
                if message.state == State::Waiting {
                    self.waiting.push(message);
                }
                Ok(())
            }
            Err(StoreError::StaleLease { .. }) => Err(Over::Taken.into()),
            Err(error) => {
                tracing::debug!(error = %chain(&error), "an attempt could not be written down");
                self.unwritten = Some(message);
                Ok(())
            }
        }
    }

    /// The receiver said that it is gone for good: it is asked nothing more.
    async fn switch_off(&mut self) -> Result<(), End> {
        let (control, now) = (&self.relay.control, self.now());
        let name = self.relay.destination.name.as_str();
        let why = "the receiver has answered that it is gone for good (410)";
        let by = control.by(&Caller::daemon(), None);
        let here = control.here();
        match control.inner.store.destination_switch(name, false, why, here, &by, now).await {
            Ok(_) => {
                tracing::warn!(destination = name, why, "a destination is off");
                control.inner.relay_wake.notify_one();
                control.inner.notify_wake.notify_one();
                Err(End::Gone)
            }
            // It says so again at the next attempt.
            Err(_) => Ok(()),
        }
    }

    pub(super) async fn how_it_goes(&mut self) {
        let (health, problem) = match &self.failure {
            None => (Health::Connected, String::new()),
            Some(failure) => {
                let health = match failure.fault {
                    Fault::Misconfigured => Health::Misconfigured,
                    Fault::Away | Fault::Refused | Fault::Gone => Health::Waiting,
                };
                let status =
                    failure.status.map_or_else(String::new, |status| format!(" ({status})"));
                let open = if self.breaker.is_open() { "it fails again and again: " } else { "" };
                (health, format!("{open}{}{status}", failure.detail))
            }
        };
        self.duty.tell(health, &problem).await;
    }
}
