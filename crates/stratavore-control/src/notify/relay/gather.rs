//! From events to messages: gathering, and writing down what is to be sent.

use std::time::Duration;

use stratavore_core::NotificationId;
use stratavore_core::destination::Destination;
use stratavore_core::event::{Event, EventFilter};
use stratavore_core::notify::message::Gathered;
use stratavore_core::notify::{Message, Notification, State};
use stratavore_runtime::failpoint;
use stratavore_store::StoreError;

use super::{End, STORE_WAIT, Telling, WAITING_MAX};
use crate::error::Error;
use crate::outbox::duty::Over;

const PAGE: u32 = 500;
/// How far events that nobody is told of are passed by, or how long, before that is written down.
const PASSED_MAX: i64 = 2000;
const PASS_EVERY: Duration = Duration::from_secs(10);
/// How often other daemons' events are looked for, and the safety net where there is no other.
const LOOK_EVERY_SHARED: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The longest that it sleeps.
const SLEEP_MAX: Duration = Duration::from_secs(2);
const HOUR: Duration = Duration::from_secs(3600);

impl Telling<'_> {
    /// Asks the store how far the log is, now and then.
    pub(super) async fn look(&mut self) {
        let (now, control) = (self.monotonic(), &self.relay.control);
        let store = &control.inner.store;
        let shared = store.is_shared();
        let every = if shared { control.look_every(LOOK_EVERY_SHARED) } else { LOOK_EVERY };
        if self.looked_at.is_some_and(|at| now < at + every) {
            return;
        }
        if let Ok(last) = store.event_last_position().await {
            self.last = self.last.max(last);
            self.looked_at = Some(now);
        }
    }

    /// Reads events that were not looked at, as far as there is room for messages of them.
    pub(super) async fn gather(&mut self) -> Result<(), Error> {
        let groups = !self.relay.definition.rules.group().is_zero();
        let store = &self.relay.control.inner.store;
        while self.read < self.last && self.has_room() {
            let page = store.event_list(self.read, &EventFilter::default(), PAGE).await?;
            if page.is_empty() {
                self.last = self.read;
            }
            for event in page {
                if !self.has_room() {
                    break;
                }
                self.read = event.position.unwrap_or(self.read);
                if self.relay.definition.rules.wants(&event) {
                    self.take_in(event, groups);
                }
            }
            self.duty.keep().await.ok();
        }
        Ok(())
    }

    fn take_in(&mut self, event: Event, groups: bool) {
        if groups {
            if self.gathered.is_empty() {
                self.gathered_at = self.monotonic();
            }
            return self.gathered.add(event);
        }
        let mut one = Gathered::default();
        one.add(event);
        self.single.extend(one.message().map(|message| (self.read, message)));
    }

    fn has_room(&self) -> bool {
        self.waiting.len() + self.single.len() < WAITING_MAX
    }

    /// How long until a message may be made of what was gathered.
    pub(super) fn until_gathered(&self, now: Duration) -> Duration {
        if self.gathered.is_empty() {
            return SLEEP_MAX;
        }
        let due = self.gathered_at + self.relay.definition.rules.group();
        match due.saturating_sub(now) {
            // It is held back by the hour or the limit.
            Duration::ZERO => STORE_WAIT,
            wait => wait.min(SLEEP_MAX),
        }
    }

    /// Writes down what is to be sent, and how far events were looked at.
    pub(super) async fn close(&mut self) -> Result<Result<(), Error>, End> {
        let now = self.monotonic();
        if !self.gathered.is_empty() {
            if now < self.gathered_at + self.relay.definition.rules.group() || self.is_quiet() {
                return Ok(Ok(()));
            }
            match self.allowed(1).await {
                Err(error) => return Ok(Err(error)),
                Ok(0) => return Ok(Ok(())),
                Ok(_) => {}
            }
            let message = self.gathered.clone().message();
            let written = self.write(self.read, message.into_iter().collect()).await?;
            if written.is_ok() {
                self.gathered = Gathered::default();
            }
            return Ok(written);
        }
        if !self.single.is_empty() {
            let allowed = match self.allowed(self.single.len()).await {
                Ok(0) => return Ok(Ok(())),
                Ok(allowed) => allowed,
                Err(error) => return Ok(Err(error)),
            };
            let position = match self.single.get(allowed) {
                // Up to the one before the first that has to wait.
                Some((next, _)) => next - 1,
                None => self.read,
            };
            let messages = self.single[..allowed].iter().map(|(_, message)| message.clone());
            let written = self.write(position, messages.collect()).await?;
            if written.is_ok() {
                self.single.drain(..allowed);
            }
            return Ok(written);
        }
        let passed = self.read - self.written;
        if passed > 0 && (passed >= PASSED_MAX || now >= self.written_at + PASS_EVERY) {
            return self.write(self.read, Vec::new()).await;
        }
        Ok(Ok(()))
    }

    /// True if what was gathered has to wait for the end of quiet hours.
    fn is_quiet(&self) -> bool {
        let quiet = self.relay.definition.rules.quiet.as_ref();
        let (Some(quiet), Some(zone)) = (quiet, &self.zone) else { return false };
        let is_urgent = self.gathered.severity().is_some_and(|severity| severity >= quiet.urgent);
        !is_urgent && quiet.until(zone, self.now()).is_some()
    }

    /// How many more messages there may be just now, at most `wanted`.
    async fn allowed(&self, wanted: usize) -> Result<usize, Error> {
        let Some(limit) = self.relay.definition.rules.per_hour else { return Ok(wanted) };
        let (store, name) = (&self.relay.control.inner.store, &self.relay.destination.name);
        let since = self.now() - HOUR / self.relay.settings.haste;
        let made = store.notification_count(name, since).await?;
        let left = u64::from(limit).saturating_sub(made);
        Ok(wanted.min(usize::try_from(left).unwrap_or(usize::MAX)))
    }

    async fn write(
        &mut self,
        position: i64,
        messages: Vec<Message>,
    ) -> Result<Result<(), Error>, End> {
        let (control, at) = (&self.relay.control, self.now());
        let Destination { name, created_at, .. } = &self.relay.destination;
        let notification = |message| Notification {
            id: NotificationId::from_entropy(control.entropy()),
            destination: name.clone(),
            message,
            state: State::Waiting,
            created_at: at,
            due_at: at,
            attempts: 0,
            history: Vec::new(),
        };
        let made: Vec<Notification> = messages.into_iter().map(notification).collect();
        failpoint("notify_before_write");
        let store = &control.inner.store;
        match store.notification_add(&self.duty.lease, name, *created_at, position, &made).await {
            Ok(true) => {
                failpoint("notify_written");
                (self.written, self.written_at) = (position, self.monotonic());
                self.waiting.extend(made);
                Ok(Ok(()))
            }
            Ok(false) => self.is_it_gone(position, &made).await,
            Err(StoreError::StaleLease { .. }) => Err(Over::Taken.into()),
            Err(error) => Ok(Err(error.into())),
        }
    }

    /// The store did not move: the destination is gone or off; or it has moved already, by a write of
    /// ours whose answer was lost.
    async fn is_it_gone(
        &mut self,
        position: i64,
        made: &[Notification],
    ) -> Result<Result<(), Error>, End> {
        let store = &self.relay.control.inner.store;
        let all = match store.destination_list().await {
            Ok(all) => all,
            Err(error) => return Ok(Err(error.into())),
        };
        let Destination { name, created_at, .. } = &self.relay.destination;
        let found = all.into_iter().map(|(found, _)| found).find(|found| found.name == *name);
        let is_ours = |found: &Destination| found.created_at == *created_at && found.enabled;
        match found.filter(is_ours) {
            Some(found) if found.position >= position => {
                tracing::debug!(made = made.len(), "the messages were written down before");
                (self.written, self.written_at) = (found.position, self.monotonic());
                Ok(self.look_at_waiting().await)
            }
            Some(_) | None => Err(End::Gone),
        }
    }
}
