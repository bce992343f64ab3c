//! What goes out over one connection, and what the broker says to it.

use std::collections::HashSet;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use stratavore_bus::rabbit::{Lane, Link, Message, News, Outcome, RabbitError};
use stratavore_bus::{Received, Subscription};
use stratavore_core::DeadLetterId;
use stratavore_core::destination::{DeadLetter, Health};
use stratavore_core::envelope::{cloud_event, further_key, routing_key, type_of};
use stratavore_core::event::{Event, EventFilter};
use stratavore_runtime::failpoint;
use stratavore_store::StoreError;
use tokio::time::MissedTickBehavior;

use super::rabbit::{End, NAME, Term};
use super::rotation::Rotation;

/// Channels. While the confirms of one are waited for, the others send.
const LANES: usize = 4;
const PAGE: u32 = 500;
const TICK: Duration = Duration::from_millis(100);
/// How long a confirm may take to be written down, and how many wait for it at most.
const ADVANCE_EVERY: Duration = Duration::from_millis(500);
const ADVANCE_AFTER: i64 = 4096;
/// How often other daemons' events are looked for, whose word may be lost; and the safety net where
/// there is no other daemon.
const LOOK_EVERY_SHARED: Duration = Duration::from_millis(250);
const LOOK_EVERY: Duration = Duration::from_secs(5);
const REPLAYS_EVERY: Duration = Duration::from_secs(2);
/// A broker that takes messages and confirms none for so long is said to be away.
const SILENT_AFTER: Duration = Duration::from_secs(5);
/// One that goes on so is left, and everything goes out again over another connection: just after its
/// start a broker may forget a message that it has taken. Twice as long each time, for one that is slow.
pub(super) const SILENT_MIN: Duration = Duration::from_secs(10);
const SILENT_MAX: Duration = Duration::from_secs(300);
/// The waits of an event that the broker does not take.
const REFUSED_FIRST: Duration = Duration::from_millis(500);
const REFUSED_MAX: Duration = Duration::from_secs(30);
/// How long the confirms of a connection that ends are waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A batch on its way.
enum Sent {
    Log(Vec<i64>),
    /// A dead letter that is tried again.
    Replay(Box<(DeadLetter, Event)>),
}

type Sending = Pin<Box<dyn Future<Output = (Lane, Sent, Vec<Outcome>)> + Send>>;

/// What is done now and then.
struct Due {
    advance: Duration,
    look: Duration,
    replays: Duration,
    /// Since when no confirm came although some are waited for.
    silent_since: Duration,
}

impl Term {
    /// Sends what there is until the connection is lost or the duty is over.
    pub(super) async fn pump(&mut self, mut link: Link, wakes: &mut Subscription) -> End {
        let mut out = FuturesUnordered::new();
        let end = match self.pumping(&mut link, wakes, &mut out).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        match &end {
            End::Stopping => {}
            End::Over | End::Lost(_) => drop(link),
        }
        // What was confirmed and not looked at yet need not go again.
        let last_words = tokio::time::sleep(LAST_WORDS);
        let mut last_words = std::pin::pin!(last_words);
        while let Some((_, sent, outcomes)) = tokio::select! {
            () = &mut last_words => None,
            sent = out.next() => sent,
        } {
            self.judge(sent, outcomes, false).await;
        }
        self.window.again_all();
        end
    }

    async fn pumping(
        &mut self,
        link: &mut Link,
        wakes: &mut Subscription,
        out: &mut FuturesUnordered<Sending>,
    ) -> Result<std::convert::Infallible, End> {
        let stopping = self.control.inner.supervisor.stopping().clone();
        let replay_wake = self.control.inner.outbox_wake.clone();
        let mut idle = Vec::new();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = self.monotonic();
        let mut due = Due { advance: now, look: now, replays: now, silent_since: now };
        let mut replaying = HashSet::new();
        let mut rotation = Rotation::default();
        loop {
            if rotation.is_due() && out.is_empty() {
                idle.clear();
                rotation.switch(link);
            }
            while idle.len() + out.len() < LANES {
                idle.push(link.lane().await.map_err(End::Lost)?);
            }
            self.fill().await;
            if link.is_blocked() || out.is_empty() {
                due.silent_since = self.monotonic();
            }
            if !link.is_blocked() && self.duty.is_trusted() && !rotation.is_due() {
                self.send(&mut idle, out, &mut replaying);
            }
            tokio::select! {
                () = stopping.cancelled() => return Err(End::Stopping),
                Some((lane, sent, outcomes)) = out.next(), if !out.is_empty() => {
                    failpoint("rabbit_confirmed");
                    if let Sent::Replay(letter) = &sent {
                        replaying.remove(&letter.0.id);
                    }
                    if outcomes.contains(&Outcome::Confirmed) {
                        due.silent_since = self.monotonic();
                        self.patience = SILENT_MIN;
                    }
                    let is_open = link.is_open();
                    let assert = self.judge(sent, outcomes, is_open).await;
                    if lane.is_open() {
                        idle.push(lane);
                    }
                    if !is_open {
                        return Err(End::Lost(RabbitError::Away("the connection ended".into())));
                    }
                    if assert {
                        // Once for each event; if it does not help, that is told with the event.
                        link.declare().await.ok();
                    }
                }
                received = wakes.recv() => self.heard(received).await,
                news = link.news() => match news {
                    News::Blocked(why) => {
                        let problem = format!("the broker is short of something: {why}");
                        self.duty.tell(Health::Blocked, &problem).await;
                    }
                    News::Unblocked => self.duty.tell(Health::Connected, "").await,
                    News::Lost(why) => return Err(End::Lost(RabbitError::Away(why))),
                },
                () = replay_wake.notified() => due.replays = Duration::ZERO,
                () = rotation.goes_on(|| self.control.inner.clock.monotonic()) => {}
                _ = ticks.tick() => {
                    self.duty.keep().await?;
                    self.now_and_then(&mut due, &replaying).await?;
                    rotation.look(link, self.monotonic(), &self.settings);
                    self.how_it_goes(link, &due, !out.is_empty(), rotation.problem()).await?;
                }
            }
            if self.window.cursor() - self.written >= ADVANCE_AFTER {
                self.advance().await?;
            }
        }
    }

