//! Layers laid over each other, with where each value came from. Pure.
//!
//! Invariant: a value of a weaker layer is checked even where a stronger one replaces it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::error::{ConfigError, Conflict};
use crate::keys::{self, ASSISTANT_KEYS, ASSISTANTS, KEYS, PRICE_KEYS, PRICES};
use crate::secret;
use crate::settings::{BusUrl, Config, VaultUrl};
use crate::value::Given;
use crate::yaml::{self, Content, Node, Place};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Default,
    File { path: PathBuf, place: Place },
    Environment { variable: String },
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, place } => {
                write!(f, "{}:{}:{}", path.display(), place.line, place.column)
            }
            Self::Environment { variable } => write!(f, "environment {variable}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// A configuration, and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// By key. A key that is not here has its default.
    pub origins: BTreeMap<String, Source>,
    /// The files that were read, weakest first.
    pub files: Vec<PathBuf>,
}

/// One line of `config show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    pub key: String,
    /// As a file would have it; `None` where nothing is set. What looks like a secret is hidden.
    pub value: Option<String>,
    pub source: String,
}

/// A file as it was read.
#[derive(Debug, Clone)]
pub(crate) struct FileText {
    pub path: PathBuf,
    pub text: String,
    /// Permission bits.
    pub mode: u32,
}

impl Loaded {
    /// Every key with its value and source, in the order of the documentation.
    pub fn rows(&self) -> Vec<Row> {
        let row = |key: String, value| {
            let source = self.origin(&key).to_string();
            Row { key, value, source }
        };
        let fixed = KEYS.iter().map(|key| row(key.name.into(), (key.show)(&self.config)));
        let assistants = self.config.assistants.iter().flat_map(|(name, assistant)| {
            ASSISTANT_KEYS.iter().map(move |key| {
                row(format!("{ASSISTANTS}.{name}.{}", key.name), (key.show)(assistant))
            })
        });
        let prices = self.config.prices.iter().flat_map(|(model, price)| {
            let key = move |key: &str| format!("{PRICES}.{model}.{key}");
            PRICE_KEYS.iter().map(move |known| row(key(known.name), (known.show)(price)))
        });
        fixed.chain(assistants).chain(prices).collect()
    }

    /// Where the value of a key came from.
    pub fn origin(&self, key: &str) -> Source {
        self.origins.get(key).cloned().unwrap_or(Source::Default)
    }
}

