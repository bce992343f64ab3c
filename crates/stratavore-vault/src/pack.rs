//! A blob as it is kept: its bytes, compressed.

use std::io::{self, Read};

use stratavore_core::transcript::Digest;

use crate::{BLOB_MAX, digest};

/// What text compresses well by without taking long.
const LEVEL: i32 = 6;

pub(crate) fn pack(bytes: &[u8]) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(bytes, LEVEL)
}

/// The bytes of this digest, or what is wrong with them.
pub(crate) fn unpack(packed: impl Read, wanted: Digest) -> Result<Vec<u8>, String> {
    let decoder = zstd::stream::Decoder::new(packed).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    // A byte more than there may be, so that one that is too long is noticed.
    let mut limited = decoder.take(BLOB_MAX as u64 + 1);
    limited.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let found = digest(&bytes);
    if found == wanted { Ok(bytes) } else { Err(format!("what it holds is {found}")) }
}
