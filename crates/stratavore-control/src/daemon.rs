//! The daemon as a whole: coming up, how it is, going down.

use std::collections::BTreeMap;
use std::time::Duration;

use stratavore_core::Timestamp;
use stratavore_core::caller::Caller;
use stratavore_core::daemon::{Daemon, Node};
use stratavore_store::PoolStatus;

use crate::budget;
use crate::control::Control;
use crate::embedding;
use crate::error::Error;
use crate::follow;
use crate::host;
use crate::journal;
use crate::notify;
use crate::queue;
use crate::refusal;
use crate::runner::WaitFor;
use crate::seal;
use crate::supervisor::chain;
use crate::vault;
use crate::verify;
use crate::window;
use crate::wishes::WISHES_EVERY;

const RELAY_EVERY: Duration = Duration::from_secs(5);
/// The same where other daemons write, whose word may be lost.
const RELAY_EVERY_SHARED: Duration = Duration::from_secs(1);
const WATCH_EVERY: Duration = Duration::from_secs(60);
const LIVENESS_EVERY: Duration = Duration::from_secs(30);
const PURGE_EVERY: Duration = Duration::from_secs(3600);
const RETENTION_EVERY: Duration = Duration::from_secs(3600);
const TRIM_EVERY: Duration = Duration::from_secs(3600);
const CHECK_EVERY: Duration = Duration::from_secs(24 * 3600);

/// The most of a shutdown's grace that is kept for the store.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// A background task and its latest run.
#[derive(Debug, Clone)]
pub struct TaskStatus {
    pub name: &'static str,
    pub runs: u64,
    pub ran_at: Option<Timestamp>,
    pub report: String,
    pub error: Option<String>,
}

impl TaskStatus {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, runs: 0, ran_at: None, report: String::new(), error: None }
    }
}

/// How the daemon is.
#[derive(Debug, Clone)]
pub struct DaemonStatus {
    pub daemon: Daemon,
    pub node: Node,
    pub stopping: bool,
    /// Why it is degraded; empty if it is not.
    pub problems: Vec<String>,
    pub pool: PoolStatus,
    pub ping: Option<Duration>,
    /// Live runners, by state.
    pub runners: BTreeMap<&'static str, u64>,
    pub projects: usize,
    pub agents_connected: usize,
    pub outbox_pending: u64,
    pub last_event_position: i64,
    pub tasks: Vec<TaskStatus>,
    pub state_dir: String,
}

