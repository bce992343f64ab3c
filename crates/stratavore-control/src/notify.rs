//! Destinations that tell people and programs: defining them, trying them, and looking at what was
//! sent.

mod define;
mod relay;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use stratavore_core::caller::Caller;
use stratavore_core::destination::{Backlog, Destination};
use stratavore_core::notify::{Attempt, Channel, Definition, Message, Notification, State};
use stratavore_core::{NotificationId, Timestamp};
use stratavore_notify::Sender;
use stratavore_store::StoreError;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use define::NewDestination;
pub(crate) use define::find_zone;

use crate::control::Control;
use crate::error::Error;
use crate::project::nearest;
use crate::supervisor::chain;

/// How often new, removed and switched destinations are looked for; sooner where one is changed here.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The most that a cluster has.
const DESTINATIONS_MAX: usize = 64;
const HISTORY_DEFAULT: u32 = 20;
const HISTORY_MAX: u32 = 200;
/// How long what was sent can be looked at, and how many of it.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
const KEPT_MAX: u32 = 1000;

/// How people and programs are told.
#[derive(Debug, Clone)]
pub struct NotifySettings {
    pub sender: Sender,
    /// Divides all waits between attempts; 1 but in tests.
    pub haste: u32,
}

/// A destination as it is shown.
#[derive(Debug, Clone)]
pub struct NotifyView {
    pub destination: Destination,
    pub backlog: Backlog,
    pub definition: Definition,
}

/// What looks after one destination here.
struct Running {
    made_at: Timestamp,
    gone: CancellationToken,
    wake: Arc<Notify>,
}

/// The destinations that are looked after here, by name.
#[derive(Default)]
pub(crate) struct Destinations(Mutex<HashMap<String, Running>>);

impl Control {
    /// All destinations that people have defined, by name.
    pub async fn notify_list(&self) -> Result<Vec<NotifyView>, Error> {
        let found = self.destinations_as_they_are().await?.into_iter();
        Ok(found.filter_map(|(destination, backlog)| view(destination, backlog)).collect())
    }

    /// One of them.
    pub async fn notify_get(&self, name: &str) -> Result<NotifyView, Error> {
        let mut all = self.notify_list().await?;
        match all.iter().position(|view| view.destination.name == name) {
            Some(at) => Ok(all.swap_remove(at)),
            None => {
                let names = all.into_iter().map(|view| view.destination.name).collect();
                let nearest = nearest(name, names);
                let (noun, wanted) = ("destination", name.into());
                Err(Error::NotFound { noun, wanted, nearest })
            }
        }
    }

    /// What was sent to it, or is to be, newest first.
    pub async fn notify_history(&self, name: &str, limit: u32) -> Result<Vec<Notification>, Error> {
        let limit = if limit == 0 { HISTORY_DEFAULT } else { limit.min(HISTORY_MAX) };
        Ok(self.inner.store.notification_list(name, limit).await?)
    }

    /// Defines a destination; it is told of what happens from now on.
    pub async fn notify_add(
        &self,
        caller: &Caller,
        new: NewDestination,
    ) -> Result<NotifyView, Error> {
        self.may_change(caller, "define destinations")?;
        let (name, definition) = self.define(new).await?;
        self.sender().check(&definition.channel).map_err(|why| {
            Error::invalid(format!("{name} would get nothing: {why}"), "mend it, then add it again")
        })?;
        let there = self.notify_list().await?;
        let is_new = !there.iter().any(|view| view.destination.name == name);
        if is_new && there.len() >= DESTINATIONS_MAX {
            return Err(Error::invalid(
                format!("there are {} destinations, which is the limit", there.len()),
                "remove one that nobody needs: stratavore notify remove NAME",
            ));
        }
        let settings = serde_json::to_string(&definition).map_err(Error::internal)?;
        let (kind, by) = (definition.channel.kind(), self.by(caller, None));
        let defined = self.inner.store.destination_define(
            &name,
            kind,
            &settings,
            self.here(),
            &by,
            self.now(),
        );
        match defined.await {
            Ok(_) => {}
            Err(StoreError::Conflict { .. }) => {
                return Err(Error::invalid(
                    format!("there is another destination of the name `{name}`"),
                    format!(
                        "choose another name, or remove it first: stratavore notify remove {name}"
                    ),
                ));
            }
            Err(error) => return Err(error.into()),
        }
        self.destinations_changed();
        self.notify_get(&name).await
    }

    /// Forgets a destination and what was sent to it.
    pub async fn notify_remove(&self, caller: &Caller, name: &str) -> Result<(), Error> {
        self.may_change(caller, "remove destinations")?;
        self.notify_get(name).await?;
        let by = self.by(caller, None);
        self.inner.store.destination_forget(name, None, self.here(), &by, self.now()).await?;
        self.destinations_changed();
        Ok(())
    }

    /// Turns a destination on, where it goes on with what it has missed, or off.
    pub async fn notify_switch(
        &self,
        caller: &Caller,
        name: &str,
        enabled: bool,
    ) -> Result<NotifyView, Error> {
        self.may_change(caller, "switch destinations")?;
        self.notify_get(name).await?;
        let (here, by, now) = (self.here(), self.by(caller, None), self.now());
        self.inner.store.destination_switch(name, enabled, "", here, &by, now).await?;
        self.destinations_changed();
        self.notify_get(name).await
    }

