//! The configuration as the programs use it: every value checked, every default filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::Paths;
use crate::detach_key::DetachKey;
use crate::value::{Given, Wanted, choice, text};

/// Everything that can be configured. `docs/configuration.md` says what each key means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    pub store: Store,
    pub bus: Bus,
    pub events: Events,
    pub notify: Notify,
    pub vault: Vault,
    pub search: Search,
    pub agent: Agent,
    pub runner: Runner,
    pub node: Node,
    pub attach: Attach,
    pub daemon: Daemon,
    /// By name.
    pub assistants: BTreeMap<String, AssistantSettings>,
    /// By names of models, or beginnings of them that end in `*`.
    pub prices: BTreeMap<String, PriceSettings>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    pub url: StoreUrl,
    pub postgres: Postgres,
    pub pool: Pool,
    /// A transaction of anybody's that is open for longer is a problem.
    pub transaction_alarm: Duration,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: StoreUrl::default(),
            postgres: Postgres::default(),
            pool: Pool::default(),
            transaction_alarm: Duration::from_secs(300),
        }
    }
}

impl Store {
    /// The file of the SQLite database, or `None` where the store is PostgreSQL.
    pub fn database(&self, paths: &Paths) -> Option<PathBuf> {
        match &self.url {
            StoreUrl::Sqlite => Some(paths.database()),
            StoreUrl::SqliteFile(path) => Some(path.clone()),
            StoreUrl::Postgres => None,
        }
    }
}

/// Which database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StoreUrl {
    /// A file in the state directory.
    #[default]
    Sqlite,
    /// A file elsewhere.
    SqliteFile(PathBuf),
    /// The server of [`Postgres`].
    Postgres,
}

