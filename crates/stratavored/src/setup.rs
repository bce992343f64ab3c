//! From configuration to a control that works.

mod bus;
mod error;
mod host;
mod notify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use stratavore_bus::Bus;
use stratavore_config as config;
use stratavore_control::{
    ALERTS_EVERY, AssistantSettings, CHECKPOINT_EVERY, Control, JournalFile, OUTPUT_EVERY, Parts,
    SERVER_LOOK_EVERY, Settings, VaultSettings, chain,
};
use stratavore_core::DaemonId;
use stratavore_core::clock::Clock;
use stratavore_core::daemon::{Daemon, Node};
use stratavore_core::daily::Daily;
use stratavore_core::node::{Label, Profile};
use stratavore_core::price::{Price, Prices, Tariff};
use stratavore_core::restart::Backoff;
use stratavore_proto::runner_dir::{Recording, Resize};
use stratavore_proto::version::VERSION;
use stratavore_runtime::Runtime;
use stratavore_store::{
    Database, Host, PoolSettings, PostgresSettings, Store, StoreError, TlsMode,
};
use tokio::net::TcpListener;

pub(crate) use self::error::SetupError;
use crate::agents::Pace;
use crate::clock::{SystemClock, entropy};
use crate::cluster::Cluster;
use crate::run::Failure;
use crate::times::or_as_tested;
use crate::vault;

/// Events that a subscriber may be behind before it has to read them from the store.
const BUS_CAPACITY: usize = 1024;

/// What the daemon was told, checked.
pub(crate) struct Setup {
    pub(crate) config: config::Config,
    pub(crate) paths: config::Paths,
    env: BTreeMap<String, String>,
}

impl Setup {
    pub(crate) fn read(
        env: BTreeMap<String, String>,
        file: Option<PathBuf>,
    ) -> Result<Self, SetupError> {
        let paths = config::Paths::new(&env).map_err(SetupError::Paths)?;
        let mut sources = config::Sources::new(&paths, &env);
        sources.file = file.or(sources.file);
        let loaded = config::Config::load(&sources).map_err(SetupError::Config)?;
        Ok(Self { config: loaded.config, paths, env })
    }

    pub(crate) fn json_log(&self) -> bool {
        self.config.daemon.log == config::LogFormat::Json
    }

    pub(crate) fn log_level(&self) -> &str {
        self.config.daemon.log_level.as_str()
    }

    pub(crate) fn shutdown_grace(&self) -> Duration {
        self.config.daemon.shutdown_grace
    }

    pub(crate) fn pace(&self) -> Pace {
        let silence = self.config.runner.unresponsive_after;
        Pace { heartbeat: self.config.agent.heartbeat, silence }
    }

    /// Makes the directories, for their owner only.
    pub(crate) fn make_directories(&self) -> Result<(), SetupError> {
        for path in [
            self.paths.state_dir(),
            self.paths.run_dir(),
            &self.paths.runners_dir(),
            &self.paths.audit_dir(),
        ] {
            config::ensure_private_dir(path).map_err(SetupError::Directory)?;
        }
        Ok(())
    }

    fn database(&self) -> Result<Database, SetupError> {
        let store = &self.config.store;
        if let Some(path) = store.database(&self.paths) {
            return Ok(Database::Sqlite { path });
        }
        let postgres = &store.postgres;
        let password = match &postgres.password_file {
            Some(path) => Some(config::read_secret(path).map_err(SetupError::Directory)?),
            None => None,
        };
        Ok(Database::Postgres(PostgresSettings {
            host: match postgres.is_unix_socket() {
                true => Host::Socket(postgres.host.clone().into()),
                false => Host::Tcp(postgres.host.clone()),
            },
            port: postgres.port,
            database: postgres.database.clone(),
            user: postgres.user.clone(),
            password,
            tls: match postgres.ssl_mode() {
                config::SslMode::Disable => TlsMode::Disable,
                config::SslMode::Prefer => TlsMode::Prefer,
                config::SslMode::Require => TlsMode::Require,
                config::SslMode::VerifyCa => TlsMode::VerifyCa,
                config::SslMode::VerifyFull => TlsMode::VerifyFull,
            },
            root_certificate: postgres.root_cert.clone(),
            statement_timeout: store.pool.statement_timeout,
            witness: Some(self.paths.state_dir().join("database-server")),
        }))
    }

