//! Pieces of files: whole lines, after what was read before.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use stratavore_assistants::adapter::{Adapter, Memory};
use stratavore_core::message::Place;
use stratavore_store::{FileIdentity, Follow};

use super::{PIECE, Told};
use crate::error::Error;

/// The longest line. What is longer is passed over.
const LINE_MAX: usize = 64 << 20;

pub(super) fn memory(seen: Option<&Follow>) -> Memory {
    seen.and_then(|follow| serde_json::from_str(&follow.memory).ok()).unwrap_or_default()
}

pub(crate) fn unreadable(path: &str, error: &io::Error) -> Error {
    Error::internal(format!("read {}: {error}", path.escape_debug()))
}

/// The files of a directory with this ending. A directory that is not there has none.
pub(crate) fn files_in(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    let is_one = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(ending))
    };
    paths.filter(is_one).collect()
}

/// The next piece of a file: whole lines after what was read. `None`: there are none.
///
/// A file that is another one by now, or shorter than what was read of it, is read anew: what it says
/// again counts once.
pub(crate) fn read_piece(
    adapter: &dyn Adapter,
    path: &Path,
    name: &str,
    seen: Option<Follow>,
) -> io::Result<Option<(Told, FileIdentity)>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let found = file.metadata()?;
    if !found.is_file() {
        return Ok(None);
    }
    let identity = FileIdentity { device: found.dev().to_string(), inode: found.ino().to_string() };
    let goes_on =
        seen.as_ref().filter(|follow| follow.identity == identity && follow.read_to <= found.len());
    let from = goes_on.map_or(0, |follow| follow.read_to);
    let mut told = Told { read_to: from, memory: memory(goes_on), ..Told::default() };
    file.seek(SeekFrom::Start(from))?;
    let (mut bytes, mut wanted) = (Vec::new(), PIECE);
    let end = loop {
        let mut more = Vec::new();
        (&mut file).take((wanted - bytes.len()) as u64).read_to_end(&mut more)?;
        let at_end = bytes.len() + more.len() < wanted;
        bytes.append(&mut more);
        match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => break end + 1,
            // It is being written.
            None if at_end => return Ok(None),
            None if bytes.len() >= LINE_MAX => break bytes.len(),
            None => wanted *= 2,
        }
    };
    let mut offset = from;
    for line in bytes[..end].split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if !text.is_empty() {
            let place = Place { file: name.into(), offset };
            told.observations.extend(adapter.line(&mut told.memory, text, &place));
        }
        offset += line.len() as u64;
    }
    told.read_to = from + end as u64;
    Ok(Some((told, identity)))
}