impl Control {
    /// Makes itself known, adopts what runs, and starts the background tasks. Requests may come
    /// before and after.
    pub async fn start(&self) -> Result<(), Error> {
        let (node, daemon) = (&self.inner.node, &self.inner.daemon);
        let profile = &self.inner.settings.profile;
        let started = self.inner.store.daemon_started(node, daemon, profile).await?;
        self.scheduled(started.scheduling.unwrap_or_default());
        if started.before.is_some_and(|node| node.boot_id != self.inner.node.boot_id) {
            match self.write_off_before_boot().await {
                Ok(lost) => tracing::info!(
                    lost,
                    "the host has booted since a daemon last ran here: stratavore recover brings runners back"
                ),
                Err(error) => tracing::warn!(
                    error = %chain(&error),
                    "the host has booted; its runners are looked at one by one"
                ),
            }
        }
        let strays = self.strays().await?;
        if !strays.is_empty() {
            tracing::info!(runners = strays.len(), "adopting what runs on this host");
        }
        for id in strays {
            self.watch(id);
        }
        let supervisor = &self.inner.supervisor;
        let task = |control: &Control| control.clone();
        let control = task(self);
        let shared = self.inner.store.is_shared();
        let relay_every = if shared { self.look_every(RELAY_EVERY_SHARED) } else { RELAY_EVERY };
        supervisor.spawn_task("relay", relay_every, self.inner.relay_wake.clone(), move || {
            let control = control.clone();
            async move { control.relay().await }
        });
        let control = task(self);
        supervisor.spawn_task("reconcile", WATCH_EVERY, Default::default(), move || {
            let control = control.clone();
            async move { control.watch_all().await }
        });
        let control = task(self);
        supervisor.spawn_task("liveness", LIVENESS_EVERY, Default::default(), move || {
            let control = control.clone();
            async move { control.flush_liveness().await }
        });
        if self.inner.store.is_shared() {
            let control = task(self);
            supervisor.spawn_task("host", host::EVERY, Default::default(), move || {
                let control = control.clone();
                async move { control.keep_host().await }
            });
        }
        let control = task(self);
        supervisor.spawn_task("retention", RETENTION_EVERY, Default::default(), move || {
            let control = control.clone();
            async move { control.remove_old().await }
        });
        let control = task(self);
        supervisor.spawn_task("purge", PURGE_EVERY, Default::default(), move || {
            let control = control.clone();
            async move { control.purge().await }
        });
        if shared {
            let (control, wake) = (task(self), self.inner.wishes_wake.clone());
            supervisor.spawn_task("wishes", self.look_every(WISHES_EVERY), wake, move || {
                let control = control.clone();
                async move { control.carry_out_wishes().await }
            });
        }
        if shared {
            let (control, every) = (task(self), self.inner.settings.server_every);
            supervisor.spawn_task("server", every, Default::default(), move || {
                let control = control.clone();
                async move { control.look_at_server().await }
            });
            supervisor.spawn(self.clone().tell_others());
            supervisor.spawn(self.clone().hear_others());
        }
        if let Some(settings) = self.inner.settings.rabbit.clone() {
            supervisor.spawn(self.clone().deliver_to_rabbit(settings));
        }
        let (control, wake) = (task(self), self.inner.notify_wake.clone());
        supervisor.spawn_task("notify", notify::LOOK_EVERY, wake, move || {
            let control = control.clone();
            async move { control.look_after_destinations().await }
        });
        let (control, wake) = (task(self), self.inner.budget_wake.clone());
        let budgets_every = if shared { budget::EVERY_SHARED } else { budget::EVERY };
        supervisor.spawn_task("budgets", budgets_every, wake, move || {
            let control = control.clone();
            async move { control.enforce_budgets().await }
        });
        let control = task(self);
        supervisor.spawn_task("refusals", refusal::WINDOW, Default::default(), move || {
            let control = control.clone();
            async move { control.write_refusals().await }
        });
        let control = task(self);
        let seal_every = if shared { seal::LOOK_SHARED } else { seal::CHECKPOINT_EVERY };
        supervisor.spawn_task("audit", seal_every, self.inner.audit_wake.clone(), move || {
            let control = control.clone();
            async move { control.seal().await }
        });
        let control = task(self);
        supervisor.spawn_task("trim", TRIM_EVERY, Default::default(), move || {
            let control = control.clone();
            async move { control.trim().await }
        });
        let control = task(self);
        supervisor.spawn_task("verify", verify::LOOK_EVERY, Default::default(), move || {
            let control = control.clone();
            async move { control.verify_daily().await }
        });
        let control = task(self);
        supervisor.spawn_task("journal", journal::EVERY, Default::default(), move || {
            let control = control.clone();
            async move { control.compare_journal().await }
        });
        self.follow_all();
        supervisor.spawn(self.clone().hear_of_files());
        let (control, wake) = (task(self), self.inner.following.wake.clone());
        supervisor.spawn_task("follow", follow::AGAIN, wake, move || {
            let control = control.clone();
            async move { control.read_followed().await }
        });
        let (control, wake) = (task(self), self.inner.documents.wake.clone());
        supervisor.spawn_task("documents", vault::document::AGAIN, wake, move || {
            let control = control.clone();
            async move { control.keep_documents().await }
        });
        let control = task(self);
        supervisor.spawn_task("levels", follow::LEVEL_EVERY, Default::default(), move || {
            let control = control.clone();
            async move { control.look_at_levels().await }
        });
        self.find_limited().await?;
        let control = task(self);
        supervisor.spawn_task("limits", window::LOOK_EVERY, Default::default(), move || {
            let control = control.clone();
            async move { control.go_on_after_limits().await }
        });
        let (control, wake) = (task(self), self.inner.queue_wake.clone());
        supervisor.spawn_task("queue", queue::QUEUE_EVERY, wake, move || {
            let control = control.clone();
            async move { control.work_off_queues().await }
        });
        let control = task(self);
        supervisor.spawn_task("vault", vault::TIDY_EVERY, Default::default(), move || {
            let control = control.clone();
            async move { control.tidy_vault().await }
        });
        let (control, wake) = (task(self), self.inner.embed_wake.clone());
        supervisor.spawn_task("embeddings", embedding::EVERY, wake, move || {
            let control = control.clone();
            async move { control.embed_messages().await }
        });
        let control = task(self);
        let alerts_every = self.inner.settings.alerts_every;
        supervisor.spawn_task("alerts", alerts_every, Default::default(), move || {
            let control = control.clone();
            async move { control.tell_alerts().await }
        });
        let control = task(self);
        supervisor.spawn_task("check", CHECK_EVERY, Default::default(), move || {
            let control = control.clone();
            async move { control.check_store().await }
        });
        Ok(())
    }

    /// Looks for damage in the database. What it finds stands in the status until the next look.
    async fn check_store(&self) -> Result<String, Error> {
        let stopping = self.inner.supervisor.stopping().clone();
        let whole = self.inner.store.check(move || !stopping.is_cancelled()).await?;
        Ok(if whole { "no damage found" } else { "cut short by the end of the daemon" }.into())
    }

