//! Refusals on the record, and what is let through without changing anything of its own: typing,
//! attaching, reading the record.
//!
//! Whoever is refused again and again fills no disk with it: of one who and one what the first
//! refusal is written at once, and those of the next minute are counted and written as one.
//!
//! Invariant: in a minute a daemon writes at most two events for each of [`DIFFERENT_MAX`] + 1
//! different refusals, however many there are, and none goes uncounted while the daemon lives.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use stratavore_core::RunnerId;
use stratavore_core::alert::Alert;
use stratavore_core::caller::{By, Caller, Principal};
use stratavore_core::event::NewEvent;
use stratavore_core::notify::Severity;
use stratavore_store::StoreError;

use crate::control::Control;
use crate::error::Error;
use crate::supervisor::chain;

/// How long further refusals of the same kind are only counted.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);
/// How many different ones are told apart.
const DIFFERENT_MAX: usize = 64;
/// The most that is kept of what somebody named.
const NAMED_MAX: usize = 100;
const KIND: &str = "request.refused";
/// How long it stays a problem that a program inside a runner asked for what it may not.
const TOLD_FOR: Duration = Duration::from_secs(600);

/// What refusals are counted together: who, by which door, what they asked for, and the code.
type Alike = (String, &'static str, &'static str);

/// Refusals that were written once, and how many came since.
#[derive(Default)]
pub(crate) struct Refusals {
    alike: Mutex<HashMap<Alike, Counted>>,
    /// By runners whose programs have asked for what they may not, lately.
    inside: Mutex<BTreeMap<RunnerId, Asked>>,
}

/// What a program inside a runner has asked for and may not.
struct Asked {
    last: &'static str,
    at: Duration,
    times: u64,
}

struct Counted {
    since: Duration,
    times: u64,
    by: By,
    on: String,
    reason: String,
}

impl Refusals {
    fn alike(&self) -> MutexGuard<'_, HashMap<Alike, Counted>> {
        self.alike.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: it is counted, and written later.
    fn is_first(&self, mut alike: Alike, counted: Counted) -> bool {
        let mut all = self.alike();
        if !all.contains_key(&alike) && all.len() >= DIFFERENT_MAX {
            alike = ("others".into(), "various", "various");
        }
        match all.get_mut(&alike) {
            Some(known) => {
                let times = known.times + 1;
                *known = Counted { since: known.since, times, ..counted };
                false
            }
            None => {
                all.insert(alike, counted);
                true
            }
        }
    }

    fn asked_inside(&self, runner: RunnerId, what: &'static str, now: Duration) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = inside.entry(runner).or_insert(Asked { last: what, at: now, times: 0 });
        (asked.last, asked.at, asked.times) = (what, now, asked.times + 1);
    }

    /// Runners whose programs have asked so lately, in words.
    fn told_of_inside(&self, now: Duration) -> Vec<(RunnerId, String)> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.retain(|_, asked| now.saturating_sub(asked.at) < TOLD_FOR);
        let words = |(runner, asked): (&RunnerId, &Asked)| {
            let Asked { last, times, .. } = asked;
            let how = match times {
                1 => format!("was refused {last}"),
                times => format!("was refused {times} requests, the last one {last}"),
            };
            let look = "stratavore audit list --refused";
            (*runner, format!("a program inside {runner} {how}; look what it wants: {look}"))
        };
        inside.iter().map(words).collect()
    }

    /// Those that have been counted for long enough.
    fn due(&self, now: Duration) -> Vec<(Alike, Counted)> {
        let is_due = |_: &Alike, counted: &mut Counted| now.saturating_sub(counted.since) >= WINDOW;
        self.alike().extract_if(is_due).filter(|(_, counted)| counted.times > 0).collect()
    }
}

impl Control {
    /// Carries out what somebody asked for, in a task of its own. If it is refused, that goes on the
    /// record before they hear of it.
    pub async fn decided<T, F>(
        &self,
        caller: &Caller,
        what: &'static str,
        on: &str,
        work: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let (control, caller, on) = (self.clone(), caller.clone(), named(on));
        self.inner
            .supervisor
            .detached(async move {
                let done = work.await;
                if let Err(error) = &done {
                    control.refused(&caller, what, &on, error).await;
                }
                done
            })
            .await
    }

    /// Puts a refusal on the record. What failed for another reason was not refused.
    pub async fn refused(&self, caller: &Caller, what: &'static str, on: &str, error: &Error) {
        if !is_refusal(error) {
            return;
        }
        let (by, reason) = (self.by(caller, None), error.to_string());
        let since = self.inner.clock.monotonic();
        if let (Principal::Inside(runner), Error::Forbidden { .. }) = (&caller.principal, error) {
            self.inner.refusals.asked_inside(*runner, what, since);
        }
        let counted =
            Counted { since, times: 0, by: by.clone(), on: on.into(), reason: reason.clone() };
        if self.inner.refusals.is_first((caller.to_string(), what, error.code()), counted) {
            self.write_refusal(what, error.code(), 1, by, on, reason).await;
        }
    }

