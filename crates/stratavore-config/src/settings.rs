//! The configuration as the programs use it: every value checked, every default filled in.

mod bus;
mod events;
mod node;
mod store;
mod vault;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::detach_key::DetachKey;
use crate::value::{Given, Wanted, choice};

pub use bus::{Bus, BusUrl, Rabbitmq};
pub use events::Daily;
pub(crate) use events::Events;
pub use node::{HostPort, Node};
pub use store::{Pool, Postgres, Store, StoreUrl};
pub(crate) use vault::keep_of_project;
pub use vault::{S3, Vault, VaultUrl};

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