impl StoreUrl {
    pub(crate) fn read(given: &Given) -> Result<Self, Wanted> {
        let text = crate::value::text(given, "`sqlite`, `sqlite:/a/file` or `postgres`")?;
        match text.as_str() {
            "sqlite" => Ok(Self::Sqlite),
            "postgres" => Ok(Self::Postgres),
            _ => match text.strip_prefix("sqlite:").map(PathBuf::from) {
                Some(path) if path.is_absolute() => Ok(Self::SqliteFile(path)),
                Some(_) => Err("`sqlite:` and an absolute path, such as `sqlite:/var/lib/stratavore/db`".into()),
                None if text.starts_with("postgres") => Err(
                    "`postgres`, with the server under `store.postgres` (`host`, `port`, `database`, `user`, `password_file`)"
                        .into(),
                ),
                None => Err("`sqlite`, `sqlite:/a/file` or `postgres`".into()),
            },
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite => f.write_str("sqlite"),
            Self::SqliteFile(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres => f.write_str("postgres"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postgres {
    /// A name, an address, or the directory of a Unix socket.
    pub host: String,
    pub port: u16,
    pub database: String,
    pub user: String,
    /// Holds the password, alone. Read it with [`crate::read_secret`].
    pub password_file: Option<PathBuf>,
    /// What was asked for; [`Postgres::ssl_mode`] is what holds.
    pub sslmode: Option<SslMode>,
    pub root_cert: Option<PathBuf>,
}

impl Default for Postgres {
    fn default() -> Self {
        Self {
            host: "/var/run/postgresql".into(),
            port: 5432,
            database: "stratavore".into(),
            user: "stratavore".into(),
            password_file: None,
            sslmode: None,
            root_cert: None,
        }
    }
}

impl Postgres {
    pub fn is_unix_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// The mode that was asked for. By default the server must prove who it is, unless it is on
    /// this host: a Unix socket has no TLS, and loopback is not eavesdropped on.
    pub fn ssl_mode(&self) -> SslMode {
        let local = matches!(self.host.as_str(), "localhost" | "127.0.0.1" | "::1");
        match self.sslmode {
            Some(mode) => mode,
            None if self.is_unix_socket() => SslMode::Disable,
            None if local => SslMode::Prefer,
            None => SslMode::VerifyFull,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    pub max_connections: u32,
    pub min_connections: u32,
    pub acquire_timeout: Duration,
    pub max_lifetime: Duration,
    pub idle_timeout: Duration,
    pub connect_timeout: Duration,
    pub statement_timeout: Duration,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            max_connections: 25,
            min_connections: 5,
            acquire_timeout: Duration::from_secs(2),
            max_lifetime: Duration::from_secs(60 * 60),
            idle_timeout: Duration::from_secs(30 * 60),
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(5),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bus {
    pub url: BusUrl,
    pub rabbitmq: Rabbitmq,
}

/// Where events go besides those who read them here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BusUrl {
    #[default]
    None,
    /// The broker of [`Rabbitmq`].
    Rabbitmq,
}

impl BusUrl {
    pub(crate) fn read(given: &Given) -> Result<Self, Wanted> {
        match crate::value::text(given, "`none` or `rabbitmq`")?.as_str() {
            "none" => Ok(Self::None),
            "rabbitmq" => Ok(Self::Rabbitmq),
            text if text.starts_with("amqp") => Err(
                "`rabbitmq`, with the broker under `bus.rabbitmq` (`host`, `port`, `vhost`, `user`, `password_file`)"
                    .into(),
            ),
            _ => Err("`none` or `rabbitmq`".into()),
        }
    }
}

impl fmt::Display for BusUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Rabbitmq => "rabbitmq",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rabbitmq {
    pub host: String,
    pub port: u16,
    pub vhost: String,
    pub user: String,
    /// Holds the password, alone. Read it with [`crate::read_secret`].
    pub password_file: Option<PathBuf>,
    pub tls: Switch,
    pub root_cert: Option<PathBuf>,
    /// What this side shows, and its key. Read the key with [`crate::read_key`].
    pub client_cert: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
    pub exchange: String,
    pub queues: Vec<String>,
    pub window: u32,
    pub message_max: u64,
    pub connect_timeout: Duration,
    pub refusals_max: u32,
    pub refused_for: Duration,
}

impl Default for Rabbitmq {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: 5672,
            vhost: "/".into(),
            user: "stratavore".into(),
            password_file: None,
            tls: Switch::Off,
            root_cert: None,
            client_cert: None,
            client_key_file: None,
            exchange: "stratavore.events".into(),
            queues: Vec::new(),
            window: 256,
            message_max: 1 << 20,
            connect_timeout: Duration::from_secs(5),
            refusals_max: 10,
            refused_for: Duration::from_secs(600),
        }
    }
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Events {
    /// How long an event stays in the database before it is moved into a file; `None`: for ever.
    pub keep: Option<Duration>,
    /// When the record is verified each day.
    pub verify: Daily,
    /// Whether each event is kept in a file of the host too before its change is answered.
    pub strict: Switch,
}

/// A time of the day, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daily {
    At { hour: u8, minute: u8 },
    Off,
}

impl Default for Daily {
    fn default() -> Self {
        Self::At { hour: 3, minute: 30 }
    }
}

impl Daily {
    pub(crate) fn read(given: &Given) -> Result<Self, Wanted> {
        const WHAT: &str = "a time of the day such as `03:30`, or `off`";
        let written = text(given, WHAT)?;
        if written == "off" {
            return Ok(Self::Off);
        }
        let number = |digits: &str, below: u8| {
            let is_number = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|n| is_number && *n < below)
        };
        let parts = written.split_once(':');
        let time = parts.and_then(|(hour, minute)| Some((number(hour, 24)?, number(minute, 60)?)));
        time.map(|(hour, minute)| Self::At { hour, minute }).ok_or_else(|| WHAT.into())
    }
}

impl fmt::Display for Daily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At { hour, minute } => write!(f, "{hour:02}:{minute:02}"),
            Self::Off => f.write_str("off"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// `None`: `stratavore-agent` beside the running program.
    pub binary: Option<PathBuf>,
    /// Where agents dial when the daemon that started them is away; absolute paths.
    pub sockets: Vec<String>,
    pub heartbeat: Duration,
    pub output_segment_bytes: u64,
    /// Of one runner.
    pub output_max_bytes: u64,
    pub recording: Recording,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            binary: None,
            sockets: Vec::new(),
            heartbeat: Duration::from_secs(10),
            output_segment_bytes: 1 << 20,
            output_max_bytes: 64 << 20,
            recording: Recording::BestEffort,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runner {
    pub grace: Duration,
    pub unresponsive_after: Duration,
    pub launch_timeout: Duration,
    pub keep_ended: Duration,
    /// Of all runners of a host together; `None`: there is no limit but that of each.
    pub output_host_max_bytes: Option<u64>,
    pub restart_backoff: Duration,
    pub restart_backoff_max: Duration,
    pub crash_loop_limit: u32,
    pub crash_loop_window: Duration,
    pub env_pass: Vec<String>,
    pub env_allow: Vec<String>,
}

impl Default for Runner {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(10),
            unresponsive_after: Duration::from_secs(30),
            launch_timeout: Duration::from_secs(60),
            keep_ended: Duration::from_secs(30 * 24 * 3600),
            output_host_max_bytes: None,
            restart_backoff: Duration::from_secs(1),
            restart_backoff_max: Duration::from_secs(300),
            crash_loop_limit: 5,
            crash_loop_window: Duration::from_secs(600),
            env_pass: Vec::new(),
            env_allow: Vec::new(),
        }
    }
}

/// This host, where several daemons share a store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// On which daemons of other nodes are served; `None`: they are not. Port 0 is any free one.
    pub listen: Option<HostPort>,
    /// What they dial, if that is another one.
    pub address: Option<HostPort>,
    /// `NAME=VALUE` each, or `NAME`.
    pub labels: Vec<String>,
    /// The most runners that may live here at a time.
    pub capacity: Option<u32>,
}

/// A name or an address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl HostPort {
    pub(crate) fn read(given: &Given) -> Result<Option<Self>, Wanted> {
        const WHAT: &str = "a host and a port, such as `10.0.0.5:7433` or `[::]:7433`";
        let text = crate::value::text(given, WHAT)?;
        let (host, port) = text.rsplit_once(':').ok_or(WHAT)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'_');
        match port.parse() {
            Ok(port) if !host.is_empty() && host.bytes().all(is_host) => {
                Ok(Some(Self { host: host.into(), port }))
            }
            Ok(_) | Err(_) => Err(WHAT.into()),
        }
    }

