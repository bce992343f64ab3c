//! The record: what makes every later change of it evident.
//!
//! Each event has a canonical text ([`Content`]) and the code of the daemon that wrote it
//! ([`Writer`]). In the order of their positions they are chained ([`Chain`]) and are the leaves of
//! a Merkle tree ([`Frontier`]), whose root is signed now and then ([`Checkpoint`]). Whoever has a
//! checkpoint and a public key verifies everything before it ([`Verifier`]), without the database
//! and without us.
//!
//! It reads no clock and no database. The one file that it writes is a key's own.
//!
//! Invariant: two different rows never have the same canonical text.
//! Invariant: nothing that was sealed before a checkpoint can change without the checkpoint telling.

mod chain;
mod content;
mod export;
mod mac;
mod note;
mod pieces;
mod trim;
mod verify;

pub use chain::{Chain, Frontier, HASH_LEN, Hash};
pub use content::Content;
pub use export::{Line, Record, line, record_line};
pub use mac::{MacError, MacKey, Writer};
pub use note::{Checkpoint, KeyChange, NoteError, PrivateKey, PublicKey, Trust};
pub use pieces::Pieces;
pub use trim::Trim;
pub use verify::{Checks, Fault, Report, Verifier};

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits =
        bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
    digits.map(char::from).collect()
}

/// The digit that each byte stands for, or a number above 15.
const DIGITS: [u8; 256] = {
    let mut digits = [u8::MAX; 256];
    let mut digit = 0;
    while digit < 16 {
        digits[b"0123456789abcdef"[digit] as usize] = digit as u8;
        digit += 1;
    }
    digits
};

/// `None` if it is not so many bytes in lower-case hexadecimal.
pub(crate) fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != N * 2 {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let (high, low) = (DIGITS[usize::from(pair[0])], DIGITS[usize::from(pair[1])]);
        // None is larger than any digit.
        if high | low > 15 {
            return None;
        }
        *byte = high << 4 | low;
    }
    Some(bytes)
}
