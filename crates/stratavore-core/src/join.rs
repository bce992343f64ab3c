//! Join tokens: how a host proves once that somebody wanted it in the cluster.
//!
//! A token is shown once, when it is made; only a digest of its secret is kept. It is bound to the
//! key of the first host that uses it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::NodeId;

/// What every token begins with, so that it is recognised where it leaks.
pub const PREFIX: &str = "svj";
/// How long a token may be used at most, and unless less is asked for.
pub const TTL_MAX: Duration = Duration::from_secs(5 * 60);
/// How long after its first use a token answers the same key once more: the reply may be lost.
pub const AGAIN: Duration = Duration::from_secs(60);

const ACCESSOR: usize = 12;
const SECRET: usize = 64;
/// Characters of the digest of the CA's certificate that a token carries.
pub const PIN: usize = 32;

/// A token as it is handed over: `svj_ACCESSOR_SECRET_PIN_CHECK`, all of hexadecimal digits. Its
/// text is a secret, so it has neither `Debug` nor `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Names the token where its secret must not stand.
    pub accessor: String,
    /// 32 random bytes.
    pub secret: String,
    /// The beginning of the SHA-256 of the CA's certificate: whom to trust.
    pub pin: String,
}

/// Why a text is no join token. It never tells any of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("this is no join token: one begins with `{PREFIX}_`")]
    Other,
    #[error("the join token is not whole, or has a typing error: copy all of it")]
    Damaged,
}

impl JoinToken {
    pub fn new(accessor: [u8; ACCESSOR / 2], secret: [u8; SECRET / 2], pin: &str) -> Self {
        let pin = pin.chars().take(PIN).collect();
        Self { accessor: hex(&accessor), secret: hex(&secret), pin }
    }

    /// The token as text, to be shown once.
    pub fn reveal(&self) -> String {
        let body = format!("{PREFIX}_{}_{}_{}", self.accessor, self.secret, self.pin);
        let check = check(&body);
        format!("{body}_{check}")
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let rest = text.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('_'));
        let rest = rest.ok_or(TokenError::Other)?;
        let parts: Vec<&str> = rest.split('_').collect();
        let [accessor, secret, pin, end] = parts.as_slice() else {
            return Err(TokenError::Damaged);
        };
        let (body, _) = text.rsplit_once('_').ok_or(TokenError::Damaged)?;
        let is_hex = |text: &str, len| {
            text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let whole = is_hex(accessor, ACCESSOR) && is_hex(secret, SECRET) && is_hex(pin, PIN);
        if !whole || *end != check(body) {
            return Err(TokenError::Damaged);
        }
        Ok(Self { accessor: (*accessor).into(), secret: (*secret).into(), pin: (*pin).into() })
    }
}

/// Finds typing errors, and is no protection: 32 bits of FNV-1a.
fn check(body: &str) -> String {
    let sum = body
        .bytes()
        .fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{sum:08x}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// What is kept of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    pub accessor: String,
    pub created_by: String,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub used: Option<Used>,
    pub revoked_at: Option<Timestamp>,
}

/// The first use of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    pub at: Timestamp,
    pub node: NodeId,
    /// Of the public key.
    pub key_digest: String,
}

/// What the use of a token comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redeemed {
    /// The node is bound to the key from now on.
    Bound,
    /// It was already, by the same key a moment ago: its reply was lost.
    Again,
    /// Another key uses it: one of the two was not meant. Both are out.
    Stolen { node: NodeId },
    /// It is over, or was revoked.
    Refused(&'static str),
}

impl TokenRecord {
    /// What comes of the use by `node` with the key of this digest, at `now` by the clock that made
    /// the token.
    pub fn redeem(&self, node: NodeId, key_digest: &str, now: Timestamp) -> Redeemed {
        if self.revoked_at.is_some() {
            return Redeemed::Refused("it was revoked");
        }
        match &self.used {
            Some(used) if used.key_digest != key_digest || used.node != node => {
                Redeemed::Stolen { node: used.node }
            }
            Some(used) if now.duration_since(used.at).unsigned_abs() <= AGAIN => Redeemed::Again,
            Some(_) => Redeemed::Refused("it was used before"),
            None if now >= self.expires_at => Redeemed::Refused("its time is over"),
            None => Redeemed::Bound,
        }
    }
}

impl fmt::Display for Redeemed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bound => f.write_str("bound"),
            Self::Again => f.write_str("bound already"),
            Self::Stolen { node } => write!(f, "another host used it for {node}: both are out now"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_entropy([n; 16])
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn fresh() -> TokenRecord {
        TokenRecord {
            accessor: "a".into(),
            created_by: "root".into(),
            created_at: at(0),
            expires_at: at(300),
            used: None,
            revoked_at: None,
        }
    }

    #[test]
    fn a_token_works_once_and_for_one_key() {
        let token = fresh();
        assert_eq!(token.redeem(node(1), "k1", at(299)), Redeemed::Bound);
        assert!(matches!(token.redeem(node(1), "k1", at(300)), Redeemed::Refused(_)));
        let used = Used { at: at(100), node: node(1), key_digest: "k1".into() };
        let token = TokenRecord { used: Some(used), ..fresh() };
        assert_eq!(token.redeem(node(1), "k1", at(160)), Redeemed::Again);
        assert!(matches!(token.redeem(node(1), "k1", at(161)), Redeemed::Refused(_)));
        for late in [101, 100_000] {
            assert_eq!(token.redeem(node(2), "k2", at(late)), Redeemed::Stolen { node: node(1) });
            assert_eq!(token.redeem(node(1), "k2", at(late)), Redeemed::Stolen { node: node(1) });
        }
        let revoked = TokenRecord { revoked_at: Some(at(1)), ..token };
        assert!(matches!(revoked.redeem(node(1), "k1", at(110)), Redeemed::Refused(_)));
    }

    proptest! {
        #[test]
        fn a_token_reads_back_and_a_damaged_one_does_not(
            accessor: [u8; 6], secret: [u8; 32], place in 0usize..127, digit in prop::char::range('0', '9'),
        ) {
            let token = JoinToken::new(accessor, secret, &"ab".repeat(32));
            let text = token.reveal();
            prop_assert!(text.parse::<JoinToken>().is_ok_and(|read| read == token));
            let mut damaged: Vec<char> = text.chars().collect();
            let place = place % damaged.len();
            damaged[place] = digit;
            let damaged: String = damaged.into_iter().collect();
            prop_assume!(damaged != text);
            prop_assert!(damaged.parse::<JoinToken>().is_err(), "{damaged}");
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<JoinToken>();
        }
    }
}
