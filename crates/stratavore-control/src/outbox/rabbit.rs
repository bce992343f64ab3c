//! Delivering events to RabbitMQ: by one daemon at a time, over as many connections as it takes.
//!
//! What was not confirmed before a connection ended goes again over the next one. Nothing that
//! happens to a connection counts against an event.
//!
//! Invariant: the position in the store passes only what the broker has confirmed, or what was set
//! aside as a dead letter in the store before.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use stratavore_bus::Subscription;
use stratavore_bus::rabbit::{Link, RabbitError, Settings};
use stratavore_core::destination::{DeadLetter, Health};
use stratavore_core::event::Event;
use stratavore_runtime::failpoint;
use stratavore_store::StoreError;

use super::duty::{self, Duty, Over};
use super::pump::SILENT_MIN;
use super::queues::Queues;
use super::window::Window;
use crate::control::Control;
use crate::error::Error;
use crate::supervisor::chain;

/// The destination's name, and its kind.
pub(super) const NAME: &str = "rabbitmq";
pub(super) const TERM: duty::Term =
    duty::Term { ttl: Duration::from_secs(10), renew: Duration::from_secs(2) };
/// How often a daemon without the duty asks for it.
const STANDBY: Duration = Duration::from_secs(1);
/// The first wait before a connection is tried again, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// How events are delivered to RabbitMQ.
#[derive(Clone)]
pub struct RabbitSettings {
    /// How to reach the broker, read anew for each connection: passwords and certificates change.
    pub broker: Arc<dyn Fn() -> Result<Settings, String> + Send + Sync>,
    /// The most messages that are on their way at once.
    pub window: usize,
    /// An event that the broker refuses so often, and for so long, is set aside.
    pub refusals_max: u32,
    pub refused_for: Duration,
    /// How often the queues are looked at, and how long one may have messages and no consumer.
    pub queues_every: Duration,
    pub unread_for: Duration,
    /// For whoever looks at the destination: JSON, without a secret.
    pub shown: String,
}

impl std::fmt::Debug for RabbitSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Why delivering ends, or a connection.
#[derive(Debug)]
pub(super) enum End {
    /// The daemon stops.
    Stopping,
    /// Another daemon may deliver now.
    Over,
    /// The connection is gone.
    Lost(RabbitError),
}

impl From<Over> for End {
    fn from(over: Over) -> Self {
        match over {
            Over::Stopping => Self::Stopping,
            Over::Taken => Self::Over,
        }
    }
}

/// The duty of delivering, while this daemon has it.
pub(super) struct Term {
    pub(super) control: Control,
    pub(super) settings: RabbitSettings,
    pub(super) duty: Duty,
    pub(super) window: Window,
    /// The position that the store knows.
    pub(super) written: i64,
    /// The last position that is known to have been given.
    pub(super) last: i64,
    /// Given up in an earlier term, past the position that the store knew.
    pub(super) dead: HashSet<i64>,
    /// Dead letters that somebody wants tried again.
    pub(super) replays: VecDeque<(DeadLetter, Event)>,
    /// How long a broker may confirm nothing.
    pub(super) patience: Duration,
    pub(super) queues: Queues,
}

impl Control {
    /// Delivers events to RabbitMQ until the daemon stops, whenever no other daemon does.
    pub(crate) async fn deliver_to_rabbit(self, settings: RabbitSettings) {
        let stopping = self.inner.supervisor.stopping().clone();
        let mut said = None;
        while !stopping.is_cancelled() {
            // It hears what is published from before the position is read, and nothing of an earlier term:
            // that may have been published by a server that is no longer the one.
            let mut wakes = self.inner.bus.subscribe();
            match Term::begin(&self, &settings).await {
                Ok(Some(mut term)) => {
                    said = None;
                    term.run(&mut wakes).await;
                }
                Ok(None) => {}
                Err(error) => {
                    let text = chain(&error);
                    // Said once when it begins, not at every repetition.
                    if said.as_ref() != Some(&text) {
                        tracing::warn!(error = %text, "events cannot be delivered to RabbitMQ now");
                    }
                    said = Some(text);
                }
            }
            stopping.run_until_cancelled(tokio::time::sleep(STANDBY)).await;
        }
    }
}

