//! What is wrong with this host and the cluster; and alerts, which tell of it as events.
//!
//! An alert has an event when it begins and one when it is over, and none in between. What is seen
//! once may be over at the next look, as when the database was away for a moment: so each change is
//! told when it was seen twice in a row.

use std::collections::BTreeSet;
use std::time::Duration;

use stratavore_core::alert::{Alert, Key, Scope};
use stratavore_core::caller::Caller;
use stratavore_core::lease::Lease;
use stratavore_core::notify::Severity;
use stratavore_store::{OldTransaction, Teller};

use crate::control::Control;
use crate::disk;
use crate::error::Error;

const NAME: &str = "alerts";
const TASK: &str = "task";
/// How often it is looked whether something is wrong.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The duty of telling of the cluster's problems.
const TTL: Duration = Duration::from_secs(40);

/// What the last look would have told if it was seen twice.
#[derive(Default)]
pub(crate) struct Edges(tokio::sync::Mutex<BTreeSet<Key>>);

impl Control {
    /// The periodic task: tells as events what has become wrong, and what is so no longer.
    pub(crate) async fn tell_alerts(&self) -> Result<String, Error> {
        let duty = self.inner.store.lease_acquire(NAME, self.inner.seat, TTL).await?;
        let own = Scope::Host(self.inner.node.id);
        let mut found = self.host_problems();
        // What kept this task from telling is over when it can.
        found.retain(|alert| alert.key.problem != TASK || alert.key.about != NAME);
        let mut known = self.inner.store.alert_list(own).await?;
        if duty.is_some() {
            found.extend(self.old_transaction().await?);
            found.extend(self.destination_problems().await?);
            known.extend(self.inner.store.alert_list(Scope::Cluster).await?);
        }
        let raised: Vec<&Alert> = found.iter().filter(|a| !holds(&known, &a.key)).collect();
        let cleared: Vec<&Alert> = known.iter().filter(|a| !holds(&found, &a.key)).collect();
        let edges = raised.iter().chain(&cleared).map(|alert| alert.key.clone()).collect();
        let before = std::mem::replace(&mut *self.inner.edges.0.lock().await, edges);
        let mut told = 0;
        for (alerts, begins) in [(raised, true), (cleared, false)] {
            for alert in alerts.into_iter().filter(|alert| before.contains(&alert.key)) {
                told += usize::from(self.tell_alert(alert, begins, duty.as_ref()).await?);
            }
        }
        Ok(format!("{} problems, {told} alerts told", found.len()))
    }

    async fn tell_alert(
        &self,
        alert: &Alert,
        begins: bool,
        duty: Option<&Lease>,
    ) -> Result<bool, Error> {
        let store = &self.inner.store;
        let lease = duty.filter(|_| alert.key.scope == Scope::Cluster);
        let teller = Teller { node: self.inner.node.id, lease };
        let (by, now) = (self.by(&Caller::daemon(), None), self.now());
        let told = match begins {
            true => store.alert_raise(teller, alert, &by, now).await?,
            false => store.alert_clear(teller, alert, &by, now).await?,
        };
        if told {
            self.inner.relay_wake.notify_one();
        }
        Ok(told)
    }

    pub(crate) fn problem(
        &self,
        problem: &str,
        about: &str,
        severity: Severity,
        words: String,
    ) -> Alert {
        let scope = Scope::Host(self.inner.node.id);
        Alert { key: Key { scope, problem: problem.into(), about: about.into() }, severity, words }
    }

    /// What is wrong here, as far as it is known without asking anybody.
    pub(crate) fn host_problems(&self) -> Vec<Alert> {
        let tasks = self.inner.supervisor.status().into_iter().filter_map(|task| {
            let words = format!("task {}: {}", task.name, task.error?);
            Some(self.problem(TASK, task.name, Severity::Error, words))
        });
        let mut found: Vec<Alert> = tasks.collect();
        found.extend(disk::problem(&self.inner.settings.state_dir).map(|low| {
            let (problem, severity) = match low.refuses {
                true => ("disk_full", Severity::Critical),
                false => ("disk_low", Severity::Warning),
            };
            self.problem(problem, "", severity, low.words)
        }));
        let damage = self.inner.store.alarm();
        found.extend(
            damage.map(|words| self.problem("store_damaged", "", Severity::Critical, words)),
        );
        let record = self.inner.verified.problem();
        found.extend(record.map(|words| self.problem("record", "", Severity::Critical, words)));
        let journal = self.inner.settings.journal.as_ref().and_then(|journal| journal.problem());
        found.extend(
            journal.map(|words| self.problem("record", "journal", Severity::Critical, words)),
        );
        let vault = self.inner.vault.problem().map(|problem| format!("the vault: {problem}"));
        found.extend(vault.map(|words| self.problem("vault", "", Severity::Error, words)));
        found.extend(self.refused_inside());
        found
    }

    /// What keeps the database from tidying up, if anything does.
    pub(crate) async fn old_transaction(&self) -> Result<Option<Alert>, Error> {
        let found = self.inner.store.old_transaction(self.inner.settings.transaction_alarm).await?;
        Ok(found.map(|old| of_cluster("old_transaction", "", Severity::Warning, stale(&old))))
    }
}

/// A problem that all daemons have alike.
pub(crate) fn of_cluster(problem: &str, about: &str, severity: Severity, words: String) -> Alert {
    let (problem, about) = (problem.into(), about.into());
    Alert { key: Key { scope: Scope::Cluster, problem, about }, severity, words }
}

fn holds(alerts: &[Alert], key: &Key) -> bool {
    alerts.iter().any(|alert| alert.key == *key)
}

/// What is wrong with a transaction that stays open, and what to do.
fn stale(old: &OldTransaction) -> String {
    let OldTransaction { pid, user, application, address, open } = old;
    let (user, application) = (user.escape_debug(), application.escape_debug());
    let whence = if address.is_empty() { "this server" } else { address };
    let (whose, end) = match pid {
        0 => (format!("a {application} of {user}"), "end it: ROLLBACK PREPARED".to_owned()),
        pid => (
            format!("a transaction of {user} ({application}, process {pid}, from {whence})"),
            format!("end it: SELECT pg_terminate_backend({pid})"),
        ),
    };
    let minutes = open.as_secs() / 60;
    format!(
        "the database: {whose} is open for {minutes} min {} s; what is deleted is not tidied up \
         meanwhile, and all gets slower; {end}",
        open.as_secs() % 60
    )
}
