//! From configuration to a control that works.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use stratavore_audit::{MacError, Writer};
use stratavore_bus::{Bus, rabbit};
use stratavore_config as config;
use stratavore_control::{
    ALERTS_EVERY, AssistantSettings, Control, Embedder, JournalFile, NotifySettings, OUTPUT_EVERY,
    Parts, RabbitSettings, SERVER_LOOK_EVERY, Settings, VaultSettings, chain,
};
use stratavore_core::clock::Clock;
use stratavore_core::daemon::{Daemon, Node};
use stratavore_core::daily::Daily;
use stratavore_core::node::{Label, Profile};
use stratavore_core::notify::SecretRef;
use stratavore_core::price::{Price, Prices, Tariff};
use stratavore_core::restart::Backoff;
use stratavore_core::{DaemonId, NodeId, Timestamp};
use stratavore_notify::{EmbeddingSettings, Embeddings, Interface, Sender, SystemResolver};
use stratavore_proto::runner_dir::{Recording, Resize, write_durably};
use stratavore_proto::version::VERSION;
use stratavore_runtime::Runtime;
use stratavore_store::{
    Database, Host, PoolSettings, PostgresSettings, Store, StoreError, TlsMode,
};
use stratavore_vault::VaultError;
use tokio::net::TcpListener;

use crate::agents::Pace;
use crate::clock::{SystemClock, entropy};
use crate::cluster::Cluster;
use crate::run::Failure;
use crate::times::or_as_tested;
use crate::vault;

/// Events that a subscriber may be behind before it has to read them from the store.
const BUS_CAPACITY: usize = 1024;

/// How often it is looked whether the broker's queues are read, and how long one may be unread.
const QUEUES_EVERY: Duration = Duration::from_secs(30);
const UNREAD_FOR: Duration = Duration::from_secs(600);

/// A broker that has said nothing for twice as long is taken for gone.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Divides the waits between attempts to tell somebody, in the tests of what follows them.
#[cfg(debug_assertions)]
const HASTE: &str = "STRATAVORE_TEST_NOTIFY_HASTE";

/// What the daemon was told, checked.
pub(crate) struct Setup {
    pub(crate) config: config::Config,
    pub(crate) paths: config::Paths,
    env: BTreeMap<String, String>,
}