    /// How the daemon is. Answers even when the store does not.
    pub async fn status(&self) -> DaemonStatus {
        let store = &self.inner.store;
        let mut problems = Vec::new();
        let mut note = |what: &str, error: &dyn std::error::Error| {
            problems.push(format!("{what}: {}", chain(error)))
        };
        let ping =
            store.ping().await.map_err(|error| note("the store does not answer", &error)).ok();
        let mut runners = BTreeMap::new();
        let mut projects = 0;
        let mut outbox_pending = 0;
        let mut last_event_position = 0;
        if ping.is_some() {
            match store.runner_counts().await {
                Ok(counts) => runners = counts,
                Err(error) => note("count runners", &error),
            }
            match store.project_list(false).await {
                Ok(listed) => projects = listed.len(),
                Err(error) => note("list projects", &error),
            }
            match store.outbox_depth().await {
                Ok(depth) => outbox_pending = depth.pending,
                Err(error) => note("look at the outbox", &error),
            }
            match store.event_last_position().await {
                Ok(position) => last_event_position = position,
                Err(error) => note("look at the events", &error),
            }
            match self.old_transaction().await {
                Ok(found) => problems.extend(found.map(|alert| alert.words)),
                Err(error) => {
                    problems.push(format!("look for old transactions: {}", chain(&error)))
                }
            }
            match self.destination_problems().await {
                Ok(found) => problems.extend(found.into_iter().map(|alert| alert.words)),
                Err(error) => problems.push(format!("look at the destinations: {}", chain(&error))),
            }
        }
        let tasks = self.inner.supervisor.status();
        problems.extend(self.host_problems().into_iter().map(|alert| alert.words));
        DaemonStatus {
            daemon: self.inner.daemon.clone(),
            node: self.inner.node.clone(),
            stopping: self.inner.supervisor.stopping().is_cancelled(),
            problems,
            pool: store.pool_status(),
            ping,
            runners,
            projects,
            agents_connected: self.inner.links.count(),
            outbox_pending,
            last_event_position,
            tasks,
            state_dir: self.inner.settings.state_dir.display().to_string(),
        }
    }

    /// Stops every live runner of this host and waits until they have ended, at most `limit`.
    /// Answers how many still live.
    pub async fn stop_all(&self, caller: &Caller, limit: Duration) -> Result<usize, Error> {
        self.may_change(caller, "stop runners")?;
        let live = self.inner.store.runner_live_ids(self.inner.node.id).await?;
        for id in &live {
            self.stop(caller, *id, false, None, None).await?;
        }
        let until = self.inner.clock.monotonic() + limit;
        for id in live {
            let left = until.saturating_sub(self.inner.clock.monotonic());
            let wait = WaitFor { timeout: Some(left), ..WaitFor::default() };
            if !self.wait(id, wait).await?.is_terminal() {
                return Ok(self.inner.store.runner_live_ids(self.inner.node.id).await?.len());
            }
        }
        Ok(0)
    }

    /// Stops the background tasks, then says goodbye to the store; all of it within `grace`.
    /// Runners go on.
    pub async fn shut_down(&self, grace: Duration) {
        let farewell = (grace / 4).min(FAREWELL_MAX);
        if !self.inner.supervisor.stop(grace - farewell).await {
            tracing::warn!("background tasks did not end in time; going on without them");
        }
        // A store that does not answer is not waited for: what it is told here is a courtesy. Not
        // even a statement is cut short by that; it goes on until the process ends.
        let control = self.clone();
        let goodbye = self.inner.supervisor.spawn(async move { control.say_goodbye().await });
        if tokio::time::timeout(farewell, goodbye).await.is_err() {
            tracing::warn!("the store did not answer in time; going without a goodbye");
        }
    }

    async fn say_goodbye(&self) {
        if let Err(error) = self.flush_liveness().await {
            tracing::warn!(error = %chain(&error), "could not write the last heartbeats");
        }
        // Whoever still holds it relays still, and the lease expires by itself.
        if let Some((lease, _)) =
            self.inner.relay_lease.try_lock().ok().and_then(|mut held| held.take())
            && let Err(error) = self.inner.store.lease_release(&lease).await
        {
            tracing::warn!(error = %chain(&error), "could not give a lease back; it expires");
        }
        if let Err(error) = self.give_sealing_back().await {
            tracing::warn!(error = %chain(&error), "could not give the sealing back; its lease expires");
        }
        if let Err(error) = self.give_host_back().await {
            tracing::warn!(error = %chain(&error), "could not give the host back; its time will end");
        }
        if let Err(error) = self.inner.store.daemon_stopped(self.inner.daemon.id, self.now()).await
        {
            tracing::warn!(error = %chain(&error), "could not say goodbye to the store");
        }
        self.inner.store.close().await;
    }
}
