//! The state that all use cases share, and the one way in which a runner changes.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::de::DeserializeOwned;
use serde_json::json;
use stratavore_audit::Writer;
use stratavore_bus::Bus;
use stratavore_core::caller::{By, Caller, Origin, Principal};
use stratavore_core::clock::Clock;
use stratavore_core::daemon::{Daemon, Node};
use stratavore_core::daily::Daily;
use stratavore_core::idempotency::Idempotency;
use stratavore_core::lease::{Lease, Trust};
use stratavore_core::node::{Profile, Scheduling};
use stratavore_core::price::Prices;
use stratavore_core::restart::Backoff;
use stratavore_core::runner::{Desired, Input, Outcome, Runner, RunnerState};
use stratavore_core::{DaemonId, RunnerId, Timestamp};
use stratavore_runtime::{Runtime, failpoint};
use stratavore_store::{Store, StoreError};
use stratavore_vault::Vault;
use tokio::sync::{Notify, Semaphore};

use crate::alert::Edges;
use crate::audit_file::AuditFiles;
use crate::budget::Counted;
use crate::embedding::{Embedder, Patience};
use crate::error::Error;
use crate::follow::Following;
use crate::host::Host;
use crate::idle::Idle;
use crate::journal::JournalFile;
use crate::kept::KeptOutput;
use crate::links::{AgentCommand, Links};
use crate::liveness::Heard;
use crate::notify::{Destinations, NotifySettings};
use crate::outage::Outage;
use crate::outbox::RabbitSettings;
use crate::prompt::Prompting;
use crate::prompt::quit_word;
use crate::refusal::Refusals;
use crate::seal::Sealing;
use crate::supervisor::Supervisor;
use crate::vault::VaultSettings;
use crate::vault::document::Documents;
use crate::verify::LastVerified;
use crate::wake::Untold;
use crate::window::Limited;

/// How often a decision is made anew because another one got in between.
pub(crate) const CONFLICTS: usize = 8;

/// The most agents that are being started at the same time. One whose lock is still held by the agent
/// before keeps its place for seconds, so they are more than there are cores.
const STARTS_AT_ONCE: usize = 16;

/// How one assistant is started on this host, where that differs from the usual.
#[derive(Debug, Clone, Default)]
pub struct AssistantSettings {
    pub program: Option<String>,
    pub args: Vec<String>,
    /// Further variables of the daemon's environment that its runners inherit.
    pub env_pass: Vec<String>,
}

/// What can be configured of the rules.
#[derive(Clone)]
pub struct Settings {
    pub grace: Duration,
    pub unresponsive_after: Duration,
    pub launch_timeout: Duration,
    /// How long the directory of a runner that has ended is kept.
    pub keep_ended: Duration,
    /// How much output of all runners of this host together is kept; `None`: whatever each keeps.
    pub output_host_max: Option<u64>,
    /// How often it is looked whether that is too much.
    pub output_every: Duration,
    /// How long an event is kept in the database; `None`: for ever.
    pub keep_events: Option<Duration>,
    /// Where each event is kept before its change is answered; `None`: nowhere else.
    pub journal: Option<Arc<JournalFile>>,
    /// When the record is verified each day, in the time of this zone; `None`: it is not.
    pub verify: Option<(Daily, TimeZone)>,
    /// How long anybody's transaction may be open before the status tells of it.
    pub transaction_alarm: Duration,
    pub backoff: Backoff,
    pub assistants: HashMap<String, AssistantSettings>,
    /// Further variables of the daemon's environment that all runners inherit.
    pub env_pass: Vec<String>,
    /// Variables that a runner may set although they change how programs load.
    pub env_allow: Vec<String>,
    pub state_dir: PathBuf,
    /// How often what other daemons do is looked for, where that is not as usual.
    pub look_every: Option<Duration>,
    /// How often it is looked which database server answers.
    pub server_every: Duration,
    /// How often it is looked whether something is wrong that is to be told.
    pub alerts_every: Duration,
    /// How long what is sealed may wait for a checkpoint, and a checkpoint to be told of.
    pub checkpoint_every: Duration,
    /// Where events go besides, if anywhere.
    pub rabbit: Option<RabbitSettings>,
    pub notify: NotifySettings,
    /// What this node is for, and how much it holds.
    pub profile: Profile,
    pub vault: VaultSettings,
    /// What makes vectors of messages.
    pub embedder: Embedder,
    /// What models cost.
    pub prices: Prices,
}

