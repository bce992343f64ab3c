//! Typed ids with a readable prefix: `run_7k3m9x…`.
//!
//! An id is 100 random bits, written as 20 characters of Crockford's base 32 in lower case. All of
//! it is random, the beginning too, so a few characters are enough to name one (`run_7k3`). The
//! time of creation is a column of its own and not hidden in the id.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters after the prefix: 20 × 5 bits.
pub const ID_CHARS: usize = 20;
const MASK: u128 = (1 << (ID_CHARS * 5)) - 1;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a {noun} id: expected `{prefix}_` and {ID_CHARS} characters", text.escape_debug())]
pub struct IdError {
    text: String,
    noun: &'static str,
    prefix: &'static str,
}

fn encode(bits: u128) -> [u8; ID_CHARS] {
    let mut out = [0; ID_CHARS];
    for (i, place) in out.iter_mut().enumerate() {
        *place = ALPHABET[(bits >> (5 * (ID_CHARS - 1 - i))) as usize & 31];
    }
    out
}

/// The digit that each byte stands for; `NONE` for those that stand for none.
const DIGITS: [u8; 256] = {
    let mut digits = [NONE; 256];
    let mut digit = 0;
    while digit < ALPHABET.len() {
        digits[ALPHABET[digit] as usize] = digit as u8;
        digit += 1;
    }
    digits
};
const NONE: u8 = u8::MAX;

/// A list of runners reads four ids for each of them.
fn decode(text: &str) -> Option<u128> {
    if text.len() != ID_CHARS {
        return None;
    }
    text.bytes().try_fold(0, |bits: u128, byte| {
        let digit = DIGITS[usize::from(byte)];
        (digit != NONE).then_some(bits << 5 | u128::from(digit))
    })
}

/// Reads an id where it stands, without a text of its own for it.
struct Visitor<T>(PhantomData<T>);

impl<T: FromStr<Err = IdError>> serde::de::Visitor<'_> for Visitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// True if `text` could be the beginning of an id's random part.
pub fn is_id_fragment(text: &str) -> bool {
    !text.is_empty() && text.len() <= ID_CHARS && text.bytes().all(|b| ALPHABET.contains(&b))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            /// Makes an id of 16 random bytes, of which 100 bits are used.
            pub fn from_entropy(entropy: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(entropy) & MASK)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!($prefix, "_"))?;
                let digits = encode(self.0);
                // They are ASCII all of them.
                f.write_str(str::from_utf8(&digits).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(Self)
                    .ok_or_else(|| IdError { text: text.into(), noun: $noun, prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Visitor(PhantomData))
            }
        }
    };
}

id!(BudgetId, "bud", "budget");
id!(
    /// Something that an assistant asks its person.
    AskId, "ask", "ask");
id!(
    /// One `stratavored`, from its start to its end.
    DaemonId, "dmn", "daemon");
id!(
    /// An event that a destination will not take.
    DeadLetterId, "dead", "dead letter");
id!(
    /// One fact; consumers recognise a repeated one by it.
    EventId, "evt", "event");
id!(
    /// Something that is to be done in a project, when its turn comes.
    ItemId, "item", "item");
id!(
    /// A host that can start runners; kept in its state directory.
    NodeId, "node", "node");
id!(
    /// A message to a destination; every attempt to deliver it has the same.
    NotificationId, "msg", "message");
id!(ProjectId, "prj", "project");
id!(
    /// Something that an assistant is to be asked.
    PromptId, "prompt", "prompt");
id!(
    /// One request to a daemon; what it changed, and what it was refused, names it.
    RequestId, "req", "request");
id!(RunnerId, "run", "runner");
id!(
    /// Our id of a conversation; the assistant has its own for it.
    SessionId, "ses", "session");
id!(
    /// One version of a file that an assistant writes a conversation to.
    TranscriptId, "trn", "transcript");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_reads_back_as_it_was_written(entropy: [u8; 16]) {
            let id = RunnerId::from_entropy(entropy);
            let text = id.to_string();
            prop_assert_eq!(text.len(), 24);
            prop_assert_eq!(text.parse::<RunnerId>().unwrap(), id);
            prop_assert!(text.parse::<ProjectId>().is_err(), "an id of one noun is none of another");
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<RunnerId>();
        }
    }
}
