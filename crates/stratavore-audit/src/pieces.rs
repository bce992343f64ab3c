//! An export that comes in pieces, to be read as one.

use std::io::{self, Read};

/// Reads what `next` gives, piece after piece, until that is nothing.
pub struct Pieces<B, N> {
    next: N,
    piece: Option<B>,
    read: usize,
}

impl<B: AsRef<[u8]>, N: FnMut() -> Option<B>> Pieces<B, N> {
    pub fn new(next: N) -> Self {
        Self { next, piece: None, read: 0 }
    }
}

impl<B: AsRef<[u8]>, N: FnMut() -> Option<B>> Read for Pieces<B, N> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.piece.as_ref().map_or(&[][..], |piece| &piece.as_ref()[self.read..]);
            if !left.is_empty() {
                let length = left.len().min(buffer.len());
                buffer[..length].copy_from_slice(&left[..length]);
                self.read += length;
                return Ok(length);
            }
            match (self.next)() {
                Some(piece) => (self.piece, self.read) = (Some(piece), 0),
                None => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_as_one_whatever_their_sizes() {
        let mut pieces = vec!["ab", "", "cdefg", "h"].into_iter();
        let mut reader = Pieces::new(move || pieces.next());
        let mut first = [0; 3];
        reader.read_exact(&mut first).unwrap();
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!((&first, rest.as_str()), (b"abc", "defgh"));
    }
}