impl Term {
    /// `None`: another daemon has the duty.
    async fn begin(control: &Control, settings: &RabbitSettings) -> Result<Option<Term>, Error> {
        let store = &control.inner.store;
        let Some(duty) = Duty::take(control, NAME, TERM).await? else { return Ok(None) };
        store.destination_ensure(NAME, NAME, &settings.shown, control.now()).await?;
        let all = store.destination_list().await?;
        let found = all.into_iter().find(|(destination, _)| destination.name == NAME);
        let (destination, backlog) =
            found.ok_or_else(|| Error::internal("a destination is gone that was just made"))?;
        let written = destination.position;
        let dead = store.dead_letter_positions(NAME, written).await?;
        tracing::info!(
            position = written,
            pending = backlog.pending,
            "delivering events to RabbitMQ"
        );
        Ok(Some(Term {
            control: control.clone(),
            settings: settings.clone(),
            duty,
            window: Window::new(written),
            written,
            last: store.event_last_position().await?,
            dead: dead.into_iter().collect(),
            replays: VecDeque::new(),
            patience: SILENT_MIN,
            queues: Queues::default(),
        }))
    }

    /// Delivers until another daemon may, or this one stops.
    async fn run(&mut self, wakes: &mut Subscription) {
        let mut failures = 0;
        loop {
            let end = match self.connect().await {
                Ok(link) => {
                    failures = 0;
                    self.duty.tell(Health::Connected, "").await;
                    failpoint("rabbit_connected");
                    self.pump(link, wakes).await
                }
                Err(end) => end,
            };
            match end {
                End::Lost(error) => {
                    let health = match &error {
                        RabbitError::Away(_) => Health::Waiting,
                        RabbitError::Misconfigured { .. } => Health::Misconfigured,
                    };
                    self.duty.tell(health, &error.to_string()).await;
                }
                End::Stopping => return self.farewell().await,
                End::Over => return tracing::info!("another daemon may deliver to RabbitMQ now"),
            }
            failures += 1;
            let wait = self.wait(RETRY_FIRST, failures, RETRY_MAX);
            match self.duty.held(tokio::time::sleep(wait)).await {
                Ok(()) => {}
                Err(Over::Stopping) => return self.farewell().await,
                Err(Over::Taken) => return,
            }
        }
    }

    async fn connect(&mut self) -> Result<Link, End> {
        let settings = (self.settings.broker)().map_err(|what| {
            let hint = "mend bus.rabbitmq in the configuration".into();
            End::Lost(RabbitError::Misconfigured { what, hint })
        })?;
        self.duty.held(Link::connect(settings)).await?.map_err(End::Lost)
    }

    pub(super) fn monotonic(&self) -> Duration {
        self.control.inner.clock.monotonic()
    }

    /// Twice as long each time, and spread by up to a half, so that not all come back together.
    pub(super) fn wait(&self, first: Duration, times: u32, most: Duration) -> Duration {
        let wait = first.saturating_mul(1 << times.saturating_sub(1).min(16)).min(most);
        let [dice, ..] = self.control.entropy();
        wait - wait.mul_f64(f64::from(dice) / 512.0)
    }

    /// Writes down how far the broker has everything.
    pub(super) async fn advance(&mut self) -> Result<(), End> {
        let cursor = self.window.cursor();
        if cursor == self.written {
            return Ok(());
        }
        failpoint("rabbit_before_advance");
        match self.control.inner.store.destination_advance(&self.duty.lease, NAME, cursor).await {
            Ok(()) => self.written = cursor,
            Err(StoreError::StaleLease { .. }) => return Err(End::Over),
            // It is tried again; until then the store knows less than is true, which does no harm.
            Err(_) => {}
        }
        Ok(())
    }

    /// An orderly end: another daemon need not wait for this one's time to be over.
    async fn farewell(&mut self) {
        if self.advance().await.is_err() {
            return;
        }
        self.duty.tell(Health::Stopped, "").await;
        self.duty.release().await;
    }
}
