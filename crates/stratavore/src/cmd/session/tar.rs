//! A tar archive (`ustar`), as far as an export needs one: regular files with short names.

use std::io::{self, Write};

const BLOCK: usize = 512;

/// Writes an archive, file by file.
pub(super) struct Tar<W> {
    to: W,
    /// Bytes of the file that were written.
    written: u64,
}

impl<W: Write> Tar<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, written: 0 }
    }

    /// The bytes that follow are of this file.
    pub(super) fn file(&mut self, name: &str, size: u64, seconds: i64) -> io::Result<()> {
        self.pad()?;
        self.to.write_all(&header(name, size, seconds)?)
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.to.write_all(bytes)
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.pad()?;
        self.to.write_all(&[0; 2 * BLOCK])?;
        self.to.flush()
    }

    fn pad(&mut self) -> io::Result<()> {
        let rest = usize::try_from(self.written % BLOCK as u64).unwrap_or(0);
        self.written = 0;
        self.to.write_all(&[0; BLOCK][..(BLOCK - rest) % BLOCK])
    }
}

fn header(name: &str, size: u64, seconds: i64) -> io::Result<[u8; BLOCK]> {
    if name.len() > 100 || size >= 1 << 33 {
        return Err(io::Error::other(format!("{name} is too long for a tar archive")));
    }
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, format!("{:011o}\0", seconds.max(0)).as_bytes());
    // The sum is made as if it were spaces itself.
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_one_that_tar_takes_apart() {
        let mut archive = Vec::new();
        let mut tar = Tar::new(&mut archive);
        let files = [
            ("manifest.json", &b"{}"[..]),
            ("transcripts/001-a.jsonl", &[7; 1024]),
            ("empty", b""),
        ];
        for (name, bytes) in files {
            tar.file(name, bytes.len() as u64, 1_767_225_600).unwrap();
            for piece in bytes.chunks(100) {
                tar.bytes(piece).unwrap();
            }
        }
        tar.finish().unwrap();
        assert!(archive.len().is_multiple_of(BLOCK));
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.tar");
        std::fs::write(&path, &archive).unwrap();
        let done = std::process::Command::new("tar")
            .arg("xf")
            .arg(&path)
            .current_dir(home.path())
            .status();
        assert!(done.unwrap().success());
        for (name, bytes) in files {
            assert_eq!(std::fs::read(home.path().join(name)).unwrap(), bytes, "{name}");
        }
        assert!(header(&"x".repeat(101), 1, 0).is_err() && header("x", 1 << 33, 0).is_err());
    }
}
