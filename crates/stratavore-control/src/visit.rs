//! What was done at runners' own sockets, put on the record: their agents wrote it down, whether a daemon was
//! there or not.
//!
//! How far each log was read moves in the transaction that takes in what was read, so everything in it is on
//! the record once.

use serde_json::{Map, Value, json};
use stratavore_assistants::adapter::Memory;
use stratavore_core::caller::{Auth, By, Caller, Door, Origin, Principal};
use stratavore_core::event::NewEvent;
use stratavore_core::runner::Runner;
use stratavore_core::usage::Tokens;
use stratavore_core::visit::{Deed, Visit};
use stratavore_runtime::{failpoint, signal_log, user_name};
use stratavore_store::{FileIdentity, FollowStep, Observed, StoreError};

use crate::control::Control;
use crate::error::Error;
use crate::follow::{PIECE, unreadable};

/// The most that is kept of why somebody was turned away.
const REASON_MAX: usize = 300;

impl Control {
    /// Reads a runner's log of visits to its end.
    pub(crate) async fn read_visits(&self, runner: &Runner) -> Result<(), Error> {
        let dir = self.inner.runtime.dir(runner.id).visits();
        let path = dir.display().to_string();
        loop {
            let seen = self.inner.store.follow_get(self.inner.node.id, &path).await?;
            let from = seen.as_ref().map_or(0, |follow| follow.read_to);
            let (of, file) = (dir.clone(), path.clone());
            let read = tokio::task::spawn_blocking(move || signal_log::read(&of, from, PIECE));
            let lines =
                read.await.map_err(Error::internal)?.map_err(|error| unreadable(&file, &error))?;
            if lines.next == from {
                return Ok(());
            }
            // Half a line is one of an agent that was killed.
            let visits =
                lines.lines.iter().filter_map(|(_, line)| serde_json::from_slice(line).ok());
            let events: Vec<_> = visits.filter_map(|visit| self.told_of(runner, visit)).collect();
            let memory = serde_json::to_string(&Memory::default()).map_err(Error::internal)?;
            let identity = FileIdentity::default();
            let price = |_: &str, _: &Tokens, _| None;
            let follow = FollowStep {
                path: &path,
                seen: seen.as_ref(),
                read_to: lines.next,
                memory: &memory,
                identity: &identity,
            };
            let batch = Observed {
                assistant: &runner.command.assistant,
                node: self.inner.node.id,
                project: Some(runner.project),
                runner: Some(runner.id),
                epoch: None,
                follow: Some(follow),
                observations: &[],
                price: &price,
                now: self.now(),
            };
            failpoint("visits_read");
            match self.inner.store.visits_recorded(&batch, &events).await {
                Ok(()) => self.inner.relay_wake.notify_one(),
                // Another daemon was faster; the next look begins where it has ended.
                Err(StoreError::Conflict { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
            failpoint("visits_recorded");
            if let Err(error) = signal_log::forget(&dir, lines.next) {
                tracing::debug!(runner = %runner.id, %error, "could not forget visits that were read");
            }
        }
    }

    /// A visit as it is to stand on the record; `None`: it need not.
    fn told_of(&self, runner: &Runner, visit: Visit) -> Option<(NewEvent, By)> {
        let by = self.by(&visitor(&visit), None);
        let mut data = Map::new();
        if let Some(why) = &visit.refused {
            let why: String = why.chars().filter(|c| *c != '\0').take(REASON_MAX).collect();
            data.insert("what".into(), json!(format!("socket.{}", visit.deed.as_str())));
            data.insert("on".into(), json!(runner.id));
            data.insert("code".into(), json!("forbidden"));
            span(&mut data, &visit);
            return Some((NewEvent::refused("request.refused", data.into(), why), by));
        }
        let kind = match visit.deed {
            Deed::Attach => "request.attach",
            Deed::Detach => "request.detach",
            Deed::Send => "request.sent",
            Deed::Answer => "request.answer",
            Deed::Poke => "request.poke",
            Deed::Read | Deed::Hook => return None,
        };
        data.insert("runner".into(), json!(runner.id));
        data.insert("name".into(), json!(runner.name));
        if matches!(visit.deed, Deed::Attach | Deed::Detach) {
            data.insert("keyboard".into(), json!(visit.keyboard));
        }
        if matches!(visit.deed, Deed::Send | Deed::Detach) {
            data.insert("bytes".into(), json!(visit.bytes));
        }
        if let Some(prompt) = visit.prompt.as_ref().filter(|prompt| !prompt.contains('\0')) {
            data.insert("prompt".into(), json!(prompt));
        }
        span(&mut data, &visit);
        Some((NewEvent::new(kind, data.into()), by))
    }
}

/// When, and how often.
fn span(data: &mut Map<String, Value>, visit: &Visit) {
    data.insert("epoch".into(), json!(visit.epoch));
    data.insert("from".into(), json!(visit.from));
    data.insert("until".into(), json!(visit.until));
    data.insert("times".into(), json!(visit.times));
    if visit.various {
        data.insert("various".into(), json!(true));
    }
}

/// Whoever it was, as its agent had it from the kernel.
fn visitor(visit: &Visit) -> Caller {
    let principal = match visit.inside {
        Some(around) => Principal::Inside(around),
        None => Principal::User { uid: visit.uid, name: user_name(visit.uid) },
    };
    let origin = Origin {
        door: Door::Runner,
        auth: Some(Auth::Peer),
        uid: Some(visit.uid),
        pid: visit.pid,
        ..Origin::default()
    };
    Caller { principal, origin }
}
