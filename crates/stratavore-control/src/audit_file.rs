//! What a host keeps of the record outside of the database, below `audit` in its state directory:
//! every checkpoint that it has seen, and the public keys that it trusts.
//!
//! Both are lines as in an export, so the command line verifies with them. They are only appended
//! to, and synced.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use stratavore_audit::{Checkpoint, Checks, Line, PublicKey, Trust, line};
use stratavore_runtime::write_durably;

/// A host's own copy.
pub(crate) struct AuditFiles {
    directory: PathBuf,
}

impl AuditFiles {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The checkpoint that covers most of those that this host has seen.
    pub(crate) fn last_checkpoint(&self) -> io::Result<Option<Checkpoint>> {
        let seen = read(&self.path("checkpoints"))?.into_iter().filter_map(|line| match line {
            Line::Checkpoint(note) => Checkpoint::read(&note).ok(),
            Line::StratavoreRecord { .. }
            | Line::Key(_)
            | Line::KeyChange(_)
            | Line::Trimmed(_) => None,
        });
        Ok(seen.max_by_key(|checkpoint| checkpoint.size))
    }

    pub(crate) fn add_checkpoint(&self, note: &str) -> io::Result<()> {
        append(&self.path("checkpoints"), &line(&Line::Checkpoint(note.into())))
    }

    /// The keys that this host trusts: the first one that it met, and those that were introduced by
    /// it. `None`: it has met none yet.
    pub(crate) fn trust(&self, changes: &[String]) -> io::Result<Option<Trust>> {
        let lines = read(&self.path("keys"))?;
        let keys: Vec<PublicKey> = lines
            .into_iter()
            .filter_map(|line| match line {
                Line::Key(text) => PublicKey::parse(&text),
                Line::StratavoreRecord { .. }
                | Line::KeyChange(_)
                | Line::Checkpoint(_)
                | Line::Trimmed(_) => None,
            })
            .collect();
        Ok((!keys.is_empty()).then(|| Trust::new(&keys, changes)))
    }

    /// All that this host has kept to verify a record by.
    pub(crate) fn checks(&self) -> io::Result<Checks> {
        let mut checks = Checks::default();
        for line in read(&self.path("keys"))? {
            match line {
                Line::Key(text) => checks.keys.extend(PublicKey::parse(&text)),
                Line::KeyChange(note) => checks.changes.push(note),
                Line::StratavoreRecord { .. } | Line::Checkpoint(_) | Line::Trimmed(_) => {}
            }
        }
        let whence = self.path("checkpoints").display().to_string();
        for line in read(&self.path("checkpoints"))? {
            if let Line::Checkpoint(note) = line {
                checks.checkpoints.push((whence.clone(), note));
            }
        }
        Ok(checks)
    }

    /// The files that the record up to `size` was moved into, in their order; none if one of them is not here.
    pub(crate) fn segments_upto(&self, size: u64) -> io::Result<Vec<PathBuf>> {
        let directory = self.path("segments");
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()?.strip_prefix("record-"));
            let range = name.and_then(|name| name.strip_suffix(".jsonl")?.split_once('-'));
            let Some((first, last)) = range else { continue };
            if let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>())
                && last <= size
            {
                found.push((first, last, path));
            }
        }
        found.sort_unstable();
        let mut next = 1;
        for (first, last, _) in &found {
            if *first != next {
                return Ok(Vec::new());
            }
            next = last + 1;
        }
        let whole = next == size + 1;
        Ok(found.into_iter().filter(|_| whole).map(|(_, _, path)| path).collect())
    }

    /// `None`: it is not there.
    pub(crate) fn read_json<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        match std::fs::read(self.path(name)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn write_json(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        write_durably(&self.path(name), &serde_json::to_vec(value)?)
    }

    pub(crate) fn add_key(&self, key: &Line) -> io::Result<()> {
        match read(&self.path("keys"))?.contains(key) {
            true => Ok(()),
            false => append(&self.path("keys"), &line(key)),
        }
    }
}

/// The lines that are whole. One that was cut off by the end of the host was never acted on.
fn read(path: &Path) -> io::Result<Vec<Line>> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            Ok(text.split('\n').filter_map(|line| serde_json::from_str(line).ok()).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

pub(crate) fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file =
        OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
    // Behind one that was cut off a line would be cut off too.
    let text = match ends_whole(path)? {
        true => line.to_owned(),
        false => format!("\n{line}"),
    };
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

fn ends_whole(path: &Path) -> io::Result<bool> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let home = tempfile::tempdir().unwrap();
        let files = AuditFiles::new(home.path().into());
        let key = stratavore_audit::PrivateKey::new("log", [1; 32]).unwrap();
        let note = |size| Checkpoint { origin: "log".into(), size, root: [0; 32] }.signed(&key);
        assert_eq!(files.last_checkpoint().unwrap(), None);
        files.add_checkpoint(&note(1)).unwrap();
        let path = files.path("checkpoints");
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{}", &whole[..whole.len() / 2])).unwrap();
        assert_eq!(files.last_checkpoint().unwrap().unwrap().size, 1);
        files.add_checkpoint(&note(2)).unwrap();
        assert_eq!(files.last_checkpoint().unwrap().unwrap().size, 2);
    }
}