/// Why the daemon cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error("read the configuration")]
    Config(#[source] config::ConfigError),
    #[error("find the places for files")]
    Paths(#[source] config::PathsError),
    #[error("prepare a directory")]
    Directory(#[source] config::PrivateError),
    #[error("the program stratavore-agent is not beside this one nor on the PATH")]
    NoAgent,
    #[error("keep this host's id in {path}")]
    NodeId { path: String, source: io::Error },
    #[error("open the store")]
    Store(#[source] StoreError),
    #[error("give the record its codes")]
    Record(#[source] MacError),
    #[error("node.listen is for daemons that share a database, and this one has SQLite")]
    NobodyElse,
    #[error("listen on {address}")]
    Listen { address: String, source: io::Error },
    #[error("the embeddings of search cannot be used: {why}")]
    Embeddings { why: String },
    #[error("open the vault")]
    Vault(#[source] VaultError),
    #[cfg(not(feature = "s3"))]
    #[error("vault.url is {url}, and this stratavored was built without the feature s3")]
    NoS3 { url: String },
    #[cfg(feature = "s3")]
    #[error("vault.s3.endpoint cannot be used: {why}")]
    S3Endpoint { why: String },
    #[error("read notify.root_cert, {path}: {why}")]
    Roots { path: String, why: String },
    #[error("read this node's key and certificate in {path}")]
    Identity { path: String, source: io::Error },
}

impl SetupError {
    /// As in docs/errors.md.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Paths(_)
            | Self::NobodyElse
            | Self::Embeddings { .. }
            | Self::Roots { .. } => 7,
            #[cfg(not(feature = "s3"))]
            Self::NoS3 { .. } => 7,
            #[cfg(feature = "s3")]
            Self::S3Endpoint { .. } => 7,
            Self::Directory(_)
            | Self::NodeId { .. }
            | Self::Record(_)
            | Self::Vault(_)
            | Self::Listen { .. }
            | Self::Identity { .. } => 8,
            Self::NoAgent => 3,
            Self::Store(_) => 6,
        }
    }

    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Config(_) => "mend the file, then check it: stratavore config validate",
            Self::Paths(_) => "set HOME, or STRATAVORE_HOME",
            Self::Directory(_) | Self::NodeId { .. } | Self::Record(_) => {
                "see the message, then try again: stratavore daemon start"
            }
            Self::NobodyElse => "set store.url to postgres, or take node.listen out",
            Self::Listen { .. } => {
                "see that the address is this host's and the port is free, or change node.listen"
            }
            Self::Embeddings { .. } => {
                "set search.model, search.url and search.key_file, or search.embeddings to builtin"
            }
            #[cfg(not(feature = "s3"))]
            Self::NoS3 { .. } => {
                "take one that was built with --features s3, or set vault.url to directory"
            }
            #[cfg(feature = "s3")]
            Self::S3Endpoint { .. } => "correct it, then: stratavore config validate",
            Self::Vault(_) => "look at the disk and the rights of the state directory",
            Self::Roots { .. } => "give a PEM file of certificates, or take notify.root_cert out",
            Self::Identity { .. } => {
                "restore the files; or remove the directory, and join again: stratavore nodes join"
            }
            Self::NoAgent => "install it beside stratavored, or set agent.binary",
            Self::Store(StoreError::SchemaNewer { .. }) => {
                "install the newer stratavore that made the database, or restore a backup of before"
            }
            Self::Store(StoreError::WrongServer { .. }) => {
                "let store.postgres.host lead to the primary, then: stratavore daemon start"
            }
            Self::Store(StoreError::Full { .. }) => {
                "free some space, then try again: stratavore daemon start"
            }
            Self::Store(StoreError::Corrupt { .. }) => {
                "restore it from a backup, or move it away to begin anew"
            }
            Self::Store(_) => "see that the database can be reached and written: stratavore doctor",
        }
    }
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

    /// How people and programs are told.
    fn notify(&self) -> Result<NotifySettings, SetupError> {
        let own = &self.config.notify;
        let roots = self.roots()?;
        let credentials = self.env.get("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        #[cfg(debug_assertions)]
        let haste = self.env.get(HASTE).and_then(|haste| haste.parse().ok()).unwrap_or(1).max(1);
        #[cfg(not(debug_assertions))]
        let haste = 1;
        Ok(NotifySettings {
            sender: Sender::new(stratavore_notify::Settings {
                allow: own.allow_addresses.iter().filter_map(|range| range.parse().ok()).collect(),
                resolver: Arc::new(SystemResolver),
                roots,
                timeout: own.timeout,
                secrets: Arc::new(move |reference| secret(reference, credentials.as_deref())),
                desktop: "notify-send".into(),
            }),
            haste,
        })
    }

    /// What makes vectors of messages.
    fn embedder(&self) -> Result<Embedder, SetupError> {
        let own = &self.config.search;
        let (interface, usual, kind) = match own.embeddings {
            config::Embeddings::Off => return Ok(Embedder::Off),
            config::Embeddings::Builtin => return Ok(Embedder::Builtin),
            config::Embeddings::OpenAi => {
                (Interface::OpenAi, "https://api.openai.com/v1", "openai")
            }
            config::Embeddings::Ollama => (Interface::Ollama, "http://127.0.0.1:11434", "ollama"),
        };
        let wrong = |why: String| SetupError::Embeddings { why };
        let model = own.model.clone().ok_or_else(|| wrong("search.model is not set".into()))?;
        let url = own.url.as_deref().unwrap_or(usual);
        let key_file = own.key_file.clone();
        let service = Embeddings::new(EmbeddingSettings {
            interface,
            url: url.parse().map_err(|why| wrong(format!("search.url is no URL: {why}")))?,
            model: model.clone(),
            key: Arc::new(move || match &key_file {
                Some(path) => config::read_secret(path).map(Some).map_err(|error| chain(&error)),
                None => Ok(None),
            }),
            resolver: Arc::new(SystemResolver),
            roots: self.roots()?,
            timeout: own.timeout,
        });
        Ok(Embedder::Service { service, name: format!("{kind}/{model}") })
    }

    /// Whom to trust of those that are dialled.
    pub(crate) fn roots(&self) -> Result<rustls::RootCertStore, SetupError> {
        let own = &self.config.notify;
        let read = |path| std::fs::read(path).map_err(|error| (path, error.to_string()));
        let further = own.root_cert.as_ref().map(read);
        let roots = match further.transpose() {
            Ok(pem) => {
                let path = own.root_cert.clone().unwrap_or_default();
                stratavore_notify::roots(pem.as_deref()).map_err(|why| (path, why))
            }
            Err((path, why)) => Err((path.clone(), why)),
        };
        roots.map_err(|(path, why)| SetupError::Roots { path: path.display().to_string(), why })
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
            rabbit: rabbit(&self.config.bus),
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

/// Reads what a reference names; anew each time, since secrets change.
fn secret(reference: &SecretRef, credentials: Option<&Path>) -> Result<SecretString, String> {
    let path = match reference.as_str().split_once(':') {
        Some(("file", path)) => PathBuf::from(path),
        Some(("systemd-cred", name)) => match credentials {
            Some(directory) => directory.join(name),
            None => return Err("the service manager has handed over no credentials".into()),
        },
        Some(_) | None => return Err("it is of no kind that is known".into()),
    };
    config::read_secret(&path).map_err(|error| chain(&error))
}

/// How events get to RabbitMQ, if they are to.
fn rabbit(bus: &config::Bus) -> Option<RabbitSettings> {
    match bus.url {
        config::BusUrl::None => return None,
        config::BusUrl::Rabbitmq => {}
    }
    let config::Rabbitmq { host, port, vhost, user, exchange, queues, .. } = &bus.rabbitmq;
    let shown = serde_json::json!({
        "host": host, "port": port, "vhost": vhost, "user": user, "tls": bus.rabbitmq.tls.as_str(),
        "exchange": exchange, "queues": queues,
    });
    let own = bus.rabbitmq.clone();
    Some(RabbitSettings {
        window: own.window as usize,
        refusals_max: own.refusals_max,
        refused_for: own.refused_for,
        queues_every: or_as_tested("queues_every", QUEUES_EVERY),
        unread_for: or_as_tested("unread_for", UNREAD_FOR),
        shown: shown.to_string(),
        broker: Arc::new(move || broker(&own)),
    })
}

/// Reads what may have changed since the last connection: the password and the certificates.
fn broker(own: &config::Rabbitmq) -> Result<rabbit::Settings, String> {
    let password = match &own.password_file {
        Some(path) => config::read_secret(path).map_err(|error| chain(&error))?,
        None => return Err("bus.rabbitmq.password_file is not set".into()),
    };
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))
    };
    let shown = match own.client_cert.as_ref().zip(own.client_key_file.as_ref()) {
        Some((certificate, key)) => Some(rabbit::Own {
            certificate: read(certificate)?,
            key: config::read_key(key).map_err(|error| chain(&error))?,
        }),
        None => None,
    };
    let roots = own.root_cert.as_ref().map(read).transpose()?;
    Ok(rabbit::Settings {
        host: own.host.clone(),
        port: own.port,
        vhost: own.vhost.clone(),
        user: own.user.clone(),
        password,
        tls: match own.tls {
            config::Switch::Off => None,
            config::Switch::On => Some(rabbit::Tls { roots, own: shown }),
        },
        exchange: own.exchange.clone(),
        queues: own.queues.clone(),
        message_max: usize::try_from(own.message_max).unwrap_or(usize::MAX),
        connect_timeout: own.connect_timeout,
        heartbeat: HEARTBEAT,
        name: format!("stratavored {VERSION}"),
    })
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
    let writer = writer(&setup.paths.audit_dir().join("mac"), now).map_err(SetupError::Record)?;
    store.write_codes(writer.clone());
    let node = Node {
        id: node_id(&setup.paths.state_dir().join("node"))?,
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
    let seat = seat(&node.boot_id, &setup.paths.daemon_lock())?;
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
    let settings = stratavore_store::Settings { database: setup.database()?, pool: setup.pool() };
    let store = Store::open(settings).await.map_err(SetupError::Store)?;
    store.close().await;
    Ok(())
}

/// What gives this daemon's events their codes.
fn writer(path: &Path, now: Timestamp) -> Result<Arc<Writer>, MacError> {
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(&entropy());
    seed[16..].copy_from_slice(&entropy());
    Writer::open(path, seed, now.as_microsecond()).map(Arc::new)
}

/// What no two state directories that are in use have in common, be one a copy of the other: the
/// boot of the host, and the file that is locked.
fn seat(boot_id: &str, lock: &Path) -> Result<DaemonId, SetupError> {
    let file = std::fs::metadata(lock)
        .map_err(|source| SetupError::NodeId { path: lock.display().to_string(), source })?;
    let digest = Sha256::new()
        .chain_update(boot_id)
        .chain_update(file.dev().to_be_bytes())
        .chain_update(file.ino().to_be_bytes())
        .finalize();
    let mut entropy = [0; 16];
    entropy.copy_from_slice(&digest[..16]);
    Ok(DaemonId::from_entropy(entropy))
}

/// This host's id: made once, kept in the state directory.
fn node_id(path: &Path) -> Result<NodeId, SetupError> {
    let failed = |source| SetupError::NodeId { path: path.display().to_string(), source };
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map_err(|error| failed(io::Error::other(error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = NodeId::from_entropy(entropy());
            write_durably(path, format!("{id}\n").as_bytes()).map_err(failed)?;
            Ok(id)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Errors of setting up, as the reasons not to start that they are.
impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(6, chain(&error), "see that the database can be reached: stratavore doctor")
    }
}