    /// True for one that stands for every address of this host, and so names none.
    pub fn is_everywhere(&self) -> bool {
        matches!(self.host.as_str(), "0.0.0.0" | "::")
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Telling people and programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// Ranges of addresses that are not public and may be dialled: `10.1.0.0/16`.
    pub allow_addresses: Vec<String>,
    /// Further authorities to trust.
    pub root_cert: Option<PathBuf>,
    /// How long an attempt may take.
    pub timeout: Duration,
}

impl Default for Notify {
    fn default() -> Self {
        Self { allow_addresses: Vec::new(), root_cert: None, timeout: Duration::from_secs(15) }
    }
}

/// Conversations as they are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vault {
    pub url: VaultUrl,
    pub s3: S3,
    /// How long transcripts and messages are kept after their conversation was used last; `None`: for
    /// ever.
    pub keep: Option<Duration>,
    /// The same for single projects, as `name=duration`.
    pub keep_projects: Vec<String>,
}

impl Vault {
    /// How long those of single projects are kept, by the projects' names.
    pub fn keep_of(&self) -> BTreeMap<String, Duration> {
        let pairs = self.keep_projects.iter().filter_map(|text| keep_of_project(text));
        pairs.collect()
    }
}

/// Where the blobs of conversations are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum VaultUrl {
    /// Below the state directory.
    #[default]
    Directory,
    /// In a bucket, with keys that begin so; empty: with nothing of their own. How it is reached is in
    /// [`S3`].
    S3 { bucket: String, prefix: String },
}

impl VaultUrl {
    pub(crate) fn read(given: &Given) -> Result<Self, Wanted> {
        const WHAT: &str = "`directory`, or `s3://BUCKET/PREFIX`: of letters, digits, `.`, `-` and `_`, with the server, its region and the credentials under `vault.s3`";
        let text = crate::value::text(given, WHAT)?;
        if text == "directory" {
            return Ok(Self::Directory);
        }
        let rest = text.strip_prefix("s3://").ok_or(WHAT)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let is_plain = |text: &str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            text.bytes().all(plain) && !matches!(text, "" | "." | "..")
        };
        let is_prefix =
            prefix.is_empty() || (prefix.len() <= 512 && prefix.split('/').all(is_plain));
        match is_plain(bucket) && (3..=63).contains(&bucket.len()) && is_prefix {
            true => Ok(Self::S3 { bucket: bucket.into(), prefix: prefix.into() }),
            false => Err(WHAT.into()),
        }
    }
}