    /// Sends a message to a destination at once, from this daemon, and says how that went.
    pub async fn notify_test(&self, caller: &Caller, name: &str) -> Result<Notification, Error> {
        self.may_change(caller, "send to destinations")?;
        let view = self.notify_get(name).await?;
        if let Channel::Desktop { node } = view.definition.channel
            && node != self.here()
        {
            return Err(Error::invalid(
                format!("{name} is the desktop of {node}, and this daemon is another host's"),
                "run the test there",
            ));
        }
        self.record(caller, "request.notify_test", json!({ "destination": name })).await?;
        let (at, began) = (self.now(), self.inner.clock.monotonic());
        let id = NotificationId::from_entropy(self.entropy());
        let message = Message::test(name, &caller.to_string(), at);
        let answer = self.sender().send(&view.definition.channel, id, &message, at).await;
        let took = self.inner.clock.monotonic().saturating_sub(began);
        let (state, status, detail) = match answer {
            Ok(status) => (State::Delivered, status, String::new()),
            Err(failure) => (State::Dead, failure.status, failure.detail),
        };
        let delivered = state == State::Delivered;
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let attempt = Attempt { at, took_ms, delivered, status, detail, next_at: None };
        let sent = Notification {
            id,
            destination: name.into(),
            message,
            // One that failed was told to who asked, and nobody has to look after it.
            state: State::Delivered,
            created_at: at,
            due_at: at,
            attempts: 1,
            history: vec![attempt],
        };
        if let Err(error) = self.inner.store.notification_note(&sent).await {
            tracing::warn!(destination = name, error = %chain(&error), "a test could not be written down");
        }
        Ok(sent)
    }

    /// Has messages that were given up sent again: one, or all of a destination. Answers how many.
    pub async fn notify_retry(
        &self,
        caller: &Caller,
        name: &str,
        id: Option<NotificationId>,
    ) -> Result<u64, Error> {
        self.may_change(caller, "have messages sent again")?;
        self.notify_get(name).await?;
        let (here, by) = (self.here(), self.by(caller, None));
        let asked = self.inner.store.notification_again(name, id, here, &by, self.now()).await?;
        self.destinations_changed();
        Ok(asked)
    }

    fn sender(&self) -> &Sender {
        &self.inner.settings.notify.sender
    }

    /// Has whoever looks after destinations look at them now.
    fn destinations_changed(&self) {
        self.inner.relay_wake.notify_one();
        self.inner.notify_wake.notify_one();
    }

    /// The periodic task: sees to it that each destination is looked after, and none that is gone.
    pub(crate) async fn look_after_destinations(&self) -> Result<String, Error> {
        let wanted: HashMap<String, (Destination, Definition)> = self
            .inner
            .store
            .destination_list()
            .await?
            .into_iter()
            .filter_map(|(destination, backlog)| view(destination, backlog))
            .filter(|view| view.destination.enabled && self.is_for_here(&view.definition))
            .map(|view| (view.destination.name.clone(), (view.destination, view.definition)))
            .collect();
        let mut running =
            self.inner.notify_running.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|name, one| {
            let stays = wanted.get(name).is_some_and(|(found, _)| found.created_at == one.made_at);
            if !stays {
                one.gone.cancel();
            }
            stays
        });
        for (name, (destination, definition)) in wanted {
            if let Some(one) = running.get(&name) {
                one.wake.notify_one();
                continue;
            }
            let (gone, wake) = (CancellationToken::new(), Arc::new(Notify::new()));
            let made_at = destination.created_at;
            let relay = relay::Relay::new(self.clone(), destination, definition);
            self.inner.supervisor.spawn(relay.look_after(gone.clone(), wake.clone()));
            running.insert(name, Running { made_at, gone, wake });
        }
        Ok(format!("{} destinations", running.len()))
    }

    fn is_for_here(&self, definition: &Definition) -> bool {
        match definition.channel {
            Channel::Desktop { node } => node == self.here(),
            Channel::Webhook { .. }
            | Channel::Slack { .. }
            | Channel::Telegram { .. }
            | Channel::Ntfy { .. }
            | Channel::Email { .. } => true,
        }
    }

    /// Forgets messages that were settled long ago.
    pub(crate) async fn purge_notifications(&self) -> Result<(), Error> {
        let before = self.now_for_expiry() - KEPT;
        self.inner.store.notification_purge(before, KEPT_MAX).await?;
        Ok(())
    }
}

/// `None`: it is none that people define.
fn view(destination: Destination, backlog: Backlog) -> Option<NotifyView> {
    if !Channel::KINDS.contains(&destination.kind.as_str()) {
        return None;
    }
    match serde_json::from_str(&destination.settings) {
        Ok(definition) => Some(NotifyView { destination, backlog, definition }),
        Err(error) => {
            tracing::warn!(destination = destination.name, %error, "a destination cannot be read");
            None
        }
    }
}

/// What may be shown of a destination's settings.
pub(crate) fn shown(destination: &Destination) -> Option<String> {
    let backlog = Backlog { pending: 0, oldest: None, dead: 0 };
    let NotifyView { definition, .. } = view(destination.clone(), backlog)?;
    Some(json!({ "to": definition.channel.shown(), "rules": definition.rules }).to_string())
}
