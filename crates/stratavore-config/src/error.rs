//! Why a configuration cannot be used.

use std::io;
use std::path::PathBuf;

use crate::merge::Source;
use crate::yaml::Place;

/// Each is one line that names the place, the value, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{} is not a configuration file: {reason}", .path.display())]
    NotAFile { path: PathBuf, reason: &'static str },
    #[error("{}:{}:{}: this is not YAML: {message}", .path.display(), .place.line, .place.column)]
    Syntax { path: PathBuf, place: Place, message: String },
    #[error("{origin}: there is no key `{}`{}", .key.escape_debug(), suggestion(.nearest.as_deref()))]
    UnknownKey { origin: Source, key: String, nearest: Option<String> },
    #[error(
        "the environment has a variable {variable} that is no configuration key{}; unset it",
        suggestion(.nearest.as_deref())
    )]
    UnknownVariable { variable: String, nearest: Option<String> },
    #[error("{origin}: `{key}` is a section: write its keys below it, indented, as `name: value`")]
    NotASection { origin: Source, key: String },
    #[error("{origin}: `{key}` is `{}`, and must be {wanted}", .value.escape_debug())]
    Value { origin: Source, key: String, value: String, wanted: String },
    #[error("{origin}: `{key}` has no value: give it one, or remove the line to have the default")]
    NoValue { origin: Source, key: String },
    #[error(
        "{origin}: `{key}` would keep a secret in the configuration: write the secret alone into a file of mode 600 \
         and give that file's path as `{key}_file`, where there is such a key"
    )]
    LiteralSecret { origin: Source, key: String },
    #[error(
        "{origin}: `{key}` holds what looks like a secret, and other users can read the file (mode {mode:03o}): \
         run `chmod 600 {}`, and have the secret replaced if others may have seen it", .path.display()
    )]
    ReadableSecret { origin: Source, key: String, path: PathBuf, mode: u32 },
    #[error("the configuration file {} belongs to user {owner}, neither to you nor to root: run `chown {me} {}`", .path.display(), .path.display())]
    Owner { path: PathBuf, owner: u32, me: u32 },
    #[error("everybody can write to the configuration file {} (mode {mode:03o}): run `chmod o-w {}`", .path.display(), .path.display())]
    WorldWritable { path: PathBuf, mode: u32 },
    #[error(transparent)]
    Conflict(Box<Conflict>),
}

/// Two values that cannot both hold.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{key}` is {value} ({origin}), and {rule} `{other}`, which is {other_value} ({other_origin})"
)]
pub struct Conflict {
    pub key: &'static str,
    pub value: String,
    pub origin: Source,
    /// Goes on with the other key.
    pub rule: &'static str,
    pub other: &'static str,
    pub other_value: String,
    pub other_origin: Source,
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"))
}