    async fn write_refusal(
        &self,
        what: &str,
        code: &str,
        times: u64,
        by: By,
        on: &str,
        reason: String,
    ) {
        let data = json!({ "what": what, "on": on, "code": code, "times": times });
        let event = NewEvent::refused(KIND, data, without_nul(reason));
        // It stays refused, whether that can be written or not.
        if let Err(error) = self.write_event(&event, &by).await {
            tracing::warn!(what, code, times, error = %chain(&error), "a refusal could not be recorded");
        }
    }

    /// What is to be told of programs inside runners that ask for what they may not.
    pub(crate) fn refused_inside(&self) -> Vec<Alert> {
        let told = self.inner.refusals.told_of_inside(self.inner.clock.monotonic());
        let alert = |(runner, words): (RunnerId, String)| {
            self.problem("refused_inside", &runner.to_string(), Severity::Warning, words)
        };
        told.into_iter().map(alert).collect()
    }

    /// The periodic task: writes what was only counted.
    pub(crate) async fn write_refusals(&self) -> Result<String, Error> {
        let due = self.inner.refusals.due(self.inner.clock.monotonic());
        let written = due.len();
        for ((_, what, code), counted) in due {
            let Counted { times, by, on, reason, .. } = counted;
            self.write_refusal(what, code, times, by, &on, reason).await;
        }
        Ok(format!("{written} written"))
    }

    /// Puts something on the record that changes no row of its own, before it is done. If it cannot
    /// be recorded it is not done.
    pub(crate) async fn record(
        &self,
        caller: &Caller,
        kind: &'static str,
        data: serde_json::Value,
    ) -> Result<(), Error> {
        self.write_event(&NewEvent::new(kind, data), &self.by(caller, None)).await
    }

    async fn write_event(&self, event: &NewEvent, by: &By) -> Result<(), Error> {
        self.inner.store.node_event(self.inner.node.id, event, by, self.now()).await?;
        self.inner.relay_wake.notify_one();
        Ok(())
    }
}

/// A rule or a limit stands against it. That something does not exist, or is wrong, is no refusal.
fn is_refusal(error: &Error) -> bool {
    match error {
        Error::Forbidden { .. }
        | Error::Refused(_)
        | Error::Item(_)
        | Error::TooMany { .. }
        | Error::NoNode(_)
        | Error::DiskLow { .. } => true,
        Error::Store(
            StoreError::NodeFull { .. }
            | StoreError::Quota(_)
            | StoreError::Budget(_)
            | StoreError::ProjectArchived(_)
            | StoreError::LiveRunners(_),
        ) => true,
        Error::Store(_)
        | Error::Invalid { .. }
        | Error::NodeUnreachable { .. }
        | Error::NotFound { .. }
        | Error::Absent { .. }
        | Error::Denied { .. }
        | Error::Agent(_)
        | Error::Busy { .. }
        | Error::Vault(_)
        | Error::Stopping
        | Error::Timeout { .. }
        | Error::Internal(_) => false,
    }
}

/// What somebody named, so that it can stand in an event.
fn named(on: &str) -> String {
    on.chars().filter(|c| *c != '\0').take(NAMED_MAX).collect()
}

fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(since: Duration) -> Counted {
        Counted { since, times: 0, by: By::default(), on: String::new(), reason: String::new() }
    }

    #[test]
    fn what_is_asked_for_inside_a_runner_is_told_for_a_while() {
        let refusals = Refusals::default();
        let runner: RunnerId = "run_gtahd3byntevc3nhsp5v".parse().unwrap();
        assert_eq!(refusals.told_of_inside(Duration::ZERO), []);
        refusals.asked_inside(runner, "runners.stop", Duration::ZERO);
        refusals.asked_inside(runner, "projects.create", Duration::from_secs(9));
        let told = refusals.told_of_inside(TOLD_FOR);
        let [(of, words)] = &told[..] else { panic!("{told:?}") };
        assert_eq!(*of, runner);
        assert!(words.contains("2 requests, the last one projects.create"), "{words}");
        assert_eq!(refusals.told_of_inside(TOLD_FOR + Duration::from_secs(9)), []);
    }

    #[test]
    fn a_flood_of_refusals_is_counted_and_written_twice() {
        let refusals = Refusals::default();
        let alike = |who: usize| (who.to_string(), "runners.stop", "forbidden");
        let mut written = 0;
        for n in 0..100_000 {
            written += usize::from(refusals.is_first(alike(n % 1000), counted(Duration::ZERO)));
        }
        assert_eq!(written, DIFFERENT_MAX + 1);
        assert!(refusals.due(WINDOW - Duration::from_secs(1)).is_empty());
        let due = refusals.due(WINDOW);
        assert_eq!(due.len(), DIFFERENT_MAX + 1);
        let times: u64 = due.iter().map(|(_, counted)| counted.times).sum();
        assert_eq!(times as usize + written, 100_000, "none is lost");
        assert!(refusals.is_first(alike(1), counted(WINDOW)), "it is a new one then");
    }
}
