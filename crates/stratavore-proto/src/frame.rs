//! Messages on a byte stream: a length (32 bit, big-endian), then the message.
//!
//! Invariant: a length over the limit is refused before anything is allocated for it.

use std::io;
use std::marker::PhantomData;

use bytes::{Buf, BufMut, BytesMut};
use prost::Message;
use tokio_util::codec::{Decoder, Encoder};

/// The largest frame, in bytes. A screen of 500 × 200 cells with colours stays well below.
pub const FRAME_MAX: usize = 4 << 20;

/// Why a stream cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("read or write a frame")]
    Io(#[from] io::Error),
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLarge { length: usize, limit: usize },
    #[error("decode a frame")]
    Decode(#[from] prost::DecodeError),
}

/// Reads messages of type `R` and writes messages of type `W`.
pub struct FrameCodec<R, W> {
    /// The largest frame that is read.
    limit: usize,
    /// The length of the frame that was read last.
    last: usize,
    types: PhantomData<fn(W) -> R>,
}

impl<R, W> Default for FrameCodec<R, W> {
    fn default() -> Self {
        Self::limited(FRAME_MAX)
    }
}

impl<R, W> FrameCodec<R, W> {
    /// Reads frames of at most so many bytes.
    pub fn limited(limit: usize) -> Self {
        Self { limit, last: 0, types: PhantomData }
    }

    /// The length of the frame that was read last: what a kind of message may have is known only
    /// when it was read.
    pub fn last_length(&self) -> usize {
        self.last
    }
}

impl<R: Message + Default, W> Decoder for FrameCodec<R, W> {
    type Item = R;
    type Error = FrameError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<R>, FrameError> {
        let Some(head) = buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*head) as usize;
        if length > self.limit {
            return Err(FrameError::TooLarge { length, limit: self.limit });
        }
        if buffer.len() < 4 + length {
            buffer.reserve(4 + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(4);
        self.last = length;
        Ok(Some(R::decode(buffer.split_to(length).freeze())?))
    }
}

impl<R, W: Message> Encoder<W> for FrameCodec<R, W> {
    type Error = FrameError;

    fn encode(&mut self, message: W, buffer: &mut BytesMut) -> Result<(), FrameError> {
        let length = message.encoded_len();
        if length > FRAME_MAX {
            return Err(FrameError::TooLarge { length, limit: FRAME_MAX });
        }
        buffer.reserve(4 + length);
        buffer.put_u32(length as u32);
        message.encode(buffer).map_err(|error| FrameError::Io(io::Error::other(error)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::v1::Output;

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut codec = FrameCodec::<Output, Output>::default();
            while let Ok(Some(_)) = codec.decode(&mut buffer) {}
            prop_assert!(buffer.capacity() <= FRAME_MAX + 4 + bytes.len());
        }

        #[test]
        fn frames_survive_any_cut(data: Vec<u8>, cut in 0usize..64) {
            let mut codec = FrameCodec::<Output, Output>::default();
            let sent = Output { offset: 7, data: data.into() };
            let mut whole = BytesMut::new();
            codec.encode(sent.clone(), &mut whole).unwrap();
            let cut = cut.min(whole.len());
            let mut part = BytesMut::from(&whole[..cut]);
            if cut < whole.len() {
                prop_assert!(codec.decode(&mut part).unwrap().is_none());
                part.extend_from_slice(&whole[cut..]);
            }
            prop_assert_eq!(codec.decode(&mut part).unwrap(), Some(sent));
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_allocated() {
        let mut buffer = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        let error = FrameCodec::<Output, Output>::default().decode(&mut buffer).unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { .. }));
        assert!(buffer.capacity() < 1024);
        // A door that needs less takes less.
        let mut buffer = BytesMut::from(&4097_u32.to_be_bytes()[..]);
        let error = FrameCodec::<Output, Output>::limited(4096).decode(&mut buffer).unwrap_err();
        assert_eq!(error.to_string(), "a frame of 4097 bytes is over the limit of 4096");
    }
}