/// What control is built from.
pub struct Parts {
    pub store: Store,
    pub bus: Bus,
    pub runtime: Runtime,
    pub clock: Arc<dyn Clock>,
    /// 16 random bytes.
    pub entropy: Arc<dyn Fn() -> [u8; 16] + Send + Sync>,
    /// The environment of the daemon, of which runners inherit what is allowed.
    pub env: BTreeMap<String, String>,
    pub settings: Settings,
    pub node: Node,
    pub daemon: Daemon,
    /// Holds the host for whichever daemon has the lock of this state directory: the next one need
    /// not wait for the last one's time to be over, and one of a copy has to.
    pub seat: DaemonId,
    /// Gives this daemon's events their codes, and knows them again.
    pub writer: Arc<Writer>,
    /// Where this host's transcripts are kept.
    pub vault: Vault,
}

/// Carries out use cases; cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) bus: Bus,
    pub(crate) runtime: Runtime,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Fn() -> [u8; 16] + Send + Sync>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) settings: Settings,
    pub(crate) node: Node,
    pub(crate) daemon: Daemon,
    pub(crate) seat: DaemonId,
    pub(crate) host: Host,
    pub(crate) links: Links,
    pub(crate) supervisor: Supervisor,
    pub(crate) outage: Outage,
    /// When it was built, by both clocks.
    began: (Timestamp, Duration),
    /// The latest heartbeats, of which the store gets a batch now and then.
    pub(crate) liveness: Mutex<HashMap<RunnerId, Heard>>,
    /// Who is starting an agent just now. More at once would not be faster, and each takes a thread.
    pub(crate) starting: Semaphore,
    pub(crate) relay_wake: Arc<Notify>,
    /// A dead letter is to be tried again.
    pub(crate) outbox_wake: Arc<Notify>,
    /// A destination was changed.
    pub(crate) notify_wake: Arc<Notify>,
    pub(crate) notify_running: Destinations,
    /// Something was counted in a budget, or one was changed.
    pub(crate) budget_wake: Arc<Notify>,
    pub(crate) budget_counted: Counted,
    pub(crate) relay_lease: tokio::sync::Mutex<Option<(Lease, Trust)>>,
    pub(crate) edges: Edges,
    pub(crate) untold: Untold,
    pub(crate) wishes_wake: Arc<Notify>,
    /// The position up to which wishes of other daemons were looked for; negative before the first
    /// look.
    pub(crate) wishes_seen: AtomicI64,
    pub(crate) writer: Arc<Writer>,
    pub(crate) refusals: Refusals,
    pub(crate) audit: Arc<AuditFiles>,
    pub(crate) audit_wake: Arc<Notify>,
    pub(crate) sealing: tokio::sync::Mutex<Option<Sealing>>,
    /// When this daemon told of a checkpoint last, or was built, by the monotonic clock.
    pub(crate) checkpoint_told: Mutex<Duration>,
    pub(crate) verified: LastVerified,
    pub(crate) following: Following,
    pub(crate) documents: Documents,
    pub(crate) prompting: Prompting,
    pub(crate) limited: Limited,
    pub(crate) idle: Idle,
    pub(crate) kept_output: KeptOutput,
    /// Whether this node takes runners, as it was told last.
    pub(crate) scheduling: Mutex<Scheduling>,
    pub(crate) vault: Vault,
    /// There are messages without a vector.
    pub(crate) embed_wake: Arc<Notify>,
    pub(crate) embed_patience: Patience,
    /// A queue has changed, or a runner has ended.
    pub(crate) queue_wake: Arc<Notify>,
}