    /// Takes in events from the store, a page at most.
    async fn fill(&mut self) {
        if !self.window.has_room() || self.window.read() >= self.last {
            return;
        }
        let (store, after) = (&self.control.inner.store, self.window.read());
        // A store that is away is asked again at the next tick.
        let page = store.event_list(after, &EventFilter::default(), PAGE).await.unwrap_or_default();
        if !self.duty.is_of_this_server() {
            return;
        }
        for event in page {
            self.take_in(event);
        }
    }

    fn take_in(&mut self, event: Event) {
        match event.position {
            Some(position) if position == self.window.read() + 1 && self.dead.remove(&position) => {
                self.window.pass();
            }
            _ => {
                self.window.push(event);
            }
        }
    }

    /// The short cut: what is published here is not read from the store, if it is what comes next.
    async fn heard(&mut self, received: Received) {
        match received {
            // Of either, and the duty is about to be over.
            Received::Events(_) if !self.duty.is_of_this_server() => {}
            Received::Events(events) => {
                for event in events.iter() {
                    self.last = self.last.max(event.position.unwrap_or(0));
                    if self.window.has_room() {
                        self.take_in(event.clone());
                    }
                }
            }
            Received::Lagged | Received::Closed => self.look().await,
        }
    }

    /// Asks the store how far the log is.
    async fn look(&mut self) {
        if let Ok(last) = self.control.inner.store.event_last_position().await {
            self.last = self.last.max(last);
        }
    }

    fn send(
        &mut self,
        idle: &mut Vec<Lane>,
        out: &mut FuturesUnordered<Sending>,
        replaying: &mut HashSet<DeadLetterId>,
    ) {
        let most = (self.settings.window / LANES).max(1);
        let now = self.monotonic();
        while let Some(lane) = idle.pop() {
            let taken = self.window.take(now, most);
            if !taken.is_empty() {
                let batch = taken
                    .iter()
                    .filter_map(|position| Some(message(&self.window.item(*position)?.event)));
                out.push(sending(lane, Sent::Log(taken.clone()), batch.collect()));
                continue;
            }
            let Some(letter) = self.replays.pop_front() else {
                idle.push(lane);
                return;
            };
            replaying.insert(letter.0.id);
            let batch = vec![message(&letter.1)];
            out.push(sending(lane, Sent::Replay(Box::new(letter)), batch));
        }
    }

    async fn now_and_then(
        &mut self,
        due: &mut Due,
        replaying: &HashSet<DeadLetterId>,
    ) -> Result<(), End> {
        let now = self.monotonic();
        if now >= due.advance {
            due.advance = now + ADVANCE_EVERY;
            self.advance().await?;
        }
        if now >= due.look {
            let shared = self.control.inner.store.is_shared();
            due.look =
                now + if shared { self.control.look_every(LOOK_EVERY_SHARED) } else { LOOK_EVERY };
            self.look().await;
        }
        if now >= due.replays && self.replays.is_empty() {
            due.replays = now + REPLAYS_EVERY;
            let wanted = self.control.inner.store.dead_letter_wanted(NAME, PAGE).await;
            let wanted = wanted.unwrap_or_default().into_iter();
            self.replays.extend(wanted.filter(|(letter, _)| !replaying.contains(&letter.id)));
        }
        Ok(())
    }