    fn pool(&self) -> PoolSettings {
        let pool = &self.config.store.pool;
        PoolSettings {
            max_connections: pool.max_connections,
            min_connections: pool.min_connections,
            acquire_timeout: pool.acquire_timeout,
            connect_timeout: pool.connect_timeout,
            max_lifetime: pool.max_lifetime,
            idle_timeout: pool.idle_timeout,
        }
    }

    fn agent_program(&self) -> Result<PathBuf, SetupError> {
        if let Some(path) = &self.config.agent.binary {
            return Ok(path.clone());
        }
        let beside = std::env::current_exe()
            .ok()
            .and_then(|own| Some(own.parent()?.join("stratavore-agent")));
        if let Some(path) = beside.filter(|path| path.is_file()) {
            return Ok(path);
        }
        let search = self.env.get("PATH").map(String::as_str).unwrap_or_default();
        let found = std::env::split_paths(search)
            .map(|dir| dir.join("stratavore-agent"))
            .find(|path| path.is_file());
        found.ok_or(SetupError::NoAgent)
    }

    fn runtime_settings(&self) -> Result<stratavore_runtime::Settings, SetupError> {
        let agent = &self.config.agent;
        Ok(stratavore_runtime::Settings {
            runners: self.paths.runners_dir(),
            agents_socket: self.paths.agents_socket(),
            agents_sockets: agent.sockets.iter().map(PathBuf::from).collect(),
            agent: self.agent_program()?,
            heartbeat: agent.heartbeat,
            launch_timeout: self.config.runner.launch_timeout,
            recording: match agent.recording {
                config::Recording::BestEffort => Recording::BestEffort,
                config::Recording::Strict => Recording::Strict,
            },
            resize: match self.config.attach.resize {
                config::Resize::Smallest => Resize::Smallest,
                config::Resize::Latest => Resize::Latest,
            },
            segment_bytes: agent.output_segment_bytes,
            output_max_bytes: agent.output_max_bytes,
        })
    }

    /// What this node says of itself; `port` is the one that it listens on.
    fn profile(&self, port: Option<u16>) -> Profile {
        let node = &self.config.node;
        let labels = node.labels.iter().filter_map(|label| label.parse::<Label>().ok());
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let address = node.address.clone().or_else(|| {
            let (listen, port) = (node.listen.clone()?, port?);
            let host = if listen.is_everywhere() { hostname } else { listen.host };
            Some(config::HostPort { host, port })
        });
        Profile {
            labels: labels.map(|label| (label.name, label.value)).collect(),
            capacity: node.capacity.map(u64::from),
            address: address.map(|address| address.to_string()),
        }
    }

    /// The door for other nodes, if they are to be served.
    async fn listen(&self, store: &Store) -> Result<Option<TcpListener>, SetupError> {
        let Some(listen) = &self.config.node.listen else { return Ok(None) };
        if !store.is_shared() {
            return Err(SetupError::NobodyElse);
        }
        let listener = TcpListener::bind((listen.host.as_str(), listen.port)).await;
        let failed = |source| SetupError::Listen { address: listen.to_string(), source };
        listener.map(Some).map_err(failed)
    }

    fn control_settings(&self, profile: Profile) -> Result<Settings, SetupError> {
        let runner = &self.config.runner;
        let assistants = self.config.assistants.iter().map(|(name, own)| {
            let settings = AssistantSettings {
                program: own.program.as_ref().map(|path| path.display().to_string()),
                args: own.args.clone(),
                env_pass: own.env_pass.clone(),
            };
            (name.clone(), settings)
        });
        let prices = self.config.prices.iter().filter_map(|(model, own)| {
            // Both are there, and the name is one, or the configuration was refused.
            let (input, output) = (own.input?, own.output?);
            let cache_write = own.cache_write.unwrap_or(input);
            let price = Price {
                input,
                output,
                cache_read: own.cache_read.unwrap_or(input),
                cache_write,
                cache_write_1h: own.cache_write_1h.unwrap_or(cache_write),
            };
            Some((model.parse().ok()?, Tariff::flat(price)))
        });
        Ok(Settings {
            prices: Prices::new(prices.collect()),
            grace: runner.grace,
            unresponsive_after: runner.unresponsive_after,
            launch_timeout: runner.launch_timeout,
            keep_ended: runner.keep_ended,
            output_host_max: runner.output_host_max_bytes,
            output_every: or_as_tested("output_every", OUTPUT_EVERY),
            keep_events: self.config.events.keep,
            journal: match self.config.events.strict {
                config::Switch::On => Some(Arc::new(JournalFile::at(&self.paths.audit_dir()))),
                config::Switch::Off => None,
            },
            verify: match self.config.events.verify {
                config::Daily::At { hour, minute } => {
                    Some((Daily { hour, minute }, TimeZone::system()))
                }
                config::Daily::Off => None,
            },
            transaction_alarm: self.config.store.transaction_alarm,
            backoff: Backoff {
                first: runner.restart_backoff,
                max: runner.restart_backoff_max,
                limit: runner.crash_loop_limit,
                window: runner.crash_loop_window,
                dice: 0,
            },
            assistants: assistants.collect(),
            env_pass: runner.env_pass.clone(),
            env_allow: runner.env_allow.clone(),
            state_dir: self.paths.state_dir().into(),
            look_every: Some(or_as_tested("look_every", Duration::ZERO)).filter(|t| !t.is_zero()),
            server_every: or_as_tested("server_every", SERVER_LOOK_EVERY),
            alerts_every: or_as_tested("alerts_every", ALERTS_EVERY),
            checkpoint_every: or_as_tested("checkpoint_every", CHECKPOINT_EVERY),
            rabbit: bus::rabbit(&self.config.bus),
            notify: self.notify()?,
            profile,
            vault: VaultSettings {
                keep: self.config.vault.keep,
                keep_of: self.config.vault.keep_of(),
            },
            embedder: self.embedder()?,
        })
    }
}

