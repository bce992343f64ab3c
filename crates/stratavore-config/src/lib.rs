//! Configuration: `stratavore.yaml`, its layers, where each value came from, and where files live.
//!
//! Layers, weakest first: defaults, `/etc/stratavore/stratavore.yaml`, the user's file (or one
//! named file in place of both), `STRATAVORE_SECTION__KEY` variables, flags. Merging is pure: it
//! takes texts and maps. [`Config::load`] is the thin part that reads files, and it reads the
//! environment from its argument.
//!
//! Invariant: no secret stands in the configuration, only the names of files that hold one.
//! Invariant: every key is in the table of `keys`, and in `docs/configuration.md`.

mod detach_key;
mod error;
mod keys;
mod load;
mod merge;
mod paths;
mod private;
mod secret;
mod settings;
mod value;
mod yaml;

pub use detach_key::{DetachKey, DetachKeyError};
pub use error::{ConfigError, Conflict};
pub use load::{Environment, Sources, environment};
pub use merge::{Loaded, Row, Source};
pub use paths::{Paths, PathsError};
pub use private::{PrivateError, ensure_private_dir, read_key, read_secret};
pub use settings::{
    Agent, AssistantSettings, Attach, Bus, BusUrl, Config, Daemon, Daily, Embeddings, HostPort,
    LogFormat, LogLevel, Node, Pool, Postgres, PriceSettings, Rabbitmq, Recording, Resize, Runner,
    S3, Search, SslMode, Store, StoreUrl, Switch, Vault, VaultUrl,
};
pub use value::{parse_duration, parse_size};
pub use yaml::Place;
