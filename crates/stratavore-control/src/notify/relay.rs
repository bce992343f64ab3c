//! Telling one destination: by one daemon at a time, in a task of its own, so that one that fails
//! delays no other.
//!
//! Events are gathered, and written down as a message together with the position up to which they
//! were; then the message is sent. Whoever is killed between the two, or while sending, leaves a
//! message that goes again with the same id.
//!
//! Invariant: nothing is sent that was not written down before.

mod attempt;
mod gather;

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use stratavore_bus::{Received, Subscription};
use stratavore_core::Timestamp;
use stratavore_core::destination::{Destination, Health};
use stratavore_core::notify::message::Gathered;
use stratavore_core::notify::retry::Breaker;
use stratavore_core::notify::{Definition, Message, Notification};
use stratavore_notify::Failure;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::NotifySettings;
use super::define::find_zone;
use crate::control::Control;
use crate::error::Error;
use crate::outbox::duty::{Duty, Over, Term};
use crate::supervisor::chain;

const TERM: Term = Term { ttl: Duration::from_secs(20), renew: Duration::from_secs(5) };
/// How often a daemon without the duty asks for it.
const STANDBY: Duration = Duration::from_secs(5);
/// Messages that wait at once. What comes then waits as events, which costs nothing.
const WAITING_MAX: usize = 100;
/// After an error of the store.
const STORE_WAIT: Duration = Duration::from_secs(1);
/// No message is due later than its schedule says, unless a clock was set back.
const DUE_MAX: Duration = Duration::from_secs(30 * 3600);

/// What looks after one destination.
pub(super) struct Relay {
    control: Control,
    settings: NotifySettings,
    destination: Destination,
    definition: Definition,
}

/// The same, while this daemon has the duty.
struct Telling<'r> {
    relay: &'r Relay,
    duty: Duty,
    zone: Option<TimeZone>,
    /// Events up to here were looked at.
    read: i64,
    /// The position that the store knows.
    written: i64,
    written_at: Duration,
    /// The last position that is known to have been given.
    last: i64,
    looked_at: Option<Duration>,
    gathered: Gathered,
    /// When the first of them was.
    gathered_at: Duration,
    /// Each with the position of its event, where none are gathered.
    single: Vec<(i64, Message)>,
    /// Written down and not settled.
    waiting: Vec<Notification>,
    /// The store does not know of its last attempt yet.
    unwritten: Option<Notification>,
    breaker: Breaker,
    /// What the last attempt came to, if it failed.
    failure: Option<Failure>,
}

/// What ends telling, besides that the duty is over.
enum End {
    Over(Over),
    /// The destination was removed, or is off.
    Gone,
}

impl From<Over> for End {
    fn from(over: Over) -> Self {
        Self::Over(over)
    }
}

impl Relay {
    pub(super) fn new(control: Control, destination: Destination, definition: Definition) -> Self {
        let settings = control.inner.settings.notify.clone();
        Self { control, settings, destination, definition }
    }

    /// Tells the destination until the daemon stops or the destination is gone, whenever no other
    /// daemon does.
    pub(super) async fn look_after(self, gone: CancellationToken, wake: Arc<Notify>) {
        let stopping = self.control.inner.supervisor.stopping().clone();
        // It hears what is published from before the position is read.
        let mut wakes = self.control.inner.bus.subscribe();
        let name = self.destination.name.as_str();
        let mut said = None;
        while !stopping.is_cancelled() && !gone.is_cancelled() {
            match Telling::begin(&self).await {
                Ok(Some(mut telling)) => {
                    said = None;
                    telling.run(&mut wakes, &wake, &gone).await;
                }
                Ok(None) => {}
                Err(error) => {
                    let text = chain(&error);
                    // Said once when it begins, not at every repetition.
                    if said.as_ref() != Some(&text) {
                        tracing::warn!(destination = name, error = %text, "a destination cannot be told now");
                    }
                    said = Some(text);
                }
            }
            let standby = gone.run_until_cancelled(tokio::time::sleep(STANDBY));
            stopping.run_until_cancelled(standby).await;
        }
    }
}

