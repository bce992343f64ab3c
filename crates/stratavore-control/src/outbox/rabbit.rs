//! Delivering events to RabbitMQ: by one daemon at a time, over as many connections as it takes.
//!
//! What was not confirmed before a connection ended goes again over the next one. Nothing that
//! happens to a connection counts against an event.
//!
//! Invariant: the position in the store passes only what the broker has confirmed, or what was set
//! aside as a dead letter in the store before.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use stratavore_bus::Subscription;
use stratavore_bus::rabbit::{Link, RabbitError, Settings};
use stratavore_core::destination::{DeadLetter, Health};
use stratavore_core::event::Event;
use stratavore_core::lease::{Lease, Trust};
use stratavore_runtime::failpoint;
use stratavore_store::StoreError;

use super::duty;
use super::pump::SILENT_MIN;
use super::queues::Queues;
use super::window::Window;
use crate::control::Control;
use crate::error::Error;
use crate::supervisor::chain;

/// The destination's name, and its kind.
pub(super) const NAME: &str = "rabbitmq";
/// How long the duty stays with a daemon that says nothing.
const TTL: Duration = Duration::from_secs(10);
/// How often it says that it has it still.
const RENEW: Duration = Duration::from_secs(2);
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

/// The duty of delivering, while this daemon has it.
pub(super) struct Term {
    pub(super) control: Control,
    pub(super) settings: RabbitSettings,
    pub(super) lease: Lease,
    trust: Trust,
    renewed_at: Duration,
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
    /// What the store knows about how it goes.
    told: Option<(Health, String)>,
}

impl Control {
    /// Delivers events to RabbitMQ until the daemon stops, whenever no other daemon does.
    pub(crate) async fn deliver_to_rabbit(self, settings: RabbitSettings) {
        let stopping = self.inner.supervisor.stopping().clone();
        // It hears what is published from before the position is read.
        let mut wakes = self.inner.bus.subscribe();
        let mut said = None;
        while !stopping.is_cancelled() {
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
        let asked_at = control.inner.clock.monotonic();
        // The seat: a daemon that is started again in place of one that was killed need not wait.
        let Some(lease) = store.lease_acquire(&duty(NAME), control.inner.seat, TTL).await? else {
            return Ok(None);
        };
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
            lease,
            trust: Trust::new(asked_at, TTL),
            renewed_at: asked_at,
            window: Window::new(written),
            written,
            last: store.event_last_position().await?,
            dead: dead.into_iter().collect(),
            replays: VecDeque::new(),
            patience: SILENT_MIN,
            queues: Queues::default(),
            told: None,
        }))
    }

    /// Delivers until another daemon may, or this one stops.
    async fn run(&mut self, wakes: &mut Subscription) {
        let mut failures = 0;
        loop {
            let end = match self.connect().await {
                Ok(link) => {
                    failures = 0;
                    self.tell(Health::Connected, "").await;
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
                    self.tell(health, &error.to_string()).await;
                }
                End::Stopping => return self.farewell().await,
                End::Over => return tracing::info!("another daemon may deliver to RabbitMQ now"),
            }
            failures += 1;
            let wait = self.wait(RETRY_FIRST, failures, RETRY_MAX);
            if let Err(end) = self.held(tokio::time::sleep(wait)).await {
                match end {
                    End::Stopping => self.farewell().await,
                    End::Over | End::Lost(_) => {}
                }
                return;
            }
        }
    }

    async fn connect(&mut self) -> Result<Link, End> {
        let settings = (self.settings.broker)().map_err(|what| {
            let hint = "mend bus.rabbitmq in the configuration".into();
            End::Lost(RabbitError::Misconfigured { what, hint })
        })?;
        self.held(Link::connect(settings)).await?.map_err(End::Lost)
    }

    /// Waits for something that is no business of the store's, and keeps the duty meanwhile.
    async fn held<F: Future>(&mut self, future: F) -> Result<F::Output, End> {
        let mut future = std::pin::pin!(future);
        let stopping = self.control.inner.supervisor.stopping().clone();
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Err(End::Stopping),
                done = &mut future => return Ok(done),
                () = tokio::time::sleep(RENEW / 4) => {}
            }
            self.keep().await?;
        }
    }

    /// Says in time that this daemon has the duty still.
    pub(super) async fn keep(&mut self) -> Result<(), End> {
        let now = self.monotonic();
        if now < self.renewed_at + RENEW {
            return Ok(());
        }
        match self.control.inner.store.lease_renew(&self.lease, TTL).await {
            Ok(Some(lease)) => {
                (self.lease, self.renewed_at) = (lease, now);
                self.trust = Trust::new(now, TTL);
                Ok(())
            }
            Ok(None) => Err(End::Over),
            // The store may be back before the time is over.
            Err(_) if self.is_trusted() => Ok(()),
            Err(_) => Err(End::Over),
        }
    }

    /// False for one that was stopped for a while: another daemon may have the duty.
    pub(super) fn is_trusted(&self) -> bool {
        self.trust.holds(self.monotonic())
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

    /// Writes down how it goes, if that has changed. What cannot be written now is written later.
    pub(super) async fn tell(&mut self, health: Health, problem: &str) {
        if self.told.as_ref().is_some_and(|(h, p)| *h == health && p == problem) {
            return;
        }
        match health {
            Health::Connected => tracing::info!(problem, "RabbitMQ takes events"),
            Health::Waiting | Health::Blocked | Health::Misconfigured | Health::Stopped => {
                tracing::warn!(health = health.as_str(), problem, "RabbitMQ takes no events");
            }
        }
        let (store, now) = (&self.control.inner.store, self.control.now());
        let told = store.destination_tell(&self.lease, NAME, health, problem, now).await;
        self.told = told.is_ok().then(|| (health, problem.to_owned()));
    }

    pub(super) fn is_told(&self, health: Health) -> bool {
        self.told.as_ref().is_some_and(|(told, _)| *told == health)
    }

    /// Writes down how far the broker has everything.
    pub(super) async fn advance(&mut self) -> Result<(), End> {
        let cursor = self.window.cursor();
        if cursor == self.written {
            return Ok(());
        }
        failpoint("rabbit_before_advance");
        match self.control.inner.store.destination_advance(&self.lease, NAME, cursor).await {
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
        self.tell(Health::Stopped, "").await;
        // If this fails, the lease expires by itself.
        self.control.inner.store.lease_release(&self.lease).await.ok();
    }
}