impl Control {
    pub fn new(parts: Parts) -> Self {
        let supervisor = Supervisor::new(parts.clock.clone());
        let began = (parts.clock.now(), parts.clock.monotonic());
        let audit = parts.settings.state_dir.join("audit");
        let inner = Inner {
            store: parts.store,
            bus: parts.bus,
            runtime: parts.runtime,
            clock: parts.clock,
            entropy: parts.entropy,
            env: parts.env,
            settings: parts.settings,
            node: parts.node,
            daemon: parts.daemon,
            seat: parts.seat,
            host: Host::default(),
            links: Links::default(),
            supervisor,
            outage: Outage::default(),
            began,
            liveness: Mutex::default(),
            starting: Semaphore::new(STARTS_AT_ONCE),
            relay_wake: Arc::new(Notify::new()),
            outbox_wake: Arc::default(),
            notify_wake: Arc::default(),
            notify_running: Destinations::default(),
            budget_wake: Arc::default(),
            budget_counted: Counted::default(),
            relay_lease: tokio::sync::Mutex::new(None),
            edges: Edges::default(),
            untold: Untold::default(),
            wishes_wake: Arc::default(),
            wishes_seen: AtomicI64::new(-1),
            writer: parts.writer,
            refusals: Refusals::default(),
            audit: Arc::new(AuditFiles::new(audit)),
            audit_wake: Arc::new(Notify::new()),
            sealing: tokio::sync::Mutex::new(None),
            checkpoint_told: Mutex::new(began.1),
            verified: LastVerified::default(),
            following: Following::default(),
            documents: Documents::default(),
            prompting: Prompting::default(),
            limited: Limited::default(),
            idle: Idle::default(),
            kept_output: KeptOutput::default(),
            scheduling: Mutex::default(),
            vault: parts.vault,
            embed_wake: Arc::default(),
            embed_patience: Patience::default(),
            queue_wake: Arc::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    pub fn supervisor(&self) -> &Supervisor {
        &self.inner.supervisor
    }

    pub fn runtime(&self) -> &Runtime {
        &self.inner.runtime
    }

    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// Now, for what expires: since this daemon began no more time has passed than the monotonic
    /// clock has counted, so a clock that is set forward makes nothing expire.
    pub(crate) fn now_for_expiry(&self) -> Timestamp {
        let (wall, monotonic) = self.inner.began;
        let passed = self.inner.clock.monotonic().saturating_sub(monotonic);
        self.now().min(wall.checked_add(passed).unwrap_or(Timestamp::MAX))
    }

    /// What models cost, as this daemon knows it.
    pub fn prices(&self) -> &Prices {
        &self.inner.settings.prices
    }

    pub(crate) fn entropy(&self) -> [u8; 16] {
        (self.inner.entropy)()
    }

    pub(crate) fn backoff(&self) -> Backoff {
        let [a, b, c, d, ..] = self.entropy();
        Backoff { dice: u32::from_be_bytes([a, b, c, d]), ..self.inner.settings.backoff }
    }

    /// A program inside a runner may look, and change nothing.
    pub fn may_change(&self, caller: &Caller, what: &str) -> Result<(), Error> {
        match &caller.principal {
            Principal::User { .. } | Principal::Daemon | Principal::Agent(_) => Ok(()),
            Principal::Inside(runner) => {
                tracing::warn!(%runner, what, "a program inside a runner was refused");
                Err(Error::Forbidden {
                    message: format!("a program inside {runner} may not {what}"),
                })
            }
            // It passes on what others ask for, and asks for nothing of its own.
            Principal::Node(node) => {
                tracing::warn!(%node, what, "a node that spoke for nobody was refused");
                Err(Error::Forbidden { message: format!("{node} may not {what} for itself") })
            }
        }
    }

    /// Who does something, from where and by which request, as it is to stand beside the deed.
    pub(crate) fn by(&self, caller: &Caller, key: Option<&Idempotency>) -> By {
        let origin = Origin {
            key: key.map(|key| key.key().into()),
            daemon: Some(self.inner.daemon.id),
            ..caller.origin.clone()
        };
        By { name: caller.to_string(), origin }
    }

    /// Lets a caller stop the daemon, and says on the record that it did.
    pub async fn shut_down_asked(&self, caller: &Caller, stops_runners: bool) -> Result<(), Error> {
        self.may_change(caller, "stop the daemon")?;
        self.record(caller, "request.shutdown", json!({ "stops_runners": stops_runners })).await
    }

    /// Lets a caller talk to a runner's agent through the daemon, and says so on the record: who
    /// may attach may type.
    pub async fn attach_asked(&self, caller: &Caller, runner: &Runner) -> Result<(), Error> {
        self.may_attach(caller)?;
        self.live(runner.id).await?;
        let about = json!({ "runner": runner.id, "name": runner.name });
        self.record(caller, "request.attach", about).await
    }

    /// Changing what the cluster consists of.
    pub fn may_administer(&self, caller: &Caller, what: &str) -> Result<(), Error> {
        self.may_change(caller, what)
    }

    /// True if other daemons may be on the same database.
    pub fn is_shared(&self) -> bool {
        self.inner.store.is_shared()
    }

    /// Attaching shows what a runner prints, and lets the viewer type.
    pub fn may_attach(&self, caller: &Caller) -> Result<(), Error> {
        self.may_change(caller, "attach to runners")
    }

    /// The answer that the key already has. A use case asks for it first, since its first run has
    /// changed what it would now decide on.
    pub(crate) async fn answered<T: DeserializeOwned>(
        &self,
        key: Option<&Idempotency>,
    ) -> Result<Option<T>, Error> {
        match key {
            Some(key) => {
                Ok(self.inner.store.idempotency_answer(key, self.now_for_expiry()).await?)
            }
            None => Ok(None),
        }
    }

    /// Takes `input` into account: reads, decides, and writes if nobody got in between; else
    /// decides anew on what is there now. Then acts on what was written.
    ///
    /// Answers the runner as it stands after it, changed or not.
    pub(crate) async fn apply(
        &self,
        id: RunnerId,
        input: Input,
        by: &Caller,
        key: Option<&Idempotency>,
    ) -> Result<Runner, Error> {
        if let Some(answer) = self.answered::<Runner>(key).await? {
            self.look_again(std::slice::from_ref(&answer)).await?;
            return Ok(answer);
        }
        self.apply_afresh(id, input, by, key).await
    }

    /// The same for a runner that was read just now. That saves a read; if the runner has changed
    /// meanwhile, the write finds out, and what is decided is decided anew.
    pub(crate) async fn apply_to(
        &self,
        seen: &Runner,
        input: Input,
        by: &Caller,
    ) -> Result<Runner, Error> {
        if let Ok(Outcome::Changed(next, event)) =
            seen.apply(input.clone(), self.now(), &self.backoff())
        {
            match self.inner.store.runner_write(seen, &next, event, &self.by(by, None), None).await
            {
                Ok(written) => {
                    self.changed(&written);
                    return Ok(written);
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.apply_afresh(seen.id, input, by, None).await
    }

    async fn apply_afresh(
        &self,
        id: RunnerId,
        input: Input,
        by: &Caller,
        key: Option<&Idempotency>,
    ) -> Result<Runner, Error> {
        let by = self.by(by, key);
        let mut last = None;
        for _ in 0..CONFLICTS {
            let seen = self.inner.store.runner_get(id).await?;
            let (next, event) = match seen.apply(input.clone(), self.now(), &self.backoff())? {
                Outcome::Unchanged => {
                    return Ok(match key {
                        Some(key) => {
                            self.inner.store.idempotency_keep(key, seen, self.now()).await?
                        }
                        None => seen,
                    });
                }
                Outcome::Changed(next, event) => (*next, event),
            };
            failpoint("runner_before_write");
            match self.inner.store.runner_write(&seen, &next, event, &by, key).await {
                Ok(written) => {
                    self.changed(&written);
                    return Ok(written);
                }
                Err(error @ StoreError::Conflict { .. }) => last = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.map_or_else(|| Error::internal("no attempt was made"), Error::from))
    }

    /// Tells whoever waits that something was committed, and brings the host in line with it.
    pub(crate) fn changed(&self, runner: &Runner) {
        self.store_works();
        self.inner.relay_wake.notify_one();
        self.converge(runner);
    }

    /// Looks at what is there now of runners that an earlier answer names, and acts on it: whoever was asked
    /// before may have lost the database between the commit and that.
    pub(crate) async fn look_again(&self, answered: &[Runner]) -> Result<(), Error> {
        for runner in answered {
            self.changed(&self.inner.store.runner_get(runner.id).await?);
        }
        Ok(())
    }

    /// Brings this host in line with what the store says of a runner. Safe to repeat.
    pub(crate) fn converge(&self, runner: &Runner) {
        let id = runner.id;
        // Only a daemon of its own host may touch a runner's processes.
        if runner.node != self.inner.node.id {
            return;
        }
        match &runner.state {
            RunnerState::Pending { .. } => self.start_when_due(runner),
            RunnerState::Stopping { stop, .. } => {
                let grace = Duration::from_millis(stop.grace_ms);
                // From now on its patience counts.
                self.inner.links.seen_since(id, runner.generation, self.inner.clock.monotonic());
                if self.inner.links.tell(
                    id,
                    AgentCommand::Stop { grace, force: stop.force, quit: quit_word(runner) },
                ) {
                    self.give_up_after(runner, stop);
                } else {
                    self.watch(id);
                }
            }
            RunnerState::Running { .. } => {
                self.inner
                    .links
                    .tell(id, AgentCommand::SetPaused(runner.desired == Desired::Paused));
            }
            RunnerState::Exited { .. } | RunnerState::Failed { .. } | RunnerState::Lost { .. } => {
                self.forget_liveness(id);
                self.inner.links.forget_seen(id);
                // What it told last.
                self.signals_grown(id);
                self.inner.queue_wake.notify_one();
            }
            RunnerState::Starting { .. } | RunnerState::Unresponsive { .. } => {}
        }
    }
}
