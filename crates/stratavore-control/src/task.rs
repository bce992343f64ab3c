//! What a daemon does in the background, and when. What each is for, and what to do if it fails, stands
//! in `docs/operations/runbooks.md`.

use std::future::Future;
use std::time::Duration;

use crate::control::Control;
use crate::error::Error;
use crate::supervisor::Pace;
use crate::wishes::WISHES_EVERY;
use crate::{
    budget, embedding, follow, host, idle, journal, moves, notify, queue, refusal, seal, vault,
    verify, window,
};

const RELAY_EVERY: Duration = Duration::from_secs(5);
/// The same where other daemons write, whose word may be lost.
const RELAY_EVERY_SHARED: Duration = Duration::from_secs(1);
const WATCH_EVERY: Duration = Duration::from_secs(60);
const LIVENESS_EVERY: Duration = Duration::from_secs(30);
const PURGE_EVERY: Duration = Duration::from_secs(3600);
const RETENTION_EVERY: Duration = Duration::from_secs(3600);
const TRIM_EVERY: Duration = Duration::from_secs(3600);
const CHECK_EVERY: Duration = Duration::from_secs(24 * 3600);

/// What nobody waits for is done first when the daemon answers: all at once, it took each a connection
/// of its own.
const QUIET: Duration = Duration::from_secs(1);

impl Control {
    pub(crate) fn begin_tasks(&self) {
        let every = Pace::every;
        let tidy = |period: Duration| Pace::every(period).first_after(QUIET.min(period));
        let (inner, settings) = (&self.inner, &self.inner.settings);
        let shared = inner.store.is_shared();
        let relay = if shared { self.look_every(RELAY_EVERY_SHARED) } else { RELAY_EVERY };
        let relay = every(relay).or_when(&inner.relay_wake);
        self.spawn_task("relay", relay, |c| async move { c.relay().await });
        self.spawn_task("reconcile", every(WATCH_EVERY), |c| async move { c.watch_all().await });
        let liveness = every(LIVENESS_EVERY);
        self.spawn_task("liveness", liveness, |c| async move { c.flush_liveness().await });
        if shared {
            self.spawn_task("host", every(host::EVERY), |c| async move { c.keep_host().await });
            let wishes = every(self.look_every(WISHES_EVERY)).or_when(&inner.wishes_wake);
            self.spawn_task("wishes", wishes, |c| async move { c.carry_out_wishes().await });
            let server = every(settings.server_every);
            self.spawn_task("server", server, |c| async move { c.look_at_server().await });
            inner.supervisor.spawn(self.clone().tell_others());
            inner.supervisor.spawn(self.clone().hear_others());
        }
        if let Some(settings) = settings.rabbit.clone() {
            inner.supervisor.spawn(self.clone().deliver_to_rabbit(settings));
        }
        let notify = every(notify::LOOK_EVERY).or_when(&inner.notify_wake);
        self.spawn_task("notify", notify, |c| async move { c.look_after_destinations().await });
        let budgets = if shared { budget::EVERY_SHARED } else { budget::EVERY };
        let budgets = every(budgets).or_when(&inner.budget_wake);
        self.spawn_task("budgets", budgets, |c| async move { c.enforce_budgets().await });
        let audit = if shared { seal::LOOK_SHARED } else { settings.checkpoint_every };
        let audit = every(audit).or_when(&inner.audit_wake);
        self.spawn_task("audit", audit, |c| async move { c.seal().await });
        inner.supervisor.spawn(self.clone().hear_of_files());
        let follow = every(follow::AGAIN).or_when(&inner.following.wake);
        self.spawn_task("follow", follow, |c| async move { c.read_followed().await });
        let documents = every(vault::document::AGAIN).or_when(&inner.documents.wake);
        self.spawn_task("documents", documents, |c| async move { c.keep_documents().await });
        let levels = every(follow::LEVEL_EVERY);
        self.spawn_task("levels", levels, |c| async move { c.look_at_levels().await });
        let limits = every(window::LOOK_EVERY);
        self.spawn_task("limits", limits, |c| async move { c.go_on_after_limits().await });
        let idle = every(idle::LOOK_EVERY);
        self.spawn_task("idle", idle, |c| async move { c.stop_idle().await });
        if shared {
            let moves = every(self.look_every(moves::LOOK_EVERY));
            self.spawn_task("moves", moves, |c| async move { c.move_runners().await });
        }
        let queue = every(queue::QUEUE_EVERY).or_when(&inner.queue_wake);
        self.spawn_task("queue", queue, |c| async move { c.work_off_queues().await });
        let embeddings = tidy(embedding::EVERY).or_when(&inner.embed_wake);
        self.spawn_task("embeddings", embeddings, |c| async move { c.embed_messages().await });
        let alerts = tidy(settings.alerts_every);
        self.spawn_task("alerts", alerts, |c| async move { c.tell_alerts().await });
        let refusals = tidy(refusal::WINDOW);
        self.spawn_task("refusals", refusals, |c| async move { c.write_refusals().await });
        self.spawn_task(
            "retention",
            tidy(RETENTION_EVERY),
            |c| async move { c.remove_old().await },
        );
        if let Some(max) = settings.output_host_max {
            let output = every(settings.output_every);
            self.spawn_task("output", output, move |c| async move { c.hold_output(max).await });
        }
        self.spawn_task("purge", tidy(PURGE_EVERY), |c| async move { c.purge().await });
        self.spawn_task("trim", tidy(TRIM_EVERY), |c| async move { c.trim().await });
        let verify = tidy(verify::LOOK_EVERY);
        self.spawn_task("verify", verify, |c| async move { c.verify_daily().await });
        let journal = every(journal::EVERY);
        self.spawn_task("journal", journal, |c| async move { c.compare_journal().await });
        self.spawn_task("vault", tidy(vault::TIDY_EVERY), |c| async move { c.tidy_vault().await });
        self.spawn_task("check", tidy(CHECK_EVERY), |c| async move { c.check_store().await });
    }

    fn spawn_task<R, F>(&self, name: &'static str, pace: Pace, run: R)
    where
        R: Fn(Self) -> F + Send + 'static,
        F: Future<Output = Result<String, Error>> + Send + 'static,
    {
        let control = self.clone();
        self.inner.supervisor.spawn_task(name, pace, move || run(control.clone()));
    }
}
