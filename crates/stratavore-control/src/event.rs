//! Events: relayed from the outbox to the bus, and read again from any position.

use std::time::Duration;

use stratavore_bus::Received;
use stratavore_core::event::{Event, EventFilter};
use stratavore_core::lease::{Lease, Trust};
use stratavore_runtime::{failpoint, is_off};

use crate::bounds;
use crate::control::Control;
use crate::error::Error;

/// The duty of giving events their place and publishing them.
const RELAY: &str = "relay";
const RELAY_TTL: Duration = Duration::from_secs(30);
const RELAY_BATCH: u32 = 256;
/// How many batches are published between two looks at where the first pending event can be.
const LOOK_EVERY: usize = 16;
/// How often a subscriber looks who is not told of anything.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const PAGE: u32 = 500;
const LIST_DEFAULT: u32 = 100;
const LIST_MAX: u32 = 1000;

impl Control {
    /// The relay: publishes what the outbox holds, in order. Does nothing while another daemon
    /// has that duty.
    ///
    /// A crash between the store and the bus loses nothing: subscribers read the store, and the
    /// bus only tells them to.
    pub(crate) async fn relay(&self) -> Result<String, Error> {
        let mut published = 0_usize;
        if self.inner.store.outbox_is_empty().await? {
            return Ok("0 published".into());
        }
        loop {
            let Some(lease) = self.relay_lease().await? else {
                self.inner.untold.written();
                return Ok("another daemon relays".into());
            };
            if published > 0 && published.is_multiple_of(LOOK_EVERY * RELAY_BATCH as usize) {
                self.inner.store.outbox_is_empty().await?;
            }
            failpoint("relay_before_publish");
            match self.inner.store.outbox_publish(&lease, RELAY_BATCH).await {
                Ok(events) => {
                    published += events.len();
                    let last = events.len() < RELAY_BATCH as usize;
                    failpoint("relay_before_bus");
                    self.hand_on(&lease, &events);
                    if !events.is_empty() {
                        self.inner.untold.published();
                        self.inner.audit_wake.notify_one();
                    }
                    if last {
                        return Ok(format!("{published} published"));
                    }
                }
                Err(error) => {
                    *self.inner.relay_lease.lock().await = None;
                    // Another daemon may have the duty by now.
                    self.inner.untold.written();
                    return Err(error.into());
                }
            }
        }
    }

    /// Tells whoever listens here. Of another server than the one that answers now, the events may be
    /// nowhere any more: then listeners look themselves.
    fn hand_on(&self, lease: &Lease, events: &[Event]) {
        if lease.timeline == self.inner.store.timeline() {
            self.inner.bus.publish(events);
        } else {
            self.inner.bus.published_elsewhere();
        }
    }

    /// The relay's lease, renewed if it is no longer to be trusted.
    async fn relay_lease(&self) -> Result<Option<Lease>, Error> {
        let mut held = self.inner.relay_lease.lock().await;
        let asked_at = self.inner.clock.monotonic();
        let store = &self.inner.store;
        if let Some((lease, trust)) = held.as_ref()
            && trust.holds(asked_at)
            && lease.timeline == store.timeline()
        {
            return Ok(Some(lease.clone()));
        }
        let lease = store.lease_acquire(RELAY, self.inner.daemon.id, RELAY_TTL).await?;
        if let Some(lease) = &lease
            && held.as_ref().is_none_or(|(before, _)| before.timeline != lease.timeline)
        {
            store.timeline_begin(lease).await?;
        }
        *held = lease.clone().map(|lease| (lease, Trust::new(asked_at, RELAY_TTL)));
        Ok(lease)
    }

    /// A filter in people's words: names or ids.
    pub async fn event_filter(
        &self,
        project: &str,
        runner: &str,
        kinds: Vec<String>,
    ) -> Result<EventFilter, Error> {
        bounds::kinds(&kinds)?;
        let mut filter = EventFilter { kinds, ..EventFilter::default() };
        if !project.is_empty() {
            filter.project = Some(self.project(project).await?.id);
        }
        if !runner.is_empty() {
            filter.entity_id = Some(
                self.runner(runner, (!project.is_empty()).then_some(project)).await?.id.to_string(),
            );
        }
        Ok(filter)
    }

