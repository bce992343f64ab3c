//! Names that people give, and the references by which they find things again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::is_id_fragment;

/// The most characters in a name.
pub const NAME_MAX: usize = 63;

/// Why a text cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name cannot be empty")]
    Empty,
    #[error("a name has at most {NAME_MAX} characters, this one has {0}")]
    TooLong(usize),
    #[error(
        "`{}` cannot be a name: use letters, digits, `-`, `_` and `.`, beginning with a letter or digit",
        .0.escape_debug()
    )]
    Characters(String),
    #[error("`{0}` cannot be a name: it looks like an id")]
    LooksLikeId(String),
}

/// The name of a project or a runner: 1 to 63 of `A-Z a-z 0-9 - _ .`, beginning with a letter or
/// digit, and not of the form of an id. Safe in a path, a routing key and a terminal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        // Whatever has more characters has more bytes.
        if text.len() > NAME_MAX && text.chars().count() > NAME_MAX {
            return Err(NameError::TooLong(text.chars().count()));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if !text.bytes().all(allowed) || !text.as_bytes()[0].is_ascii_alphanumeric() {
            return Err(NameError::Characters(text.into()));
        }
        if ["run_", "prj_", "ses_", "evt_", "node_", "dmn_"].iter().any(|p| text.starts_with(p)) {
            return Err(NameError::LooksLikeId(text.into()));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a person names a thing: an id, the beginning of one, or a name.
///
/// `run_7k3m` is the beginning of an id. `7k3m` is both a possible name and the beginning of an
/// id; a name is looked for first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// As it was typed.
    pub text: String,
    /// The prefix of the id's full text that it may stand for, such as `run_7k3`.
    pub id_prefix: Option<String>,
    /// The name that it may stand for.
    pub name: Option<Name>,
}

impl Reference {
    /// Reads a reference to a thing whose ids begin with `prefix` (`run`, `prj`).
    pub fn parse(text: &str, prefix: &str) -> Self {
        let fragment = match text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')) {
            Some(rest) => Some(rest),
            None if text.len() >= 2 => Some(text),
            None => None,
        };
        Self {
            text: text.into(),
            id_prefix: fragment.filter(|f| is_id_fragment(f)).map(|f| format!("{prefix}_{f}")),
            name: text.parse().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_an_id_its_beginning_or_a_name() {
        let whole = Reference::parse("run_0123456789abcdefghjk", "run");
        assert_eq!(whole.id_prefix.as_deref(), Some("run_0123456789abcdefghjk"));
        assert_eq!(whole.name, None);

        let both = Reference::parse("beef", "run");
        assert_eq!(both.id_prefix.as_deref(), Some("run_beef"));
        assert_eq!(both.name.unwrap().as_str(), "beef");

        let name = Reference::parse("api-server", "run");
        assert_eq!(name.id_prefix, None);
        assert_eq!(name.name.unwrap().as_str(), "api-server");
    }

    #[test]
    fn hostile_names_are_refused() {
        for text in [
            "",
            ".",
            "..",
            "-rf",
            "a/b",
            "a\n",
            "\u{1b}[31m",
            "a b",
            "ü",
            "a.#'",
            "run_x",
            "a\u{202e}",
        ] {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
        assert!("x".repeat(64).parse::<Name>().is_err());
        assert!("a.b-c_D9".parse::<Name>().is_ok());
    }
}