/// Opens the store, and builds what carries out use cases and what speaks with other nodes.
pub(crate) async fn control(
    setup: Setup,
) -> Result<(Control, Cluster, Option<TcpListener>), Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let settings = stratavore_store::Settings { database: setup.database()?, pool: setup.pool() };
    let runtime = Runtime::new(setup.runtime_settings()?).await;
    #[cfg(debug_assertions)]
    {
        stratavore_store::PASSING.get_or_init(|| stratavore_runtime::failpoint);
        stratavore_store::LEFT_OUT.get_or_init(|| stratavore_runtime::is_off);
    }
    let store = Store::open(settings).await.map_err(SetupError::Store)?;
    let others = setup.listen(&store).await?;
    let port = others.as_ref().and_then(|listener| listener.local_addr().ok());
    let profile = setup.profile(port.map(|address| address.port()));
    let now = clock.now();
    let writer =
        host::writer(&setup.paths.audit_dir().join("mac"), now).map_err(SetupError::Record)?;
    store.write_codes(writer.clone());
    let node = Node {
        id: host::node_id(&setup.paths.state_dir().join("node"))?,
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        boot_id: runtime.boot_id(),
        seen_at: now,
    };
    let daemon = Daemon {
        id: DaemonId::from_entropy(entropy()),
        node: node.id,
        version: VERSION.into(),
        pid: std::process::id(),
        started_at: now,
        seen_at: now,
        stopped_at: None,
    };
    let seat = host::seat(&node.boot_id, &setup.paths.daemon_lock())?;
    tracing::info!(agents = runtime.placement(), store = store.pool_status().engine, "starting");
    let state_dir = setup.paths.state_dir().to_owned();
    let vault = vault::open(&setup, node.id, clock.clone())?;
    vault.tidy().await.map_err(SetupError::Vault)?;
    let settings = setup.control_settings(profile)?;
    if let Some(journal) = &settings.journal {
        store.keep_journal(journal.clone());
    }
    let control = Control::new(Parts {
        store,
        vault,
        bus: Bus::new(BUS_CAPACITY),
        runtime,
        clock: clock.clone(),
        entropy: Arc::new(entropy),
        settings,
        env: setup.env,
        node,
        daemon,
        seat,
        writer,
    });
    let cluster = Cluster::open(control.clone(), clock, &state_dir)
        .map_err(|source| SetupError::Identity { path: state_dir.display().to_string(), source })?;
    Ok((control, cluster, others))
}

/// Brings the schema up to date, and does nothing else.
pub(crate) async fn migrate(setup: &Setup) -> Result<(), Failure> {
    // It may be the first to run there; which database server was seen is kept in it.
    config::ensure_private_dir(setup.paths.state_dir()).map_err(SetupError::Directory)?;
    let settings = stratavore_store::Settings { database: setup.database()?, pool: setup.pool() };
    let store = Store::open(settings).await.map_err(SetupError::Store)?;
    store.close().await;
    Ok(())
}

/// Errors of setting up, as the reasons not to start that they are.
impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(6, chain(&error), "see that the database can be reached: stratavore doctor")
    }
}
