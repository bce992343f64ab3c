//! Finding one's way in recorded output.

use std::io;

use stratavore_agent::output::{Chunk, OutputReader};

/// How much is looked at at once, from the end backwards.
const WINDOW: u64 = 64 << 10;

/// Where the last `lines` lines of what is kept begin. A last line without an end counts.
pub fn offset_of_last_lines(reader: &mut OutputReader, lines: u64) -> io::Result<u64> {
    let (first, end) = reader.bounds()?;
    if lines == 0 {
        return Ok(end);
    }
    // The end of the last line ends no earlier one.
    let mut ends_wanted = lines;
    let mut upto = end;
    while upto > first {
        let from = upto.saturating_sub(WINDOW).max(first);
        let window = read_range(reader, from, upto)?;
        for (at, byte) in window.iter().rev() {
            if *byte == b'\n' && at + 1 != end {
                ends_wanted -= 1;
                if ends_wanted == 0 {
                    return Ok(at + 1);
                }
            }
        }
        upto = from;
    }
    Ok(first)
}

/// The bytes of a range with their offsets; what is not kept is left out.
fn read_range(reader: &mut OutputReader, from: u64, to: u64) -> io::Result<Vec<(u64, u8)>> {
    let mut bytes = Vec::with_capacity((to - from) as usize);
    let mut offset = from;
    while offset < to {
        match reader.read(offset, (to - offset) as usize)? {
            Chunk::Data { offset: at, data } => {
                bytes.extend((at..).zip(data.iter().copied()));
                offset = at + data.len() as u64;
            }
            Chunk::Gap { to, .. } => offset = to,
            Chunk::End => break,
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_found_across_segments() {
        let dir = tempfile::tempdir().unwrap();
        let text = b"one\ntwo\nthree\nfour";
        // Segments are named by the offset of their first byte.
        for (from, part) in [(0, &text[..6]), (6, &text[6..9]), (9, &text[9..])] {
            std::fs::write(dir.path().join(format!("{from:020}.log")), part).unwrap();
        }
        let last = |lines| {
            let at =
                offset_of_last_lines(&mut OutputReader::new(dir.path().into()), lines).unwrap();
            String::from_utf8(text[at as usize..].to_vec()).unwrap()
        };
        assert_eq!(last(0), "");
        assert_eq!(last(1), "four");
        assert_eq!(last(2), "three\nfour");
        assert_eq!(last(4), "one\ntwo\nthree\nfour");
        assert_eq!(last(9), "one\ntwo\nthree\nfour");
    }
}