impl<'r> Telling<'r> {
    /// `None`: another daemon has the duty.
    async fn begin(relay: &'r Relay) -> Result<Option<Self>, Error> {
        let (control, name) = (&relay.control, relay.destination.name.as_str());
        let Some(mut duty) = Duty::take(control, name, TERM).await? else { return Ok(None) };
        let all = control.inner.store.destination_list().await?;
        let made_at = relay.destination.created_at;
        let found =
            all.into_iter().find(|(found, _)| found.name == name && found.created_at == made_at);
        let Some((destination, _)) = found else {
            duty.release().await;
            return Ok(None);
        };
        let zone = match &relay.definition.rules.quiet {
            Some(quiet) => Some(find_zone(&quiet.zone)?),
            None => None,
        };
        let mut telling = Self {
            relay,
            duty,
            zone,
            read: destination.position,
            written: destination.position,
            written_at: control.inner.clock.monotonic(),
            last: destination.position,
            looked_at: None,
            gathered: Gathered::default(),
            gathered_at: Duration::ZERO,
            single: Vec::new(),
            waiting: Vec::new(),
            unwritten: None,
            breaker: Breaker::default(),
            failure: None,
        };
        telling.look_at_waiting().await?;
        telling.how_it_goes().await;
        Ok(Some(telling))
    }

    async fn run(&mut self, wakes: &mut Subscription, wake: &Notify, gone: &CancellationToken) {
        let stopping = self.relay.control.inner.supervisor.stopping().clone();
        loop {
            let sleep = match self.step().await {
                Ok(sleep) => sleep,
                Err(End::Gone) => return self.duty.release().await,
                Err(End::Over(over)) => return self.farewell(over).await,
            };
            tokio::select! {
                biased;
                () = stopping.cancelled() => return self.farewell(Over::Stopping).await,
                () = gone.cancelled() => return self.duty.release().await,
                () = wake.notified() => {
                    // Somebody may want a message sent again.
                    if self.look_at_waiting().await.is_err() {
                        tokio::time::sleep(STORE_WAIT).await;
                    }
                }
                received = wakes.recv(), if !sleep.is_zero() => match received {
                    Received::Events(events) => {
                        let last = events.last().and_then(|event| event.position);
                        self.last = self.last.max(last.unwrap_or(0));
                    }
                    Received::Lagged | Received::Closed => self.looked_at = None,
                },
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Does what can be done now; answers how long nothing will be to do.
    async fn step(&mut self) -> Result<Duration, End> {
        self.duty.keep().await?;
        if let Some(message) = self.unwritten.take() {
            self.write_attempt(message).await?;
            if self.unwritten.is_some() {
                return Ok(STORE_WAIT);
            }
        }
        self.look().await;
        if self.gather().await.is_err() {
            return Ok(STORE_WAIT);
        }
        if let Err(error) = self.close().await? {
            tracing::debug!(error = %chain(&error), "messages could not be written down");
            return Ok(STORE_WAIT);
        }
        let (now, monotonic) = (self.now(), self.monotonic());
        let due = self.waiting.iter().enumerate().min_by_key(|(_, message)| message.due_at);
        let Some((index, message)) = due else { return Ok(self.until_gathered(monotonic)) };
        let wait = Duration::try_from(message.due_at.duration_since(now)).unwrap_or_default();
        let wait = if wait > DUE_MAX { Duration::ZERO } else { wait };
        let wait = wait.max(self.breaker.until().saturating_sub(monotonic));
        if !wait.is_zero() || !self.duty.is_trusted() {
            return Ok(wait.min(self.until_gathered(monotonic)));
        }
        self.attempt(index).await?;
        Ok(Duration::ZERO)
    }

    /// Takes in what the store has for this destination.
    async fn look_at_waiting(&mut self) -> Result<(), Error> {
        let (store, name) = (&self.relay.control.inner.store, &self.relay.destination.name);
        let limit = u32::try_from(WAITING_MAX).unwrap_or(u32::MAX);
        let unwritten = self.unwritten.as_ref().map(|message| message.id);
        let mut waiting = store.notification_waiting(name, limit).await?;
        waiting.retain(|message| Some(message.id) != unwritten);
        self.waiting = waiting;
        Ok(())
    }

    async fn farewell(&mut self, over: Over) {
        match over {
            Over::Taken => {}
            Over::Stopping => {
                if let Some(message) = self.unwritten.take() {
                    self.write_attempt(message).await.ok();
                }
                self.duty.tell(Health::Stopped, "").await;
                self.duty.release().await;
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.relay.control.now()
    }

    fn monotonic(&self) -> Duration {
        self.relay.control.inner.clock.monotonic()
    }
}