impl fmt::Display for VaultUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => f.write_str("directory"),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// A server of S3, or of what speaks as it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    /// `None`: Amazon's, of the region.
    pub endpoint: Option<String>,
    pub region: String,
    /// In the form of Amazon's tools. Read it with [`crate::read_key`].
    pub credentials_file: Option<PathBuf>,
    /// How long a request may take.
    pub timeout: Duration,
}

impl Default for S3 {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".into(),
            credentials_file: None,
            timeout: Duration::from_secs(60),
        }
    }
}

/// Reads `name=duration`.
pub(crate) fn keep_of_project(text: &str) -> Option<(String, Duration)> {
    let (name, keep) = text.split_once('=')?;
    let is_name = !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control());
    let keep = crate::value::parse_duration(keep).filter(|keep| *keep >= KEEP_LEAST)?;
    is_name.then(|| (name.to_owned(), keep))
}

/// The shortest that conversations are kept.
const KEEP_LEAST: Duration = Duration::from_secs(24 * 60 * 60);

/// How messages are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    pub embeddings: Embeddings,
    /// Of the service; `None`: its usual one on this host, if it has one.
    pub url: Option<String>,
    pub model: Option<String>,
    pub key_file: Option<PathBuf>,
    /// How long an answer may take.
    pub timeout: Duration,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            embeddings: Embeddings::default(),
            url: None,
            model: None,
            key_file: None,
            timeout: Duration::from_secs(30),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attach {
    pub detach_key: DetachKey,
    pub resize: Resize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    pub log: LogFormat,
    pub log_level: LogLevel,
    pub shutdown_grace: Duration,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            log: LogFormat::Human,
            log_level: LogLevel::Info,
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

/// How one assistant is started here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AssistantSettings {
    /// A name on the `PATH`, or an absolute path. `None`: the assistant's own name.
    pub program: Option<PathBuf>,
    /// Come before the arguments of each launch.
    pub args: Vec<String>,
    /// Variables of the daemon's environment that this assistant gets too.
    pub env_pass: Vec<String>,
}

/// What a million tokens of one model cost, in millionths of a US dollar.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PriceSettings {
    /// There, and so is `output`, once the configuration is loaded.
    pub input: Option<u64>,
    pub output: Option<u64>,
    /// `None`, as of the next: it costs what input does.
    pub cache_read: Option<u64>,
    pub cache_write: Option<u64>,
    /// `None`: it costs what `cache_write` does.
    pub cache_write_1h: Option<u64>,
}

macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            pub(crate) fn read(given: &Given) -> Result<Self, Wanted> {
                choice(given, &[$((Self::$variant, $text)),+])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )+};
}

choices! {
    /// What happens to a runner whose output cannot be kept, as on a full disk.
    Recording {
        /// It goes on, and the gap is told.
        #[default]
        BestEffort = "best_effort",
        /// It waits until there is room again.
        Strict = "strict",
    }
    /// Whose size a runner's terminal has while several viewers are attached.
    Resize {
        /// The smallest of those that can type.
        #[default]
        Smallest = "smallest",
        /// The one that typed last.
        Latest = "latest",
    }
    LogFormat {
        #[default]
        Human = "human",
        Json = "json",
    }
    LogLevel {
        Error = "error",
        Warn = "warn",
        #[default]
        Info = "info",
        Debug = "debug",
        Trace = "trace",
    }
    /// What makes vectors of messages, by which they are found by meaning.
    Embeddings {
        /// The words and parts of words; nothing is asked.
        #[default]
        Builtin = "builtin",
        /// A service that speaks as OpenAI's does.
        OpenAi = "openai",
        Ollama = "ollama",
        /// Nothing: words are all that is found by.
        Off = "off",
    }
    Switch {
        #[default]
        Off = "off",
        On = "on",
    }
    /// As in `libpq`.
    SslMode {
        Disable = "disable",
        Prefer = "prefer",
        Require = "require",
        VerifyCa = "verify-ca",
        #[default]
        VerifyFull = "verify-full",
    }
}