/// Lays the layers over the defaults: files (weakest first), then the environment, then flags.
///
/// `variables` are the configuration's own, without `STRATAVORE_` and in any order.
pub(crate) fn merge(
    files: &[FileText],
    variables: &[(String, String)],
    flags: &[(String, String)],
) -> Result<Loaded, ConfigError> {
    let mut loaded =
        Loaded { config: Config::default(), origins: BTreeMap::new(), files: Vec::new() };
    for file in files {
        let root = yaml::parse(&file.text).map_err(|error| ConfigError::Syntax {
            path: file.path.clone(),
            place: error.place,
            message: error.message,
        })?;
        walk("", &root, file, &mut loaded)?;
        loaded.files.push(file.path.clone());
    }
    for (variable, value) in variables {
        let key = variable.to_ascii_lowercase().replace("__", ".");
        let variable = format!("{VARIABLE_PREFIX}{variable}");
        let origin = Source::Environment { variable: variable.clone() };
        match set(&key, Given::Line(value.clone()), origin, &mut loaded) {
            Err(ConfigError::UnknownKey { nearest, .. }) => {
                let spelt = |key: String| {
                    format!("{VARIABLE_PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
                };
                return Err(ConfigError::UnknownVariable { variable, nearest: nearest.map(spelt) });
            }
            other => other?,
        }
    }
    for (key, value) in flags {
        set(key, Given::Line(value.clone()), Source::Flag, &mut loaded)?;
    }
    agree(&loaded)?;
    Ok(loaded)
}

/// How every variable of ours begins.
pub(crate) const VARIABLE_PREFIX: &str = "STRATAVORE_";

/// Goes through a section of a file.
fn walk(path: &str, node: &Node, file: &FileText, loaded: &mut Loaded) -> Result<(), ConfigError> {
    let origin = |place: Place| Source::File { path: file.path.clone(), place };
    let entries = match &node.content {
        // A section with nothing in it, as when all its lines are comments.
        Content::Null => return Ok(()),
        Content::Map(entries) => entries,
        Content::Scalar(_) | Content::List(_) if path.is_empty() => {
            let message =
                "the whole must be sections with keys, such as `daemon:` with `log: json` below it"
                    .into();
            return Err(ConfigError::Syntax {
                path: file.path.clone(),
                place: node.place,
                message,
            });
        }
        Content::Scalar(_) | Content::List(_) => {
            return Err(ConfigError::NotASection { origin: origin(node.place), key: path.into() });
        }
    };
    for (name, place, value) in entries {
        let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if keys::is_section(path, &key) {
            walk(&key, value, file, loaded)?;
            continue;
        }
        known(&key, &origin(*place))?;
        let wrong = |value: &str, wanted: &str, at| {
            let (value, wanted) = (value.into(), wanted.into());
            ConfigError::Value { origin: origin(at), key: key.clone(), value, wanted }
        };
        let given = match &value.content {
            Content::Null => return Err(ConfigError::NoValue { origin: origin(*place), key }),
            Content::Scalar(text) => Given::Text(text.clone()),
            Content::List(items) => match items.iter().map(scalar).collect() {
                Some(items) => Given::List(items),
                None => {
                    return Err(wrong("a list of lists", "a list of single values", value.place));
                }
            },
            Content::Map(_) => return Err(wrong("a section", "a single value or a list", *place)),
        };
        refuse_readable_secret(&key, &given, file, origin(value.place))?;
        set(&key, given, origin(value.place), loaded)?;
    }
    Ok(())
}

fn scalar(node: &Node) -> Option<String> {
    match &node.content {
        Content::Scalar(text) => Some(text.clone()),
        Content::Null | Content::List(_) | Content::Map(_) => None,
    }
}

fn known(key: &str, origin: &Source) -> Result<(), ConfigError> {
    let is_price = keys::price_key(key).is_some();
    if keys::key(key).is_some() || keys::assistant_key(key).is_some() || is_price {
        return Ok(());
    }
    if secret::is_secret_name(key) {
        return Err(ConfigError::LiteralSecret { origin: origin.clone(), key: key.into() });
    }
    Err(ConfigError::UnknownKey {
        origin: origin.clone(),
        key: key.into(),
        nearest: keys::nearest(key),
    })
}

fn set(key: &str, given: Given, origin: Source, loaded: &mut Loaded) -> Result<(), ConfigError> {
    known(key, &origin)?;
    let read = if let Some((name, field)) = keys::assistant_key(key) {
        (field.read)(loaded.config.assistants.entry(name.into()).or_default(), &given)
    } else if let Some((model, field)) = keys::price_key(key) {
        (field.read)(loaded.config.prices.entry(model.into()).or_default(), &given)
    } else if let Some(known) = keys::key(key) {
        (known.read)(&mut loaded.config, &given)
    } else {
        unreachable!("checked above")
    };
    read.map_err(|wanted| {
        let value = given.shown();
        ConfigError::Value { origin: origin.clone(), key: key.into(), value, wanted }
    })?;
    loaded.origins.insert(key.into(), origin);
    Ok(())
}

/// A file with a secret in it must be the reader's own affair.
fn refuse_readable_secret(
    key: &str,
    given: &Given,
    file: &FileText,
    origin: Source,
) -> Result<(), ConfigError> {
    let Given::List(items) = given else { return Ok(()) };
    if secret::find(items).is_none() || file.mode & 0o044 == 0 {
        return Ok(());
    }
    Err(ConfigError::ReadableSecret {
        origin,
        key: key.into(),
        path: file.path.clone(),
        mode: file.mode & 0o777,
    })
}

/// Checks what holds between keys.
fn agree(loaded: &Loaded) -> Result<(), ConfigError> {
    let Config { store, bus, vault, agent, runner, .. } = &loaded.config;
    let rules = [
        (
            store.pool.min_connections <= store.pool.max_connections,
            "store.pool.min_connections",
            "must not be more than",
            "store.pool.max_connections",
        ),
        (
            bus.url == BusUrl::None || bus.rabbitmq.password_file.is_some(),
            "bus.url",
            "needs the file that is named by",
            "bus.rabbitmq.password_file",
        ),
        (
            bus.rabbitmq.client_cert.is_some() == bus.rabbitmq.client_key_file.is_some(),
            "bus.rabbitmq.client_cert",
            "goes together with",
            "bus.rabbitmq.client_key_file",
        ),
        (
            vault.url == VaultUrl::Directory || vault.s3.credentials_file.is_some(),
            "vault.url",
            "needs the file that is named by",
            "vault.s3.credentials_file",
        ),
        (
            agent.output_segment_bytes * 2 <= agent.output_max_bytes,
            "agent.output_segment_bytes",
            "must not be more than half of",
            "agent.output_max_bytes",
        ),
        (
            runner.unresponsive_after >= agent.heartbeat * 2,
            "runner.unresponsive_after",
            "must be at least twice",
            "agent.heartbeat",
        ),
    ];
    let value = |name| {
        let shown = keys::key(name).and_then(|key| (key.show)(&loaded.config));
        shown.unwrap_or_else(|| "not set".into())
    };
    for (holds, key, rule, other) in rules {
        if !holds {
            return Err(ConfigError::Conflict(Box::new(Conflict {
                key,
                value: value(key),
                origin: loaded.origin(key),
                rule,
                other,
                other_value: value(other),
                other_origin: loaded.origin(other),
            })));
        }
    }
    whole_prices(loaded)
}

/// A price with one half of it would make the other half free.
fn whole_prices(loaded: &Loaded) -> Result<(), ConfigError> {
    for (model, price) in &loaded.config.prices {
        let missing = match (price.input, price.output) {
            (Some(_), Some(_)) => continue,
            (None, _) => "input",
            (Some(_), None) => "output",
        };
        let given = PRICE_KEYS.iter().find(|key| (key.show)(price).is_some());
        let given = given.map_or_else(String::new, |key| format!("{PRICES}.{model}.{}", key.name));
        return Err(ConfigError::Value {
            origin: loaded.origin(&given),
            key: format!("{PRICES}.{model}.{missing}"),
            value: "not set".into(),
            wanted: "given wherever the model has a price: `input` and `output` both".into(),
        });
    }
    Ok(())
}