    /// Published events after a position, or the latest ones; ascending.
    pub async fn event_list(
        &self,
        filter: &EventFilter,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Event>, Error> {
        let limit = if limit == 0 { LIST_DEFAULT } else { limit.min(LIST_MAX) };
        Ok(match after {
            Some(after) => self.inner.store.event_list(after, filter, limit).await?,
            None => self.inner.store.event_latest(filter, limit).await?,
        })
    }

    /// All events after a place (`None`: from now on), then new ones as they come.
    pub async fn subscribe(
        &self,
        filter: EventFilter,
        after: Option<Place>,
    ) -> Result<Subscription, Error> {
        // Interest is registered before the position is read, so that nothing falls in between.
        let wakes = self.inner.bus.subscribe();
        let store = &self.inner.store;
        let timeline = store.timeline();
        let last = store.event_last_position().await?;
        let place = match after {
            // What comes after the last is new, whatever was read before.
            Some(Place { position, timeline: 0 }) => {
                Place { position: position.min(last), timeline }
            }
            Some(place) => place,
            None => Place { position: last, timeline },
        };
        Ok(Subscription { control: self.clone(), filter, place, wakes })
    }

    pub(crate) async fn purge(&self) -> Result<String, Error> {
        let purged = self.inner.store.idempotency_purge(self.now_for_expiry()).await?;
        self.purge_join_tokens().await?;
        self.purge_notifications().await?;
        self.purge_budgets().await?;
        Ok(format!("{purged} idempotency records expired"))
    }
}

/// A place in the log of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub position: i64,
    /// Of the server whose position it is: one that was promoted may not have the last of what was read
    /// before, and gives its positions again. 0: there are none, or it is not known.
    pub timeline: i64,
}

/// A reader of events that misses none and, as long as no server is promoted that lacks some, sees none
/// twice.
pub struct Subscription {
    control: Control,
    filter: EventFilter,
    place: Place,
    wakes: stratavore_bus::Subscription,
}

impl Subscription {
    /// The next events, at least one, and their timeline; `None` once the daemon is stopping.
    ///
    /// The bus only says that there is something new; what is new is read from the store, by
    /// position. A subscriber that the bus has left behind so loses nothing.
    pub async fn next(&mut self) -> Result<Option<(i64, Vec<Event>)>, Error> {
        let store = self.control.inner.store.clone();
        loop {
            let upto = store.event_last_position().await?;
            let timeline = store.timeline();
            if self.place.timeline != timeline {
                self.place = self.agreed(timeline).await?;
                continue;
            }
            if upto > self.place.position {
                let events = store.event_list(self.place.position, &self.filter, PAGE).await?;
                if store.timeline() != timeline {
                    // They may be of either server.
                    continue;
                }
                let full = events.len() == PAGE as usize;
                // A page that is not full has passed by everything up to `upto` that does not match.
                let last =
                    events.last().and_then(|event| event.position).unwrap_or(self.place.position);
                self.place.position = if full { last } else { last.max(upto) };
                if !events.is_empty() {
                    return Ok(Some((timeline, events)));
                }
            }
            let stopping = self.control.inner.supervisor.stopping();
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Ok(None),
                received = self.wakes.recv() => match received {
                    Received::Events(_) | Received::Lagged => {}
                    Received::Closed => return Ok(None),
                },
                // Another daemon may have published, and its word been lost.
                () = tokio::time::sleep(self.control.look_every(LOOK_AGAIN)) => {}
            }
        }
    }

    /// Where to go on after another server was promoted: what came after the log's parting is new.
    async fn agreed(&self, timeline: i64) -> Result<Place, Error> {
        let Place { position, timeline: read } = self.place;
        if is_off("timeline_check") {
            return Ok(Place { position, timeline });
        }
        let agreed = self.control.inner.store.event_agreed_position(read).await?;
        // As it was before the question: had it moved since, it is asked again.
        Ok(Place { position: position.min(agreed), timeline })
    }
}