    /// Says what is not as it should be, or that all is well again. `kept`: why a connection is kept that
    /// should be another one.
    async fn how_it_goes(
        &mut self,
        link: &Link,
        due: &Due,
        are_out: bool,
        kept: &str,
    ) -> Result<(), End> {
        if link.is_blocked() {
            // Why was told when it began, unless that could not be written down.
            if !self.duty.is_told(Health::Blocked) {
                self.duty.tell(Health::Blocked, "the broker is short of memory or disk").await;
            }
            return Ok(());
        }
        let silent = self.monotonic().saturating_sub(due.silent_since);
        if are_out && silent > SILENT_AFTER {
            let what = "the broker takes events and confirms none";
            if silent > self.patience {
                self.patience = (self.patience * 2).min(SILENT_MAX);
                return Err(End::Lost(RabbitError::Away(what.into())));
            }
            self.duty.tell(Health::Waiting, what).await;
            return Ok(());
        }
        let now = self.monotonic();
        self.queues.look(link, now, &self.settings).await;
        let problem = match self.window.refused() {
            0 if !kept.is_empty() => kept.to_owned(),
            0 => self.queues.problem().to_owned(),
            _ => "some events are not taken: a queue that they are for is full".to_owned(),
        };
        self.duty.tell(Health::Connected, &problem).await;
        Ok(())
    }

    /// Draws the consequences of what the broker said. True if what is declared there should be
    /// looked at.
    async fn judge(&mut self, sent: Sent, outcomes: Vec<Outcome>, is_open: bool) -> bool {
        match sent {
            Sent::Log(positions) => {
                let mut assert = false;
                for (position, outcome) in positions.into_iter().zip(outcomes) {
                    assert |= self.judge_one(position, outcome, is_open).await;
                }
                assert
            }
            Sent::Replay(letter) => {
                if let Some(outcome) = outcomes.into_iter().next() {
                    self.judge_replay(&letter.0, &letter.1, outcome).await;
                }
                false
            }
        }
    }

    async fn judge_one(&mut self, position: i64, outcome: Outcome, is_open: bool) -> bool {
        let now = self.monotonic();
        let (most, long) = (self.settings.refusals_max, self.settings.refused_for);
        let Some(item) = self.window.item(position) else { return false };
        let attempts = item.refusals + 1;
        match outcome {
            Outcome::Confirmed => self.window.settle(position),
            Outcome::Unknown => {
                // A connection is lost without an event's fault; a channel perhaps by one.
                item.suspect = is_open;
                self.window.again(position);
            }
            Outcome::Nacked => {
                item.refusals = attempts;
                let since = *item.refused_since.get_or_insert(now);
                if attempts >= most && now.saturating_sub(since) >= long {
                    let reason = format!("the broker has refused it {attempts} times");
                    self.bury(position, &reason, attempts).await;
                } else {
                    let due = now + self.wait(REFUSED_FIRST, attempts, REFUSED_MAX);
                    self.window.back_off(position, due);
                }
            }
            Outcome::Unroutable(why) if item.asserted => {
                let reason = format!("no queue is there for it: {why}");
                self.bury(position, &reason, attempts + 1).await;
            }
            Outcome::Unroutable(_) => {
                item.asserted = true;
                self.window.again(position);
                return true;
            }
            Outcome::Refused(why) => self.bury(position, &why, attempts).await,
        }
        false
    }

    /// Sets an event aside. It counts as settled once the store has it so.
    async fn bury(&mut self, position: i64, reason: &str, attempts: u32) {
        let Some(item) = self.window.item(position) else { return };
        let event = item.event.clone();
        let (store, now) = (&self.control.inner.store, self.control.now());
        let attempts = i64::from(attempts);
        let buried =
            store.dead_letter_bury(&self.duty.lease, NAME, &event, reason, attempts, now).await;
        match buried {
            Ok(()) => {
                tracing::warn!(event = %event.id, reason, "an event is set aside: stratavore outbox dead");
                self.window.settle(position);
            }
            // It goes again, and is refused again.
            Err(_) => self.window.back_off(position, self.monotonic() + REFUSED_FIRST),
        }
    }

    async fn judge_replay(&mut self, letter: &DeadLetter, event: &Event, outcome: Outcome) {
        let (store, now) = (&self.control.inner.store, self.control.now());
        let reason = match outcome {
            Outcome::Confirmed => {
                // If this cannot be written, it goes once more; consumers know it by its id.
                let written = store.dead_letter_replayed(&self.duty.lease, letter.id, now).await;
                return stale_is_noticed_later(written);
            }
            // It is wanted still.
            Outcome::Unknown => return,
            Outcome::Nacked => "the broker has refused it again".to_owned(),
            Outcome::Unroutable(why) => format!("no queue is there for it: {why}"),
            Outcome::Refused(why) => why,
        };
        let attempts = letter.attempts + 1;
        let buried =
            store.dead_letter_bury(&self.duty.lease, NAME, event, &reason, attempts, now).await;
        stale_is_noticed_later(buried);
    }
}

/// What could not be written is done again, here or by whoever has the duty then.
fn stale_is_noticed_later(written: Result<(), StoreError>) {
    if let Err(error) = written {
        tracing::debug!(%error, "a dead letter could not be marked");
    }
}

fn sending(mut lane: Lane, sent: Sent, batch: Vec<Message>) -> Sending {
    Box::pin(async move {
        let outcomes = lane.send(&batch).await;
        (lane, sent, outcomes)
    })
}

fn message(event: &Event) -> Message {
    Message {
        id: event.id.to_string(),
        routing_key: routing_key(event),
        further_key: further_key(event),
        kind: type_of(&event.kind),
        at: event.at,
        body: cloud_event(event).to_string().into_bytes(),
    }
}
